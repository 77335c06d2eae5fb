//! Sends one status poll to upstream, within the limits on time, size and concurrency, and again where upstream seems to
//! have lost it. The innermost layer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use ahash::HashSet;
use futures_util::future::BoxFuture;
use http::header::LOCATION;
use http::{HeaderMap, StatusCode};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};
use tower::Service;

use super::state::Resources;
use crate::answer::reply::Reply;
use crate::config::Config;
use crate::error::Error;
use crate::request::key::{Caller, TaskKey};
use crate::request::query::TaskFetch;
use crate::sync::lock;
use crate::sync::shares::{Share, Shares};
use crate::task::{NotATask, Source, TaskSnapshot};
use crate::upstream::lost::LostPolls;
use crate::upstream::response_time::ResponseTime;
use crate::upstream::{BodyLimit, Received, Upstream, status_request};

/// The share of `limits.max_upstream` for tasks whose last poll timed out.
const HANGING_SHARE: usize = 4;

/// If a poll waited longer than this for its permit and then times out, upstream did not have its full time, so that does
/// not count against it.
const NOTICEABLE: Duration = Duration::from_millis(250);

/// What the error names as overloaded when there is no permit.
const POLLS: &str = "status polls of the video API";

/// See the module.
#[derive(Debug, Clone)]
pub struct Fetch(Arc<Layer>);

#[derive(Debug)]
struct Layer {
    upstream: Upstream,
    permits: Arc<Semaphore>,
    shares: Shares<Caller>,
    hanging: Hanging,
    response_time: Arc<ResponseTime>,
    lost: Arc<LostPolls>,
    limit: BodyLimit,
}

impl Fetch {
    pub(super) fn new(resources: &Resources, config: &Config) -> Self {
        let most = usize::try_from(config.upstream.max_status_body.bytes()).unwrap_or(usize::MAX);
        Self(Arc::new(Layer {
            upstream: resources.upstream.clone(),
            permits: Arc::clone(&resources.upstream_permits),
            shares: resources.upstream_shares.clone(),
            hanging: Hanging::new(config.limits.max_upstream.get()),
            response_time: Arc::clone(&resources.polls.response_time),
            lost: Arc::clone(&resources.polls.lost),
            limit: BodyLimit {
                most,
                budget: Arc::clone(&resources.document_budget),
            },
        }))
    }
}

/// One of those that hang, where the poll is of one; one of its caller's share; and its own.
type Permits<'l> = (
    Option<SemaphorePermit<'l>>,
    Share<Caller>,
    Option<SemaphorePermit<'l>>,
);

impl Layer {
    async fn call(&self, fetch: TaskFetch) -> Result<Reply, Error> {
        let (key, deadline) = (&fetch.query.key, fetch.deadline);
        let is_hanging = self.hanging.contains(key);
        let free = (!is_hanging).then(|| self.free_permits(key.caller));
        let (_permits, has_waited) = if let Some(permits) = free.flatten() {
            (permits, false)
        } else {
            let began = Instant::now();
            let permits = timeout_at(deadline, self.permits(key.caller, is_hanging));
            // Boxed, as it is rare and would make every poll's future larger.
            let permits = Box::pin(permits).await;
            let permits = permits.map_err(|_| Error::Overloaded(POLLS))?;
            (permits, began.elapsed() > NOTICEABLE)
        };
        let sent = self
            .lost
            .until_answered(&fetch, &self.response_time, || self.ask(&fetch));
        let result = sent.await;
        if matches!(result, Err(Error::UpstreamTimeout)) {
            if has_waited {
                return Err(Error::Overloaded(POLLS));
            }
            self.hanging.insert(key);
        } else if is_hanging {
            self.hanging.remove(key);
        }
        result
    }

