//! Watches one connection: whether it is idle, and whether a request's head takes too long to arrive.
//!
//! hyper's own `header_read_timeout` also runs while a connection waits for its next request, and so cannot tell a
//! slow client from an idle one.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// What is known of one connection.
#[derive(Debug)]
pub(super) struct Activity(Mutex<State>);

#[derive(Debug, Clone, Copy)]
struct State {
    /// Requests under way.
    under_way: usize,
    /// Requests there have been.
    total: u64,
    /// When there last was one.
    since: Instant,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            under_way: 0,
            total: 0,
            since: Instant::now(),
        })))
    }

    /// A request is under way until the guard is dropped.
    pub(super) fn request(self: &Arc<Self>) -> Busy {
        self.with(|state| {
            state.under_way += 1;
            state.total += 1;
        });
        Busy(Arc::clone(self))
    }

    /// Since when the connection has been idle; `None` while it is not.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.with(|state| (state.under_way == 0).then_some(state.since))
    }

    fn total(&self) -> u64 {
        self.with(|state| state.total)
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A request under way.
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.with(|state| {
            state.under_way -= 1;
            state.since = Instant::now();
        });
    }
}

/// A connection whose reads fail when a request's head takes too long.
pub(super) struct Watched<T> {
    io: T,
    activity: Arc<Activity>,
    header_timeout: Duration,
    head: Head,
    /// How much of HTTP/2's preface the connection began with; `None` once it turned out not to.
    preface: Option<usize>,
}

/// What an HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What has come of the next request's head.
enum Head {
    /// Nothing yet.
    Awaited,
    /// Some of it, after so many requests; with a timer once more is wanted and not there.
    Begun {
        after: u64,
        timer: Option<Pin<Box<Sleep>>>,
    },
    /// HTTP/2 frames its heads, and is watched for idleness only.
    Framed,
}

impl<T> Watched<T> {
    pub(super) fn new(io: T, activity: Arc<Activity>, header_timeout: Duration) -> Self {
        Self {
            io,
            activity,
            header_timeout,
            head: Head::Awaited,
            preface: Some(0),
        }
    }

    fn note_read(&mut self, bytes: &[u8]) {
        if let Some(seen) = self.preface {
            let expected = PREFACE.get(seen..).unwrap_or_default();
            let length = expected.len().min(bytes.len());
            self.preface = (expected.get(..length) == bytes.get(..length)).then_some(seen + length);
            if self.preface == Some(PREFACE.len()) {
                self.preface = None;
                self.head = Head::Framed;
            }
        }
        // Bytes that come while a request is under way are its body.
        let is_head = !bytes.is_empty() && self.activity.idle_since().is_some();
        if is_head && matches!(self.head, Head::Awaited) {
            self.head = Head::Begun {
                after: self.activity.total(),
                timer: None,
            };
        }
    }

    /// To be asked when more is wanted and not there.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Head::Begun { after, timer } = &mut self.head else {
            return Poll::Pending;
        };
        if *after != self.activity.total() {
            // It was whole, and its request has begun since.
            self.head = Head::Awaited;
            return Poll::Pending;
        }
        let timer = timer.get_or_insert_with(|| Box::pin(sleep(self.header_timeout)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            "the request's head took too long",
        ))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match Pin::new(&mut self.io).poll_read(cx, buf) {
            Poll::Ready(read) => {
                self.note_read(buf.filled().get(before..).unwrap_or_default());
                Poll::Ready(read)
            }
            Poll::Pending => self.poll_overdue(cx).map(Err),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_head_that_stops_half_way_fails_after_its_time() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut watched = Watched::new(server, Activity::new(), TIMEOUT);
        client.write_all(b"GET / HT").await.expect("is written");
        let started = Instant::now();
        let mut head = String::new();
        let error = watched
            .read_to_string(&mut head)
            .await
            .expect_err("is overdue");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_before_and_between_requests_is_not_a_slow_head() {
        let (mut client, server) = tokio::io::duplex(64);
        let activity = Activity::new();
        let mut watched = Watched::new(server, Arc::clone(&activity), TIMEOUT);
        let mut buf = [0; 64];
        assert!(
            tokio::time::timeout(3 * TIMEOUT, watched.read(&mut buf))
                .await
                .is_err(),
            "before"
        );
        client
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .await
            .expect("is written");
        assert!(watched.read(&mut buf).await.is_ok_and(|count| count > 0));
        drop(activity.request());
        assert!(
            tokio::time::timeout(3 * TIMEOUT, watched.read(&mut buf))
                .await
                .is_err(),
            "between"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_longer_than_a_head() {
        let (mut client, server) = tokio::io::duplex(64);
        let activity = Activity::new();
        let mut watched = Watched::new(server, Arc::clone(&activity), TIMEOUT);
        let mut buf = [0; 64];
        client
            .write_all(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\n")
            .await
            .expect("is written");
        assert!(watched.read(&mut buf).await.is_ok_and(|count| count > 0));
        let _request = activity.request();
        for _ in 0..9 {
            client.write_all(b"x").await.expect("is written");
            assert!(watched.read(&mut buf).await.is_ok_and(|count| count == 1));
            let more = tokio::time::timeout(2 * TIMEOUT, watched.read(&mut buf));
            assert!(more.await.is_err(), "silence in a body is no slow head");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_only_begins_like_http_2_is_watched_like_any_head() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut watched = Watched::new(server, Activity::new(), TIMEOUT);
        client
            .write_all(b"PRIVET / HTTP/1.1\r\n")
            .await
            .expect("is written");
        let mut head = String::new();
        let error = watched
            .read_to_string(&mut head)
            .await
            .expect_err("is overdue");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_is_watched_for_idleness_only() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut watched = Watched::new(server, Activity::new(), TIMEOUT);
        client
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .expect("is written");
        let mut buf = [0; 64];
        assert!(watched.read(&mut buf).await.is_ok_and(|count| count > 0));
        assert!(
            tokio::time::timeout(3 * TIMEOUT, watched.read(&mut buf))
                .await
                .is_err()
        );
    }
}
