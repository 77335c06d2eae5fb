//! A simulated OctopusX: video tasks that run, fail and are polled, without a key or a network.
//!
//! It answers as the new-api family does: both status paths of the video API, with one document format per channel, the
//! status routes of other vendors' APIs, keys that own their tasks, and faults on request. It writes its documents itself and shares no code with the gateway's reader, so that a
//! mistake in one shows in the other.
//!
//! A request passes `http` (route, gate, latency, faults), `tasks` (owner and state), `documents` (the channel's
//! format) and `reply` (head and body, damaged by a fault).

mod channel;
mod clock;
mod content;
mod control;
mod counts;
mod create;
mod dice;
mod documents;
mod faults;
mod gate;
mod http;
mod json;
mod keys;
mod life;
mod links;
mod path;
mod reply;
mod rule;
mod server;
mod settings;
mod sinks;
mod socket;
mod status_route;
mod tasks;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::sync::lock;

pub use channel::{Channel, ChannelChoice};
pub use content::content_bytes;
pub use counts::Counts;
pub use faults::Faults;
pub use gate::{Gate, Waiting};
pub use life::{Outcome, State, Status, Truth};
pub use rule::{Fault, Rule, Scope, When};
pub use settings::{Settings, Span};
pub use status_route::StatusRoute;
pub use tasks::{Forced, TaskOptions};

use clock::Clock;

use counts::Counter;
use dice::Dice;
use keys::Keys;
use life::{Life, Plan, Rounds};
use links::Links;
use tasks::{Polls, Task, Tasks};

/// Default failure reason.
const REFUSED: &str = "the vendor refused the prompt: content policy";
/// new-api's failure reason for a timeout.
const TIMED_OUT: &str = "任务超时（1440分钟）";

/// A simulated OctopusX; a cheap handle to one shared state.
#[derive(Debug, Clone)]
pub struct Simulator(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    clock: Clock,
    dice: Arc<Dice>,
    tasks: Mutex<Tasks>,
    keys: Mutex<Keys>,
    faults: Faults,
    gate: Gate,
    counter: Counter,
    links: Mutex<Arc<Links>>,
    /// Number of tasks to which `mixed` has assigned a channel.
    mixed: AtomicUsize,
}

/// The requested id belongs to another task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdTaken(
    /// The id.
    pub String,
);

impl fmt::Display for IdTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is a task `{}` already", self.0)
    }
}

impl std::error::Error for IdTaken {}

