//! Who polls what, for people: counts by caller, and the running tasks that are polled most. Memory is bounded whatever
//! clients send, and a hit pays for one atomic increment.

use std::cmp::Reverse;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::request::key::Caller;
use crate::sync::lock;
use crate::task::State;

/// How many callers are counted one by one. A power of two.
const CALLERS: usize = 64;

/// How many slots a caller may be found in, from the one that its digest selects.
const PROBES: usize = 8;

/// How many running tasks are counted at once.
const TASKS: usize = 32;

/// The longest task id that is kept, in bytes: longer ones are not counted.
const LONGEST_ID: usize = 512;

/// How many polls a second are looked at for their task, at most.
const SAMPLES: f64 = 250.0;

/// After how many windows without a poll a caller's counts are dropped: about an hour.
const QUIET_WINDOWS: u32 = 120;

/// Spreads consecutive numbers evenly over all numbers (2^64 divided by the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Counts the polls of each caller and, by sampling, of each running task.
///
/// Sampling takes every poll at first, and one in `n` once polls are frequent, so that its cost has an upper bound. It is
/// off until [`Demand::set_pace`] is called, since without an admin listener nobody sees the tasks.
#[derive(Debug)]
pub struct Demand {
    slots: [Slot; CALLERS],
    /// All callers that found no slot.
    others: Slot,
    /// A poll is sampled if its number, spread, does not exceed this.
    threshold: AtomicU64,
    tasks: Mutex<Vec<TaskDemand>>,
}

/// One caller's counts. Zero in `caller` is a free slot.
#[derive(Debug, Default)]
struct Slot {
    caller: AtomicU64,
    polls: AtomicU64,
    errors: AtomicU64,
    rejected: AtomicU64,
    /// `polls` when the window began.
    before: AtomicU64,
    quiet: AtomicU32,
}

/// How much one caller polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerDemand {
    /// Which caller; `None` for all that are not counted one by one.
    pub caller: Option<CallerDigest>,
    /// Its polls.
    pub polls: u64,
    /// Of these, answered with an error of the gateway or of upstream (5xx).
    pub errors: u64,
    /// Of these, answered with an error of its own (4xx).
    pub rejected: u64,
}

/// The first half of a [`Caller`], which tells callers apart just as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerDigest(u64);

/// How much one caller polled one running task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskDemand {
    /// Whose task.
    pub caller: Caller,
    /// The task's raw id.
    pub task: Box<str>,
    /// Its state at the last poll that was sampled.
    pub state: State,
    /// Its polls in this window and in the one before, estimated.
    pub polls: u64,
    before: u64,
}

impl CallerDigest {
    /// The digest of a caller.
    #[must_use]
    pub fn of(caller: Caller) -> Self {
        Self(caller.short())
    }

    /// The same eight hex digits that stand for the caller in the log.
    #[must_use]
    pub fn hex(self) -> String {
        format!("{:08x}", self.0 >> 32)
    }
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            slots: std::array::from_fn(|_| Slot::default()),
            others: Slot::default(),
            threshold: AtomicU64::new(0),
            tasks: Mutex::default(),
        }
    }
}

impl Demand {
    /// Counts a poll that has been answered.
    pub fn record(&self, caller: Caller, task: &str, state: Option<State>, code: u16) {
        let slot = self.slot(caller.short());
        let number = slot.polls.fetch_add(1, Relaxed);
        if code >= 400 {
            slot.count_error(code);
        }
        let threshold = self.threshold.load(Relaxed);
        if number.wrapping_mul(SPREAD) <= threshold && threshold > 0 {
            self.sample(caller, task, state, threshold);
        }
    }

    /// The slot of a caller; a free one becomes its own.
    fn slot(&self, caller: u64) -> &Slot {
        let first = &self.slots[index(caller, 0)];
        if first.caller.load(Relaxed) == caller {
            return first;
        }
        self.search(caller)
    }

    #[cold]
    fn search(&self, caller: u64) -> &Slot {
        let probes = || (0..PROBES).map(|probe| &self.slots[index(caller, probe)]);
        let known = probes().find(|slot| slot.caller.load(Relaxed) == caller);
        let taken = || {
            probes().find(
                |slot| match slot.caller.compare_exchange(0, caller, Relaxed, Relaxed) {
                    Ok(_) => true,
                    Err(other) => other == caller,
                },
            )
        };
        known.or_else(taken).unwrap_or(&self.others)
    }

