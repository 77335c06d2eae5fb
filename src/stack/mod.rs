//! The tower stack, put together in one place, from top to bottom in the order in which a request meets it.

mod coalesce;
mod dispatch;
mod fetch;
mod forward;
mod observe;
mod poll;
mod recall;
mod remember;
mod rescue;
mod translate;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tower::ServiceBuilder;
use tower::limit::{ConcurrencyLimit, GlobalConcurrencyLimitLayer};
use tower::load_shed::LoadShed;

use crate::config::Config;
use crate::error::Error;
use crate::flights::Flights;
use crate::key::{CallerKey, TaskKey};
use crate::reply::Answer;
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::upstream::Upstream;

use self::coalesce::Coalesce;
use self::dispatch::Dispatch;
use self::fetch::Fetch;
use self::forward::Forward;
use self::observe::Observe;
use self::poll::Poll;
use self::recall::Recall;
use self::remember::Remember;
use self::rescue::Rescue;
use self::translate::Translate;

/// The whole stack: an [`Inbound`](crate::exchange::Inbound) request in, an `http::Response` out, never an error.
pub type Stack = Observe<Rescue<LoadShed<ConcurrencyLimit<Dispatch<Poll<TaskPipeline>, Forward>>>>>;

/// The inner half, which answers status polls: plain values in and out.
type TaskPipeline = Translate<Recall<Coalesce<Remember<Fetch>>>>;

/// The flights of status polls. The count of a task's changes is part of the key, so that no poll that comes after a
/// change boards a flight that took off before it.
pub type PollFlights = Flights<(TaskKey, u64), Result<Answer, Error>>;

/// What the stack works on, and what stays when it is assembled anew with other settings.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Whose poll it is.
    pub caller_key: CallerKey,
    /// What is remembered.
    pub store: Arc<Store>,
    /// What is under way.
    pub flights: PollFlights,
    /// Who is asked.
    pub upstream: Upstream,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Places for requests under way.
    pub door: Arc<Semaphore>,
    /// Places for polls of upstream under way.
    pub polls: Arc<Semaphore>,
}

/// Assembles the stack.
#[must_use]
pub fn assemble(parts: Parts, config: &Config) -> Stack {
    let Parts {
        caller_key,
        store,
        flights,
        upstream,
        metrics,
        door,
        polls,
    } = parts;
    let log = config.log.requests;

    let task_pipeline = ServiceBuilder::new()
        // Above everything that is shared: one remembered answer serves the clients of both paths.
        .layer_fn(|inner| Translate::new(inner, config.upstream.dialect))
        // Outside Coalesce: a hit never touches the flight table; whoever waits for a flight can still fall back.
        .layer_fn(|inner| Recall::new(inner, Arc::clone(&store), config.cache.credential_ttl))
        // From here on there is one poll for all who wait.
        .layer_fn(|inner| {
            Coalesce::new(
                inner,
                flights.clone(),
                Arc::clone(&store),
                &metrics,
                config.limits.max_waiters,
            )
        })
        // Inside the flight: an answer is stored once, before the flight leaves the table.
        .layer_fn(|inner| Remember::new(inner, Arc::clone(&store), config.cache.clone()))
        .service(Fetch::new(upstream.clone(), polls, &config.upstream));

    ServiceBuilder::new()
        // Outermost: whatever happens below is counted, logged and signed.
        .layer_fn(|inner| Observe::new(inner, Arc::clone(&metrics), log))
        // Errors become responses here, so that nothing above can fail.
        .layer_fn(Rescue::new)
        // The door: beyond the limit a request is refused at once instead of waiting for its turn.
        .load_shed()
        .layer(GlobalConcurrencyLimitLayer::with_semaphore(door))
        .service(Dispatch::new(
            Poll::new(task_pipeline, caller_key, config.answers.rendering, config),
            Forward::new(upstream, store, config.listen.forwarded),
        ))
}
