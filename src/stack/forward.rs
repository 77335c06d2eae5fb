//! Forwards everything that is not a status poll to upstream, streamed in both directions. Nothing of it is cached or
//! shared, but a write to a task invalidates the task's cached answers, and the answer to a create tells of a task: what is
//! read for that is read on its way, and nothing waits for it.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tower::Service;

use super::state::Resources;
use crate::answer::handled::{Facts, Handled};
use crate::answer::outcome::Outcome;
use crate::cache::Store;
use crate::cache::created::Created;
use crate::config::{Config, Forwarded};
use crate::error::Error;
use crate::fleet::{Fleet, Forget};
use crate::message::body::Body;
use crate::request::key::Caller;
use crate::request::routed::Forwardable;
use crate::route::{TaskId, encoded};
use crate::sync::lock;
use crate::task::named_task;
use crate::upstream::{Upstream, decoded, forward_request};

/// See the module.
#[derive(Debug, Clone)]
pub struct Forward {
    upstream: Upstream,
    store: Arc<Store>,
    created: Arc<Created>,
    fleet: Option<Arc<Fleet>>,
    forwarded: Forwarded,
    idle_timeout: Duration,
}

impl Forward {
    pub(super) fn new(resources: &Resources, config: &Config) -> Self {
        Self {
            upstream: resources.upstream.clone(),
            store: Arc::clone(&resources.polls.store),
            created: Arc::clone(&resources.polls.created),
            fleet: resources.polls.fleet.clone(),
            forwarded: config.listen.forwarded,
            idle_timeout: config.limits.idle_timeout,
        }
    }

    async fn forward(self, forwardable: Forwardable) -> Result<Handled, Error> {
        let Forwardable {
            writes,
            caller,
            mut request,
            peer,
            interim,
        } = forwardable;
        if request.method() == Method::CONNECT {
            return Err(Error::BadRequest(
                "CONNECT is not for this gateway; name a path of the video API",
            ));
        }
        let client = hyper::upgrade::on(&mut request);
        let is_post = request.method() == Method::POST;
        let named = caller.and_then(|caller| self.watch_body(&mut request, caller));
        let request = forward_request(self.upstream.url(), request, peer, self.forwarded)?;
        let mut write = writes
            .zip(caller)
            .map(|(task, caller)| self.write(task, caller));
        if let Some(write) = &mut write {
            write.is_forgotten().await;
        }
        let mut response = self
            .upstream
            .exchange(request, client, interim, self.idle_timeout)
            .await?;
        if response.status().is_success() {
            if let Some(write) = write {
                write.was_accepted().await;
            }
            let named = named.and_then(|named| lock(&named).take());
            if let Some(write) = named {
                write.was_accepted().await;
            }
            if let Some(caller) = caller.filter(|_| is_post) {
                response = self.read_create(response, caller);
            }
        }
        Ok(Handled {
            response,
            facts: Facts::only(Outcome::Forwarded),
            named: None,
        })
    }

    fn write(&self, task: TaskId, caller: Caller) -> Write {
        Write::begin(Arc::clone(&self.store), self.fleet.clone(), task, caller)
    }

    /// Reads the body of a remix, an edit or a deletion on its way, for the task that it names.
    fn watch_body(&self, request: &mut Request<Body>, caller: Caller) -> Option<Named> {
        if !names_task_in_body(request.uri().path()) || !may_be_read(request.headers()) {
            return None;
        }
        let named = Named::default();
        let (slot, this) = (Arc::clone(&named), self.clone());
        let body = std::mem::replace(request.body_mut(), Body::empty());
        *request.body_mut() = body.copied(LARGEST_READ, move |body| {
            if let Some(id) = named_task(body) {
                let task = TaskId::new(&encoded(&id));
                *lock(&slot) = Some(this.write(task, caller));
            }
        });
        Some(named)
    }

    /// Reads the answer to a create on its way, for the task that it tells of.
    fn read_create(&self, response: Response<Body>, caller: Caller) -> Response<Body> {
        if !may_be_read(response.headers()) {
            return response;
        }
        let created = Arc::clone(&self.created);
        let coding = response.headers().get(CONTENT_ENCODING).cloned();
        let coding: HeaderMap = coding
            .into_iter()
            .map(|coding| (CONTENT_ENCODING, coding))
            .collect();
        response.map(|body| {
            body.copied(LARGEST_READ, move |body| {
                let body = Bytes::copy_from_slice(body);
                if let Ok(plain) = decoded(&coding, body, LARGEST_READ) {
                    created.record(caller, &plain, Instant::now());
                }
            })
        })
    }
}

/// The largest body, in bytes, that is read on its way.
const LARGEST_READ: usize = 64 << 10;

/// The write that the body of a request turned out to be.
type Named = Arc<Mutex<Option<Write>>>;

/// Whether requests on this path change a task that their body may name, as OctopusX's `/v1/video/remix`.
fn names_task_in_body(path: &str) -> bool {
    let last = path.trim_end_matches('/').rsplit('/').next();
    let words = ["remix", "edit", "extend", "extension", "delete", "cancel"];
    let last = last.unwrap_or_default().to_ascii_lowercase();
    words
        .iter()
        .any(|word| last == *word || last.strip_suffix('s') == Some(word))
}

/// Whether a body is JSON and small, as far as its head tells.
fn may_be_read(headers: &HeaderMap) -> bool {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let is_json = text(CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/json")
    });
    let length = text(CONTENT_LENGTH).map(|length| length.parse::<usize>().unwrap_or(usize::MAX));
    is_json && length.is_none_or(|length| length <= LARGEST_READ)
}

