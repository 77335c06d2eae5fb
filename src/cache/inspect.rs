//! Views of the cache for people. Nothing here changes what is cached, or for how long.

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

/// A cached answer, and what it may be used for now.
#[derive(Debug, Clone)]
pub struct Remembered {
    /// The caller, the dialect that upstream was asked in, and the task.
    pub key: TaskKey,
    /// The cached answer.
    pub entry: Arc<Entry>,
    /// What it is good for.
    pub good_for: Use,
    /// How upstream last judged the caller's credential.
    pub acceptance: Acceptance,
    /// How much longer upstream is not asked for this task, after it failed on it.
    pub cooldown: Duration,
}

/// The number of cached tasks, by state and by caller.
#[derive(Debug, Clone, Default)]
pub struct Census {
    /// The queued, processing, succeeded, failed and missing tasks, in this order; and how many of them are fresh.
    pub tasks: [(usize, usize); 5],
    /// The number of callers with cached tasks.
    pub callers: usize,
    /// The callers with the most tasks, in descending order.
    pub largest: Vec<CallerCount>,
}

/// The cached tasks of one caller.
#[derive(Debug, Clone, Copy)]
pub struct CallerCount {
    /// The caller.
    pub caller: Caller,
    /// The number of tasks.
    pub tasks: usize,
    /// The number of tasks that were running when they were last polled.
    pub running: usize,
    /// The time since upstream last answered one of its polls.
    pub heard: Duration,
    /// How upstream last judged the credential.
    pub acceptance: Acceptance,
}

impl Store {
    /// The cached answers that are `wanted`, at most `most`. Visits every entry.
    pub fn inspect(
        &self,
        wanted: impl Fn(&Entry) -> bool,
        most: usize,
        now: Instant,
        credential_ttl: Duration,
    ) -> Vec<Remembered> {
        self.entries
            .index
            .all()
            .filter(|entry| wanted(entry))
            .take(most)
            .map(|entry| Remembered {
                good_for: self.good_for(&entry, now, credential_ttl),
                acceptance: self.acceptance(&entry, now),
                cooldown: entry.cooldown(now),
                key: entry.key(),
                entry,
            })
            .collect()
    }

    /// Counts tasks by state and caller. A task that one caller polls on both paths counts once, in its latest state.
    /// Takes time and memory in proportion to the number of entries.
    #[must_use]
    pub fn census(&self, now: Instant) -> Census {
        let mut tasks: HashMap<(Caller, u64), Heard> = HashMap::new();
        for entry in self.entries.index.all() {
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
            let (all, fresh) = &mut census.tasks[index(task.state)];
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

/// The latest state of a task.
#[derive(Clone, Copy)]
struct Heard {
    at: Instant,
    state: Option<State>,
    fresh: bool,
    acceptance: Acceptance,
}

const fn index(state: Option<State>) -> usize {
    match state {
        Some(State::Queued) => 0,
        Some(State::Processing) => 1,
        Some(State::Succeeded) => 2,
        Some(State::Failed) => 3,
        None => 4,
    }
}
