//! The state of a schedule and its history: tasks and callers upstream, every fetch, every purge.

use std::collections::HashSet;
use std::fmt::Arguments;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pollgate::config;
use pollgate::request::key::TaskKey;
use pollgate::request::preferences::CacheMode;
use pollgate::task::{Dialect, State};
use pollgate::upstream::response_time;
use tokio::sync::watch;
use tokio::time::Instant;

pub(crate) const CALLERS: usize = 3;
pub(crate) const TASKS: usize = 3;

/// A moment, ordered also within one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub place: u64,
    pub at: Instant,
}

/// The caller and the task of a poll, in the dialect of the upstream request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    pub caller: usize,
    pub task: usize,
    pub dialect: Dialect,
}

/// One task upstream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    /// `None` before the task exists.
    pub state: Option<State>,
    pub url: Url,
    /// Counts the changes.
    pub version: u32,
}

/// The URL of a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Url {
    None,
    Plain,
    /// Its signature expires this long after the answer.
    Signed(Duration),
}

/// How upstream answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Task {
        state: State,
        url: Url,
    },
    Missing,
    Refusal,
    /// 429 or 5xx, or a page of something on the way.
    Failing(u16),
    /// An error of upstream itself on this task alone, told in JSON.
    Own(u16),
    /// No usable answer.
    Nothing(Trouble),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Unavailable,
    Invalid,
    /// Upstream's own word, but not a task.
    NotATask,
    Redirected,
    Timeout,
    Panic,
}

/// One request to upstream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetch {
    pub asked: Asked,
    /// The start of the leader of this fetch's flight.
    pub flight: Moment,
    pub lease: Moment,
    pub version: u32,
    pub landed: Option<(Moment, Said)>,
    /// Whether it said that a task does not exist which had been running shortly before: that may be doubted.
    pub early: bool,
    /// How often it was sent, and when that was refused the last time, if it has not been sent again since.
    pub sent: usize,
    pub refused: Option<Instant>,
    /// When it was given up before it landed.
    pub given_up: Option<Instant>,
}

impl Fetch {
    /// Whether it brought an answer that is cached.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self.landed, Some((_, Said::Task { .. } | Said::Missing)))
    }

    /// Whether it is remembered for certain.
    pub(crate) fn is_believed(&self) -> bool {
        self.is_answer() && !self.early
    }
}

/// One poll of a client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Poll {
    pub asked: Asked,
    /// The path that the client used.
    pub path: Dialect,
    pub cache_mode: CacheMode,
    pub start: Moment,
    pub deadline: Instant,
    /// Whether an entry was fresh at its start, so that the poll must be a hit.
    pub must_hit: bool,
    /// Whether a known state may stand in for the answer for as long as the poll waits.
    pub is_known: bool,
}

/// How reliable upstream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Fair,
    /// Some requests fail.
    Mixed,
    /// All requests fail.
    Gone,
    /// No request is answered.
    Silent,
    /// Most requests are refused, several times in a row, and then answered.
    Refusing,
}

pub(crate) struct World {
    pub dice: fastrand::Rng,
    pub tasks: [Task; TASKS],
    pub refused: [bool; CALLERS],
    pub weather: Weather,
    pub cache: config::Cache,
    /// How long a poll that could be answered with a known state waits at least, and at most.
    pub patience: Duration,
    pub longest_patience: Duration,
    /// Whether the capacity is so small that entries may be evicted.
    pub evicts: bool,
    pub keys: Keys,
    pub polls: Vec<Poll>,
    pub fetches: Vec<Fetch>,
    /// When each flight was joined, by the deadlines of its leader and its own.
    pub flights: Vec<((Instant, Instant), Moment)>,
    /// The last stream that the peer processes, as its latest goodbye says.
    pub goodbyes: watch::Sender<usize>,
    /// The number of requests sent so far, each on a stream of its own.
    pub streams: usize,
    /// Fetches in progress, each with how often its task was purged and its caller refused before its flight.
    pub under_way: HashSet<(Asked, usize, usize)>,
    pub purges: Vec<(Moment, usize)>,
    /// Writes that upstream did not accept, each of a caller to a task: they change nothing for others.
    pub writes: Vec<(Moment, usize, usize)>,
    pub refusals: Vec<(Moment, usize)>,
    /// When upstream last failed, or its last request was cancelled.
    pub last_trouble: Option<Instant>,
    pub problems: Vec<String>,
    /// Whether to record the story, which takes most of the time.
    pub recording: bool,
    story: Vec<String>,
    start: Instant,
    places: u64,
}

