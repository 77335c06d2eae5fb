//! What the parts of one connection tell each other while it lives. Each part of the state has its own type, named for
//! the question that is asked of it:
//!
//! | state | question | answered for | told by |
//! |---|---|---|---|
//! | [`Requests`] | is a request in progress, and does hyper hold any byte? | `on_demand`, `connection`, `io` | `service`, `bodies`, `io` |
//! | [`Stall`] | has the client stopped reading? | `connection` | `io`, `bodies` |
//! | [`Refusal`] | which requests are refused, and why? | `service`, `bodies`, `io` | `io` |
//! | [`ProtocolSwitch`] | did the connection leave HTTP/1.1? | `io` | `service` |
//! | [`InterimQueue`] | which 1xx responses are due? | `io` | the service, through [`SendInterim`] |

mod interim;
mod refusal;
mod requests;
mod stall;
mod switch;

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use self::interim::InterimQueue;
pub(super) use self::refusal::Refusal;
pub(super) use self::requests::Requests;
pub(super) use self::stall::Stall;
use self::switch::ProtocolSwitch;
use super::guard::Switch;
use crate::error::Error;
use crate::request::inbound::SendInterim;

/// See the module.
#[derive(Debug)]
pub(super) struct Activity {
    pub(super) requests: Requests,
    pub(super) stall: Stall,
    pub(super) refusal: Refusal,
    switch: ProtocolSwitch,
    interim: InterimQueue,
}

/// What a connection's timeouts say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing before this instant.
    Later(Instant),
    /// The connection has been idle for too long.
    Idle,
    /// The client has read nothing for too long.
    Stalled,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            requests: Requests::new(now),
            stall: Stall::new(now),
            refusal: Refusal::new(),
            switch: ProtocolSwitch::new(),
            interim: InterimQueue::new(),
        })
    }

    /// Counts a request as in progress until the guard is dropped. With the error it gets where it only stands in for a
    /// request that was refused.
    pub(super) fn begin_request(self: &Arc<Self>) -> (InProgress, Option<Error>) {
        let number = self.requests.begin();
        // An interim response that is still queued came too late for the request before, and is not for this one.
        self.interim.clear();
        (InProgress(Arc::clone(self)), self.refusal.of(number))
    }

    /// Notes that a request was answered.
    pub(super) fn answered(&self) {
        self.requests.answer();
    }

    /// Notes that a request was answered with a switch to another protocol.
    pub(super) fn answered_with_switch(&self) {
        self.switch.accept();
        self.requests.answer();
    }

    /// How request number `number` to switch protocols was answered, as soon as it is.
    pub(super) fn poll_switch(&self, number: u64, cx: &Context<'_>) -> Poll<Switch> {
        ready!(self.requests.poll_answered(number, cx));
        Poll::Ready(self.switch.outcome())
    }

    /// Whether the answer in progress is a refusal.
    pub(super) fn is_refusing(&self) -> bool {
        self.refusal.of(self.requests.begun()).is_some()
    }

    /// Takes the interim responses that may be written once everything before them is. None of them is left when the
    /// final response has begun.
    pub(super) fn take_interim(&self) -> BytesMut {
        let queued = self.interim.take();
        if queued.is_empty() || self.requests.awaits_answer() {
            queued
        } else {
            BytesMut::new()
        }
    }

    /// Takes those that are left when the first bytes of the final response are written: of the request in progress, since its
    /// beginning drops all others, and none comes after its final response.
    pub(super) fn take_last_interim(&self) -> BytesMut {
        self.interim.take()
    }

    /// What has to be done about the connection now. The client may read nothing for `patience`, and be idle for
    /// `idle_timeout`, which starts anew at `stopped_at`.
    pub(super) fn due(
        &self,
        patience: Duration,
        idle_timeout: Duration,
        stopped_at: Option<Instant>,
    ) -> Due {
        let now = Instant::now();
        let stalled_at = self.stall.since().map(|since| since + patience);
        let idle_since = self.requests.idle_since().unwrap_or(now);
        let idle_at = stopped_at.map_or(idle_since, |at| at.max(idle_since)) + idle_timeout;
        if stalled_at.is_some_and(|at| at <= now) {
            Due::Stalled
        } else if idle_at <= now {
            Due::Idle
        } else {
            Due::Later(stalled_at.map_or(idle_at, |at| at.min(idle_at)))
        }
    }
}

/// For HTTP/1.1, where one request is in progress at a time.
impl SendInterim for Activity {
    fn send(&self, status: StatusCode, headers: &HeaderMap) {
        self.interim.push(status, headers);
    }
}

/// A request in progress.
#[derive(Debug)]
pub(super) struct InProgress(Arc<Activity>);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.requests.end();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn interim_responses_are_for_the_request_in_progress_alone() {
        let activity = Activity::new();
        let hint = || activity.send(StatusCode::EARLY_HINTS, &HeaderMap::new());
        let _first = activity.begin_request();
        hint();
        assert!(!activity.take_interim().is_empty());
        hint();
        activity.answered();
        assert!(activity.take_interim().is_empty(), "too late");
        hint();
        let _second = activity.begin_request();
        assert!(activity.take_interim().is_empty(), "of the one before");
        hint();
        assert!(!activity.take_interim().is_empty());
    }

    #[test]
    fn every_request_from_the_refused_one_on_gets_the_error() {
        let activity = Activity::new();
        activity.refusal.refuse(2, Error::UriTooLong);
        let (_first, why) = activity.begin_request();
        assert_eq!(why, None);
        assert!(!activity.is_refusing());
        let (_second, why) = activity.begin_request();
        assert_eq!(why, Some(Error::UriTooLong));
        assert!(activity.is_refusing());
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_client_that_reads_nothing_stalls_its_connection() {
        let activity = Activity::new();
        let _request = activity.begin_request();
        let due = || activity.due(PATIENCE, PATIENCE, None);
        advance(3 * PATIENCE).await;
        assert!(matches!(due(), Due::Later(_)), "held");
        activity.stall.blocked();
        advance(PATIENCE / 2).await;
        assert_eq!(due(), Due::Later(Instant::now() + PATIENCE / 2));
        advance(PATIENCE / 2).await;
        assert_eq!(due(), Due::Stalled);
        activity.stall.unblocked();
        assert!(matches!(due(), Due::Later(_)), "read some");
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_starts_with_the_last_answer_and_anew_with_a_stop() {
        let activity = Activity::new();
        advance(PATIENCE / 2).await;
        drop(activity.begin_request());
        let ended = Instant::now();
        advance(PATIENCE / 2).await;
        let due = |stopped_at| activity.due(PATIENCE, PATIENCE, stopped_at);
        assert_eq!(due(None), Due::Later(ended + PATIENCE));
        let now = Instant::now();
        assert_eq!(due(Some(now)), Due::Later(now + PATIENCE));
        advance(PATIENCE / 2).await;
        assert_eq!(due(None), Due::Idle);
    }
}
