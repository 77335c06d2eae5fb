//! Records the last hour, whether or not anyone watches, so that the page shows an incident that is over. The hour takes
//! 4 KiB; reading the circuit every second and all counts every ten takes some thousandths of a percent of a core.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::totals::Totals;
use super::upstream_state::{State, UpstreamState};
use crate::gateway::Gateway;
use crate::sync::lock;
use crate::telemetry::{CallerDemand, CallerDigest, Exposition, SeenBy, TaskDemand};

/// How often the state of upstream is looked at.
const TICK: Duration = Duration::from_secs(1);

/// How many ticks lie between two readings of all counts.
const TICKS_PER_READING: u32 = 10;

/// The time that a bucket covers.
pub(super) const BUCKET: Duration = Duration::from_secs(30);

/// How many buckets are kept: an hour's.
pub(super) const BUCKETS: usize = 120;

/// How many incidents are kept.
const INCIDENTS: usize = 12;

/// Upstream is failing at this share of failed polls, or of the failures that open the circuit.
const FAILING_SHARE: f64 = 0.1;
const FAILING_FAILURES: f64 = 0.25;

/// How long upstream counts as failing after it last looked so, until the next reading.
const FAILING_HOLD: Duration = Duration::from_secs(10);

/// Records the last hour. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gateway: Gateway,
    hour: Mutex<Hour>,
}

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

#[derive(Debug)]
struct Hour {
    buckets: VecDeque<Bucket>,
    current: Bucket,
    began: Instant,
    counts: Counts,
    recent: Recent,
    state: State,
    since: Instant,
    failing_until: Instant,
    incidents: VecDeque<Incident>,
    /// Each caller's counts when the window before this one began, and when this one began.
    windows: [(Instant, Vec<CallerDemand>); 2],
}

/// The counts that buckets are made of, since the start.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
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

/// What one caller polled lately.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallerRate {
    /// `None` for all that are not counted one by one.
    pub caller: Option<CallerDigest>,
    pub per_second: f64,
    /// Answers with 5xx, and of these the ones of the last minute.
    pub errors: u64,
    pub errors_lately: u64,
    /// Answers with 4xx.
    pub rejected: u64,
}

/// What the recorder knows.
#[derive(Debug)]
pub(super) struct Report {
    /// How upstream is doing; `since` and `reason` are always there where something is wrong.
    pub upstream: UpstreamState,
    /// The last hour; the latest bucket is not over yet.
    pub buckets: Vec<Bucket>,
    /// How much time the latest bucket covers.
    pub covered: Duration,
    /// The time of all buckets.
    pub length: Duration,
    /// The latest first.
    pub incidents: Vec<Incident>,
    pub callers: Vec<CallerRate>,
    /// Running tasks and their polls a second, those with the most first.
    pub tasks: Vec<(TaskDemand, f64)>,
}

impl Recorder {
    /// Starts recording, until the last clone is dropped.
    pub(super) fn start(gateway: Gateway) -> Self {
        let now = Instant::now();
        gateway.metrics().demand().set_pace(0.0);
        let inner = Arc::new(Inner {
            gateway,
            hour: Mutex::new(Hour::new(now)),
        });
        let recorded = Arc::downgrade(&inner);
        tokio::spawn(async move {
            let mut tick = interval(TICK);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            for number in 0_u32.. {
                tick.tick().await;
                let Some(inner) = recorded.upgrade() else {
                    return;
                };
                inner.tick(number.is_multiple_of(TICKS_PER_READING), Instant::now());
            }
        });
        Self(inner)
    }

    /// Reads all counts, and tells what is known.
    pub(super) fn report(&self, totals: &Totals) -> Report {
        let now = Instant::now();
        self.0.read(totals);
        let upstream = self.0.look(now);
        let demand = self.0.gateway.metrics().demand();
        let (callers, tasks) = (demand.callers(), demand.tasks());
        let hour = lock(&self.0.hour);
        let window = seconds(now.saturating_duration_since(hour.windows[0].0));
        let rate = |polls: u64| precise(polls) / window;
        let mut buckets: Vec<_> = hour.buckets.iter().copied().collect();
        buckets.push(hour.current);
        let closed = BUCKET.saturating_mul(u32::try_from(hour.buckets.len()).unwrap_or(u32::MAX));
        let covered = now.saturating_duration_since(hour.began);
        Report {
            upstream,
            buckets,
            covered,
            length: closed + covered,
            incidents: hour.incidents.iter().cloned().collect(),
            callers: caller_rates(&hour.windows[0].1, callers, window),
            tasks: tasks
                .into_iter()
                .map(|task| {
                    let rate = rate(task.polls);
                    (task, rate)
                })
                .collect(),
        }
    }
}

impl Inner {
    fn tick(&self, is_reading: bool, now: Instant) {
        let before = lock(&self.hour).state;
        let upstream = self.look(now);
        // The errors of an incident are counted to its end.
        if is_reading || upstream.state != before {
            let text = self.gateway.expose(Exposition::Prometheus);
            self.read(&Totals::read(&text, now));
        }
    }

