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
//! `cargo bench --bench cadence` simulates the savings and the cost, and writes them to `benches/cadence.md`.

mod histogram;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

pub use self::histogram::Bounds;

use self::histogram::EndTimes;
use crate::sync::lock;

/// The progress, in percent, from which on the end is near.
const NEARLY_DONE: u8 = 95;

/// The number of models; beyond it the one that was updated longest ago is dropped.
const MODELS: usize = 256;

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

/// The end times of all models. At most some hundred kilobytes.
#[derive(Debug, Default)]
pub struct Cadence(Mutex<Models>);

#[derive(Debug, Default)]
struct Models {
    /// The number of ends learnt.
    ends: u64,
    /// The models, each with `ends` at its last update.
    by_name: HashMap<Box<str>, (u64, EndTimes)>,
}

impl Cadence {
    /// An empty cadence.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A task of `model` was seen unfinished at the age `from`, and next finished at the age `to`.
    pub fn learn(&self, model: &str, from: Duration, to: Duration) {
        let models = &mut *self.models();
        models.ends += 1;
        let name = name(model);
        if !models.by_name.contains_key(name) {
            if models.by_name.len() >= MODELS {
                models.forget_oldest();
            }
            models.by_name.insert(name.into(), (0, EndTimes::new()));
        }
        if let Some((last, model)) = models.by_name.get_mut(name) {
            model.learn(from.as_secs_f64(), to.as_secs_f64());
            *last = models.ends;
        }
    }

    /// Replaces what is known of a model by these ends, oldest first, if there are any.
    pub fn relearn(&self, model: &str, ends: &[(Duration, Duration)]) {
        if ends.is_empty() {
            return;
        }
        self.models().by_name.remove(name(model));
        for (from, to) in ends {
            self.learn(model, *from, *to);
        }
    }

    /// The time until the next poll of a task of `model` that is `age` old and `progress` percent done.
    #[must_use]
    pub fn interval(&self, model: &str, age: Duration, progress: u8, bounds: Bounds) -> Duration {
        let stretches = bounds.most > bounds.least && !bounds.least.is_zero();
        if !stretches || progress >= NEARLY_DONE {
            return bounds.least;
        }
        match self.models().by_name.get_mut(name(model)) {
            Some((_, model)) => model.interval(age, bounds),
            None => bounds.least,
        }
    }

    fn models(&self) -> MutexGuard<'_, Models> {
        lock(&self.0)
    }
}

fn name(model: &str) -> &str {
    if model.len() > NAME { "" } else { model }
}

impl Models {
    fn forget_oldest(&mut self) {
        let oldest = self.by_name.iter().min_by_key(|(_, (last, _))| *last);
        if let Some(name) = oldest.map(|(name, _)| name.clone()) {
            self.by_name.remove(&name);
        }
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

    fn at(cadence: &Cadence, age: u64) -> Duration {
        cadence.interval("m", seconds(age), 50, BOUNDS)
    }

    #[test]
    fn where_nothing_is_learnt_the_cadence_is_fixed() {
        let cadence = learnt(&[100; 50]);
        for age in 0..1000 {
            let other = cadence.interval("other", seconds(age), 50, BOUNDS);
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
            cadence.interval("m", Duration::MAX, 50, BOUNDS),
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
        assert_eq!(cadence.interval("m", seconds(10), 95, BOUNDS), BOUNDS.least);
        assert_eq!(cadence.interval("m", seconds(10), 94, BOUNDS), BOUNDS.most);
    }

    #[test]
    fn what_may_not_stretch_does_not() {
        let cadence = learnt(&[100; 40]);
        for (least, most) in [(2, 2), (2, 1), (0, 10)] {
            let (least, most) = (seconds(least), seconds(most));
            let interval = cadence.interval("m", seconds(10), 50, Bounds { least, most });
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
        assert_eq!(cadence.interval("m", seconds(10), 50, narrow), most);
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
        assert!(cadence.interval("", seconds(10), 50, BOUNDS) > BOUNDS.least);
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
                let interval = cadence.interval("m", age, progress, Bounds { least, most });
                prop_assert!(interval >= least && interval <= most.max(least), "{interval:?}");
            }
        }
    }
}
