//! How long the state of a running task stays fresh: learnt from the tasks that ended, separately for each model.
//!
//! Polls pay where tasks end. For every model a decaying histogram of the ages at which its tasks
//! ended gives the hazard `h` of ending at an age. Polls at intervals `d` cost `1/d` each second and leave an end unseen
//! for `d/2` on average, so the fewest polls for a given mean lag have `d = sqrt(c / h)`, kept between `in_flight_ttl`
//! and `in_flight_max`; and `c` is as large as lets the mean lag that the histogram predicts stay within
//! [`ALLOWANCE`](histogram::ALLOWANCE) of the fixed cadence's.
//!
//! Without data the cadence is fixed: for a model with fewer than three ends, and for a task older than all of them. A
//! prior spread over all ages ([`PRIOR_WEIGHT`](histogram::PRIOR_WEIGHT)) keeps few samples from stretching much. A failure
//! is an end like any other. Time spent queued is part of the age, since upstream polls vendors in rounds and may report
//! the rest of a task at once; progress is trusted only near 100.
//!
//! Where upstream asks its vendors in [`rounds`], nothing happens between two of them. They are learnt from the moments at which
//! polls find tasks changed, over all tasks of a class and all callers: only times are kept. A further model begins with the
//! rounds of another, and follows them or not as its own tasks do. While they are believed, a task is polled soon after the next
//! round is due, so late that the mean lag stays that of the cadence above.
//!
//! `cargo bench --bench cadence` simulates the savings and the cost, and writes them to `benches/cadence.md`.

mod guess;
mod histogram;
mod rounds;
mod upstream_clock;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

pub use self::histogram::Bounds;

use self::histogram::EndTimes;
use self::rounds::{Change, Rounds, Sighting, Wish};
use self::upstream_clock::UpstreamClock;
use crate::sync::lock;

/// The progress, in percent, from which on the end is near.
const NEARLY_DONE: u8 = 95;

/// The number of models; beyond it the one that was updated longest ago is dropped.
const MODELS: usize = 256;

/// How much longer than `Bounds::most` an answer may stay fresh, and how much shorter than `Bounds::least`, where
/// upstream's rounds are known.
pub const ROUND_STRETCH: u32 = 2;

/// The longest model name in bytes; longer ones count as unknown.
const NAME: usize = 128;

/// The age of a task on the gateway's own clock, which neither upstream's clock nor the system's changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskAge {
    seen: Instant,
    age: Duration,
}

impl TaskAge {
    /// The age of a task that is first seen `now`, at `age`.
    #[must_use]
    pub const fn begun(now: Instant, age: Duration) -> Self {
        Self { seen: now, age }
    }

    /// The age of the task at `now`.
    #[must_use]
    pub fn at(&self, now: Instant) -> Duration {
        self.age
            .saturating_add(now.saturating_duration_since(self.seen))
    }
}

/// What a poll of a running task found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// When the task was polled before.
    pub before: Instant,
    /// When it was polled now.
    pub at: Instant,
    /// How old it was then.
    pub age: Duration,
    /// How it changed in between, if it did.
    pub changed: Option<Changed>,
}

/// That a task has another state, other progress, or another `updated_at` than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Whether it ended.
    pub is_end: bool,
    /// When it did, in Unix seconds, if upstream says so.
    pub updated_at: Option<i64>,
}

/// A running task that was polled just now.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    /// When it was polled.
    pub at: Instant,
    /// How old it was then.
    pub age: Duration,
    /// How far it was, in percent.
    pub progress: u8,
    /// Whether it had changed.
    pub has_changed: bool,
}

/// When to poll a task again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// The time until then.
    pub lasts: Duration,
    /// Whether it follows upstream's rounds.
    pub by_round: bool,
}

/// When upstream's rounds are, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownRounds {
    /// The mean time from one to the next.
    pub every: Duration,
    /// The time until the next.
    pub next_in: Duration,
}

/// The end times and the rounds of all models. At most some four megabytes.
#[derive(Debug)]
pub struct Cadence {
    /// The zero of the clock that rounds are told by.
    begun: Instant,
    models: Mutex<Models>,
}

#[derive(Debug, Default)]
struct Models {
    /// The number of updates so far.
    updates: u64,
    by_name: HashMap<Box<str>, Model>,
}

/// What is learnt of one model.
#[derive(Debug)]
struct Model {
    /// The number of its last update.
    updated: u64,
    ends: EndTimes,
    /// From the first change on.
    rounds: Option<Box<Rounds>>,
    clock: UpstreamClock,
}

impl Default for Cadence {
    fn default() -> Self {
        Self::begun(Instant::now())
    }
}

