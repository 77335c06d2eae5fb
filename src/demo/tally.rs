//! Counters of the crowd. Memory is bounded, however long the demo runs.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use super::referee::{Origin, Violation};
use super::route::{Route, Slot};
use super::workload::Job;
use crate::simulator::{State, StatusRoute};

/// Violations kept in full.
const EXAMPLES: usize = 5;
/// Seconds of rates kept: as many as the widest sparkline shows.
const SECONDS: usize = 240;

/// Counts of all pollers since the start.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Status polls that got an answer, errors included.
    pub(super) answered: u64,
    /// Status polls that got no answer.
    pub(super) unanswered: u64,
    /// Answers by origin: hit, shared, fetched, stale.
    origins: [u64; 4],
    /// Polls and failed polls of each route.
    routes: BTreeMap<StatusRoute, RouteTally>,
    /// Failed polls that got an answer.
    pub(super) errors: BTreeMap<Failure, u64>,
    /// Polls with a foreign key, refused as they should be.
    pub(super) refused: u64,
    /// Answers that the referee judged.
    pub(super) checked: u64,
    pub(super) violations: Violations,
    pub(super) latencies: Latencies,
    /// Tasks created.
    pub(super) created: u64,
    /// Failed create requests.
    pub(super) not_created: u64,
    /// Tasks that succeeded and are no longer polled.
    pub(super) succeeded: u64,
    /// Tasks that failed and are no longer polled.
    pub(super) failed: u64,
    /// The task polled in each slot.
    pub(super) live: Vec<Option<LiveTask>>,
}

/// Counts of one status route.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RouteTally {
    /// Status polls that got an answer.
    pub(super) answered: u64,
    /// Status polls that got an error or no answer.
    pub(super) failed: u64,
}

/// The answer to a failed poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Failure {
    /// An HTTP status other than 200.
    Status(u16),
    /// Upstream's page, on a route whose answers are passed on as they come.
    Page,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => code.fmt(f),
            Self::Page => f.write_str("html"),
        }
    }
}

/// A task that is being polled.
#[derive(Debug, Clone)]
pub(super) struct LiveTask {
    pub(super) slot: Slot,
    pub(super) job: Job,
    pub(super) id: String,
    /// Answered status polls.
    pub(super) polls: u64,
}

/// Violations that the referee found.
#[derive(Debug, Clone, Default)]
pub(super) struct Violations {
    /// Answers with a state that the task did not have.
    pub(super) wrong: u64,
    /// Answers with an earlier state than the poller saw before.
    pub(super) backward: u64,
    /// Answers about another task or of another key.
    pub(super) foreign: u64,
    /// The first violations, in words.
    pub(super) examples: Vec<String>,
}

impl Tally {
    /// Creates a tally for `tasks` slots.
    pub(super) fn new(tasks: usize) -> Self {
        Self {
            live: vec![None; tasks],
            ..Self::default()
        }
    }

    /// Counts an answered poll.
    pub(super) fn answered(&mut self, slot: usize, route: &Route, took: Duration) {
        self.answered += 1;
        self.on(route).answered += 1;
        self.latencies.record(took);
        if let Some(Some(live)) = self.live.get_mut(slot) {
            live.polls += 1;
        }
    }

    /// Counts a poll without an answer.
    pub(super) fn unanswered(&mut self, route: &Route) {
        self.unanswered += 1;
        self.on(route).failed += 1;
    }

    /// Counts an answered poll as failed.
    pub(super) fn poll_failed(&mut self, route: &Route, failure: Failure) {
        *self.errors.entry(failure).or_default() += 1;
        self.on(route).failed += 1;
    }

    fn on(&mut self, route: &Route) -> &mut RouteTally {
        self.routes.entry(route.simulated).or_default()
    }

    /// Counts of a route; `None` before its first poll.
    pub(super) fn by_route(&self, route: &Route) -> Option<RouteTally> {
        self.routes.get(&route.simulated).copied()
    }

    /// Counts an answer's origin.
    pub(super) fn count_origin(&mut self, origin: Origin) {
        self.origins[origin as usize] += 1;
    }