impl Simulator {
    /// Creates a simulator without tasks. It listens once it is [run](Self::run).
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let dice = Arc::new(Dice::new(settings.seed));
        // A placeholder until an address is bound.
        let base = settings.public_url.clone();
        let base = base.unwrap_or_else(|| "http://127.0.0.1".to_owned());
        Self(Arc::new(Inner {
            clock: Clock::start(),
            tasks: Mutex::new(Tasks::new(settings.max_tasks)),
            keys: Mutex::new(Keys::new(&settings.keys)),
            faults: Faults::new(&settings.faults, Arc::clone(&dice)),
            gate: Gate::new(),
            counter: Counter::default(),
            links: Mutex::new(Arc::new(Links::new(base, settings.url_lifetime))),
            mixed: AtomicUsize::new(0),
            dice,
            settings,
        }))
    }

    /// The faults in force, which can be changed.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.0.faults
    }

    /// The gate that can hold status polls back.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// What it has received so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.counter.counts()
    }

    /// Waits until at least `n` status polls have arrived since the start or the last reset.
    pub async fn await_polls(&self, n: u64) {
        self.0.counter.await_polls(n).await;
    }

    /// Base of all result URLs, such as `http://127.0.0.1:9000`.
    #[must_use]
    pub fn base_url(&self) -> String {
        self.links().base().to_owned()
    }

    /// Creates a task owned by `key`, in any of its spellings, and returns its id.
    ///
    /// # Errors
    ///
    /// [`IdTaken`], only if the options contain an id.
    pub fn create(&self, key: &str, model: &str, options: TaskOptions) -> Result<String, IdTaken> {
        let now = Instant::now();
        let mut tasks = lock(&self.0.tasks);
        let task = self.task(now, tasks.next_number(), key, model, options);
        let id = task.id.clone();
        match tasks.insert(now, task) {
            Ok(()) => Ok(id),
            Err(task) => Err(IdTaken(task.id)),
        }
    }

    /// Number of status polls of a task, on every route and with any key; 0 for an unknown task.
    #[must_use]
    pub fn polls_of(&self, id: &str) -> u64 {
        lock(&self.0.tasks)
            .find(id)
            .map_or(0, |task| task.polls.total())
    }

    /// The true state of a task now.
    #[must_use]
    pub fn truth(&self, id: &str) -> Option<Truth> {
        let now = Instant::now();
        let tasks = lock(&self.0.tasks);
        tasks.find(id).map(|task| task.life.truth(now))
    }

    /// Every state that a task had between `from` and `to`, in order.
    #[must_use]
    pub fn states_between(&self, id: &str, from: Instant, to: Instant) -> Option<Vec<State>> {
        let tasks = lock(&self.0.tasks);
        tasks
            .find(id)
            .map(|task| task.life.states_between(from, to))
    }

    /// Puts a task into a status for good; returns false if it does not exist.
    pub fn force(&self, id: &str, forced: impl Into<Forced>) -> bool {
        let now = Instant::now();
        let mut tasks = lock(&self.0.tasks);
        tasks
            .find_mut(id)
            .map(|task| task.force(now, forced.into()))
            .is_some()
    }

    /// Rejects a key with 401 from now on (up to 10,000 keys at a time).
    pub fn revoke(&self, key: &str) {
        lock(&self.0.keys).revoke(key);
    }

    /// Accepts a revoked key again.
    pub fn restore(&self, key: &str) {
        lock(&self.0.keys).restore(key);
    }

    /// Restores the initial state: no tasks, counts or revoked keys, the settings' faults, an open gate.
    pub fn reset(&self) {
        lock(&self.0.tasks).clear();
        lock(&self.0.keys).restore_all();
        self.0.faults.set(self.0.settings.faults.iter().copied());
        self.0.counter.reset();
        self.0.gate.open();
    }

    fn links(&self) -> Arc<Links> {
        Arc::clone(&lock(&self.0.links))
    }

    /// Makes result URLs lead to this address, unless the settings have a base URL.
    fn bound(&self, address: SocketAddr) {
        let settings = &self.0.settings;
        if settings.public_url.is_none() {
            let ip = match address.ip() {
                IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                ip => ip,
            };
            let base = format!("http://{}", SocketAddr::new(ip, address.port()));
            *lock(&self.0.links) = Arc::new(Links::new(base, settings.url_lifetime));
        }
    }

    /// Creates a task from the options, the settings and chance, in this order of precedence.
    fn task(
        &self,
        now: Instant,
        number: u64,
        key: &str,
        model: &str,
        options: TaskOptions,
    ) -> Task {
        let (settings, dice) = (&self.0.settings, &self.0.dice);
        let channel = options
            .channel
            .or_else(|| Channel::of_model(model))
            .unwrap_or_else(|| self.default_channel());
        let fails = dice.unit() < settings.failures || channel == Channel::Cancelling;
        let outcome = options.outcome.unwrap_or(if fails {
            Outcome::Failed
        } else {
            Outcome::Succeeded
        });
        let plan = Plan {
            not_start: options.not_start.unwrap_or(settings.not_start),
            lifetime: options
                .lifetime
                .unwrap_or_else(|| settings.lifetime.pick(dice.unit())),
            outcome,
        };
        let rounds = Rounds {
            every: if channel.is_live() {
                std::time::Duration::ZERO
            } else {
                settings.refresh
            },
            clock: self.0.clock,
        };
        let reason = match (outcome, channel) {
            (Outcome::TimedOut, _) => TIMED_OUT,
            (_, Channel::Cancelling) => "the task was cancelled by the vendor",
            _ => REFUSED,
        };
        Task {
            id: options
                .id
                .unwrap_or_else(|| format!("task_{}", dice.text(32))),
            owner: keys::normal(key).to_owned(),
            number,
            vendor_id: format!("vendor-{}", dice.text(16)),
            channel,
            model: model.to_owned(),
            prompt: options.prompt,
            seconds: options.seconds.unwrap_or(5),
            size: options.size.unwrap_or_else(|| "1280x720".to_owned()),
            remixed_from: options.remixed_from.unwrap_or_default(),
            fail_reason: options.fail_reason.unwrap_or_else(|| reason.to_owned()),
            url: None,
            created: now,
            life: match options.status {
                Some(status) => Life::frozen(now, status, rounds),
                None => Life::planned(now, plan, rounds),
            },
            polls: Polls::default(),
        }
    }

    fn default_channel(&self) -> Channel {
        match self.0.settings.channel {
            ChannelChoice::One(channel) => channel,
            ChannelChoice::Mixed => {
                let turn = self.0.mixed.fetch_add(1, Ordering::Relaxed);
                Channel::ALL[turn % Channel::ALL.len()]
            }
        }
    }
}
