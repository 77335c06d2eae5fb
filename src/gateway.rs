//! The gateway as a whole: its long-lived state (cache, flights, metrics, upstream connections) and the middleware
//! stack in front of it, rebuilt when the configuration is reloaded.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::Response;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::Service;

use crate::cache::Store;
use crate::config::{Config, Setting, UpstreamUrl};
use crate::message::body::Body;
use crate::request::inbound::Inbound;
use crate::request::key::CallerKey;
use crate::route::{Mistake, Routes};
use crate::stack::{Limits, PollState, Resources, Stack, assemble};
use crate::sync::shares::Shares;
use crate::telemetry::{Exposition, Metrics};
use crate::upstream::Upstream;
use crate::upstream::breakers::CircuitStatus;

/// The total size, in bytes, of upstream documents that may be buffered at once. Polls beyond it wait.
const DOCUMENT_BUDGET: usize = 256 << 20;

/// A gateway. Cheap to clone: clones share all state, and each has its own copy of the stack. Every connection gets a
/// clone.
#[derive(Debug, Clone)]
pub struct Gateway {
    resources: Arc<Resources>,
    assembled: Arc<ArcSwap<Stack>>,
    settings: Arc<Settings>,
    /// The stack that `stack` was cloned from, to notice a reload.
    seen: Arc<Stack>,
    stack: Stack,
}

/// The configuration at start-up, and what is current.
#[derive(Debug)]
struct Settings {
    started: Config,
    current: ArcSwap<Config>,
    routes: ArcSwap<Routes>,
}

/// Why a gateway could not be created.
pub type Problem = Box<dyn std::error::Error + Send + Sync>;

impl Gateway {
    /// Creates a gateway. Opens no connection and binds no port.
    ///
    /// # Errors
    /// The CA file cannot be used, or the operating system provides no random bytes.
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
        let routes = Routes::new(&config.routes.presets, &config.route);
        let in_words = |mistakes: Vec<Mistake>| {
            let mistakes = mistakes.into_iter().map(|mistake| mistake.what);
            mistakes.collect::<Vec<_>>().join("; ")
        };
        let routes = Arc::new(routes.map_err(in_words)?);
        let seen = Arc::new(assemble(&resources, config, &routes));
        Ok(Self {
            resources: Arc::new(resources),
            assembled: Arc::new(ArcSwap::new(Arc::clone(&seen))),
            settings: Arc::new(Settings {
                started: config.clone(),
                current: ArcSwap::from_pointee(config.clone()),
                routes: ArcSwap::new(routes),
            }),
            stack: Stack::clone(&seen),
            seen,
        })
    }

    /// Applies new settings to all later requests. Cached entries and flights are kept; settings fixed at start-up
    /// (ports, sizes, the upstream) do not change.
    pub fn reload(&self, config: &Config) {
        let before = self.routes();
        // A configuration with mistakes is not loaded.
        let after = before.followed_by(&config.routes.presets, &config.route);
        let routes = after.map_or(before, Arc::new);
        if routes.starts_anew() {
            self.store().purge_all();
        }
        self.settings.routes.store(Arc::clone(&routes));
        self.settings.current.store(Arc::new(config.clone()));
        self.assembled
            .store(Arc::new(assemble(&self.resources, config, &routes)));
    }

    /// Starts draining: held polls return the latest known state at once.
    pub fn drain(&self) {
        self.resources.polls.draining.cancel();
    }

    /// Ends the drain: polls still waiting for upstream are answered with an error.
    pub fn give_up(&self) {
        self.resources.polls.out_of_time.cancel();
    }

    /// The cache.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.resources.polls.store
    }

    /// The state that status polls share: the cache, the flights and the circuit breakers.
    #[must_use]
    pub fn polls(&self) -> &PollState {
        &self.resources.polls
    }

    /// The base URL of the upstream.
    #[must_use]
    pub fn upstream_url(&self) -> &UpstreamUrl {
        self.resources.upstream.url()
    }

    /// How many more upstream polls may start before `limits.max_upstream` is reached.
    #[must_use]
    pub fn free_permits(&self) -> usize {
        self.resources.upstream_permits.available_permits()
    }

    /// The current configuration.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.settings.current.load_full()
    }

    /// The status routes in force.
    #[must_use]
    pub fn routes(&self) -> Arc<Routes> {
        self.settings.routes.load_full()
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        self.settings
            .started
            .in_force(&self.settings.current.load())
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.resources.metrics
    }

    /// Frees memory and closes idle connections. Call it periodically.
    pub async fn reclaim(&self) {
        self.resources.polls.store.reclaim().await;
        self.resources.upstream.reclaim();
    }

    /// The current value of every metric, as text in the given format.
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