impl Cadence {
    /// An empty cadence, whose clock begins then. The same polls at the same times since then have the same results.
    #[must_use]
    pub fn begun(begun: Instant) -> Self {
        Self {
            begun,
            models: Mutex::default(),
        }
    }

    /// An empty cadence.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A task of `model` was seen unfinished at the age `from`, and next finished at the age `to`.
    pub fn learn(&self, model: &str, from: Duration, to: Duration) {
        let mut models = self.models();
        let model = models.of(name(model));
        model.ends.learn(from.as_secs_f64(), to.as_secs_f64());
    }

    /// A task of `model` was polled.
    pub fn see(&self, model: &str, found: &Found) {
        let mut models = self.models();
        let (before, at) = (self.seconds(found.before), self.seconds(found.at));
        let name = name(model);
        // A model is new to rounds until a task of it changes. All that upstream looks at in rounds share them: it begins
        // with what is known of another.
        let others = match (found.changed, models.by_name.get(name)) {
            (Some(_), None | Some(Model { rounds: None, .. })) => models.believed(),
            _ => None,
        };
        let model = match found.changed {
            Some(_) => Some(models.of(name)),
            None => models.by_name.get_mut(name),
        };
        let Some(Model {
            ends,
            rounds,
            clock,
            ..
        }) = model
        else {
            return;
        };
        let changed = found.changed.map(|change| {
            #[expect(clippy::cast_precision_loss, reason = "times are far below 2^52")]
            let updated_at = change.updated_at.map(|at| at as f64);
            Change {
                within: updated_at.map_or((before, at), |told| clock.place(told, (before, at))),
                is_end: change.is_end,
            }
        });
        if changed.is_some() && rounds.is_none() {
            *rounds = Some(others.unwrap_or_else(|| Box::new(Rounds::new())));
        }
        if let Some(rounds) = rounds {
            rounds.see(&Sighting {
                before,
                at,
                hazard: ends.hazard(found.age),
                changed,
            });
        }
    }

    /// Replaces the end times that are known of a model by these ends, oldest first, if there are any.
    pub fn relearn(&self, model: &str, ends: &[(Duration, Duration)]) {
        if ends.is_empty() {
            return;
        }
        self.models().of(name(model)).ends = EndTimes::new();
        for (from, to) in ends {
            self.learn(model, *from, *to);
        }
    }

    /// When to poll a `task` of `model` again.
    #[must_use]
    pub fn next(&self, model: &str, task: Running, bounds: Bounds) -> Interval {
        let least = Interval {
            lasts: bounds.least,
            by_round: false,
        };
        if bounds.most <= bounds.least || bounds.least.is_zero() {
            return least;
        }
        let mut models = self.models();
        let Some(model) = models.by_name.get_mut(name(model)) else {
            return least;
        };
        let lasts = match task.progress {
            NEARLY_DONE.. => bounds.least,
            _ => model.ends.interval(task.age, bounds),
        };
        let by_round = model.rounds.as_mut().and_then(|rounds| {
            let wait = rounds.wait(&Wish {
                now: self.seconds(task.at),
                has_changed: task.has_changed,
                hazard: model.ends.hazard(task.age),
                lag: lasts.as_secs_f64() / 2.0,
                most: (bounds.most * ROUND_STRETCH).as_secs_f64(),
            })?;
            let wait = Duration::try_from_secs_f64(wait).ok()?;
            Some(wait.max(bounds.least / ROUND_STRETCH))
        });
        match by_round {
            Some(lasts) => Interval {
                lasts,
                by_round: true,
            },
            None => Interval { lasts, ..least },
        }
    }

    /// The rounds that tasks of `model` follow, where they are known.
    #[must_use]
    pub fn rounds(&self, model: &str, now: Instant) -> Option<KnownRounds> {
        let models = self.models();
        let rounds = models.by_name.get(name(model))?.rounds.as_ref()?;
        let now = self.seconds(now);
        let expected = rounds.expected(now)?;
        Some(KnownRounds {
            every: Duration::try_from_secs_f64(expected.every).ok()?,
            next_in: Duration::try_from_secs_f64(expected.next - now).unwrap_or_default(),
        })
    }

    /// The models whose tasks follow known rounds, by name.
    #[must_use]
    pub fn all_rounds(&self, now: Instant) -> Vec<(Box<str>, KnownRounds)> {
        let names: Vec<_> = self.models().by_name.keys().cloned().collect();
        let mut known: Vec<_> = names
            .into_iter()
            .filter_map(|name| Some((self.rounds(&name, now)?, name)))
            .map(|(rounds, name)| (name, rounds))
            .collect();
        known.sort_by(|(one, _), (other, _)| one.cmp(other));
        known
    }

