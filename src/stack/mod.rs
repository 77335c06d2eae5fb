//! The tower stack, put together in one place, from top to bottom in the order in which a request meets it.

mod breaker;
mod coalesce;
mod dispatch;
mod door;
mod fetch;
mod forward;
mod hold;
mod observe;
mod poll;
mod recall;
mod remember;
mod rescue;
mod retry;
mod shared;
mod translate;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::retry::budget::TpsBudget;
use tower::{Service, ServiceBuilder};

use crate::answer::Answer;
use crate::answer::reply::Reply;
use crate::cache::cadence::Cadence;
use crate::cache::{Lease, Store};
use crate::config::Config;
use crate::error::Error;
use crate::request::key::{CallerKey, TaskKey};
use crate::request::query::{TaskFetch, TaskQuery};
use crate::sync::flights::Flights;
use crate::telemetry::{Gauge, Metrics, RecentErrors};
use crate::upstream::Upstream;
use crate::upstream::breakers::CircuitBreakers;

use self::breaker::Breaker;
use self::coalesce::Coalesce;
use self::dispatch::Dispatch;
use self::door::Door;
use self::fetch::Fetch;
use self::forward::Forward;
use self::hold::Hold;
use self::observe::Observe;
use self::poll::Poll;
use self::recall::Recall;
use self::remember::Remember;
use self::rescue::Rescue;
use self::retry::Retry;
use self::shared::Shared;
use self::translate::Translate;

pub use self::door::Places;

/// The whole stack: an [`Inbound`](crate::request::inbound::Inbound) request in, an `http::Response` out, never an error.
/// Cheap to clone; a connection has one of its own, so that a hit touches no reference count that others touch.
pub type Stack = Observe<Rescue<Door<Dispatch<Poll<TaskPipeline<Fetch>>, Shared<Forward>>>>>;

/// The inner half, which answers status polls: plain values in and out. `F` asks upstream.
pub type TaskPipeline<F> = Hold<Translate<Recall<Shared<Coalesce<Shared<Flight<F>>>>>>>;

/// What happens once for all who wait.
type Flight<F> = Remember<Shared<Retry<Shared<Breaker<Shared<F>>>>>>;

/// The flights of status polls. What changes with the task and with the caller's status is part of the key, so that
/// no poll that comes after a write or a refusal boards a flight that took off before it.
pub type PollFlights = Flights<(TaskKey, Lease), Result<Answer, Error>>;

/// A poll that is about to take off.
#[derive(Debug, Clone)]
pub struct LeasedQuery {
    /// What its first passenger wants to know.
    pub query: Arc<TaskQuery>,
    /// What it is boarded under, and must still be so when it lands: looked at once, so that there is no gap between.
    pub lease: Lease,
}

/// What the stack works on, and what stays when it is assembled anew with other settings.
#[derive(Debug, Clone)]
pub struct Resources {
    /// Whose poll it is.
    pub caller_key: CallerKey,
    /// What status polls share.
    pub polls: PollState,
    /// Who is asked.
    pub upstream: Upstream,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Places for requests under way.
    pub door: Places,
    /// Places for polls of upstream under way.
    pub places: Arc<Semaphore>,
}

/// What status polls share.
#[derive(Debug, Clone)]
pub struct PollState {
    /// What is remembered.
    pub store: Arc<Store>,
    /// What is under way.
    pub flights: PollFlights,
    /// What was learnt of when tasks end.
    pub cadence: Arc<Cadence>,
    /// How upstream is doing.
    pub breakers: Arc<CircuitBreakers>,
    /// What went wrong lately.
    pub recent_errors: Arc<RecentErrors>,
    /// How many retries there may be.
    pub retries: Arc<TpsBudget>,
    /// Who waits.
    pub waiters: Gauge,
    /// Cancelled when whoever waits for news is to be answered with what there is.
    pub draining: CancellationToken,
    /// Cancelled when whoever waits for upstream is to be sent away.
    pub out_of_time: CancellationToken,
}