    /// Number of answers with this origin.
    pub(super) fn by_origin(&self, origin: Origin) -> u64 {
        self.origins[origin as usize]
    }

    /// Counts a violation; `context` describes the answer.
    pub(super) fn violated(&mut self, violation: &Violation, context: impl FnOnce() -> String) {
        let violations = &mut self.violations;
        *match violation {
            Violation::Wrong(_) => &mut violations.wrong,
            Violation::Backward { .. } => &mut violations.backward,
            Violation::Foreign(_) => &mut violations.foreign,
        } += 1;
        if violations.examples.len() < EXAMPLES {
            violations
                .examples
                .push(format!("{violation} ({})", context()));
        }
    }

    /// Counts a new task, which is polled from now on.
    pub(super) fn started(&mut self, number: usize, slot: Slot, job: Job, id: String) {
        self.created += 1;
        self.live[number] = Some(LiveTask {
            slot,
            job,
            id,
            polls: 0,
        });
    }

    /// Counts a task that is no longer polled by its true state, so that its end, once shown, stays counted even where
    /// no poller saw it.
    pub(super) fn finished(&mut self, slot: usize, state: Option<State>) {
        self.live[slot] = None;
        match state {
            Some(State::Succeeded) => self.succeeded += 1,
            Some(State::Failed) => self.failed += 1,
            _ => {}
        }
    }
}

impl Violations {
    /// Total of all kinds.
    pub(super) fn count(&self) -> u64 {
        self.wrong + self.backward + self.foreign
    }
}

/// Latency histogram, with buckets about 6 % wide.
#[derive(Debug, Clone)]
pub(super) struct Latencies {
    buckets: Box<[u64; Self::BUCKETS]>,
    count: u64,
}

impl Latencies {
    /// Buckets per power of two, in microseconds.
    const CUTS: u64 = 16;
    /// Longer times count as this one, in microseconds: some twelve days.
    const LONGEST: u64 = 1 << 40;
    const BUCKETS: usize = 640;

    fn record(&mut self, took: Duration) {
        let micros =
            u64::try_from(took.as_micros()).map_or(Self::LONGEST, |it| it.min(Self::LONGEST));
        self.buckets[Self::bucket(micros)] += 1;
        self.count += 1;
    }

    /// The quantile `share` of all latencies; `None` before the first.
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

    /// Upper bound of a bucket, in microseconds.
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

/// Client and upstream polls per second.
#[derive(Debug, Clone, Default)]
pub(super) struct Rates {
    last: (u64, u64),
    seconds: VecDeque<(u64, u64)>,
}

impl Rates {
    /// Records the totals; called once a second.
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

    /// Rates of the last second.
    pub(super) fn now(&self) -> (u64, u64) {
        self.seconds.back().copied().unwrap_or_default()
    }

    /// Rates of all seconds, oldest first.
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
            let quantile = latencies.quantile(share).expect("latencies").as_micros();
            assert!(
                (micros..=micros + micros / 14 + 1).contains(&quantile),
                "{share}: {quantile}"
            );
        }
    }

    #[test]
    fn the_longest_and_the_shortest_latency_are_counted() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::MAX);
        latencies.record(Duration::ZERO);
        assert_eq!(latencies.quantile(0.5), Some(Duration::ZERO));
        assert!(latencies.quantile(1.0) > Some(Duration::from_secs(1_000_000)));
    }

    #[test]
    fn rates_are_differences_of_totals_and_bounded_in_number() {
        let mut rates = Rates::default();
        for second in 1..=1_000 {
            rates.note(second * 500, second * 20);
        }
        assert_eq!(rates.now(), (500, 20));
        assert_eq!(rates.seconds().len(), SECONDS);
    }

    #[test]
    fn all_violations_are_counted_and_the_first_kept() {
        let mut tally = Tally::new(1);
        for _ in 0..20 {
            tally.violated(&Violation::Foreign("x".into()), || "there".into());
        }
        assert_eq!(tally.violations.foreign, 20);
        assert_eq!(tally.violations.examples.len(), EXAMPLES);
        assert_eq!(tally.violations.examples[0], "foreign: x (there)");
    }
}
