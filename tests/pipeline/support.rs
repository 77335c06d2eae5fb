//! A pipeline, its clients, and a scripted upstream in memory.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use pollgate::answer::Answer;
use pollgate::answer::reply::Reply;
use pollgate::config::{Config, UpstreamDialect};
use pollgate::error::Error;
use pollgate::fleet::engine::Member;
use pollgate::fleet::memory::{MemoryEngine, MemoryLink};
use pollgate::fleet::pulse::Pulse;
use pollgate::fleet::seal::Secret;
use pollgate::fleet::{Ear, Fleet, Terms};
use pollgate::request::key::{CallerKey, Credentials, TaskKey};
use pollgate::request::preferences::CacheMode;
use pollgate::request::query::{TaskFetch, TaskQuery};
use pollgate::route::{RouteId, TaskId};
use pollgate::stack::{PollState, TaskPipeline, task_pipeline};
use pollgate::task::{Dialect, Source, TaskSnapshot};
use pollgate::telemetry::{Exposition, Metrics};
use pollgate::upstream::lost::LostPolls;
use pollgate::upstream::response_time::ResponseTime;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tower::{Service, ServiceExt as _};

/// Upstream's response to a request, and the latency before it.
pub(crate) type Said = (Duration, Result<Reply, Error>);

/// Makes one kind of response, mostly a failure.
pub(crate) type Way = fn() -> Result<Reply, Error>;

type Script = Arc<dyn Fn(&TaskFetch) -> Said + Send + Sync>;

/// Answers by a script and records every request. Clones share both.
#[derive(Clone)]
pub(crate) struct Upstream {
    script: Arc<Mutex<Script>>,
    asked: Arc<Mutex<Vec<(Instant, TaskKey)>>>,
    /// Requests wait here for a permit while the gate is closed.
    gate: Arc<Semaphore>,
    /// The polls that it seems to have lost, of one gateway.
    lost: Option<(Arc<LostPolls>, Arc<ResponseTime>)>,
}

impl Upstream {
    /// One that answers by this script.
    pub(crate) fn new(script: impl Fn(&TaskFetch) -> Said + Send + Sync + 'static) -> Self {
        Self {
            script: Arc::new(Mutex::new(Arc::new(script))),
            asked: Arc::default(),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS / 2)),
            lost: None,
        }
    }

    /// The same, for a gateway with this state.
    fn of(&self, state: &PollState) -> Self {
        let (lost, response_time) = (&state.lost, &state.response_time);
        Self {
            lost: Some((Arc::clone(lost), Arc::clone(response_time))),
            ..self.clone()
        }
    }

    async fn answer(&self, fetch: &TaskFetch) -> Result<Reply, Error> {
        let asked = (Instant::now(), fetch.query.key.clone());
        self.asked.lock().unwrap().push(asked);
        fetch.query.asked_at.set();
        let answering = async {
            let passed = self.gate.acquire().await;
            passed.expect("is never closed for good").forget();
            let script = Arc::clone(&self.script.lock().unwrap());
            let (latency, result) = script(fetch);
            tokio::time::sleep(latency).await;
            result.map(|mut reply| {
                reply.received = Instant::now();
                reply
            })
        };
        timeout_at(fetch.deadline, answering)
            .await
            .unwrap_or(Err(Error::UpstreamTimeout))
    }

    /// Replaces the script.
    pub(crate) fn now(&self, script: impl Fn(&TaskFetch) -> Said + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    /// The number of requests so far.
    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// The time and the task of every request.
    pub(crate) fn asked(&self) -> Vec<(Instant, TaskKey)> {
        self.asked.lock().unwrap().clone()
    }

    /// Makes requests wait for [`Upstream::let_pass`].
    pub(crate) fn close_gate(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Lets this many requests pass, waiting or future ones.
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
            let answer = || this.answer(&fetch);
            match &this.lost {
                Some((lost, usual)) => lost.until_answered(&fetch, usual, answer).await,
                None => answer().await,
            }
        })
    }
}

/// A pipeline in front of its upstream.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub upstream: Upstream,
    pub state: PollState,
    pipeline: TaskPipeline<Upstream>,
    metrics: Arc<Metrics>,
    caller_key: CallerKey,
    dialect: UpstreamDialect,
    timeout: Duration,
}

impl Gateway {
    /// Assembles a pipeline in front of an upstream with this script.
    pub(crate) fn new(
        config: &Config,
        script: impl Fn(&TaskFetch) -> Said + Send + Sync + 'static,
    ) -> Self {
        fastrand::seed(7);
        let upstream = Upstream::new(script);
        let metrics = Arc::new(Metrics::new().expect("one of each name"));
        let state = PollState::new(config.cache.capacity.bytes(), &metrics);
        Self {
            pipeline: task_pipeline(&state, config, upstream.of(&state)),
            upstream,
            state,
            metrics,
            caller_key: CallerKey::random().expect("random bytes"),
            dialect: config.upstream.dialect,
            timeout: config.upstream.timeout,
        }
    }

