//! The tasks that the demo creates: owner, channel, lifetime and outcome.

use std::hash::{BuildHasher as _, RandomState};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::simulator::{Channel, Outcome};

/// Keys that own the tasks. new-api cuts a key at its second hyphen.
pub(super) const KEYS: [&str; 4] = ["sk-alice", "sk-bob", "sk-carol", "sk-dave"];
/// Share of tasks that fail.
const FAILURES: f64 = 0.1;
/// Lifetimes in seconds, where the demo runs long enough.
const LIFETIMES: RangeInclusive<f64> = 8.0..=25.0;

/// One task to create.
#[derive(Debug, Clone)]
pub(super) struct Job {
    /// The owner's key.
    pub(super) key: &'static str,
    /// A key that does not own the task.
    pub(super) foreign_key: &'static str,
    pub(super) channel: Channel,
    lifetime: Duration,
    outcome: Outcome,
}

impl Job {
    /// Body of the create request, with the model in this member.
    pub(super) fn document(&self, model: &str) -> Value {
        let lifetime = format!("{}ms", self.lifetime.as_millis());
        json!({
            model: self.channel.name(),
            "prompt": "a lighthouse in a storm, seen by a gull",
            "simulate": {"lifetime": lifetime, "outcome": self.outcome},
        })
    }
}

/// An endless sequence of jobs.
#[derive(Debug)]
pub(super) struct Workload {
    /// The shortest and the longest lifetime, in seconds.
    lifetimes: (f64, f64),
    created: AtomicUsize,
}

impl Workload {
    /// Creates the workload of a demo of `seconds`, or an endless one, with lifetimes short enough for tasks to end.
    pub(super) fn new(seconds: Option<u64>) -> Self {
        let longest = seconds.and_then(|seconds| u32::try_from(seconds).ok());
        let longest = longest.map_or(f64::INFINITY, |seconds| f64::from(seconds) * 0.6);
        let longest = longest.min(*LIFETIMES.end());
        Self {
            lifetimes: (LIFETIMES.start().min(longest / 2.0), longest),
            created: AtomicUsize::new(0),
        }
    }

    /// Delay before the first task of a slot: the starts are spread over half of the shortest lifetime.
    pub(super) fn start_delay(&self, slot: usize, slots: usize) -> Duration {
        let shortest = Duration::from_secs_f64(self.lifetimes.0 / 2.0);
        let slots = u32::try_from(slots).unwrap_or(u32::MAX).max(1);
        shortest * u32::try_from(slot).unwrap_or(0) / slots
    }

    /// Returns the next job.
    pub(super) fn next(&self) -> Job {
        let number = self.created.fetch_add(1, Ordering::Relaxed);
        let channels: Vec<_> = channels().collect();
        let (shortest, longest) = self.lifetimes;
        Job {
            key: KEYS[number % KEYS.len()],
            foreign_key: KEYS[(number + 1) % KEYS.len()],
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

/// All channels whose documents report the true state on both paths, which are all but `cancelling`: its tasks can only
/// fail. The vendor's stored document, which `ali`, `sora-2` and `sora-raw` show on the OpenAI path, differs from the
/// row only after new-api timed the task out, an outcome that the workload never asks for.
fn channels() -> impl Iterator<Item = Channel> {
    Channel::ALL
        .into_iter()
        .filter(|channel| *channel != Channel::Cancelling)
}

/// A random number in `0.0..1.0`. The standard library's hasher keys are random enough for a crowd.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
pub(super) fn chance() -> f64 {
    (RandomState::new().hash_one(()) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_demo_has_short_lifetimes() {
        for (seconds, within) in [
            (None, 8.0..25.0),
            (Some(60), 8.0..25.0),
            (Some(10), 3.0..6.0),
            (Some(1), 0.3..0.6),
        ] {
            let workload = Workload::new(seconds);
            for _ in 0..100 {
                let lifetime = workload.next().lifetime.as_secs_f64();
                assert!(within.contains(&lifetime), "{seconds:?}: {lifetime}");
            }
        }
    }

    #[test]
    fn every_key_and_channel_gets_its_turn_and_no_foreign_key_owns_a_task() {
        let workload = Workload::new(None);
        let jobs: Vec<_> = (0..100).map(|_| workload.next()).collect();
        assert!(channels().all(|channel| jobs.iter().any(|job| job.channel == channel)));
        assert!(
            KEYS.iter()
                .all(|key| jobs.iter().any(|job| job.key == *key))
        );
        assert!(jobs.iter().all(|job| job.key != job.foreign_key));
    }

    #[test]
    fn a_jobs_model_selects_its_channel() {
        for _ in 0..10 {
            let job = Workload::new(None).next();
            let document = job.document("model");
            let model = document["model"].as_str().expect("a string");
            assert_eq!(Channel::of_model(model), Some(job.channel));
        }
    }
}