    /// On the clock that rounds are told by.
    fn seconds(&self, at: Instant) -> f64 {
        match at.checked_duration_since(self.begun) {
            Some(since) => since.as_secs_f64(),
            None => -self.begun.duration_since(at).as_secs_f64(),
        }
    }

    fn models(&self) -> MutexGuard<'_, Models> {
        lock(&self.models)
    }
}

fn name(model: &str) -> &str {
    if model.len() > NAME { "" } else { model }
}

impl Models {
    /// The rounds of the model that was updated last of those whose rounds are believed.
    fn believed(&self) -> Option<Box<Rounds>> {
        let believed = self.by_name.values().filter_map(|model| {
            let rounds = model.rounds.as_ref()?;
            rounds.is_believed().then_some((model.updated, rounds))
        });
        let (_, rounds) = believed.max_by_key(|(updated, _)| *updated)?;
        Some(rounds.clone())
    }

    /// The model of this name, which is updated now. Beyond [`MODELS`] it takes the place of the one that was updated longest
    /// ago.
    fn of(&mut self, name: &str) -> &mut Model {
        self.updates += 1;
        if !self.by_name.contains_key(name) && self.by_name.len() >= MODELS {
            let oldest = self.by_name.iter().min_by_key(|(_, model)| model.updated);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.by_name.remove(&name);
            }
        }
        let model = self.by_name.entry(name.into()).or_insert_with(|| Model {
            updated: 0,
            ends: EndTimes::new(),
            rounds: None,
            clock: UpstreamClock::new(),
        });
        model.updated = self.updates;
        model
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        least: Duration::from_secs(2),
        most: Duration::from_secs(10),
    };

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Learnt of `ends`, each seen within two seconds.
    fn learnt(ends: &[u64]) -> Cadence {
        let cadence = Cadence::new();
        for end in ends {
            cadence.learn("m", seconds(*end - 2), seconds(*end));
        }
        cadence
    }

    /// The interval of a task that follows no rounds.
    fn interval(
        cadence: &Cadence,
        model: &str,
        age: Duration,
        progress: u8,
        bounds: Bounds,
    ) -> Duration {
        let task = Running {
            at: Instant::now(),
            age,
            progress,
            has_changed: false,
        };
        cadence.next(model, task, bounds).lasts
    }

    fn at(cadence: &Cadence, age: u64) -> Duration {
        interval(cadence, "m", seconds(age), 50, BOUNDS)
    }

    #[test]
    fn a_further_model_begins_with_the_rounds_of_another() {
        let zero = Instant::now();
        let cadence = Cadence::begun(zero);
        let at = |seconds: f64| zero + Duration::from_secs_f64(seconds);
        // Polled every second, each of ten tasks changes once in 15 s.
        let see = |model: &str, second: u32| {
            let (before, at) = (at(f64::from(second) - 1.0), at(second.into()));
            cadence.see(
                model,
                &Found {
                    before,
                    at,
                    age: seconds(second.into()),
                    changed: second.is_multiple_of(15).then_some(Changed {
                        is_end: false,
                        updated_at: None,
                    }),
                },
            );
        };
        for second in 1..=150 {
            for _ in 0..10 {
                see("first", second);
            }
        }
        let now = at(151.0);
        let known = cadence.rounds("first", now).expect("are known");
        assert!(known.every.abs_diff(seconds(15)) < seconds(1), "{known:?}");
        assert_eq!(cadence.rounds("second", now), None);
        for second in 151..=165 {
            see("first", second);
            see("second", second);
        }
        let now = at(166.0);
        let rounds = ["first", "second"].map(|model| cadence.rounds(model, now));
        assert!(rounds[1].is_some());
        assert_eq!(rounds[0], rounds[1]);
    }

    #[test]
    fn where_nothing_is_learnt_the_cadence_is_fixed() {
        let cadence = learnt(&[100; 50]);
        for age in 0..1000 {
            let other = interval(&cadence, "other", seconds(age), 50, BOUNDS);
            let fresh = at(&Cadence::new(), age);
            assert_eq!((other, fresh), (BOUNDS.least, BOUNDS.least));
        }
    }

    #[test]
    fn young_tasks_are_left_alone_and_those_near_the_end_are_not() {
        let cadence = learnt(&[95, 100, 105, 110, 100, 98, 103, 120].repeat(5));
        assert_eq!(at(&cadence, 5), BOUNDS.most);
        assert_eq!(at(&cadence, 50), BOUNDS.most);
        assert!(at(&cadence, 105) < seconds(3), "{:?}", at(&cadence, 105));
    }

    #[test]
    fn a_long_interval_does_not_reach_far_into_the_time_of_ends() {
        let cadence = learnt(&[100; 40]);
        for age in 0..75 {
            let next = seconds(age) + at(&cadence, age);
            assert!(next < seconds(85), "{age} {next:?}");
        }
    }

    #[test]
    fn a_task_older_than_all_that_is_learnt_has_the_fixed_cadence() {
        let cadence = learnt(&[100; 40]);
        for age in [140, 200, 3_600, 100_000, 1_000_000_000] {
            assert_eq!(at(&cadence, age), BOUNDS.least);
        }
        assert_eq!(
            interval(&cadence, "m", Duration::MAX, 50, BOUNDS),
            BOUNDS.least
        );
    }

    #[test]
    fn few_ends_stretch_less_than_many() {
        let (two, few, many) = (learnt(&[100; 2]), learnt(&[100; 3]), learnt(&[100; 40]));
        assert_eq!(at(&two, 40), BOUNDS.least);
        assert!(at(&few, 40) > BOUNDS.least);
        assert!(at(&few, 40) < at(&many, 40));
    }

    #[test]
    fn progress_close_to_a_hundred_is_believed() {
        let cadence = learnt(&[100; 40]);
        assert_eq!(
            interval(&cadence, "m", seconds(10), 95, BOUNDS),
            BOUNDS.least
        );
        assert_eq!(
            interval(&cadence, "m", seconds(10), 94, BOUNDS),
            BOUNDS.most
        );
    }

    #[test]
    fn what_may_not_stretch_does_not() {
        let cadence = learnt(&[100; 40]);
        for (least, most) in [(2, 2), (2, 1), (0, 10)] {
            let (least, most) = (seconds(least), seconds(most));
            let interval = interval(&cadence, "m", seconds(10), 50, Bounds { least, most });
            assert_eq!(interval, least);
        }
    }

    #[test]
    fn a_model_that_changed_its_speed_is_learnt_anew() {
        let cadence = learnt(&[100; 40]);
        assert_eq!(at(&cadence, 50), BOUNDS.most);
        for _ in 0..40 {
            cadence.learn("m", seconds(48), seconds(50));
        }
        assert!(at(&cadence, 50) < seconds(3));
    }

    #[test]
    fn other_bounds_are_another_plan() {
        let cadence = learnt(&[100; 40]);
        let most = seconds(5);
        let narrow = Bounds { most, ..BOUNDS };
        assert_eq!(at(&cadence, 10), BOUNDS.most);
        assert_eq!(interval(&cadence, "m", seconds(10), 50, narrow), most);
        assert_eq!(at(&cadence, 10), BOUNDS.most);
    }

    #[test]
    fn models_are_bounded_in_number_and_those_in_use_stay() {
        let cadence = Cadence::new();
        for n in 0..10 * MODELS {
            cadence.learn(&format!("m-{n}"), seconds(98), seconds(100));
            cadence.learn("m", seconds(98), seconds(100));
        }
        let models = cadence.models();
        assert_eq!(models.by_name.len(), MODELS);
        assert!(models.by_name.contains_key("m"));
        assert!(size_of::<EndTimes>() < 1024);
    }

    #[test]
    fn names_of_any_length_take_bounded_memory() {
        let cadence = Cadence::new();
        for _ in 0..3 {
            cadence.learn(&"x".repeat(1_000_000), seconds(98), seconds(100));
        }
        assert!(
            cadence
                .models()
                .by_name
                .keys()
                .all(|name| name.len() <= NAME)
        );
        assert!(interval(&cadence, "", seconds(10), 50, BOUNDS) > BOUNDS.least);
    }

    #[tokio::test(start_paused = true)]
    async fn a_life_ages_on_the_gateways_clock() {
        let life = TaskAge::begun(Instant::now(), seconds(30));
        tokio::time::advance(seconds(12)).await;
        assert_eq!(life.at(Instant::now()), seconds(42));
        assert_eq!(life.at(Instant::now() - seconds(20)), seconds(30));
    }

    fn any_duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            4 => (0_u64..400_000).prop_map(Duration::from_millis),
            1 => any::<u64>().prop_map(Duration::from_nanos),
            1 => any::<u64>().prop_map(Duration::from_secs),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_learnt_the_interval_stays_within_its_bounds(
            ends in proptest::collection::vec((any_duration(), any_duration()), 0..60),
            looks in proptest::collection::vec((any_duration(), any::<u8>(), any_duration(), any_duration()), 1..20),
        ) {
            let cadence = Cadence::new();
            for (from, to) in ends {
                cadence.learn("m", from, to);
            }
            for (age, progress, least, most) in looks {
                let interval = interval(&cadence, "m", age, progress, Bounds { least, most });
                prop_assert!(interval >= least && interval <= most.max(least), "{interval:?}");
            }
        }
    }
}
