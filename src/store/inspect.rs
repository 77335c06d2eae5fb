//! Looks at what is remembered without touching it, for people: nothing here changes what is kept, or for how long.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{Entry, Standing, Store};
use crate::key::{Caller, TaskKey};
use crate::task::State;

/// How many callers a [`Census`] names.
const NAMED: usize = 12;

/// One remembered answer, and what it is good for right now.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// Whose, in which dialect upstream was asked, which task.
    pub key: TaskKey,
    /// The answer.
    pub entry: Arc<Entry>,
    /// What it is good for.
    pub good_for: Use,
    /// How upstream last judged the caller's credential.
    pub acceptance: Acceptance,
    /// How long upstream is not asked again after it failed on this task.
    pub rest: Duration,
}

/// What a remembered answer is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is served without asking.
    Served,
    /// It stands in if upstream fails.
    StandIn,
    /// The task was changed through this gateway since, or the caller refused: it is not shown again.
    Outlived,
    /// Its time is over.
    Expired,
}

/// How upstream last judged a caller's credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// Accepted, that long ago.
    Accepted(Duration),
    /// Refused, or not asked yet.
    Missing,
}

/// All that is remembered, counted.
#[derive(Debug, Clone, Default)]
pub struct Census {
    /// Tasks queued, processing, succeeded, failed, and not existing, in this order; and how many of them are fresh.
    pub tasks: [(usize, usize); 5],
    /// How many callers have something remembered.
    pub callers: usize,
    /// The callers with the most tasks, those with the most first.
    pub largest: Vec<CallerCount>,
}

/// What is remembered for one caller.
#[derive(Debug, Clone, Copy)]
pub struct CallerCount {
    /// Whose.
    pub caller: Caller,
    /// Tasks, running ones among them.
    pub tasks: usize,
    /// Tasks that are still running as far as is known.
    pub running: usize,
    /// How long ago upstream last answered for it.
    pub heard: Duration,
    /// How upstream last judged the credential.
    pub acceptance: Acceptance,
}

impl Store {
    /// How many bytes may be remembered.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.answers.policy().max_capacity().unwrap_or(u64::MAX)
    }

    /// What is remembered of the tasks that are `wanted`, at most `most` of it. Looks at every entry.
    pub fn inspect(
        &self,
        wanted: impl Fn(&TaskKey) -> bool,
        most: usize,
        now: Instant,
        credential_ttl: Duration,
    ) -> Vec<Remembered> {
        self.answers
            .iter()
            .filter(|(key, _)| wanted(key))
            .take(most)
            .map(|(key, entry)| {
                let acceptance = self.acceptance(&entry, now);
                Remembered {
                    good_for: self.good_for(&key, &entry, acceptance, now, credential_ttl),
                    acceptance,
                    rest: entry.rest(now),
                    key: TaskKey::clone(&key),
                    entry,
                }
            })
            .collect()
    }

    /// Counts everything. A task that one caller asked for on both paths counts once, as it was last heard of. Takes
    /// time and, while it lasts, memory in proportion to what is remembered.
    #[must_use]
    pub fn census(&self, now: Instant) -> Census {
        let mut tasks: HashMap<(Caller, u64), Heard> = HashMap::new();
        for (key, entry) in &self.answers {
            if !self.is_current(&key, &entry) || now >= entry.useful_until.max(entry.fresh_until) {
                continue;
            }
            let state = entry.reply.state();
            let heard = Heard {
                at: entry.reply.received,
                state,
                fresh: now < entry.fresh_until,
                acceptance: self.acceptance(&entry, now),
            };
            let id = self.slots.hash_one(&key.task);
            tasks
                .entry((key.caller, id))
                .and_modify(|known| {
                    if known.at < heard.at {
                        *known = heard;
                    }
                })
                .or_insert(heard);
        }
        let mut census = Census::default();
        let mut callers: HashMap<Caller, CallerCount> = HashMap::new();
        for ((caller, _), task) in tasks {
            let (all, fresh) = &mut census.tasks[place(task.state)];
            *all += 1;
            *fresh += usize::from(task.fresh);
            let ago = now.saturating_duration_since(task.at);
            let count = callers.entry(caller).or_insert(CallerCount {
                caller,
                tasks: 0,
                running: 0,
                heard: ago,
                acceptance: task.acceptance,
            });
            count.tasks += 1;
            count.running += usize::from(task.state.is_some_and(|state| !state.is_terminal()));
            count.heard = count.heard.min(ago);
        }
        census.callers = callers.len();
        census.largest = callers.into_values().collect();
        census
            .largest
            .sort_unstable_by_key(|count| (Reverse(count.tasks), format!("{:?}", count.caller)));
        census.largest.truncate(NAMED);
        census
    }

    /// Whether nothing changed the task, and upstream has not refused the caller, since the answer was asked for.
    fn is_current(&self, key: &TaskKey, entry: &Entry) -> bool {
        entry.epoch == self.epoch(&key.task)
            && entry.standing.accepted.load(Ordering::Acquire) != Standing::OVER
    }

    fn acceptance(&self, entry: &Entry, now: Instant) -> Acceptance {
        match entry.standing.accepted.load(Ordering::Acquire) {
            Standing::UNKNOWN | Standing::OVER => Acceptance::Missing,
            millis => {
                let at = self.start + Duration::from_millis(millis);
                Acceptance::Accepted(now.saturating_duration_since(at))
            }
        }
    }

    fn good_for(
        &self,
        key: &TaskKey,
        entry: &Entry,
        acceptance: Acceptance,
        now: Instant,
        credential_ttl: Duration,
    ) -> Use {
        let Acceptance::Accepted(unchecked) = acceptance else {
            return Use::Outlived;
        };
        if !self.is_current(key, entry) {
            return Use::Outlived;
        }
        if now >= entry.useful_until.max(entry.fresh_until) {
            return Use::Expired;
        }
        let stand_in = entry.useful_until.duration_since(entry.fresh_until);
        if unchecked > credential_ttl.saturating_add(stand_in) {
            Use::Expired
        } else if unchecked > credential_ttl || now >= entry.fresh_until {
            Use::StandIn
        } else {
            Use::Served
        }
    }
}

impl Entry {
    /// How long upstream is still left alone after it failed on this.
    fn rest(&self, now: Instant) -> Duration {
        let until = self.rests_until.load(Ordering::Relaxed);
        Duration::from_millis(until)
            .saturating_sub(now.saturating_duration_since(self.reply.received))
    }
}

/// A task as it was last heard of.
#[derive(Clone, Copy)]
struct Heard {
    at: Instant,
    state: Option<State>,
    fresh: bool,
    acceptance: Acceptance,
}

const fn place(state: Option<State>) -> usize {
    match state {
        Some(State::Queued) => 0,
        Some(State::Processing) => 1,
        Some(State::Succeeded) => 2,
        Some(State::Failed) => 3,
        None => 4,
    }
}
