//! The last hour in buckets of half a minute, with the outages and pauses of upstream. Pure: time is an argument.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::totals::Totals;
use super::upstream_state::{State, UpstreamState};
use crate::telemetry::CallerDemand;

/// The time that a bucket covers.
pub(super) const BUCKET: Duration = Duration::from_secs(30);

/// How many buckets are kept: an hour's.
const BUCKETS: usize = 120;

/// How many incidents are kept.
const INCIDENTS: usize = 12;

/// Upstream is failing at this share of failed polls, or at this share within the circuit's window.
const FAILING_SHARE: f64 = 0.1;
const FAILING_FAILURES: f64 = 0.25;

/// The time between two readings of all counts.
pub(super) const READING: Duration = Duration::from_secs(10);

/// How long upstream counts as failing after it last looked so, until the next reading.
const FAILING_HOLD: Duration = READING;

/// What was counted within one [`BUCKET`].
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Bucket {
    /// Client requests.
    pub requests: f32,
    /// Of these, status polls.
    pub polls: f32,
    /// Upstream polls.
    pub upstream: f32,
    /// Errors that clients saw.
    pub errors: f32,
    /// Answers that were the last known state because upstream failed.
    pub stale: f32,
    /// The worst state of upstream.
    pub worst: State,
}

/// A time in which upstream was down or paused.
#[derive(Debug, Clone)]
pub(super) struct Incident {
    pub state: State,
    pub from: Instant,
    /// `None` while it lasts.
    pub until: Option<Instant>,
    pub reason: Option<Arc<str>>,
    /// Errors that clients saw meanwhile.
    pub errors: f64,
}

/// The last hour.
#[derive(Debug)]
pub(super) struct Hour {
    pub buckets: VecDeque<Bucket>,
    pub current: Bucket,
    pub began: Instant,
    counts: Counts,
    recent: Recent,
    pub state: State,
    pub since: Instant,
    failing_until: Instant,
    pub incidents: VecDeque<Incident>,
    /// Each caller's counts when the window before this one began, and when this one began.
    pub windows: [(Instant, Vec<CallerDemand>); 2],
}

/// The counts that buckets are made of, since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    requests: f64,
    polls: f64,
    upstream: f64,
    failed: f64,
    errors: f64,
    stale: f64,
}

/// The upstream polls of the last two readings, those before the end of an outage left out.
#[derive(Debug, Clone, Copy, Default)]
struct Recent {
    polls: [f64; 2],
    failed: [f64; 2],
    read_at: Option<Instant>,
    is_outdated: bool,
}