    /// The permits of a poll, if they are free. It overtakes nobody: a permit is free only when none waits for it.
    fn free_permits(&self, caller: Caller) -> Option<Permits<'_>> {
        let share = self.shares.try_acquire(caller)?;
        let own = self.permits.try_acquire().ok()?;
        Some((None, share, Some(own)))
    }

    /// The same, waiting for them. The semaphores are never closed.
    async fn permits(&self, caller: Caller, is_hanging: bool) -> Permits<'_> {
        let hanging = if is_hanging {
            self.hanging.permits.acquire().await.ok()
        } else {
            None
        };
        let share = self.shares.acquire(caller).await;
        (hanging, share, self.permits.acquire().await.ok())
    }

    async fn ask(&self, fetch: &TaskFetch) -> Result<Reply, Error> {
        self.upstream.log_not_passed(&fetch.query.credentials);
        let request = status_request(self.upstream.url(), &fetch.query)?;
        fetch.query.asked.set();
        let asked_at = fetch.query.asked_at.set();
        let Received {
            head,
            body,
            budget: _budget,
        } = self
            .upstream
            .poll(request, &self.limit, asked_at, fetch.deadline)
            .await?;
        if head.status.is_informational() || head.status == StatusCode::NOT_MODIFIED {
            return Err(Error::UpstreamInvalid(format!("a {}", head.status).into()));
        }
        let asked_id = fetch.query.key.task.decoded();
        let source = Source {
            asked_id: &asked_id,
            status: head.status.as_u16(),
            body: &body,
            first_seen: fetch.first_seen,
        };
        let (status, headers) = (head.status, &head.headers);
        if let Some(asked) = &fetch.query.resource {
            // What is no task is passed on as it came.
            let reader = &asked.route.reader;
            let snapshot = TaskSnapshot::read_by(reader, &source).ok();
            let snapshot = snapshot.filter(|_| status.is_success());
            return Ok(Reply::as_is(&asked.route, status, headers, body, snapshot));
        }
        if status.is_redirection() {
            return Err(self.redirected(headers));
        }
        let snapshot = if status.is_success() {
            Some(TaskSnapshot::read(&source).map_err(not_a_task)?)
        } else {
            None
        };
        Ok(Reply::new(status, headers, body, snapshot))
    }

    fn redirected(&self, headers: &HeaderMap) -> Error {
        let location = headers.get(LOCATION);
        let location = location.map(|location| String::from_utf8_lossy(location.as_bytes()));
        let location = location.unwrap_or("a place that it does not name".into());
        // A page may contain anything.
        let location: String = location
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        let location = location.split('?').next().unwrap_or_default();
        self.upstream.log_redirect(location);
        Error::Redirected(location.into())
    }
}

/// A JSON document comes from upstream itself, so the way to it works; a page or a broken document does not show that.
fn not_a_task(why: NotATask) -> Error {
    let reason = why.to_string().into();
    match why {
        NotATask::Empty | NotATask::Html | NotATask::NotJson => Error::UpstreamInvalid(reason),
        _ => Error::NotATask(reason),
    }
}

impl Service<TaskFetch> for Fetch {
    type Response = Reply;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, fetch: TaskFetch) -> Self::Future {
        let layer = Arc::clone(&self.0);
        Box::pin(async move { layer.call(fetch).await })
    }
}

/// Tasks whose last poll timed out. Together they get a share of the permits, so that they cannot take all.
#[derive(Debug)]
struct Hanging {
    permits: Semaphore,
    tasks: Mutex<HashSet<TaskKey>>,
    len: AtomicUsize,
}

/// How many of them are tracked; beyond that, a new one takes the place of any other.
const MOST_HANGING: usize = 4096;

impl Hanging {
    fn new(max_upstream: usize) -> Self {
        Self {
            permits: Semaphore::new(max_upstream.div_ceil(HANGING_SHARE)),
            tasks: Mutex::default(),
            len: AtomicUsize::new(0),
        }
    }

    fn contains(&self, key: &TaskKey) -> bool {
        self.len.load(Ordering::Relaxed) > 0 && lock(&self.tasks).contains(key)
    }

    fn insert(&self, key: &TaskKey) {
        let tasks = &mut *lock(&self.tasks);
        if tasks.len() >= MOST_HANGING
            && let Some(any) = tasks.iter().next().cloned()
        {
            tasks.remove(&any);
        }
        tasks.insert(key.clone());
        self.len.store(tasks.len(), Ordering::Relaxed);
    }

    fn remove(&self, key: &TaskKey) {
        let tasks = &mut *lock(&self.tasks);
        tasks.remove(key);
        self.len.store(tasks.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;
    use crate::request::key::{CallerKey, Credentials};
    use crate::route::{RouteId, TaskId};
    use crate::task::Dialect;

    #[test]
    fn a_task_that_hangs_is_known_however_many_do() {
        let credentials = Credentials::new(HeaderMap::new(), Uri::from_static("/"));
        let key = |number: usize| TaskKey {
            caller: CallerKey::new([7; 32]).caller(&credentials),
            route: RouteId::of(Dialect::Unified),
            task: TaskId::new(&number.to_string()),
        };
        let hanging = Hanging::new(8);
        for number in 0..MOST_HANGING + 10 {
            hanging.insert(&key(number));
            assert!(hanging.contains(&key(number)));
        }
        let known = (0..MOST_HANGING + 10).filter(|number| hanging.contains(&key(*number)));
        assert_eq!(known.count(), MOST_HANGING);
    }
}
