//! What is known of one connection: what is under way on it, and since when it has been waiting for its client.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::guard::Guard;
use crate::error::Error;
use crate::request::inbound::SendInterim;
use crate::sync::lock;

/// Bytes of interim answers that may wait for a client, before more of them are dropped.
const MAX_HINTS: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    /// Whether there are hints: looked at whenever something is written.
    has_hints: AtomicBool,
    /// How many requests hyper was given, while neither a byte of them nor one of an answer is on its way;
    /// [`Activity::MOVING`] else.
    settled: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// Requests under way.
    under_way: usize,
    /// Whether the request under way has a body that was not read to its end.
    unread: bool,
    /// Requests there have been.
    total: u64,
    /// Answers there have been.
    answers: u64,
    /// When there last was a request.
    since: Instant,
    /// Since when the client has taken nothing of what there is for it.
    not_taken_since: Option<Instant>,
    /// Parts of answers that the client was offered and has not made room for.
    offered: usize,
    /// When the client last made room for such a part.
    taken: Instant,
    /// The request that stands for one that was not passed on, by its number, and why.
    refused: Option<(u64, Error)>,
    /// Why the body that is being read cannot be read to its end.
    broken: Option<Error>,
    /// Whether the connection has changed to another protocol.
    switched: bool,
    /// Interim answers to the request under way, as they are written.
    hints: BytesMut,
    /// Who reads on when a request to switch protocols is answered.
    reader: Option<Waker>,
}

/// What a connection's time says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// To look again then.
    Later(Instant),
    /// It has stood idle for long enough.
    Idle,
    /// Its client has taken nothing for long enough.
    Stalled,
}

impl Activity {
    /// No number of requests.
    const MOVING: u64 = u64::MAX;

    pub(super) fn new() -> Arc<Self> {
        let now = Instant::now();
        let state = State {
            under_way: 0,
            unread: false,
            total: 0,
            answers: 0,
            since: now,
            not_taken_since: None,
            offered: 0,
            taken: now,
            refused: None,
            broken: None,
            switched: false,
            hints: BytesMut::new(),
            reader: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            has_hints: AtomicBool::new(false),
            settled: AtomicU64::new(0),
        })
    }

    /// Interim answers that may go out now, when all that was written before has. None once the answer has begun: they
    /// would come too late.
    pub(super) fn hints(&self) -> BytesMut {
        if !self.has_hints.swap(false, Ordering::Acquire) {
            return BytesMut::new();
        }
        self.with(|state| {
            let hints = std::mem::take(&mut state.hints);
            if state.answers < state.total {
                hints
            } else {
                BytesMut::new()
            }
        })
    }

    /// A request is under way until the guard is dropped; with the error that it deserves, where it only stands for
    /// one that was refused.
    pub(super) fn request(self: &Arc<Self>) -> (Busy, Option<Error>) {
        let refused = self.with(|state| {
            state.under_way += 1;
            state.unread = false;
            state.total += 1;
            // What came too late for the one before is not for this one.
            state.hints.clear();
            let total = state.total;
            let refused = state.refused.as_ref();
            refused
                .filter(|(number, _)| total >= *number)
                .map(|(_, why)| why.clone())
        });
        (Busy(Arc::clone(self)), refused)
    }

    /// The body of the request under way is to be read, or was read to its end.
    pub(super) fn unread(&self, yes: bool) {
        self.with(|state| state.unread = yes);
    }

    /// What is known of the bytes: that none is on its way and so many requests came, or that some are.
    pub(super) fn settled(&self, requests: Option<u64>) {
        let requests = requests.unwrap_or(Self::MOVING);
        self.settled.store(requests, Ordering::Relaxed);
    }

    /// Whether hyper has nothing of an HTTP/1 connection, looked at from the task that runs it when it has done all it
    /// can: all that came was answered, and the answers have gone out.
    pub(super) fn is_at_rest(&self) -> bool {
        let settled = self.settled.load(Ordering::Relaxed);
        settled != Self::MOVING
            && self.with(|state| {
                state.under_way == 0
                    && !state.unread
                    && state.total == settled
                    && state.answers == settled
            })
    }

    /// Whether there has been a request, and the last one ended less than so long ago.
    pub(super) fn rested_less_than(&self, quiet: Duration) -> bool {
        self.with(|state| state.total > 0 && state.since.elapsed() < quiet)
    }

    /// A request was answered; `switched` if the connection changes to another protocol with it.
    pub(super) fn answered(&self, switched: bool) {
        let reader = self.with(|state| {
            state.answers += 1;
            state.switched |= switched;
            state.reader.take()
        });
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// From the request of this number on, none is what the client sent.
    pub(super) fn refuse(&self, number: u64, why: Error) {
        self.with(|state| state.refused = Some((number, why)));
    }

    /// Whether the answer that is under way is the refusal.
    pub(super) fn is_refusing(&self) -> bool {
        self.with(|state| {
            let refused = state.refused.as_ref();
            refused.is_some_and(|(number, _)| state.total >= *number)
        })
    }

    /// The body that is being read cannot be read to its end.
    pub(super) fn break_body(&self, why: Error) {
        self.with(|state| state.broken = Some(why));
    }

    /// Why the body that was being read could not be read to its end, where that was its client's doing.
    pub(super) fn broken(&self) -> Option<Error> {
        self.with(|state| state.broken.clone())
    }

    /// Lets the guard know how its request to switch protocols was answered; `false` if it was not yet, and the
    /// reader is woken when it is.
    pub(super) fn settle_switch(&self, guard: &mut Guard, reader: &Waker) -> bool {
        self.with(|state| {
            let settled = state.answers >= guard.heads();
            if settled {
                guard.switched(state.switched);
            } else {
                state.reader = Some(reader.clone());
            }
            settled
        })
    }

    /// Since when the connection has been idle; `None` while it is not.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.with(|state| (state.under_way == 0).then_some(state.since))
    }

    /// Whether the client takes what is written to it.
    pub(super) fn takes(&self, yes: bool) {
        self.with(|state| state.not_taken_since = (!yes).then(Instant::now));
    }

    /// A part of an answer is there, and goes out as soon as the client makes room for it.
    pub(super) fn offer(&self) {
        self.with(|state| {
            if state.offered == 0 {
                state.taken = Instant::now();
            }
            state.offered += 1;
        });
    }

    /// It has gone out, or never will.
    pub(super) fn taken(&self) {
        self.with(|state| {
            state.offered = state.offered.saturating_sub(1);
            state.taken = Instant::now();
        });
    }

    /// What is to be done about a connection whose client may leave what there is for it untouched so long, and stand
    /// idle so long (counted anew from the stop, if there was one).
    pub(super) fn due(&self, patience: Duration, idle: Duration, stopped: Option<Instant>) -> Due {
        let now = Instant::now();
        self.with(|state| {
            let not_taken = [
                state.not_taken_since,
                (state.offered > 0).then_some(state.taken),
            ];
            let stalls = not_taken.into_iter().flatten().min();
            let since = if state.under_way == 0 {
                state.since
            } else {
                now
            };
            let idle = stopped.map_or(since, |stopped| stopped.max(since)) + idle;
            if stalls.is_some_and(|since| since + patience <= now) {
                Due::Stalled
            } else if idle <= now {
                Due::Idle
            } else {
                Due::Later(stalls.map_or(idle, |since| idle.min(since + patience)))
            }
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut lock(&self.state))
    }
}