impl PollState {
    /// Nothing remembered, nothing under way; `capacity` in bytes.
    #[must_use]
    pub fn new(capacity: u64, metrics: &Arc<Metrics>) -> Self {
        let evictions = Arc::clone(metrics);
        Self {
            store: Arc::new(Store::new(capacity, move |cause| evictions.evicted(cause))),
            flights: Flights::new(),
            cadence: Arc::new(Cadence::new()),
            breakers: Arc::new(CircuitBreakers::new()),
            recent_errors: Arc::default(),
            retries: Arc::new(retry::budget()),
            waiters: metrics.waiters(),
            draining: CancellationToken::new(),
            out_of_time: CancellationToken::new(),
        }
    }
}

/// Assembles the stack.
#[must_use]
pub fn assemble(parts: Resources, config: &Config) -> Stack {
    let fetch = Fetch::new(parts.upstream.clone(), parts.places, &config.upstream);
    let task_pipeline = task_pipeline(&parts.polls, config, fetch);
    let recent_errors = Arc::clone(&parts.polls.recent_errors);
    let forward = Forward::new(parts.upstream, parts.polls.store, config);

    ServiceBuilder::new()
        // Outermost: whatever happens below is counted, logged and signed.
        .layer_fn(|inner| {
            let metrics = Arc::clone(&parts.metrics);
            Observe::new(
                inner,
                metrics,
                parts.caller_key.clone(),
                config.log.requests,
            )
        })
        // Errors become responses here, so that nothing above can fail.
        .layer_fn(|inner| Rescue::new(inner, Arc::clone(&recent_errors)))
        // The door: beyond the limit a request is refused at once instead of waiting for its turn.
        .layer_fn(|inner| Door::new(inner, parts.door.clone()))
        .service(Dispatch::new(
            Poll::new(task_pipeline, config),
            Shared::new(forward),
        ))
}

/// Assembles the inner half, on top of `fetch`.
#[must_use]
pub fn task_pipeline<F>(state: &PollState, config: &Config, fetch: F) -> TaskPipeline<F>
where
    F: Service<TaskFetch, Response = Reply, Error = Error, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let PollState {
        store,
        flights,
        cadence,
        breakers,
        recent_errors,
        retries,
        waiters,
        draining,
        out_of_time,
    } = state;
    ServiceBuilder::new()
        // Above all the rest: one who waits only asks again and again.
        .layer_fn(|inner| {
            Hold::new(
                inner,
                config.upstream.timeout,
                waiters.clone(),
                draining.clone(),
            )
        })
        // Above everything that is shared: one remembered answer serves the clients of both paths.
        .layer_fn(|inner| Translate::new(inner, config.upstream.dialect))
        // Outside Coalesce: a hit never touches the flight table; whoever waits for a flight can still fall back.
        .layer_fn(|inner| Recall::new(inner, Arc::clone(store), config.cache.credential_ttl))
        .layer_fn(Shared::new)
        // From here on there is one poll for all who wait.
        .layer_fn(|inner| {
            Coalesce::new(
                inner,
                flights.clone(),
                Arc::clone(store),
                waiters.clone(),
                out_of_time.clone(),
                config.limits.max_waiters,
            )
        })
        .layer_fn(Shared::new)
        // Inside the flight: an answer is stored once, before the flight leaves the table.
        .layer_fn(|inner| {
            Remember::new(
                inner,
                Arc::clone(store),
                Arc::clone(cadence),
                config.cache.clone(),
                config.upstream.timeout,
            )
        })
        .layer_fn(Shared::new)
        // Below Remember, which is told only how it ended; holds nothing of Fetch between two tries.
        .layer_fn(|inner| Retry::new(inner, Arc::clone(retries)))
        .layer_fn(Shared::new)
        // Below Retry, so that every single request is admitted and judged.
        .layer_fn(|inner| Breaker::new(inner, Arc::clone(breakers), Arc::clone(recent_errors)))
        .layer_fn(Shared::new)
        .service(fetch)
}
