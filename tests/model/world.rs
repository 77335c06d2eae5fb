//! What there is in a schedule, and what happened so far: tasks and callers upstream, every fetch, every forget.

use std::collections::HashSet;
use std::fmt::Arguments;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pollgate::config;
use pollgate::request::key::TaskKey;
use pollgate::request::preferences::CacheMode;
use pollgate::task::{Dialect, State};
use tokio::time::Instant;

pub(crate) const CALLERS: usize = 3;
pub(crate) const TASKS: usize = 3;

/// A moment: when it was, and what came before and after it within the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    pub place: u64,
    pub at: Instant,
}

/// Whose poll of which task, as upstream is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    pub caller: usize,
    pub task: usize,
    pub dialect: Dialect,
}

/// One task as upstream has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    /// `None` before there is one.
    pub state: Option<State>,
    pub url: Url,
    /// Counts the changes.
    pub version: u32,
}

/// What a success points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Url {
    None,
    Plain,
    /// Its signature runs out so long after the answer.
    Signed(Duration),
}

/// What upstream said in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Task {
        state: State,
        url: Url,
    },
    Missing,
    Refusal,
    /// 429 or 5xx.
    Failing(u16),
    /// No answer, or none that could be used.
    Nothing(Trouble),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    Unavailable,
    Invalid,
    Timeout,
    Panic,
}

/// One request to upstream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetch {
    pub asked: Asked,
    /// When the poll began that set off the flight which this fetch is a part of.
    pub flight: Moment,
    pub lease: Moment,
    pub version: u32,
    pub landed: Option<(Moment, Said)>,
}

impl Fetch {
    /// What is remembered of it, if anything is.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self.landed, Some((_, Said::Task { .. } | Said::Missing)))
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
    /// Whether something fresh was known when it began, so that upstream need not be asked.
    pub must_hit: bool,
}

/// How upstream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weather {
    Fair,
    /// Something goes wrong now and then.
    Mixed,
    /// Nothing gets through.
    Gone,
}

pub(crate) struct World {
    pub dice: fastrand::Rng,
    pub tasks: [Task; TASKS],
    pub refused: [bool; CALLERS],
    pub weather: Weather,
    pub cache: config::Cache,
    /// Whether memory is so small that what was remembered may be gone.
    pub forgetful: bool,
    pub keys: Keys,
    pub polls: Vec<Poll>,
    pub fetches: Vec<Fetch>,
    /// Fetches under way, each with how often its task had been forgotten and its caller refused before its flight.
    pub under_way: HashSet<(Asked, usize, usize)>,
    pub forgets: Vec<(Moment, usize)>,
    pub refusals: Vec<(Moment, usize)>,
    /// When upstream last failed, or was left alone before it had answered.
    pub last_trouble: Option<Instant>,
    pub problems: Vec<String>,
    /// Whether the story is wanted: it takes most of the time.
    pub telling: bool,
    story: Vec<String>,
    start: Instant,
    places: u64,
}

/// Who is who.
pub(crate) struct Keys {
    pub callers: Vec<(
        pollgate::request::key::Caller,
        pollgate::request::key::Credentials,
    )>,
    pub tasks: Vec<pollgate::request::route::TaskId>,
    pub caller_key: pollgate::request::key::CallerKey,
}

pub(crate) type Shared = Arc<Mutex<World>>;

/// A panic inside a fetch is part of the schedule; it never happens while the world is locked.
pub(crate) fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap()
}

impl World {
    pub(crate) fn new(
        mut dice: fastrand::Rng,
        cache: config::Cache,
        forgetful: bool,
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
            forgetful,
            keys,
            polls: Vec::new(),
            fetches: Vec::new(),
            under_way: HashSet::new(),
            forgets: Vec::new(),
            refusals: Vec::new(),
            last_trouble: None,
            problems: Vec::new(),
            telling: false,
            story: Vec::new(),
            start: Instant::now(),
            places: 0,
        }
    }

    /// Now, after everything that has happened so far.
    pub(crate) fn moment(&mut self) -> Moment {
        self.places += 1;
        Moment {
            place: self.places,
            at: Instant::now(),
        }
    }

    /// Adds to the story, which ends with the first problem.
    pub(crate) fn tell(&mut self, what: Arguments<'_>) {
        if self.telling && self.problems.is_empty() {
            let at = Instant::now().duration_since(self.start).as_secs_f64();
            self.story.push(format!("{at:>12.3} s  {what}"));
        }
    }

    pub(crate) fn complain(&mut self, what: Arguments<'_>) {
        self.tell(what);
        self.problems.push(what.to_string());
    }

    pub(crate) fn story(&self) -> String {
        self.story.join("\n")
    }

    /// Who is meant by a key, checked against what upstream is shown.
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
            dialect: key.dialect,
        }
    }

    /// How often the task had been forgotten, and the caller refused, before `moment`.
    pub(crate) fn changes_before(&self, asked: Asked, moment: Moment) -> (usize, usize) {
        let count = |events: &[(Moment, usize)], whose| {
            events
                .iter()
                .filter(|(when, who)| *who == whose && *when < moment)
                .count()
        };
        (
            count(&self.forgets, asked.task),
            count(&self.refusals, asked.caller),
        )
    }

    /// Whether the task was forgotten or the caller refused after `since`, as seen at `until`.
    pub(crate) fn changed_between(&self, asked: Asked, since: Moment, until: Moment) -> bool {
        since < until && self.changes_before(asked, since) != self.changes_before(asked, until)
    }
}
