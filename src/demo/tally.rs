//! What is counted while the crowd polls: bounded memory, however long it runs.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::referee::{Origin, Violation};
use super::workload::Job;
use crate::simulator::State;

/// How many violations are told in full.
const TOLD: usize = 5;
/// How many seconds of rates are kept: as many as the widest sparkline shows.
const SECONDS: usize = 240;

/// Everything the pollers found out so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Status polls that were answered, whatever the answer.
    pub(super) answered: u64,
    /// Status polls that got no answer at all.
    pub(super) unanswered: u64,
    /// Answers by where they came from: hit, shared, fetched, stale.
    origins: [u64; 4],
    /// Error answers by status.
    pub(super) errors: BTreeMap<u16, u64>,
    /// Polls with another's key, turned away as they should be.
    pub(super) turned_away: u64,
    /// Answers that the referee looked at.
    pub(super) checked: u64,
    /// What it found.
    pub(super) violations: Violations,
    /// How long answers took.
    pub(super) latencies: Latencies,
    /// Tasks made.
    pub(super) made: u64,
    /// Tasks that were not made, since the gateway or upstream did not answer as they should.
    pub(super) not_made: u64,
    /// Tasks that ended with a video, and left the stage.
    pub(super) succeeded: u64,
    /// Tasks that ended without, and left the stage.
    pub(super) failed: u64,
    /// The tasks on stage.
    pub(super) stage: Vec<Option<Live>>,
}

/// A task that is being polled.
#[derive(Clone, Debug)]
pub(super) struct Live {
    /// What was ordered.
    pub(super) job: Job,
    /// Its id.
    pub(super) id: String,
    /// How often clients asked for it.
    pub(super) polls: u64,
}

/// How often the referee found what must never be, and the first of these in full.
#[derive(Clone, Debug, Default)]
pub(super) struct Violations {
    /// States that the task did not have.
    pub(super) wrong: u64,
    /// States before the last one.
    pub(super) backward: u64,
    /// Others' states.
    pub(super) foreign: u64,
    /// The first ones, in words.
    pub(super) told: Vec<String>,
}

impl Tally {
    /// One with room for so many tasks at a time.
    pub(super) fn new(tasks: usize) -> Self {
        Self {
            stage: vec![None; tasks],
            ..Self::default()
        }
    }

    /// A poll was answered.
    pub(super) fn answered(&mut self, slot: usize, took: Duration) {
        self.answered += 1;
        self.latencies.record(took);
        if let Some(Some(live)) = self.stage.get_mut(slot) {
            live.polls += 1;
        }
    }

    /// An answer came from there.
    pub(super) fn came_from(&mut self, origin: Origin) {
        self.origins[origin as usize] += 1;
    }

    /// How many answers came from there.
    pub(super) fn from(&self, origin: Origin) -> u64 {
        self.origins[origin as usize]
    }

    /// The referee found something, seen where `place` says.
    pub(super) fn violated(&mut self, violation: &Violation, place: impl FnOnce() -> String) {
        let violations = &mut self.violations;
        *match violation {
            Violation::Wrong(_) => &mut violations.wrong,
            Violation::Backward { .. } => &mut violations.backward,
            Violation::Foreign(_) => &mut violations.foreign,
        } += 1;
        if violations.told.len() < TOLD {
            violations.told.push(format!("{violation} ({})", place()));
        }
    }

    /// A task enters the stage.
    pub(super) fn enters(&mut self, slot: usize, job: Job, id: String) {
        self.made += 1;
        self.stage[slot] = Some(Live { job, id, polls: 0 });
    }

    /// A task leaves the stage.
    pub(super) fn leaves(&mut self, slot: usize, state: Option<State>) {
        self.stage[slot] = None;
        match state {
            Some(State::Succeeded) => self.succeeded += 1,
            Some(State::Failed) => self.failed += 1,
            _ => {}
        }
    }
}

impl Violations {
    /// All of them.
    pub(super) fn count(&self) -> u64 {
        self.wrong + self.backward + self.foreign
    }
}

/// How long answers took, in buckets that are each some 6 % wide.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    buckets: Box<[u64; Self::BUCKETS]>,
    count: u64,
}

