//! How long an answer is kept, as a pure function of the answer, the time and the settings.

use std::time::Duration;

use crate::config;
use crate::reply::Reply;
use crate::task::State;

/// How long an answer is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Served without asking again.
    pub fresh: Duration,
    /// After that, served only while upstream is failing.
    pub stand_in: Duration,
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
            stand_in: Duration::ZERO,
        });
    };
    let kept = |fresh| Lifetime {
        fresh,
        stand_in: cache.stale_if_error,
    };
    Some(match snapshot.state() {
        State::Failed => kept(cache.failed_ttl),
        State::Succeeded if snapshot.has_url() => {
            let kept = kept(cache.succeeded_ttl);
            match snapshot.url_expires_at() {
                Some(expires_at) => {
                    kept.within(until(expires_at, now).saturating_sub(cache.url_margin))
                }
                None => kept,
            }
        }
        State::Succeeded => kept(cache.in_flight_ttl),
        State::Queued | State::Processing => kept(in_flight),
    })
}

impl Lifetime {
    /// Cut off at the end of `limit`.
    fn within(self, limit: Duration) -> Self {
        let fresh = self.fresh.min(limit);
        Self {
            fresh,
            stand_in: self.stand_in.min(limit.saturating_sub(fresh)),
        }
    }
}

fn until(time: i64, now: i64) -> Duration {
    Duration::from_secs(u64::try_from(time.saturating_sub(now)).unwrap_or(0))
}