impl Hour {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            buckets: VecDeque::with_capacity(BUCKETS),
            current: Bucket::default(),
            began: now,
            counts: Counts::default(),
            recent: Recent::default(),
            state: State::Unknown,
            since: now,
            failing_until: now,
            incidents: VecDeque::new(),
            windows: [(now, Vec::new()), (now, Vec::new())],
        }
    }

    /// Closes buckets whose time is over; whether there were any.
    pub(super) fn advance(&mut self, now: Instant) -> bool {
        let mut is_over = false;
        while now.saturating_duration_since(self.began) >= BUCKET {
            is_over = true;
            // After a suspension, hours may have passed.
            let behind = now.saturating_duration_since(self.began).as_secs() / BUCKET.as_secs();
            if behind > BUCKETS as u64 {
                self.buckets.clear();
                self.began = now;
            } else {
                self.began += BUCKET;
            }
            let next = Bucket {
                worst: self.state,
                ..Bucket::default()
            };
            self.buckets
                .push_back(std::mem::replace(&mut self.current, next));
            while self.buckets.len() >= BUCKETS {
                self.buckets.pop_front();
            }
        }
        let kept = Duration::from_hours(1);
        self.incidents.retain(|incident| {
            incident
                .until
                .is_none_or(|until| now.saturating_duration_since(until) < kept)
        });
        is_over
    }

    pub(super) fn count(&mut self, counts: Counts, now: Instant) {
        let before = std::mem::replace(&mut self.counts, counts);
        let bucket = &mut self.current;
        bucket.requests += small(counts.requests - before.requests);
        bucket.polls += small(counts.polls - before.polls);
        bucket.upstream += small(counts.upstream - before.upstream);
        bucket.errors += small(counts.errors - before.errors);
        bucket.stale += small(counts.stale - before.stale);
        let (polls, failed) = (
            counts.upstream - before.upstream,
            counts.failed - before.failed,
        );
        self.recent.add(polls, failed, now);
        let errors = counts.errors - before.errors;
        if let Some(incident) = self.incidents.front_mut()
            && incident.until.is_none()
        {
            incident.errors += errors;
        }
    }

    /// The state of upstream, from that of its circuit and from how many of its polls fail.
    pub(super) fn judge(&mut self, upstream: &UpstreamState, now: Instant) -> State {
        match upstream.state {
            State::Up if self.counts.upstream <= 0.0 => return State::Unknown,
            State::Up => {}
            state => return state,
        }
        if upstream.failures >= FAILING_FAILURES || self.recent.is_failing() {
            self.failing_until = now + FAILING_HOLD;
        }
        let was_out = matches!(self.state, State::Down | State::Paused | State::Stale);
        if was_out {
            self.failing_until = now;
        }
        if now < self.failing_until {
            State::Failing
        } else {
            State::Up
        }
    }

    /// The incident that this state continues.
    pub(super) fn ongoing(&self, state: State) -> Option<&Incident> {
        self.incidents.front().filter(|incident| {
            incident.until.is_none() && (incident.state == state || state == State::Stale)
        })
    }

    pub(super) fn become_state(
        &mut self,
        state: State,
        since: Instant,
        reason: Option<&Arc<str>>,
        now: Instant,
    ) {
        self.current.worst = self.current.worst.max(state);
        let before = std::mem::replace(&mut self.state, state);
        if before == state {
            return;
        }
        // An outage that nobody asked about lately is not over.
        let is_continued = self.ongoing(state).is_some();
        if is_continued {
            if let Some(incident) = self.incidents.front() {
                self.since = incident.from;
            }
            return;
        }
        if let Some(incident) = self.incidents.front_mut() {
            incident.until.get_or_insert(now);
            self.recent.is_outdated = true;
        }
        self.since = since;
        if matches!(state, State::Down | State::Paused) {
            self.incidents.push_front(Incident {
                state,
                from: since,
                until: None,
                reason: reason.cloned(),
                errors: 0.0,
            });
            self.incidents.truncate(INCIDENTS);
        }
    }
}

impl Recent {
    fn add(&mut self, polls: f64, failed: f64, now: Instant) {
        let is_due = self
            .read_at
            .is_none_or(|at| now.saturating_duration_since(at) >= READING);
        if std::mem::take(&mut self.is_outdated) {
            *self = Self {
                read_at: Some(now),
                ..Self::default()
            };
            return;
        }
        if is_due {
            self.read_at = Some(now);
            self.polls = [self.polls[1], 0.0];
            self.failed = [self.failed[1], 0.0];
        }
        self.polls[1] += polls;
        self.failed[1] += failed;
    }

    fn is_failing(&self) -> bool {
        let [polls, failed]: [f64; 2] = [self.polls, self.failed].map(|two| two.iter().sum());
        !self.is_outdated && failed >= 2.0 && failed / polls >= FAILING_SHARE
    }
}

