//! A pipeline, its clients, and an upstream that does as the test says.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use pollgate::answer::Answer;
use pollgate::answer::reply::Reply;
use pollgate::config::Config;
use pollgate::error::Error;
use pollgate::request::key::{CallerKey, Credentials, TaskKey};
use pollgate::request::preferences::CacheMode;
use pollgate::request::query::{TaskFetch, TaskQuery};
use pollgate::request::route::TaskId;
use pollgate::stack::{PollState, TaskPipeline, task_pipeline};
use pollgate::task::{Dialect, TaskSnapshot};
use pollgate::telemetry::{Exposition, Metrics};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tower::{Service, ServiceExt as _};

/// What upstream does with a request: an answer, after so long.
pub(crate) type Said = (Duration, Result<Reply, Error>);

/// A way to fail, or not to.
pub(crate) type Way = fn() -> Result<Reply, Error>;

type Script = Arc<dyn Fn(&TaskFetch) -> Said + Send + Sync>;

/// See the module. Clones are one upstream.
#[derive(Clone)]
pub(crate) struct Upstream {
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<(Instant, TaskKey)>>>,
    /// Requests wait here before they are answered, where it is closed.
    gate: Arc<Semaphore>,
}

impl Upstream {
    /// From now on it answers like this.
    pub(crate) fn now(&self, script: impl Fn(&TaskFetch) -> Said + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    /// How often it was asked.
    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// When it was asked, and for what.
    pub(crate) fn asked(&self) -> Vec<(Instant, TaskKey)> {
        self.asked.lock().unwrap().clone()
    }

    /// From now on requests wait for [`Upstream::let_pass`].
    pub(crate) fn close_gate(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Answers so many of those that wait, or will.
    pub(crate) fn let_pass(&self, count: usize) {
        self.gate.add_permits(count);
    }
}

impl Service<TaskFetch> for Upstream {
    type Response = Reply;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, fetch: TaskFetch) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let asked = (Instant::now(), fetch.query.key.clone());
            this.asked.lock().unwrap().push(asked);
            let answering = async {
                this.gate
                    .acquire()
                    .await
                    .expect("is never closed for good")
                    .forget();
                let script = Arc::clone(&this.script.lock().unwrap());
                let (latency, result) = script(&fetch);
                tokio::time::sleep(latency).await;
                result
            };
            timeout_at(fetch.deadline, answering)
                .await
                .unwrap_or(Err(Error::UpstreamTimeout))
        })
    }
}

/// A pipeline with its upstream.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub upstream: Upstream,
    pub state: PollState,
    pipeline: TaskPipeline<Upstream>,
    metrics: Arc<Metrics>,
    caller_key: CallerKey,
    timeout: Duration,
}

impl Gateway {
    /// With an upstream that answers like this.
    pub(crate) fn new(
        config: &Config,
        script: impl Fn(&TaskFetch) -> Said + Send + Sync + 'static,
    ) -> Self {
        fastrand::seed(7);
        let upstream = Upstream {
            script: Arc::new(Mutex::new(Arc::new(script))),
            asked: Arc::default(),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS / 2)),
        };
        let metrics = Arc::new(Metrics::new().expect("one of each name"));
        let state = PollState::new(config.cache.capacity.bytes(), &metrics);
        Self {
            pipeline: task_pipeline(&state, config, upstream.clone()),
            upstream,
            state,
            metrics,
            caller_key: CallerKey::random().expect("random bytes"),
            timeout: config.upstream.timeout,
        }
    }

    /// A usual poll of the usual caller.
    pub(crate) async fn poll(&self, task: &str) -> Result<Answer, Error> {
        self.ask("me", Dialect::OpenAi, task, CacheMode::Default)
            .await
    }

    pub(crate) fn ask(
        &self,
        caller: &str,
        dialect: Dialect,
        task: &str,
        cache_mode: CacheMode,
    ) -> impl Future<Output = Result<Answer, Error>> + Send + 'static {
        let uri: Uri = format!("/?{caller}").parse().expect("a target");
        let credentials = Credentials::new(HeaderMap::new(), uri);
        let (pipeline, timeout) = (self.pipeline.clone(), self.timeout);
        let key = TaskKey {
            caller: self.caller_key.caller(&credentials),
            dialect,
            task: TaskId::new(task),
        };
        async move {
            let query = TaskQuery {
                key,
                credentials,
                cache_mode,
                at: Instant::now(),
                deadline: Instant::now() + timeout,
                wait: None,
                asked: pollgate::request::query::AskedUpstream::default(),
            };
            pipeline.oneshot(query).await
        }
    }

    /// How many wait for a flight.
    pub(crate) fn waiters(&self) -> usize {
        let metrics = self.metrics.expose(Exposition::Prometheus, 0, 0, 0);
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("pollgate_waiters "));
        line.and_then(|count| count.parse().ok()).expect("is told")
    }
}

/// Lets every task run until it waits for something.
pub(crate) async fn settle() {
    for _ in 0..30 {
        tokio::task::yield_now().await;
    }
}

/// At once.
pub(crate) const AT_ONCE: Duration = Duration::ZERO;

/// A task in this state, as upstream tells of it on the path that was asked.
pub(crate) fn task(fetch: &TaskFetch, status: &str) -> Result<Reply, Error> {
    let url = if status == "succeeded" {
        "https://cdn.example.com/v.mp4"
    } else {
        ""
    };
    task_with_url(fetch, status, url)
}

pub(crate) fn task_with_url(fetch: &TaskFetch, status: &str, url: &str) -> Result<Reply, Error> {
    let key = &fetch.query.key;
    let id = key.task.decoded();
    let body = match key.dialect {
        Dialect::Unified => format!(
            r#"{{"code":"success","message":"","data":{{"task_id":"{id}","status":"{status}","url":"{url}"}}}}"#
        ),
        Dialect::OpenAi => {
            format!(
                r#"{{"id":"{id}","object":"video","status":"{status}","metadata":{{"url":"{url}"}}}}"#
            )
        }
    };
    let body = body.into();
    let snapshot = TaskSnapshot::read(&id, &body, fetch.first_seen).expect("is a task");
    Ok(Reply::new(
        StatusCode::OK,
        &HeaderMap::new(),
        body,
        Some(snapshot),
    ))
}

/// An error of this status.
pub(crate) fn error(
    status: u16,
    headers: &[(&'static str, &'static str)],
    body: &'static str,
) -> Result<Reply, Error> {
    let headers = headers
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        })
        .collect();
    let status = StatusCode::from_u16(status).expect("a status");
    Ok(Reply::new(status, &headers, body.into(), None))
}

pub(crate) fn refused() -> Result<Reply, Error> {
    Err(Error::UpstreamUnavailable("connection refused".into()))
}
