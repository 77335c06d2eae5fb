//! What the layers of the stack share, and what they hand to one another.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::retry::budget::TpsBudget;

use crate::answer::{FwdReason, Landed};
use crate::cache::cadence::Cadence;
use crate::cache::{Lease, Store};
use crate::config::Percent;
use crate::error::Error;
use crate::request::key::{Caller, CallerKey, TaskKey};
use crate::request::query::TaskQuery;
use crate::sync::flights::Flights;
use crate::sync::permits::Permits;
use crate::sync::shares::Shares;
use crate::telemetry::{Gauge, Metrics, RecentErrors};
use crate::upstream::Upstream;
use crate::upstream::breakers::CircuitBreakers;

/// What the stack works on. It survives a reload, which assembles the stack anew with other settings.
#[derive(Debug, Clone)]
pub struct Resources {
    /// Turns credentials into callers.
    pub caller_key: CallerKey,
    /// What status polls share.
    pub polls: PollState,
    /// The API behind pollgate.
    pub upstream: Upstream,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Permits of client requests in progress.
    pub limits: Limits,
    /// Permits of upstream polls in progress: `limits.max_upstream`, and of each caller's.
    pub upstream_permits: Arc<Semaphore>,
    /// What each caller may hold of them.
    pub upstream_shares: Shares<Caller>,
    /// Bytes of upstream's documents that may be in memory while they are received.
    pub document_budget: Arc<Semaphore>,
}

/// Permits of requests in progress. Polls and forwarded requests have their own, so that neither keeps the other out.
#[derive(Debug, Clone)]
pub struct Limits {
    pub(super) each: usize,
    pub(super) polls: Arc<Permits>,
    pub(super) forwards: Arc<Permits>,
    pub(super) shares: Shares<Caller>,
}

impl Limits {
    /// The same limit for each of the two; a caller may hold this `share` of those for polls.
    #[must_use]
    pub fn new(each: usize, share: Percent) -> Self {
        Self {
            each,
            polls: Arc::default(),
            forwards: Arc::default(),
            shares: Shares::new(share.of(each)),
        }
    }
}

/// What status polls share.
#[derive(Debug, Clone)]
pub struct PollState {
    /// Remembered answers.
    pub store: Arc<Store>,
    /// Polls of upstream in progress.
    pub flights: PollFlights,
    /// When tasks of each model end.
    pub cadence: Arc<Cadence>,
    /// Whether upstream may be asked.
    pub breakers: Arc<CircuitBreakers>,
    /// The latest errors, for people.
    pub recent_errors: Arc<RecentErrors>,
    /// The budget of retries.
    pub retries: Arc<TpsBudget>,
    /// Counts clients waiting for a poll.
    pub waiters: Gauge,
    /// Cancelled when the process starts to drain: held polls are answered with the latest known state.
    pub draining: CancellationToken,
    /// Cancelled when the drain deadline is near: requests still waiting for upstream fail.
    pub out_of_time: CancellationToken,
}

impl PollState {
    /// Nothing remembered, nothing in progress; `capacity` in bytes.
    #[must_use]
    pub fn new(capacity: u64, metrics: &Arc<Metrics>) -> Self {
        let evictions = Arc::clone(metrics);
        Self {
            store: Arc::new(Store::new(capacity, move |cause| evictions.evicted(cause))),
            flights: Flights::new(),
            cadence: Arc::new(Cadence::new()),
            breakers: Arc::new(CircuitBreakers::new()),
            recent_errors: Arc::default(),
            // A fifth of all polls, and one a second besides, counted over ten seconds.
            retries: Arc::new(TpsBudget::new(Duration::from_secs(10), 1, 0.2)),
            waiters: metrics.waiters(),
            draining: CancellationToken::new(),
            out_of_time: CancellationToken::new(),
        }
    }
}

/// The flights of status polls. The lease is part of the key, so that no poll that comes after a write to the task or a
/// refusal of the caller joins a flight from before it.
pub type PollFlights = Flights<(TaskKey, Lease), Result<Landed, Error>>;

/// A query that memory cannot answer, and why.
#[derive(Debug, Clone)]
pub struct Miss {
    /// The query.
    pub query: TaskQuery,
    /// Why it goes upstream.
    pub reason: FwdReason,
    /// When its client is given the last known state instead, while the flight goes on; `None` where there is none.
    pub patient_until: Option<Instant>,
}

/// A query on its way upstream.
#[derive(Debug, Clone)]
pub struct LeasedQuery {
    /// The query of the client that leads the flight.
    pub query: Arc<TaskQuery>,
    /// The lease under which it flies, and under which its answer may be stored: taken once, so that there is no gap
    /// between the two.
    pub lease: Lease,
}