    #[cold]
    fn sample(&self, caller: Caller, task: &str, state: Option<State>, threshold: u64) {
        // A poll that would have to wait for the lock is not worth it.
        let Ok(mut tasks) = self.tasks.try_lock() else {
            return;
        };
        let known = tasks
            .iter()
            .position(|known| known.caller == caller && *known.task == *task);
        let Some(state) = state.filter(|state| !state.is_terminal()) else {
            if let Some(index) = known {
                tasks.swap_remove(index);
            }
            return;
        };
        let weight = u64::MAX / threshold;
        if let Some(index) = known {
            tasks[index].polls += weight;
            tasks[index].state = state;
            return;
        }
        if task.len() > LONGEST_ID {
            return;
        }
        let mut new = TaskDemand {
            caller,
            task: task.into(),
            state,
            polls: weight,
            before: 0,
        };
        if tasks.len() < TASKS {
            tasks.push(new);
        } else if let Some(least) = tasks.iter_mut().min_by_key(|task| task.polls + task.before) {
            // Space-saving (Metwally 2005): the newcomer takes over the count, so that a frequent task always gets in.
            new.polls += least.polls;
            new.before = least.before;
            *least = new;
        }
    }

    /// Turns sampling on, at a pace that fits this many polls a second.
    pub fn set_pace(&self, polls_per_second: f64) {
        let mut one_in = 1_u64;
        while polls_per_second > SAMPLES * precise(one_in) && one_in < 1 << 30 {
            one_in *= 2;
        }
        self.threshold.store(u64::MAX / one_in, Relaxed);
    }

    /// Begins a new window. Drops tasks that were not polled in the last one, and callers that were not polling for an
    /// hour, or for a window if others need their slots.
    pub fn rotate(&self) {
        let crowded = self.others.take_window() > 0;
        for slot in &self.slots {
            if slot.caller.load(Relaxed) == 0 {
                continue;
            }
            if slot.take_window() > 0 {
                slot.quiet.store(0, Relaxed);
            } else if crowded || slot.quiet.fetch_add(1, Relaxed) >= QUIET_WINDOWS {
                slot.clear();
            }
        }
        lock(&self.tasks).retain_mut(|task| {
            task.before = std::mem::take(&mut task.polls);
            task.before > 0
        });
    }

    /// All callers that polled.
    #[must_use]
    pub fn callers(&self) -> Vec<CallerDemand> {
        let all = self.slots.iter().chain([&self.others]);
        let mut callers: Vec<_> = all.filter_map(Slot::read).collect();
        // Two requests of a new caller may have taken a slot each, for a while.
        callers.sort_unstable_by_key(|one| one.caller);
        callers.dedup_by(|other, one| {
            let same = one.caller == other.caller;
            if same {
                one.polls += other.polls;
                one.errors += other.errors;
                one.rejected += other.rejected;
            }
            same
        });
        callers
    }

    /// The running tasks that were polled most in this window and the one before.
    #[must_use]
    pub fn tasks(&self) -> Vec<TaskDemand> {
        let mut tasks = lock(&self.tasks).clone();
        for task in &mut tasks {
            task.polls += task.before;
        }
        tasks.sort_by_key(|task| Reverse(task.polls));
        tasks
    }
}

impl Slot {
    #[cold]
    fn count_error(&self, code: u16) {
        if code >= 500 {
            self.errors.fetch_add(1, Relaxed);
        } else {
            self.rejected.fetch_add(1, Relaxed);
        }
    }

    /// The polls since the last call.
    fn take_window(&self) -> u64 {
        let polls = self.polls.load(Relaxed);
        polls.saturating_sub(self.before.swap(polls, Relaxed))
    }

    fn clear(&self) {
        self.caller.store(0, Relaxed);
        for count in [&self.polls, &self.errors, &self.rejected, &self.before] {
            count.store(0, Relaxed);
        }
        self.quiet.store(0, Relaxed);
    }

