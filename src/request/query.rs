//! What passes between `Status` and the layers below it on the way in: a client's question about a task, as plain
//! values.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::HeaderValue;
use tokio::time::Instant;

use super::key::{Credentials, TaskKey};
use super::preferences::CacheMode;
use crate::route::{AsIsRoute, RouteLabel};
use crate::sync::lock;
use crate::task::Form;

/// A client's question about a task.
#[derive(Debug, Clone)]
pub struct TaskQuery {
    /// The caller, the route that upstream is asked on, and the task.
    pub key: TaskKey,
    /// What upstream is asked for, where the key does not tell it.
    pub resource: Option<Arc<Resource>>,
    /// The parts of the client's request that are sent upstream.
    pub credentials: Credentials,
    /// What the client accepts.
    pub cache_mode: CacheMode,
    /// When the request arrived.
    pub at: Instant,
    /// When the client is to be answered at the latest.
    pub deadline: Instant,
    /// What the client's long poll waits for, if it is one.
    pub wait: Option<Wait>,
    /// Learns whether the client's poll made a request to upstream.
    pub asked: AskedUpstream,
    /// When upstream was asked, if this question leads a flight.
    pub asked_at: AskedAt,
}

impl TaskQuery {
    /// The label of the route that upstream is asked on.
    #[must_use]
    pub fn label(&self) -> RouteLabel {
        let converted = || self.key.route.dialect().map(RouteLabel::of);
        let own = self.resource.as_ref().map(|resource| resource.route.label);
        own.or_else(converted).unwrap_or(RouteLabel::FORWARD)
    }
}

/// Whether a client's poll made a request to upstream, or was answered without one. Clones are of one poll: one that waits
/// looks many times, and a stream goes on after its head is sent. By default nobody wants to know.
#[derive(Debug, Clone, Default)]
pub struct AskedUpstream(Option<Arc<AtomicBool>>);

impl AskedUpstream {
    /// For a poll that has not made one yet.
    #[must_use]
    pub fn not_yet() -> Self {
        Self(Some(Arc::default()))
    }

    /// Notes that a request is made.
    pub fn set(&self) {
        if let Some(asked) = &self.0 {
            asked.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a request was made.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|asked| asked.load(Ordering::Relaxed))
    }

    /// The same memory for the next poll, where nobody else looks at it any more.
    #[must_use]
    pub fn recycled(mut self) -> Self {
        match self.0.as_mut().and_then(Arc::get_mut) {
            Some(asked) => {
                *asked.get_mut() = false;
                self
            }
            None => Self::not_yet(),
        }
    }
}

/// What a long poll waits for: an answer that differs from the one the client has, or the end of the task.
#[derive(Debug, Clone)]
pub struct Wait {
    /// The validators of the answer it has.
    pub known: Option<HeaderValue>,
    /// When it returns whatever there is.
    pub until: Instant,
    /// The form in which it gets documents.
    pub form: Form,
}

/// What is asked for on a route whose answers are passed on as they come.
#[derive(Debug)]
pub struct Resource {
    /// The route.
    pub route: Arc<AsIsRoute>,
    /// The raw path.
    pub path: Box<str>,
    /// The body of a `POST`, and its type.
    pub body: Option<(Bytes, HeaderValue)>,
}

/// The question for upstream.
#[derive(Debug, Clone)]
pub struct TaskFetch {
    /// The question of the client that started the flight.
    pub query: Arc<TaskQuery>,
    /// When the task was first seen, in Unix seconds.
    pub first_seen: i64,
    /// The deadline for all attempts together.
    pub deadline: Instant,
    /// Whether it is to find out if upstream answers again.
    pub is_probe: bool,
}

/// When upstream was asked in the latest attempt, after it waited for its permits: the time before is none of upstream's.
#[derive(Debug, Default)]
pub struct AskedAt(Mutex<Option<Sent>>);

/// When a question was sent for the first time, and for the last, if upstream seems to have lost it meanwhile.
#[derive(Debug, Clone, Copy)]
struct Sent {
    first: Instant,
    last: Instant,
}

impl Clone for AskedAt {
    /// Of another question.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl AskedAt {
    /// Notes that an attempt begins, which has not asked yet.
    pub fn clear(&self) {
        *lock(&self.0) = None;
    }

    /// Notes that upstream is asked now. Returns when that is.
    pub fn set(&self) -> Instant {
        let (mut sent, last) = (lock(&self.0), Instant::now());
        let first = sent.map_or(last, |sent| sent.first);
        sent.insert(Sent { first, last }).last
    }

    /// When it was asked for the first time; `None` before.
    #[must_use]
    pub fn first(&self) -> Option<Instant> {
        lock(&self.0).map(|sent| sent.first)
    }

    /// When it was asked for the last time; `None` before the first.
    #[must_use]
    pub fn last(&self) -> Option<Instant> {
        lock(&self.0).map(|sent| sent.last)
    }
}