    /// Assembles a pipeline that is a member of the fleet of `engine`, in front of an upstream that members may share. Its
    /// heart beats from now on.
    pub(crate) fn in_fleet(
        config: &Config,
        upstream: &Upstream,
        engine: &MemoryEngine,
        number: u64,
    ) -> (Self, MemoryLink) {
        let metrics = Arc::new(Metrics::new().expect("one of each name"));
        let mut state = PollState::new(config.cache.capacity.bytes(), &metrics);
        let secret = Secret::new(b"a secret that all the members share").expect("is long enough");
        let (ear, member) = (Arc::new(Ear::default()), Member(number));
        let link = engine.connect(member, ear.pushes());
        let caller_key = CallerKey::new(secret.caller_key());
        let terms = Terms::of(&config.fleet);
        let fleet = Fleet::new(
            member,
            secret,
            terms,
            ear,
            Arc::new(link.clone()),
            metrics.fleet().expect("is the only one"),
        );
        let pulse = Pulse {
            fleet: Arc::clone(&fleet),
            store: Arc::clone(&state.store),
            cadence: Arc::clone(&state.cadence),
            breakers: Arc::clone(&state.breakers),
        };
        tokio::spawn(pulse.run());
        state.fleet = Some(fleet);
        let gateway = Self {
            pipeline: task_pipeline(&state, config, upstream.of(&state)),
            upstream: upstream.clone(),
            state,
            metrics,
            caller_key,
            dialect: config.upstream.dialect,
            timeout: config.upstream.timeout,
        };
        (gateway, link)
    }

    /// The fleet that it is a member of.
    pub(crate) fn fleet(&self) -> &Arc<Fleet> {
        self.state.fleet.as_ref().expect("is in one")
    }

    /// The value of a counter with these labels, as they are written.
    pub(crate) fn metric(&self, series: &str) -> usize {
        let metrics = self.metrics.expose(Exposition::Prometheus, 0, 0, 0);
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.and_then(|count| count.parse().ok())
            .unwrap_or_else(|| panic!("{series} is not exposed"))
    }

    /// Polls with the default caller, path and cache mode.
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
        self.send(self.query(caller, dialect, task, cache_mode))
    }

    /// Builds a poll on this path that starts now.
    pub(crate) fn query(
        &self,
        caller: &str,
        dialect: Dialect,
        task: &str,
        cache_mode: CacheMode,
    ) -> TaskQuery {
        let uri: Uri = format!("/?{caller}").parse().expect("a target");
        let credentials = Credentials::new(HeaderMap::new(), uri);
        let now = Instant::now();
        TaskQuery {
            key: TaskKey {
                caller: self.caller_key.caller(&credentials),
                route: RouteId::of(self.dialect.choose(dialect)),
                task: TaskId::new(task),
            },
            resource: None,
            credentials,
            cache_mode,
            at: now,
            deadline: now + self.timeout,
            wait: None,
            asked: pollgate::request::query::AskedUpstream::default(),
            asked_at: pollgate::request::query::AskedAt::default(),
        }
    }

    pub(crate) fn send(
        &self,
        query: TaskQuery,
    ) -> impl Future<Output = Result<Answer, Error>> + Send + 'static {
        self.pipeline.clone().oneshot(query)
    }

    /// Reassembles the pipeline around the same state, as a reload does.
    pub(crate) fn reload(&mut self, config: &Config) {
        self.pipeline = task_pipeline(&self.state, config, self.upstream.clone());
        self.dialect = config.upstream.dialect;
        self.timeout = config.upstream.timeout;
    }

    /// The gauge of waiters.
    pub(crate) fn waiters(&self) -> usize {
        let metrics = self.metrics.expose(Exposition::Prometheus, 0, 0, 0);
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("pollgate_waiters "));
        line.and_then(|count| count.parse().ok())
            .expect("is exposed")
    }
}

/// Lets every spawned task run until it waits.
pub(crate) async fn settle() {
    for _ in 0..30 {
        tokio::task::yield_now().await;
    }
}

pub(crate) const AT_ONCE: Duration = Duration::ZERO;

/// A document of a task with this status, in the dialect of the request.
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
    let body = match key.route.dialect().expect("a route that converts") {
        Dialect::Unified => format!(
            r#"{{"code":"success","message":"","data":{{"task_id":"{id}","status":"{status}","url":"{url}"}}}}"#
        ),
        Dialect::OpenAi => {
            format!(
                r#"{{"id":"{id}","object":"video","status":"{status}","metadata":{{"url":"{url}"}}}}"#
            )
        }
    };
    document(fetch, body)
}

/// A 200 with this document of a task.
pub(crate) fn document(fetch: &TaskFetch, body: String) -> Result<Reply, Error> {
    let source = Source {
        asked_id: &fetch.query.key.task.decoded(),
        status: 200,
        body: body.as_bytes(),
        first_seen: fetch.first_seen,
    };
    let snapshot = TaskSnapshot::read(&source).expect("is a task");
    Ok(Reply::new(
        StatusCode::OK,
        &HeaderMap::new(),
        body.into(),
        Some(snapshot),
    ))
}

/// A response with this status, without a task.
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