impl Latencies {
    /// Each power of two, in microseconds, is cut into so many buckets.
    const CUTS: u64 = 16;
    /// The longest time that is told from longer ones, in microseconds: some twelve days.
    const LONGEST: u64 = 1 << 40;
    const BUCKETS: usize = 640;

    fn record(&mut self, took: Duration) {
        let micros =
            u64::try_from(took.as_micros()).map_or(Self::LONGEST, |it| it.min(Self::LONGEST));
        self.buckets[Self::bucket(micros)] += 1;
        self.count += 1;
    }

    /// The time within which this share of the answers came; `None` before the first.
    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        let mut left = share_of(self.count, share).max(1).min(self.count);
        let bucket = self.buckets.iter().position(|&count| {
            let here = left <= count;
            left = left.saturating_sub(count);
            here
        });
        bucket
            .filter(|_| self.count > 0)
            .map(|bucket| Duration::from_micros(Self::upper(bucket)))
    }

    fn bucket(micros: u64) -> usize {
        let power = micros.max(Self::CUTS).ilog2() - Self::CUTS.ilog2();
        let bucket = u64::from(power) * Self::CUTS + (micros >> power);
        usize::try_from(bucket).map_or(Self::BUCKETS - 1, |bucket| bucket.min(Self::BUCKETS - 1))
    }

    /// The longest time that falls into a bucket.
    fn upper(bucket: usize) -> u64 {
        let bucket = bucket as u64;
        let power = (bucket / Self::CUTS).saturating_sub(1);
        ((bucket - power * Self::CUTS + 1) << power) - 1
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            buckets: Box::new([0; Self::BUCKETS]),
            count: 0,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are far below 2^52, shares from 0 to 1"
)]
fn share_of(count: u64, share: f64) -> u64 {
    (count as f64 * share).ceil() as u64
}

/// Client and upstream polls of each of the last seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    last: (u64, u64),
    seconds: VecDeque<(u64, u64)>,
}

impl Rates {
    /// Notes the totals; to be called once a second.
    pub(super) fn note(&mut self, client: u64, upstream: u64) {
        let (client_before, upstream_before) = self.last;
        if self.seconds.len() == SECONDS {
            self.seconds.pop_front();
        }
        self.seconds.push_back((
            client.saturating_sub(client_before),
            upstream.saturating_sub(upstream_before),
        ));
        self.last = (client, upstream);
    }

    /// The last second's.
    pub(super) fn now(&self) -> (u64, u64) {
        self.seconds.back().copied().unwrap_or_default()
    }

    /// Second by second, oldest first.
    pub(super) fn seconds(
        &self,
    ) -> impl DoubleEndedIterator<Item = (u64, u64)> + ExactSizeIterator {
        self.seconds.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_seven_percent() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), None);
        for micros in 1..=100_000 {
            latencies.record(Duration::from_micros(micros));
        }
        for (share, micros) in [(0.0001, 10), (0.01, 1_000), (0.5, 50_000), (0.99, 99_000)] {
            let told = latencies
                .quantile(share)
                .expect("there are some")
                .as_micros();
            assert!(
                (micros..=micros + micros / 14 + 1).contains(&told),
                "{share}: {told}"
            );
        }
    }

    #[test]
    fn times_beyond_all_measure_are_counted_too() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::MAX);
        latencies.record(Duration::ZERO);
        assert_eq!(latencies.quantile(0.5), Some(Duration::ZERO));
        assert!(latencies.quantile(1.0) > Some(Duration::from_secs(1_000_000)));
    }

    #[test]
    fn rates_are_the_difference_of_totals_and_do_not_pile_up() {
        let mut rates = Rates::default();
        for second in 1..=1_000 {
            rates.note(second * 500, second * 20);
        }
        assert_eq!(rates.now(), (500, 20));
        assert_eq!(rates.seconds().len(), SECONDS);
    }

    #[test]
    fn violations_are_all_counted_and_the_first_are_told() {
        let mut tally = Tally::new(1);
        for _ in 0..20 {
            tally.violated(&Violation::Foreign("x".into()), || "there".into());
        }
        assert_eq!(tally.violations.foreign, 20);
        assert_eq!(tally.violations.told.len(), TOLD);
        assert_eq!(tally.violations.told[0], "foreign: x (there)");
    }
}
