//! The gateway as a whole: what it remembers and counts, and the stack in front of that, assembled anew when the
//! settings change.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::Response;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::Service;

use crate::cache::Store;
use crate::config::{self, Config, UpstreamUrl};
use crate::message::body::Body;
use crate::request::inbound::Inbound;
use crate::request::key::CallerKey;
use crate::stack::{Limits, PollState, Resources, Stack, assemble};
use crate::sync::shares::Shares;
use crate::telemetry::{Exposition, Metrics};
use crate::upstream::Upstream;
use crate::upstream::breakers::CircuitStatus;

/// How many bytes of upstream's documents may be in memory while they are received. Beyond it polls wait their turn.
const DOCUMENT_BUDGET: usize = 256 << 20;

/// A gateway. Cheap to clone; clones are one gateway, each with a copy of the stack to itself: one per connection.
#[derive(Debug, Clone)]
pub struct Gateway {
    resources: Arc<Resources>,
    assembled: Arc<ArcSwap<Stack>>,
    cache: Arc<ArcSwap<config::Cache>>,
    /// What `stack` is a copy of.
    seen: Arc<Stack>,
    stack: Stack,
}

/// Why a gateway cannot be set up.
pub type Problem = Box<dyn std::error::Error + Send + Sync>;

impl Gateway {
    /// Sets one up. Opens no connection and binds no port.
    ///
    /// # Errors
    /// The CA file cannot be used, or the system gives no random bytes.
    pub fn new(config: &Config) -> Result<Self, Problem> {
        let metrics = Arc::new(Metrics::new()?);
        let resources = Resources {
            caller_key: CallerKey::random()?,
            polls: PollState::new(config.cache.capacity.bytes(), &metrics),
            upstream: Upstream::new(&config.upstream, Arc::clone(&metrics))?,
            metrics,
            limits: Limits::new(
                config.limits.max_connections.get(),
                config.limits.caller_share,
            ),
            upstream_permits: Arc::new(Semaphore::new(config.limits.max_upstream.get())),
            upstream_shares: Shares::new(
                config
                    .limits
                    .caller_share
                    .of(config.limits.max_upstream.get()),
            ),
            document_budget: Arc::new(Semaphore::new(DOCUMENT_BUDGET)),
        };
        let seen = Arc::new(assemble(&resources, config));
        Ok(Self {
            resources: Arc::new(resources),
            assembled: Arc::new(ArcSwap::new(Arc::clone(&seen))),
            cache: Arc::new(ArcSwap::from_pointee(config.cache.clone())),
            stack: Stack::clone(&seen),
            seen,
        })
    }

    /// Answers by these settings from now on. What is remembered and under way stays; what is bound at the start
    /// (ports, sizes, the upstream) stays as it was.
    pub fn reload(&self, config: &Config) {
        self.cache.store(Arc::new(config.cache.clone()));
        self.assembled
            .store(Arc::new(assemble(&self.resources, config)));
    }

    /// Answers all who wait with what there is, from now on.
    pub fn drain(&self) {
        self.resources.polls.draining.cancel();
    }

    /// Sends all away who still wait for upstream: there is no more time for it.
    pub fn give_up(&self) {
        self.resources.polls.out_of_time.cancel();
    }

    /// What is remembered.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.resources.polls.store
    }

    /// What status polls share: what is remembered, what is under way, how upstream is doing.
    #[must_use]
    pub fn polls(&self) -> &PollState {
        &self.resources.polls
    }

    /// Who is asked.
    #[must_use]
    pub fn upstream_url(&self) -> &UpstreamUrl {
        self.resources.upstream.url()
    }

    /// How many more polls of upstream may be under way at once.
    #[must_use]
    pub fn free_places(&self) -> usize {
        self.resources.upstream_permits.available_permits()
    }

    /// By which settings answers are remembered right now.
    #[must_use]
    pub fn cache_settings(&self) -> Arc<config::Cache> {
        self.cache.load_full()
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.resources.metrics
    }

    /// Gives back memory and connections that are of no use any more. To be called now and then.
    pub async fn reclaim(&self) {
        self.resources.polls.store.reclaim().await;
        self.resources.upstream.reclaim();
    }

    /// All metrics as text, as of now.
    #[must_use]
    pub fn expose(&self, format: Exposition) -> String {
        let PollState {
            store,
            flights,
            breakers,
            ..
        } = &self.resources.polls;
        store.flush();
        let status = breakers.status(Instant::now());
        self.resources.metrics.set_upstream(
            !matches!(status, CircuitStatus::Open { .. }),
            matches!(status, CircuitStatus::Paused { .. }),
        );
        self.resources
            .metrics
            .expose(format, store.len(), store.bytes(), flights.len())
    }
}

impl Service<Inbound> for Gateway {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Stack as Service<Inbound>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        let current = self.assembled.load();
        if !Arc::ptr_eq(&current, &self.seen) {
            self.seen = Arc::clone(&current);
            self.stack = Stack::clone(&current);
        }
        self.stack.call(inbound)
    }
}
