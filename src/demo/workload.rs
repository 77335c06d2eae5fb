//! What is ordered: whose tasks, in which shape, how long they live and how they end.

use std::hash::{BuildHasher as _, RandomState};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::simulator::{Channel, Outcome};

/// The keys that own the tasks. (new-api takes what follows a second hyphen for something else than the key.)
pub(super) const KEYS: [&str; 4] = ["sk-alice", "sk-bob", "sk-carol", "sk-dave"];
/// The share of tasks that fail.
const FAILURES: f64 = 0.1;
/// The shortest and the longest life, where there is time for it.
const LIVES: RangeInclusive<f64> = 8.0..=25.0;

/// One task to be made.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Whose it is.
    pub(super) key: &'static str,
    /// A key that it does not belong to.
    pub(super) stranger: &'static str,
    /// The shape of its documents.
    pub(super) channel: Channel,
    lifetime: Duration,
    outcome: Outcome,
}

impl Job {
    /// The create request's body.
    pub(super) fn document(&self) -> Value {
        let lifetime = format!("{}ms", self.lifetime.as_millis());
        json!({
            "model": self.channel.name(),
            "prompt": "a lighthouse in a storm, seen by a gull",
            "simulate": {"lifetime": lifetime, "outcome": self.outcome},
        })
    }
}

/// Gives out one job after the other.
#[derive(Debug)]
pub(super) struct Workload {
    lives: (f64, f64),
    given: AtomicUsize,
}

impl Workload {
    /// For a demo of so many seconds, or an endless one: short enough that some tasks see their end.
    pub(super) fn new(seconds: Option<u64>) -> Self {
        let longest = seconds.and_then(|seconds| u32::try_from(seconds).ok());
        let longest = longest.map_or(f64::INFINITY, |seconds| f64::from(seconds) * 0.6);
        let longest = longest.min(*LIVES.end());
        Self {
            lives: (LIVES.start().min(longest / 2.0), longest),
            given: AtomicUsize::new(0),
        }
    }

    /// When the first task of a slot enters, of so many: one after the other, within the shortest life's half.
    pub(super) fn entrance(&self, slot: usize, slots: usize) -> Duration {
        let shortest = Duration::from_secs_f64(self.lives.0 / 2.0);
        let slots = u32::try_from(slots).unwrap_or(u32::MAX).max(1);
        shortest * u32::try_from(slot).unwrap_or(0) / slots
    }

    /// The next one.
    pub(super) fn next(&self) -> Job {
        let number = self.given.fetch_add(1, Ordering::Relaxed);
        let channels: Vec<_> = channels().collect();
        let (shortest, longest) = self.lives;
        Job {
            key: KEYS[number % KEYS.len()],
            stranger: KEYS[(number + 1) % KEYS.len()],
            channel: channels[number % channels.len()],
            lifetime: Duration::from_secs_f64(shortest + chance() * (longest - shortest)),
            outcome: if chance() < FAILURES {
                Outcome::Failed
            } else {
                Outcome::Succeeded
            },
        }
    }
}

/// All shapes in which both paths tell the truth, which is all but one. Where the vendor's stored document decides
/// (`ali`, `sora-2`, `sora-raw` on the OpenAI path), it departs from the row only after new-api gave up on the task,
/// an outcome that is never ordered here; `seedance-2`'s inner status lags, but the outer one counts. `cancelling`
/// stays out since its tasks can only fail.
fn channels() -> impl Iterator<Item = Channel> {
    Channel::ALL
        .into_iter()
        .filter(|channel| *channel != Channel::Cancelling)
}

/// A number from 0 up to, but without, 1; the standard library's own source of chance is good enough for a crowd.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
pub(super) fn chance() -> f64 {
    (RandomState::new().hash_one(()) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_demo_has_short_lives() {
        for (seconds, within) in [
            (None, 8.0..25.0),
            (Some(60), 8.0..25.0),
            (Some(10), 3.0..6.0),
            (Some(1), 0.3..0.6),
        ] {
            let workload = Workload::new(seconds);
            for _ in 0..100 {
                let life = workload.next().lifetime.as_secs_f64();
                assert!(within.contains(&life), "{seconds:?}: {life}");
            }
        }
    }

    #[test]
    fn every_key_and_every_honest_shape_gets_its_turn_and_no_stranger_owns_a_task() {
        let workload = Workload::new(None);
        let given: Vec<_> = (0..100).map(|_| workload.next()).collect();
        assert!(channels().all(|channel| given.iter().any(|job| job.channel == channel)));
        assert!(
            KEYS.iter()
                .all(|key| given.iter().any(|job| job.key == *key))
        );
        assert!(given.iter().all(|job| job.key != job.stranger));
    }

    #[test]
    fn an_order_is_made_in_the_shape_of_its_channel() {
        for _ in 0..10 {
            let job = Workload::new(None).next();
            let document = job.document();
            let model = document["model"].as_str().expect("a text");
            assert_eq!(Channel::of_model(model), Some(job.channel));
        }
    }
}
