//! The narrow waist, on the way in: what a client wants to know of a task, as plain values.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::HeaderValue;
use tokio::time::Instant;

use super::key::{Credentials, TaskKey};
use super::preferences::CacheMode;
use crate::task::{Dialect, Rendering};

/// What a client wants to know.
#[derive(Debug, Clone)]
pub struct TaskQuery {
    /// Whose, and which task; its dialect is the one upstream is asked in.
    pub key: TaskKey,
    /// What upstream is shown of the client.
    pub credentials: Credentials,
    /// What the client will take.
    pub cache_mode: CacheMode,
    /// When it asked.
    pub at: Instant,
    /// When the client has waited long enough for an answer.
    pub deadline: Instant,
    /// What the client waits for, if it does.
    pub wait: Option<Wait>,
    /// Learns whether the client's poll made a request to upstream.
    pub asked: AskedUpstream,
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

/// What a client waits for: an answer other than the one it knows, or else the end of the task.
#[derive(Debug, Clone)]
pub struct Wait {
    /// The validators of what it knows.
    pub known: Option<HeaderValue>,
    /// When it takes whatever there is.
    pub until: Instant,
    /// The path it asked on.
    pub dialect: Dialect,
    /// How documents are written for it.
    pub rendering: Rendering,
}

/// What upstream is asked.
#[derive(Debug, Clone)]
pub struct TaskFetch {
    /// What the client who set it off wants to know.
    pub query: Arc<TaskQuery>,
    /// When the task was first seen, in Unix seconds.
    pub first_seen: i64,
    /// When all tries together have taken long enough.
    pub deadline: Instant,
}
