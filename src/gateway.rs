//! The gateway as a whole: its long-lived state (cache, flights, metrics, upstream connections) and the middleware
//! stack in front of it, rebuilt when the configuration is reloaded.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Response;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tower::Service;

use crate::cache::Store;
use crate::config::{self, Config, Setting, UpstreamUrl};
use crate::fleet::engine::{Engine, Member};
use crate::fleet::link::{Link, LinkConfig};
use crate::fleet::memory::MemoryEngine;
use crate::fleet::pulse::Pulse;
use crate::fleet::seal::Secret;
use crate::fleet::{Ear, Fleet, Forget, Terms};
use crate::message::body::Body;
use crate::request::inbound::Inbound;
use crate::request::key::CallerKey;
use crate::route::{Mistake, Routes, TaskId};
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
    /// The link to the engine of the fleet, if it is a member of one.
    link: Option<Arc<Link>>,
    /// Whether its heart beats.
    joined: Arc<AtomicBool>,
}

/// What a gateway shares with others, and over which engine.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The secret of the fleet.
    pub secret: Secret,
    /// The engine.
    pub engine: Over,
}

/// An engine.
#[derive(Debug, Clone)]
pub enum Over {
    /// One in this process.
    Memory(MemoryEngine),
    /// A Valkey or Redis.
    Link(Box<LinkConfig>),
}

impl Membership {
    /// Reads what the settings name; `None` where they name no engine.
    ///
    /// # Errors
    /// The file with the secret cannot be read, or is too short.
    fn read(config: &config::Fleet) -> Result<Option<Self>, Problem> {
        let Some(engine) = &config.engine else {
            return Ok(None);
        };
        let path = config.secret_file.as_deref().unwrap_or(Path::new(""));
        let refuse = |why: String| format!("fleet.secret_file: got \"{}\": {why}", path.display());
        let secret = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
        // A text file ends with a newline that is no part of what is in it.
        let secret = Secret::new(secret.trim_ascii()).map_err(|why| refuse(why.to_string()))?;
        let link = LinkConfig {
            max_value: usize::try_from(config.max_value.bytes()).unwrap_or(usize::MAX),
            engine: engine.clone(),
            password_file: config.password_file.clone(),
            sentinel: config.sentinel.clone(),
            ca_file: config.ca_file.clone(),
            cert: config.cert.clone(),
            key: config.key.clone(),
            name: config.name.clone(),
        };
        Ok(Some(Self {
            secret,
            engine: Over::Link(Box::new(link)),
        }))
    }

    /// Becomes a member.
    fn join(
        self,
        config: &config::Fleet,
        metrics: &Metrics,
    ) -> Result<(Arc<Fleet>, Option<Arc<Link>>), Problem> {
        let mut member = [0; 8];
        getrandom::fill(&mut member).map_err(std::io::Error::other)?;
        let member = Member(u64::from_le_bytes(member));
        let ear = Arc::new(Ear::default());
        let (engine, link): (Arc<dyn Engine>, _) = match self.engine {
            Over::Memory(engine) => (Arc::new(engine.connect(member, ear.pushes())), None),
            Over::Link(link) => {
                let link = Link::new(&link, member, ear.pushes())?;
                (Arc::clone(&link) as _, Some(link))
            }
        };
        let terms = Terms::of(config);
        let fleet = Fleet::new(member, self.secret, terms, ear, engine, metrics.fleet()?);
        Ok((fleet, link))
    }
}

/// The configuration at start-up, and what is current.
#[derive(Debug)]
struct Settings {
    started: Config,
    current: ArcSwap<Config>,
    routes: ArcSwap<Routes>,
}

/// How long a start waits for the fleet at most.
const JOINING: Duration = Duration::from_secs(1);

/// Why a gateway could not be created.
pub type Problem = Box<dyn std::error::Error + Send + Sync>;

impl Gateway {
    /// Creates a gateway. Opens no connection and binds no port.
    ///
    /// # Errors
    /// The CA file or a file of the fleet cannot be used, or the operating system provides no random bytes.
    pub fn new(config: &Config) -> Result<Self, Problem> {
        Self::with_membership(config, Membership::read(&config.fleet)?)
    }

    /// The same as a member of a given fleet, or of none.
    ///
    /// # Errors
    /// As for [`Gateway::new`].
    pub fn with_membership(
        config: &Config,
        membership: Option<Membership>,
    ) -> Result<Self, Problem> {
        let metrics = Arc::new(Metrics::new()?);
        let mut polls = PollState::new(config.cache.capacity.bytes(), &metrics);
        let (caller_key, link) = match membership {
            Some(membership) => {
                let (fleet, link) = membership.join(&config.fleet, &metrics)?;
                let caller_key = CallerKey::new(fleet.secret.caller_key());
                polls.fleet = Some(fleet);
                (caller_key, link)
            }
            None => (CallerKey::random()?, None),
        };
        let resources = Resources {
            caller_key,
            polls,
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
            link,
            joined: Arc::default(),
        })
    }

    /// Connects to the fleet, if there is one, and waits for it for a moment: with an engine that is down, the gateway
    /// starts all the same, and joins later. Does nothing the second time.
    pub async fn join_fleet(&self) {
        let Some(fleet) = &self.resources.polls.fleet else {
            return;
        };
        if self.joined.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(link) = &self.link {
            link.start();
        }
        let PollState {
            store,
            cadence,
            breakers,
            ..
        } = &self.resources.polls;
        let pulse = Pulse {
            fleet: Arc::clone(fleet),
            store: Arc::clone(store),
            cadence: Arc::clone(cadence),
            breakers: Arc::clone(breakers),
        };
        tokio::spawn(pulse.run());
        let joined = async {
            while !fleet.health.is_together() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let joined = timeout(JOINING, joined).await.is_ok();
        let Some(engine) = &self.settings.started.fleet.engine else {
            return;
        };
        let key = fleet.secret.fingerprint();
        if joined {
            tracing::info!("fleet: joined at {engine}, key {key}");
        } else {
            let why = self.link.as_ref().and_then(|link| link.status().problem);
            let why = why.as_deref().unwrap_or("no heartbeat yet");
            tracing::warn!("fleet: alone until {engine} can be reached, key {key}: {why}");
        }
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

    /// Forgets a task for every caller, here and in the fleet; returns the number of answers forgotten here.
    pub async fn forget_task(&self, task: &TaskId) -> usize {
        let forgotten = self.store().purge_task(task);
        if let Some(fleet) = &self.resources.polls.fleet {
            fleet.forget(Forget::Task(task.clone())).await;
        }
        forgotten
    }

    /// Forgets everything, here and in the fleet; returns the number of answers forgotten here.
    pub async fn forget_all(&self) -> usize {
        let forgotten = self.store().purge_all();
        if let Some(fleet) = &self.resources.polls.fleet {
            fleet.forget(Forget::All).await;
        }
        forgotten
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