    /// Looks at the state of upstream.
    fn look(&self, now: Instant) -> UpstreamState {
        let mut upstream = UpstreamState::read(&self.gateway, now);
        let reason = || upstream.reason.clone().or_else(|| self.last_failure());
        let mut hour = lock(&self.hour);
        let state = hour.judge(&upstream, now);
        let reason = match state {
            State::Unknown | State::Up => None,
            // What is not over has its reason already.
            _ => match hour.ongoing(state) {
                Some(incident) => incident.reason.clone(),
                None => reason(),
            },
        };
        let since = upstream.since.unwrap_or(now);
        hour.become_state(state, since, reason.as_ref(), now);
        upstream.state = state;
        upstream.since = Some(hour.since);
        upstream.reason = reason;
        upstream
    }

    /// Reads all counts.
    fn read(&self, totals: &Totals) {
        let demand = self.gateway.metrics().demand();
        let mut hour = lock(&self.hour);
        let is_over = hour.advance(totals.at);
        hour.count(Counts::of(totals), totals.at);
        if is_over {
            let pace = hour.buckets.back().map_or(0.0, |bucket| bucket.polls);
            demand.set_pace(f64::from(pace) / BUCKET.as_secs_f64());
            let callers = demand.callers();
            demand.rotate();
            let [before, current] = &mut hour.windows;
            *before = std::mem::replace(current, (totals.at, callers));
        } else {
            let covered = seconds(totals.at.saturating_duration_since(hour.began));
            let pace = f64::from(hour.current.polls) / covered.max(TICK.as_secs_f64());
            demand.set_pace(pace);
        }
    }

    /// What upstream failed with last.
    fn last_failure(&self) -> Option<Arc<str>> {
        let errors = self.gateway.polls().recent_errors.latest();
        let error = errors
            .into_iter()
            .find(|error| error.seen == SeenBy::Upstream)?;
        let is_status = error.code.bytes().all(|byte| byte.is_ascii_digit());
        Some(match (error.detail.as_str(), is_status) {
            ("", _) => error.code.into(),
            (detail, true) => format!("{} {detail}", error.code).into(),
            (detail, false) => detail.into(),
        })
    }
}

impl Hour {
    fn new(now: Instant) -> Self {
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
    fn advance(&mut self, now: Instant) -> bool {
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

    fn count(&mut self, counts: Counts, now: Instant) {
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
    fn judge(&mut self, upstream: &UpstreamState, now: Instant) -> State {
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
    fn ongoing(&self, state: State) -> Option<&Incident> {
        self.incidents.front().filter(|incident| {
            incident.until.is_none() && (incident.state == state || state == State::Stale)
        })
    }

    fn become_state(
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
            .is_none_or(|at| now.saturating_duration_since(at) >= TICK * TICKS_PER_READING);
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
    fn of(totals: &Totals) -> Self {
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

/// The time of day of a moment in the past, in UTC as in the log.
pub(super) fn time_of_day(moment: Instant, now: Instant) -> String {
    let ago = now.saturating_duration_since(moment);
    let time = SystemTime::now()
        .checked_sub(ago)
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let time = humantime::format_rfc3339_seconds(time).to_string();
    time.get(11..19).unwrap_or_default().to_owned()
}

fn caller_rates(before: &[CallerDemand], now: Vec<CallerDemand>, window: f64) -> Vec<CallerRate> {
    let before: HashMap<_, _> = before.iter().map(|one| (one.caller, *one)).collect();
    now.into_iter()
        .map(|one| {
            let then = before.get(&one.caller).copied();
            // Counts of a caller that comes back begin at zero.
            let then = then.filter(|then| then.polls <= one.polls);
            let since = |now: u64, then: Option<u64>| now - then.unwrap_or_default().min(now);
            CallerRate {
                caller: one.caller,
                per_second: precise(since(one.polls, then.map(|then| then.polls))) / window,
                errors: one.errors,
                errors_lately: since(one.errors, then.map(|then| then.errors)),
                rejected: one.rejected,
            }
        })
        .collect()
}

/// At least one, so that the first second does not make absurd rates.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64().max(1.0)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the counts of half a minute"
)]
fn small(count: f64) -> f32 {
    count.max(0.0) as f32
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits or so")]
fn precise(number: u64) -> f64 {
    number as f64
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
            now += TICK * TICKS_PER_READING;
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

    #[test]
    fn the_rate_of_a_caller_is_of_the_window_alone() {
        let one = |polls, errors| CallerDemand {
            caller: None,
            polls,
            errors,
            rejected: 0,
        };
        let rate = |before: &[CallerDemand], now| caller_rates(before, vec![now], 10.0)[0];
        let lately = rate(&[one(100, 5)], one(150, 7));
        assert!((lately.per_second - 5.0).abs() < 1e-9);
        assert_eq!((lately.errors, lately.errors_lately), (7, 2));
        let back = rate(&[one(100, 5)], one(20, 1));
        assert!((back.per_second - 2.0).abs() < 1e-9);
        assert_eq!(back.errors_lately, 1);
    }
}
