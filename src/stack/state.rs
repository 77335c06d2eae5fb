//! The state that the layers of the stack share, and the values that they pass to each other.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::retry::budget::TpsBudget;

use crate::answer::{FwdReason, Landed};
use crate::cache::cadence::Cadence;
use crate::cache::created::Created;
use crate::cache::{Lease, Store};
use crate::config::Percent;
use crate::error::Error;
use crate::fleet::Fleet;
use crate::fleet::envelope::Arrival;
use crate::request::key::{Caller, CallerKey, TaskKey};
use crate::request::query::TaskQuery;
use crate::sync::flights::Flights;
use crate::sync::permits::Permits;
use crate::sync::shares::Shares;
use crate::telemetry::{Gauge, Metrics, RecentErrors};
use crate::upstream::Upstream;
use crate::upstream::breakers::CircuitBreakers;
use crate::upstream::lost::LostPolls;
use crate::upstream::response_time::ResponseTime;

/// The long-lived state behind the stack. It survives a reload, which only rebuilds the stack.
#[derive(Debug, Clone)]
pub struct Resources {
    /// Computes callers from credentials.
    pub caller_key: CallerKey,
    /// The state that status polls share.
    pub polls: PollState,
    /// The API behind pollgate.
    pub upstream: Upstream,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Permits for client requests in progress.
    pub limits: Limits,
    /// Permits for upstream polls in progress: `limits.max_upstream` in all.
    pub upstream_permits: Arc<Semaphore>,
    /// Each caller's share of them.
    pub upstream_shares: Shares<Caller>,
    /// The bytes of upstream documents that may be buffered at once.
    pub document_budget: Arc<Semaphore>,
}

/// Permits for requests in progress. Polls and forwarded requests have separate ones, so that neither can block the
/// other.
#[derive(Debug, Clone)]
pub struct Limits {
    pub(super) each: usize,
    pub(super) polls: Arc<Permits>,
    pub(super) forwards: Arc<Permits>,
    pub(super) shares: Shares<Caller>,
}

impl Limits {
    /// The same limit for both; one caller may hold at most this `share` of the permits for polls.
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

/// The state that status polls share.
#[derive(Debug, Clone)]
pub struct PollState {
    /// The cache.
    pub store: Arc<Store>,
    /// Upstream polls in progress.
    pub flights: PollFlights,
    /// The ages at which the tasks of each model end.
    pub cadence: Arc<Cadence>,
    /// The circuit breakers.
    pub breakers: Arc<CircuitBreakers>,
    /// How long upstream usually takes.
    pub response_time: Arc<ResponseTime>,
    /// The polls that upstream seems to have lost.
    pub lost: Arc<LostPolls>,
    /// The latest errors, for the admin page.
    pub recent_errors: Arc<RecentErrors>,
    /// Tasks that were created a moment ago.
    pub created: Arc<Created>,
    /// The retry budget.
    pub retries: Arc<TpsBudget>,
    /// Counts clients waiting for a poll.
    pub waiters: Gauge,
    /// What it shares with other sidecars; `None` where it stands alone.
    pub fleet: Option<Arc<Fleet>>,
    /// Cancelled when the process starts to drain: held polls are answered with the latest known state.
    pub draining: CancellationToken,
    /// Cancelled when the drain deadline is near: requests still waiting for upstream fail.
    pub out_of_time: CancellationToken,
}

impl PollState {
    /// Creates empty state with a cache of `capacity` bytes.
    #[must_use]
    pub fn new(capacity: u64, metrics: &Arc<Metrics>) -> Self {
        let evictions = Arc::clone(metrics);
        Self {
            store: Arc::new(Store::new(capacity, move |cause| evictions.evicted(cause))),
            flights: Flights::new(),
            cadence: Arc::new(Cadence::new()),
            breakers: Arc::new(CircuitBreakers::new()),
            response_time: Arc::default(),
            lost: Arc::default(),
            recent_errors: Arc::default(),
            created: Arc::default(),
            // A fifth of all polls, and one a second besides, counted over ten seconds.
            retries: Arc::new(TpsBudget::new(Duration::from_secs(10), 1, 0.2)),
            waiters: metrics.waiters(),
            fleet: None,
            draining: CancellationToken::new(),
            out_of_time: CancellationToken::new(),
        }
    }
}

/// The flights of status polls. The lease is part of the key: a poll after a write to the task, or after upstream refused
/// the caller, never joins an earlier flight.
pub type PollFlights = Flights<(TaskKey, Lease), Result<Landed, Error>>;

/// A query that the cache cannot answer, and why.
#[derive(Debug, Clone)]
pub struct Miss {
    /// The query.
    pub query: Arc<TaskQuery>,
    /// Why it goes upstream (RFC 9211 `fwd`).
    pub reason: FwdReason,
    /// When its client gets the last known state instead, while the flight goes on; `None` if there is no such state.
    pub patient_until: Option<Instant>,
}

/// A query on its way upstream.
#[derive(Debug, Clone)]
pub struct LeasedQuery {
    /// The query of the client that leads the flight.
    pub query: Arc<TaskQuery>,
    /// The lease that keys the flight and under which its answer may be stored. It is taken once, so that there is no gap
    /// between the two.
    pub lease: Lease,
    /// Where the arrival of upstream's answer is put, for the fleet.
    pub arrival: Option<Arc<OnceLock<Arrival>>>,
    /// How many members of a fleet ask upstream for themselves, this one included, where it is to ask the less often.
    pub members: u32,
}
