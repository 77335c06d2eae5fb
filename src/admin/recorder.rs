//! Records the last hour, whether or not anyone watches, so that the page shows an incident that is over. The hour takes
//! 4 KiB; reading the circuit every second and all counts every ten takes some thousandths of a percent of a core.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::hour::{BUCKET, Bucket, Counts, Hour, Incident, READING};
use super::totals::Totals;
use super::upstream_state::{State, UpstreamState};
use super::words;
use crate::gateway::Gateway;
use crate::sync::lock;
use crate::telemetry::{CallerDemand, CallerDigest, Exposition, SeenBy, TaskDemand};

/// How often the state of upstream is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Records the last hour. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gateway: Gateway,
    hour: Mutex<Hour>,
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
            let mut read_at = None;
            loop {
                let now = tick.tick().await;
                let Some(inner) = recorded.upgrade() else {
                    return;
                };
                let is_due = read_at.is_none_or(|at| now >= at + READING);
                if inner.tick(is_due, Instant::now()) {
                    read_at = Some(now);
                }
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
    /// Looks at upstream, and reads all counts where that is due or the state has changed; whether it did.
    fn tick(&self, is_due: bool, now: Instant) -> bool {
        let before = lock(&self.hour).state;
        let upstream = self.look(now);
        // The errors of an incident are counted to its end.
        let is_reading = is_due || upstream.state != before;
        if is_reading {
            let text = self.gateway.expose(Exposition::Prometheus);
            self.read(&Totals::read(&text, now));
        }
        is_reading
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

/// The time of day of a moment in the past, in UTC as in the log.
pub(super) fn time_of_day(moment: Instant, now: Instant) -> String {
    let ago = now.saturating_duration_since(moment);
    let time = SystemTime::now().checked_sub(ago);
    words::time_of_day(time.unwrap_or(SystemTime::UNIX_EPOCH))
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

#[expect(clippy::cast_precision_loss, reason = "shown with three digits or so")]
fn precise(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

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
