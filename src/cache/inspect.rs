//! Looks at what is remembered without touching it, for people: nothing here changes what is kept, or for how long.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::credential::Acceptance;
use super::entry::{Entry, Use};
use super::store::Store;
use crate::request::key::{Caller, TaskKey};
use crate::task::State;

/// How many callers a [`Census`] names.
const NAMED: usize = 64;

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
    pub cooldown: Duration,
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
    /// What is remembered of the tasks that are `wanted`, at most `most` of it. Looks at every entry.
    pub fn inspect(
        &self,
        wanted: impl Fn(&Entry) -> bool,
        most: usize,
        now: Instant,
        credential_ttl: Duration,
    ) -> Vec<Remembered> {
        self.answers
            .iter()
            .filter(|(_, entry)| wanted(entry))
            .take(most)
            .map(|(_, entry)| Remembered {
                good_for: self.good_for(&entry, now, credential_ttl),
                acceptance: self.acceptance(&entry, now),
                cooldown: entry.cooldown(now),
                key: entry.key(),
                entry,
            })
            .collect()
    }

    /// Counts everything. A task that one caller asked for on both paths counts once, as it was last heard of. Takes
    /// time and, while it lasts, memory in proportion to what is remembered.
    #[must_use]
    pub fn census(&self, now: Instant) -> Census {
        let mut tasks: HashMap<(Caller, u64), Heard> = HashMap::new();
        for (_, entry) in &self.answers {
            if !self.is_current(&entry) || entry.is_expired(now) {
                continue;
            }
            let state = entry.reply.state();
            let heard = Heard {
                at: entry.reply.received,
                state,
                fresh: now < entry.fresh_until(),
                acceptance: self.acceptance(&entry, now),
            };
            let id = self.digests.hash_one(entry.task());
            tasks
                .entry((entry.caller, id))
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