impl Counts {
    pub(super) fn of(totals: &Totals) -> Self {
        Self {
            requests: totals.requests.iter().sum(),
            polls: totals.client_polls,
            upstream: totals.upstream_polls,
            failed: totals.upstream_failed,
            errors: totals.errors,
            stale: totals.stale(),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the counts of half a minute"
)]
fn small(count: f64) -> f32 {
    count.max(0.0) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn upstream(state: State, failures: f64) -> UpstreamState {
        UpstreamState {
            state,
            since: None,
            reason: None,
            probe_in: Duration::ZERO,
            failures,
        }
    }

    /// Lets upstream be in this state for so many seconds, with an error a second unless it is up.
    fn pass(hour: &mut Hour, now: &mut Instant, circuit: State, seconds: u32) {
        for _ in 0..seconds {
            *now += SECOND;
            let state = hour.judge(&upstream(circuit, 0.0), *now);
            let reason = Arc::from("refused");
            hour.become_state(state, *now, Some(&reason), *now);
            hour.advance(*now);
            let mut counts = hour.counts;
            counts.polls += 10.0;
            counts.upstream += 1.0;
            counts.errors += f64::from(u8::from(circuit != State::Up));
            hour.count(counts, *now);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_there_for_an_hour_after_its_end() {
        let mut now = Instant::now();
        let mut hour = Hour::new(now);
        pass(&mut hour, &mut now, State::Up, 95);
        pass(&mut hour, &mut now, State::Down, 600);
        let [incident] = hour.incidents.make_contiguous() else {
            panic!("{:?}", hour.incidents)
        };
        assert_eq!((incident.state, incident.until), (State::Down, None));
        pass(&mut hour, &mut now, State::Stale, 60);
        pass(&mut hour, &mut now, State::Up, 600);
        let [incident] = hour.incidents.make_contiguous() else {
            panic!("{:?}", hour.incidents)
        };
        let took = incident.until.map(|until| until - incident.from);
        assert_eq!(took, Some(660 * SECOND), "also while nobody asked");
        assert_eq!(incident.reason.as_deref(), Some("refused"));
        assert!((659.0..=660.0).contains(&incident.errors), "{incident:?}");
        let down = |hour: &Hour| {
            let buckets = hour.buckets.iter();
            buckets
                .filter(|bucket| bucket.worst >= State::Stale)
                .count()
        };
        assert_eq!(down(&hour), 23, "of half a minute each");
        pass(&mut hour, &mut now, State::Up, 3000);
        assert_eq!((hour.incidents.len(), hour.buckets.len()), (1, BUCKETS - 1));
        pass(&mut hour, &mut now, State::Up, 700);
        assert_eq!((hour.incidents.len(), down(&hour)), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_count_as_failing_where_they_are_many() {
        let mut now = Instant::now();
        let mut hour = Hour::new(now);
        assert_eq!(hour.judge(&upstream(State::Up, 0.0), now), State::Unknown);
        hour.counts.upstream = 1.0;
        assert_eq!(hour.judge(&upstream(State::Up, 0.0), now), State::Up);
        hour.recent.add(100.0, 9.0, now);
        assert_eq!(hour.judge(&upstream(State::Up, 0.02), now), State::Up);
        hour.recent.add(0.0, 1.0, now);
        assert_eq!(
            hour.judge(&upstream(State::Up, 0.0), now),
            State::Failing,
            "an answer in between is not the end of it"
        );
        for _ in 0..2 {
            now += READING;
            hour.recent.add(100.0, 0.0, now);
        }
        assert_eq!(hour.judge(&upstream(State::Up, 0.0), now), State::Up);
        assert_eq!(hour.judge(&upstream(State::Up, 0.25), now), State::Failing);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_is_back_is_up_at_once() {
        let mut now = Instant::now();
        let mut hour = Hour::new(now);
        pass(&mut hour, &mut now, State::Up, 5);
        hour.recent.add(10.0, 10.0, now);
        pass(&mut hour, &mut now, State::Down, 5);
        hour.recent.add(10.0, 10.0, now);
        pass(&mut hour, &mut now, State::Up, 1);
        assert_eq!(hour.state, State::Up);
        pass(&mut hour, &mut now, State::Up, 1);
        assert_eq!(hour.state, State::Up, "what failed before does not count");
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspended_process_goes_on_with_an_empty_hour() {
        let mut now = Instant::now();
        let mut hour = Hour::new(now);
        pass(&mut hour, &mut now, State::Up, 300);
        now += Duration::from_hours(1000);
        pass(&mut hour, &mut now, State::Up, 1);
        assert!(hour.buckets.len() <= 1 && hour.began <= now);
    }

    #[tokio::test(start_paused = true)]
    async fn many_short_outages_take_no_more_memory_than_a_few() {
        let mut now = Instant::now();
        let mut hour = Hour::new(now);
        for _ in 0..100 {
            pass(&mut hour, &mut now, State::Down, 2);
            pass(&mut hour, &mut now, State::Up, 2);
        }
        assert_eq!(hour.incidents.len(), INCIDENTS);
        assert!(BUCKETS * size_of::<Bucket>() <= 4 * 1024);
    }
}