/// For HTTP/1.1, where one request at a time is under way.
impl SendInterim for Activity {
    fn send(&self, status: StatusCode, headers: &HeaderMap) {
        self.with(|state| {
            let hints = &mut state.hints;
            if hints.len() > MAX_HINTS {
                // None of them has to arrive, and this client takes nothing.
                return;
            }
            let reason = status.canonical_reason().unwrap_or_default();
            let head = format!("HTTP/1.1 {} {reason}\r\n", status.as_str());
            hints.extend_from_slice(head.as_bytes());
            for (name, value) in headers {
                hints.extend_from_slice(name.as_str().as_bytes());
                hints.extend_from_slice(b": ");
                hints.extend_from_slice(value.as_bytes());
                hints.extend_from_slice(b"\r\n");
            }
            hints.extend_from_slice(b"\r\n");
        });
        self.has_hints.store(true, Ordering::Release);
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.with(|state| {
            state.under_way -= 1;
            state.since = Instant::now();
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn hints_are_bounded_and_for_the_request_under_way_alone() {
        let activity = Activity::new();
        let hint = |times: usize| {
            for _ in 0..times {
                activity.send(StatusCode::EARLY_HINTS, &HeaderMap::new());
            }
        };
        let _first = activity.request();
        hint(1);
        assert_eq!(&activity.hints()[..], b"HTTP/1.1 103 Early Hints\r\n\r\n");
        hint(100_000);
        assert!(activity.hints().len() < 2 * MAX_HINTS);
        hint(1);
        activity.answered(false);
        assert!(activity.hints().is_empty(), "too late");
        hint(1);
        let _second = activity.request();
        assert!(activity.hints().is_empty(), "of the one before");
        hint(1);
        assert!(!activity.hints().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_client_that_takes_nothing_stalls_its_connection() {
        let activity = Activity::new();
        let (_busy, refused) = activity.request();
        assert_eq!(refused, None);
        advance(3 * PATIENCE).await;
        assert!(
            matches!(activity.due(PATIENCE, PATIENCE, None), Due::Later(_)),
            "held"
        );
        activity.takes(false);
        advance(PATIENCE / 2).await;
        let due = Instant::now() + PATIENCE / 2;
        assert_eq!(activity.due(PATIENCE, PATIENCE, None), Due::Later(due));
        advance(PATIENCE / 2).await;
        assert_eq!(activity.due(PATIENCE, PATIENCE, None), Due::Stalled);
        activity.takes(true);
        assert!(
            matches!(activity.due(PATIENCE, PATIENCE, None), Due::Later(_)),
            "took some"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_answer_that_moves_keeps_the_connection_of_others() {
        let activity = Activity::new();
        let _busy = activity.request();
        activity.offer();
        advance(PATIENCE / 2).await;
        activity.offer();
        activity.taken();
        advance(PATIENCE / 2).await;
        assert!(matches!(
            activity.due(PATIENCE, PATIENCE, None),
            Due::Later(_)
        ));
        advance(PATIENCE / 2).await;
        assert_eq!(activity.due(PATIENCE, PATIENCE, None), Due::Stalled);
        activity.taken();
        assert!(matches!(
            activity.due(PATIENCE, PATIENCE, None),
            Due::Later(_)
        ));
    }
}