impl Service<Forwardable> for Forward {
    type Response = Handled;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Handled, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, forwardable: Forwardable) -> Self::Future {
        Box::pin(self.clone().forward(forwardable))
    }
}

/// A write to a task in progress. The caller's cached answers of the task are purged when it starts and when it ends,
/// however it ends (RFC 9111 §4.4), since a poll in between may have seen the old state. If upstream accepts the write,
/// the task is invalidated for all callers; one that upstream rejects or does not answer affects nobody else. A fleet
/// forgets with it, which the write waits for, though not for long.
struct Write {
    store: Arc<Store>,
    fleet: Option<Arc<Fleet>>,
    /// Whether the fleet is told before upstream has accepted it.
    is_told: bool,
    /// The forget with which it begins.
    forgetting: Option<JoinHandle<bool>>,
    task: TaskId,
    caller: Caller,
}

impl Write {
    fn begin(store: Arc<Store>, fleet: Option<Arc<Fleet>>, task: TaskId, caller: Caller) -> Self {
        store.invalidate_for(&task, caller);
        let own = Forget::TaskOf(task.clone(), caller);
        let told = fleet
            .clone()
            .filter(|fleet| fleet.may_tell_of(store.knows(caller)));
        let is_told = told.is_some();
        let forgetting = told.map(|fleet| tokio::spawn(async move { fleet.forget(own).await }));
        Self {
            store,
            fleet,
            is_told,
            forgetting,
            task,
            caller,
        }
    }

    /// Resolves when the fleet has forgotten what the write begins to change, or is told later.
    async fn is_forgotten(&mut self) {
        if let Some(forgetting) = self.forgetting.take() {
            // It does not panic.
            let _ = forgetting.await;
        }
    }

    async fn was_accepted(mut self) {
        self.store.invalidate(&self.task);
        // What is forgotten for all is forgotten for this caller too.
        if let Some(fleet) = self.fleet.take() {
            self.store.invalidate_for(&self.task, self.caller);
            fleet.forget(Forget::Task(self.task.clone())).await;
        }
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        self.store.invalidate_for(&self.task, self.caller);
        let told = self.fleet.take().filter(|_| self.is_told);
        if let (Some(fleet), Ok(runtime)) = (told, tokio::runtime::Handle::try_current()) {
            let own = Forget::TaskOf(self.task.clone(), self.caller);
            runtime.spawn(async move { fleet.forget(own).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::Uri;
    use tokio::time::sleep;

    use super::*;
    use crate::cache::cadence::Cadence;
    use crate::fleet::engine::{Ask, Member};
    use crate::fleet::memory::{Fault, MemoryEngine};
    use crate::fleet::pulse::Pulse;
    use crate::fleet::seal::Secret;
    use crate::fleet::{Ear, Terms};
    use crate::request::key::{CallerKey, Credentials, TaskKey};
    use crate::route::RouteId;
    use crate::task::Dialect;
    use crate::telemetry::Metrics;
    use crate::upstream::breakers::CircuitBreakers;

    #[tokio::test(start_paused = true)]
    async fn writes_with_made_up_keys_are_told_to_the_fleet_now_and_then_only() {
        let metrics = Metrics::new().expect("one of each name");
        let store = Arc::new(Store::new(1 << 20, |_| {}));
        let secret = Secret::new(b"a secret that all the members share").expect("is long enough");
        let (ear, engine) = (Arc::new(Ear::default()), MemoryEngine::new());
        let link = engine.connect(Member(1), ear.pushes());
        let fleet = Fleet::new(
            Member(1),
            secret,
            Terms::of(&Config::default().fleet),
            ear,
            Arc::new(link.clone()),
            metrics.fleet().expect("is the only one"),
        );
        let pulse = Pulse {
            fleet: Arc::clone(&fleet),
            store: Arc::clone(&store),
            cadence: Arc::new(Cadence::default()),
            breakers: Arc::new(CircuitBreakers::default()),
        };
        tokio::spawn(pulse.run());
        sleep(Duration::from_millis(100)).await;
        let told = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&told);
        link.set_faults(move |ask| {
            let is_forget = matches!(ask, Ask::Forget(_));
            counted.fetch_add(usize::from(is_forget), Ordering::Relaxed);
            Fault::default()
        });
        let key = |number: usize| {
            let target = format!("/?key={number}").parse::<Uri>();
            let credentials = Credentials::new(HeaderMap::new(), target.expect("a target"));
            TaskKey {
                caller: CallerKey::new([7; 32]).caller(&credentials),
                route: RouteId::of(Dialect::Unified),
                task: TaskId::new(&number.to_string()),
            }
        };
        let write = |number: usize| {
            let TaskKey { task, caller, .. } = key(number);
            drop(Write::begin(
                Arc::clone(&store),
                Some(Arc::clone(&fleet)),
                task,
                caller,
            ));
        };
        (0..1_000).for_each(write);
        sleep(Duration::from_millis(100)).await;
        assert_eq!(
            told.load(Ordering::Relaxed),
            2,
            "the first one's begin and end"
        );
        let known = key(1_000);
        store.accept(known.caller, &store.lease(&known), Instant::now());
        write(1_000);
        sleep(Duration::from_millis(50)).await;
        assert_eq!(told.load(Ordering::Relaxed), 4);
    }
}