/// The callers and tasks by number.
pub(crate) struct Keys {
    pub callers: Vec<(
        pollgate::request::key::Caller,
        pollgate::request::key::Credentials,
    )>,
    pub tasks: Vec<pollgate::route::TaskId>,
    pub caller_key: pollgate::request::key::CallerKey,
}

pub(crate) type Shared = Arc<Mutex<World>>;

/// Locks the world. A panic inside a fetch never happens under this lock.
pub(crate) fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap()
}

impl World {
    pub(crate) fn new(
        mut dice: fastrand::Rng,
        cache: config::Cache,
        evicts: bool,
        keys: Keys,
    ) -> Self {
        let tasks = std::array::from_fn(|_| Task {
            state: [None, Some(State::Queued), Some(State::Processing)][dice.usize(..3)],
            url: Url::None,
            version: 0,
        });
        Self {
            dice,
            tasks,
            refused: [false; CALLERS],
            weather: Weather::Fair,
            cache,
            // How long a poll waits depends on how fast upstream was; it is at least this.
            patience: response_time::LEAST,
            longest_patience: config::Upstream::default().patience,
            evicts,
            keys,
            polls: Vec::new(),
            fetches: Vec::new(),
            flights: Vec::new(),
            goodbyes: watch::Sender::default(),
            streams: 0,
            under_way: HashSet::new(),
            purges: Vec::new(),
            writes: Vec::new(),
            refusals: Vec::new(),
            last_trouble: None,
            problems: Vec::new(),
            recording: false,
            story: Vec::new(),
            start: Instant::now(),
            places: 0,
        }
    }

    /// The current moment, after everything so far.
    pub(crate) fn moment(&mut self) -> Moment {
        self.places += 1;
        Moment {
            place: self.places,
            at: Instant::now(),
        }
    }

    /// Adds a line to the story, which ends with the first problem.
    pub(crate) fn tell(&mut self, what: Arguments<'_>) {
        if self.recording && self.problems.is_empty() {
            let at = Instant::now().duration_since(self.start).as_secs_f64();
            self.story.push(format!("{at:>12.3} s  {what}"));
        }
    }

    pub(crate) fn report(&mut self, what: Arguments<'_>) {
        self.tell(what);
        self.problems.push(what.to_string());
    }

    pub(crate) fn story(&self) -> String {
        self.story.join("\n")
    }

    /// The numbers behind a key.
    pub(crate) fn asked(&self, key: &TaskKey) -> Asked {
        let caller = self
            .keys
            .callers
            .iter()
            .position(|(caller, _)| *caller == key.caller);
        let task = self.keys.tasks.iter().position(|task| *task == key.task);
        Asked {
            caller: caller.expect("is one of ours"),
            task: task.expect("is one of ours"),
            dialect: key.route.dialect().expect("converts"),
        }
    }

    /// How often the task was purged or written to by the caller, and the caller refused, before `moment`.
    pub(crate) fn changes_before(&self, asked: Asked, moment: Moment) -> (usize, usize) {
        let count = |events: &[(Moment, usize)], whose| {
            events
                .iter()
                .filter(|(when, who)| *who == whose && *when < moment)
                .count()
        };
        let own = self.writes.iter().filter(|(when, who, task)| {
            (*who, *task) == (asked.caller, asked.task) && *when < moment
        });
        let own = own.count();
        (
            count(&self.purges, asked.task) + own,
            count(&self.refusals, asked.caller),
        )
    }

    /// Whether the task was purged or the caller refused between `since` and `until`.
    pub(crate) fn changed_between(&self, asked: Asked, since: Moment, until: Moment) -> bool {
        since < until && self.changes_before(asked, since) != self.changes_before(asked, until)
    }
}