    fn read(&self) -> Option<CallerDemand> {
        let caller = self.caller.load(Relaxed);
        let polls = self.polls.load(Relaxed);
        (polls > 0).then(|| CallerDemand {
            caller: (caller != 0).then_some(CallerDigest(caller)),
            polls,
            errors: self.errors.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "any bits of a digest will do"
)]
const fn index(caller: u64, probe: usize) -> usize {
    (caller as usize).wrapping_add(probe) % CALLERS
}

#[expect(clippy::cast_precision_loss, reason = "a power of two")]
const fn precise(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(number: u32) -> Caller {
        use crate::request::key::CallerKey;
        use std::sync::LazyLock;
        static KEY: LazyLock<CallerKey> =
            LazyLock::new(|| CallerKey::random().expect("random bytes"));
        let query = number.to_string();
        KEY.identify(&http::HeaderMap::new(), Some(&query)).caller
    }

    fn poll(demand: &Demand, number: u32, task: &str, state: State, code: u16) {
        demand.record(caller(number), task, Some(state), code);
    }

    #[test]
    fn polls_and_errors_are_counted_for_each_caller() {
        let demand = Demand::default();
        for (number, code) in [(1, 200), (1, 503), (1, 401), (2, 200), (1, 499)] {
            poll(&demand, number, "t", State::Processing, code);
        }
        let callers = demand.callers();
        let of = |number| {
            let digest = CallerDigest::of(caller(number));
            assert_eq!(digest.hex(), format!("{:?}", caller(number)));
            let one = callers.iter().find(|one| one.caller == Some(digest));
            one.map(|one| (one.polls, one.errors, one.rejected))
        };
        assert_eq!(
            (of(1), of(2), of(3)),
            (Some((4, 1, 2)), Some((1, 0, 0)), None)
        );
        assert_eq!(demand.tasks(), [], "nothing is sampled until a pace is set");
    }

    #[test]
    fn callers_beyond_the_bound_count_together_and_get_slots_that_fall_quiet() {
        let demand = Demand::default();
        let many = u32::try_from(10 * CALLERS).expect("few");
        for number in 0..many {
            poll(&demand, number, "t", State::Processing, 200);
        }
        let callers = demand.callers();
        assert!(callers.len() <= CALLERS + 1, "{}", callers.len());
        let all: u64 = callers.iter().map(|one| one.polls).sum();
        assert_eq!(all, u64::from(many), "none is lost");
        assert_eq!(callers[0].caller, None, "the others");
        demand.rotate();
        let newcomer = many;
        let has_slot = || {
            let digest = CallerDigest::of(caller(newcomer));
            let callers = demand.callers();
            callers.iter().any(|one| one.caller == Some(digest))
        };
        poll(&demand, newcomer, "t", State::Processing, 200);
        assert!(!has_slot(), "there is no room yet");
        demand.rotate();
        poll(&demand, newcomer, "t", State::Processing, 200);
        assert!(has_slot(), "all others were quiet for a window");
    }

    #[test]
    fn a_caller_that_stops_polling_is_forgotten_after_an_hour() {
        let demand = Demand::default();
        poll(&demand, 1, "t", State::Processing, 503);
        for _ in 0..QUIET_WINDOWS {
            demand.rotate();
        }
        assert_eq!(demand.callers().len(), 1, "its errors are still shown");
        for _ in 0..3 {
            demand.rotate();
        }
        assert_eq!(demand.callers(), []);
    }

    #[test]
    fn the_running_tasks_that_are_polled_most_come_first_and_leave_at_their_end() {
        let demand = Demand::default();
        demand.set_pace(1.0);
        for round in 0..1000 {
            poll(&demand, 1, "busy", State::Processing, 200);
            poll(&demand, 1, &format!("once-{round}"), State::Queued, 200);
        }
        let tasks = demand.tasks();
        assert!(tasks.len() <= TASKS);
        assert_eq!((&*tasks[0].task, tasks[0].polls), ("busy", 1000));
        poll(&demand, 1, "busy", State::Succeeded, 200);
        assert!(demand.tasks().iter().all(|task| &*task.task != "busy"));
        demand.rotate();
        assert!(
            !demand.tasks().is_empty(),
            "the window before counts as well"
        );
        demand.rotate();
        assert_eq!(demand.tasks(), []);
    }

    #[test]
    fn frequent_polls_are_sampled_and_their_number_is_estimated_well() {
        let demand = Demand::default();
        demand.set_pace(SAMPLES * 15.0);
        // In turn, at a stride that divides the sampling rate.
        for number in 0..64_000 {
            poll(
                &demand,
                1,
                &format!("t{}", number % 16),
                State::Processing,
                200,
            );
        }
        let tasks = demand.tasks();
        assert_eq!(tasks.len(), 16, "{tasks:?}");
        for task in tasks {
            assert!((3200..=4800).contains(&task.polls), "{task:?}");
        }
    }
}
