//! How many requests a connection has had, and whether it is at rest between two of them.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::sync::lock;

/// See the module.
#[derive(Debug)]
pub(in crate::server) struct Requests {
    counts: Mutex<Counts>,
    /// The number of requests that hyper was given, while no byte of them or of an answer is on its way;
    /// [`Requests::MOVING`] otherwise.
    settled: AtomicU64,
}

#[derive(Debug)]
struct Counts {
    in_progress: usize,
    /// Whether the request in progress has a body that was not read to its end.
    unread_body: bool,
    begun: u64,
    answered: u64,
    /// When the last request ended, or the connection began.
    ended_at: Instant,
    /// The reader that waits for an answer.
    reader: Option<Waker>,
}

impl Requests {
    /// Not a number of requests.
    const MOVING: u64 = u64::MAX;

    pub(super) fn new(now: Instant) -> Self {
        let counts = Counts {
            in_progress: 0,
            unread_body: false,
            begun: 0,
            answered: 0,
            ended_at: now,
            reader: None,
        };
        Self {
            counts: Mutex::new(counts),
            settled: AtomicU64::new(0),
        }
    }

    /// Counts a request, and returns its number; the first is 1.
    pub(super) fn begin(&self) -> u64 {
        self.with(|counts| {
            counts.in_progress += 1;
            counts.unread_body = false;
            counts.begun += 1;
            counts.begun
        })
    }

    pub(super) fn answer(&self) {
        let reader = self.with(|counts| {
            counts.answered += 1;
            counts.reader.take()
        });
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    pub(super) fn end(&self) {
        self.with(|counts| {
            counts.in_progress -= 1;
            counts.ended_at = Instant::now();
        });
    }

    /// Notes that the request in progress has a body to read.
    pub(in crate::server) fn body_begun(&self) {
        self.with(|counts| counts.unread_body = true);
    }

    /// Notes that the body of the request in progress was read to its end.
    pub(in crate::server) fn body_ended(&self) {
        self.with(|counts| counts.unread_body = false);
    }

    /// Notes that bytes of requests or answers are on their way.
    pub(in crate::server) fn bytes_moving(&self) {
        self.settled.store(Self::MOVING, Ordering::Relaxed);
    }

    /// Notes that no byte is on its way after this number of requests.
    pub(in crate::server) fn bytes_settled(&self, requests: u64) {
        self.settled.store(requests, Ordering::Relaxed);
    }

    /// Whether hyper holds nothing of an HTTP/1 connection: every request is answered, and every answer written. To be
    /// asked by the task that runs hyper, after it has done all it can.
    pub(in crate::server) fn are_settled(&self) -> bool {
        let settled = self.settled.load(Ordering::Relaxed);
        settled != Self::MOVING
            && self.with(|counts| {
                counts.in_progress == 0
                    && !counts.unread_body
                    && counts.begun == settled
                    && counts.answered == settled
            })
    }

    /// Since when the connection has been idle; `None` while a request is in progress.
    pub(in crate::server) fn idle_since(&self) -> Option<Instant> {
        self.with(|counts| (counts.in_progress == 0).then_some(counts.ended_at))
    }

    /// Whether the last request ended less than `window` ago.
    pub(in crate::server) fn ended_within(&self, window: Duration) -> bool {
        self.with(|counts| counts.begun > 0 && counts.ended_at.elapsed() < window)
    }

    pub(super) fn begun(&self) -> u64 {
        self.with(|counts| counts.begun)
    }

    /// Whether a request has no answer yet.
    pub(super) fn awaits_answer(&self) -> bool {
        self.with(|counts| counts.answered < counts.begun)
    }

    /// Ready once request number `number` is answered; otherwise the reader is woken by the next answer.
    pub(super) fn poll_answered(&self, number: u64, cx: &Context<'_>) -> Poll<()> {
        self.with(|counts| {
            if counts.answered >= number {
                return Poll::Ready(());
            }
            counts.reader = Some(cx.waker().clone());
            Poll::Pending
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        change(&mut lock(&self.counts))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_connection_is_settled_when_every_request_is_answered_and_every_byte_written() {
        let requests = Requests::new(Instant::now());
        assert!(requests.are_settled(), "before the first request");
        requests.bytes_moving();
        assert!(!requests.are_settled(), "bytes move");
        requests.begin();
        requests.body_begun();
        requests.bytes_settled(1);
        assert!(!requests.are_settled(), "no answer");
        requests.answer();
        requests.end();
        assert!(!requests.are_settled(), "a body is unread");
        requests.body_ended();
        assert!(requests.are_settled());
        requests.bytes_settled(2);
        assert!(!requests.are_settled(), "hyper has another head");
    }

    #[test]
    fn a_connection_is_idle_when_no_request_is_in_progress() {
        let requests = Requests::new(Instant::now());
        assert!(requests.idle_since().is_some());
        assert!(!requests.ended_within(Duration::MAX), "there was none");
        requests.begin();
        requests.begin();
        requests.end();
        assert_eq!(requests.idle_since(), None);
        requests.end();
        assert!(requests.idle_since().is_some());
        assert!(requests.ended_within(Duration::MAX));
    }

    #[tokio::test]
    async fn a_reader_that_waits_for_an_answer_is_woken_by_it() {
        let requests = Requests::new(Instant::now());
        requests.begin();
        let mut answered = Box::pin(poll_fn(|cx| requests.poll_answered(1, cx)));
        assert!(answered.as_mut().now_or_never().is_none());
        let answer = async {
            tokio::task::yield_now().await;
            requests.answer();
        };
        tokio::join!(answered, answer);
    }
}
