//! How long an answer is kept, as a pure function of the answer, the time and the settings.

use std::time::Duration;

use crate::answer::reply::Reply;
use crate::config;
use crate::task::State;

/// How long an answer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Served without asking again.
    pub fresh: Duration,
    /// After that, served only while upstream is failing.
    pub stale_if_error: Duration,
    /// What decided it.
    pub rule: Rule,
}

impl Lifetime {
    /// Whether it ends as it begins.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.fresh.is_zero() && self.stale_if_error.is_zero()
    }
}

/// What decides how long an answer is served without asking again; for people who ask why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// There is no such task: `cache.missing_ttl`.
    Missing,
    /// The task failed: `cache.failed_ttl`.
    Failed,
    /// The task succeeded: `cache.succeeded_ttl`.
    Succeeded,
    /// The task succeeded, and its URL's own signature runs out earlier: that, less `cache.url_margin`.
    UrlExpiry,
    /// The task succeeded, and its URL may follow: `cache.in_flight_ttl`.
    UrlAwaited,
    /// The task is under way: `cache.in_flight_ttl`.
    InFlight,
    /// The task is under way, and those of its model seldom end at its age: up to `cache.in_flight_max`.
    Cadence,
}

/// How long `reply` is kept when it arrives at `now` (Unix seconds); `None` for not at all. `in_flight` is for how long
/// the state of a running task is served without asking again.
///
/// A failed task is kept for less than a finished one, since live channels can flip it upstream; a success without
/// a URL only like a task in flight, since the URL may follow; "no such task" only briefly, since the row is written
/// after the submit was answered. No other error is ever kept.
#[must_use]
pub fn lifetime(
    reply: &Reply,
    now: i64,
    cache: &config::Cache,
    in_flight: Duration,
) -> Option<Lifetime> {
    let Some(snapshot) = reply.snapshot() else {
        return reply.is_task_not_exist().then_some(Lifetime {
            fresh: cache.missing_ttl,
            stale_if_error: Duration::ZERO,
            rule: Rule::Missing,
        });
    };
    let kept = |fresh, rule| Lifetime {
        fresh,
        stale_if_error: cache.stale_if_error,
        rule,
    };
    Some(match snapshot.state() {
        State::Failed => kept(cache.failed_ttl, Rule::Failed),
        State::Succeeded if snapshot.has_url() => {
            let kept = kept(cache.succeeded_ttl, Rule::Succeeded);
            match snapshot.url_expires_at() {
                Some(expires_at) => {
                    kept.within(until(expires_at, now).saturating_sub(cache.url_margin))
                }
                None => kept,
            }
        }
        State::Succeeded => kept(cache.in_flight_ttl, Rule::UrlAwaited),
        State::Queued | State::Processing if in_flight > cache.in_flight_ttl => {
            kept(in_flight, Rule::Cadence)
        }
        State::Queued | State::Processing => kept(in_flight, Rule::InFlight),
    })
}

impl Lifetime {
    /// Cut off where the URL's signature ends it.
    fn within(self, limit: Duration) -> Self {
        let fresh = self.fresh.min(limit);
        let is_cut = fresh < self.fresh;
        Self {
            fresh,
            stale_if_error: self.stale_if_error.min(limit.saturating_sub(fresh)),
            rule: if is_cut { Rule::UrlExpiry } else { self.rule },
        }
    }
}

fn until(time: i64, now: i64) -> Duration {
    Duration::from_secs(u64::try_from(time.saturating_sub(now)).unwrap_or(0))
}
