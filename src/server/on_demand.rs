//! hyper, kept only while a connection has something to do: between two requests nothing is held but the connection
//! itself.
//!
//! hyper's part of a connection is 16 KiB of buffers and its state. A client that polls every few seconds needs them for
//! some microseconds each time: they are set up when a head is there, and dropped after its answer. A busy client, which
//! asks again within [`BUSY_WINDOW`], keeps them until it is quiet for as long, so that it does not pay for this.

use std::convert::Infallible;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tower::BoxError;

use super::activity::Activity;
use super::io::GuardedIo;
use crate::message::body::Body;

/// A client that asks again within this window is busy, and stays so until it is quiet for as long.
const BUSY_WINDOW: Duration = Duration::from_secs(1);

/// How often a busy connection is rechecked while it has a request in progress.
const RECHECK_EVERY: Duration = Duration::from_secs(5);

/// Bytes that hyper buffers of a head or of a body at most. A client that does not read costs a few of these.
const BUFFER: usize = 64 << 10;

/// How often an HTTP/2 client is pinged, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// The most bytes of headers in an HTTP/2 request: as many as in an HTTP/1.1 head.
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// Bytes that are buffered for one HTTP/2 stream until its window opens.
const MAX_SEND_BUFFER: usize = 128 * 1024;

/// See the module. `H` answers requests.
pub(super) struct OnDemand<T, H: Answers> {
    protocol: Protocol<T, H>,
    handle: H,
    activity: Arc<Activity>,
    /// Whether hyper is kept when a request is answered.
    is_busy: bool,
    is_closing: bool,
}

/// Answers the requests of a connection.
pub(super) trait Answers:
    Service<
        Request<Incoming>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
{
}

impl<H> Answers for H where
    H: Service<
            Request<Incoming>,
            Response = Response<Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + Clone
{
}

/// The connection as hyper sees it.
type Io<T> = TokioIo<Box<GuardedIo<T>>>;

enum Protocol<T, H: Answers> {
    /// None before the head of a request, or the end, is there.
    Parked(Box<GuardedIo<T>>),
    Http1(Box<http1::UpgradeableConnection<Io<T>, H>>),
    Http2(Box<http2::Connection<Io<T>, H, TokioExecutor>>),
    /// None any more: the socket is being closed.
    Closing(Box<GuardedIo<T>>),
    /// None any more.
    Ended,
}

/// What the driver of a connection has to know.
#[derive(Debug)]
pub(super) enum Event {
    /// The client is busy, so hyper is kept: [`OnDemand::recheck_at`] has to be asked at this instant.
    KeepAliveHot(Instant),
    /// The connection has ended.
    Ended(Result<(), BoxError>),
}

impl<T, H> OnDemand<T, H>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Answers,
{
    pub(super) fn new(io: GuardedIo<T>, handle: H, activity: Arc<Activity>) -> Self {
        Self {
            protocol: Protocol::Parked(Box::new(io)),
            handle,
            activity,
            is_busy: false,
            is_closing: false,
        }
    }

    /// Does whatever can be done now.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let ended = match &mut self.protocol {
                Protocol::Parked(io) => {
                    if let Err(error) = ready!(io.poll_begun(cx)) {
                        return Poll::Ready(Event::Ended(Err(error.into())));
                    }
                    if io.has_ended() {
                        self.close();
                        continue;
                    }
                    self.unpark();
                    if self.is_busy {
                        return Poll::Ready(Event::KeepAliveHot(Instant::now() + BUSY_WINDOW));
                    }
                    continue;
                }
                Protocol::Http1(connection) => match Pin::new(&mut **connection).poll(cx) {
                    Poll::Pending
                        if !self.is_busy
                            && !self.is_closing
                            && self.activity.requests.are_settled() =>
                    {
                        self.park();
                        continue;
                    }
                    ended => ready!(ended).map_err(Into::into),
                },
                Protocol::Http2(connection) => {
                    ready!(Pin::new(&mut **connection).poll(cx)).map_err(Into::into)
                }
                Protocol::Closing(io) => ready!(Pin::new(io).poll_shutdown(cx)).map_err(Into::into),
                Protocol::Ended => Ok(()),
            };
            return Poll::Ready(Event::Ended(ended));
        }
    }

    /// When to poll a connection again that has nothing to do before `then`: sooner where its client was busy and may have
    /// become quiet.
    pub(super) fn recheck_at(&mut self, then: Instant) -> Instant {
        if !self.is_busy {
            return then;
        }
        let now = Instant::now();
        let quiet = self
            .activity
            .requests
            .idle_since()
            .map(|since| since + BUSY_WINDOW);
        self.is_busy = quiet.is_none_or(|quiet| quiet > now);
        match quiet {
            Some(quiet) if quiet <= now => then,
            Some(quiet) => then.min(quiet),
            None => then.min(now + RECHECK_EVERY),
        }
    }

    /// Closes the connection as its protocol does. A request in progress is still answered.
    pub(super) fn close(&mut self) {
        self.is_closing = true;
        match &mut self.protocol {
            Protocol::Http1(connection) => Pin::new(&mut **connection).graceful_shutdown(),
            Protocol::Http2(connection) => Pin::new(&mut **connection).graceful_shutdown(),
            Protocol::Parked(_) => {
                if let Protocol::Parked(io) = mem::replace(&mut self.protocol, Protocol::Ended) {
                    self.protocol = Protocol::Closing(io);
                }
            }
            Protocol::Closing(_) | Protocol::Ended => {}
        }
    }

    /// Sets hyper up.
    fn unpark(&mut self) {
        let Protocol::Parked(mut io) = mem::replace(&mut self.protocol, Protocol::Ended) else {
            return;
        };
        let handle = self.handle.clone();
        self.is_busy = self.activity.requests.ended_within(BUSY_WINDOW);
        io.expect_repetitions(self.is_busy);
        self.protocol = if io.speaks_http_2() {
            Protocol::Http2(Box::new(http2().serve_connection(TokioIo::new(io), handle)))
        } else {
            let connection = http1().serve_connection(TokioIo::new(io), handle);
            Protocol::Http1(Box::new(connection.with_upgrades()))
        };
    }

    /// Drops hyper, which holds no byte of a request or of an answer.
    fn park(&mut self) {
        let Protocol::Http1(connection) = mem::replace(&mut self.protocol, Protocol::Ended) else {
            return;
        };
        // There are none after a switch to another protocol, which is never parked.
        if let Some(parts) = connection.into_parts() {
            debug_assert!(parts.read_buf.is_empty(), "bytes of a request are left");
            let mut io = parts.io.into_inner();
            io.expect_repetitions(false);
            self.protocol = Protocol::Parked(io);
        }
    }
}

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER).header_read_timeout(None);
    builder
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buf_size(MAX_SEND_BUFFER)
        // A client that is gone stays silent; one that only waits for an event answers.
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN);
    builder
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http_body_util::BodyExt as _;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::sync::Semaphore;
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::server::bodies::Upload;

    const PATIENCE: Duration = Duration::from_secs(10);
    const ASK: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    /// A client, and its connection. Each answer waits for the gate, and has `size` bytes; `reads` is whether the bodies of
    /// requests are read first.
    fn connect(
        gate: &'static Semaphore,
        size: usize,
        reads: bool,
    ) -> (DuplexStream, OnDemand<DuplexStream, impl Answers>) {
        let (client, server) = duplex(4096);
        let activity = Activity::new();
        let io = GuardedIo::new(server, Arc::clone(&activity), PATIENCE);
        let on_it = Arc::clone(&activity);
        let handle = service_fn(move |request: Request<Incoming>| {
            let activity = Arc::clone(&on_it);
            let (in_progress, _) = activity.begin_request();
            let body = Upload::watch(request.into_body(), &activity, PATIENCE);
            async move {
                let kept = if reads {
                    body.collect().await.expect("is whole");
                    None
                } else {
                    Some(body)
                };
                gate.acquire().await.expect("is open").forget();
                activity.answered();
                drop((in_progress, kept));
                Ok(Response::new(Body::full(vec![b'.'; size])))
            }
        });
        (client, OnDemand::new(io, handle, activity))
    }

    fn open_gate() -> &'static Semaphore {
        Box::leak(Box::new(Semaphore::new(1000)))
    }

    impl<H: Answers> OnDemand<DuplexStream, H> {
        /// Polls until nothing is left to do, and returns what happened.
        async fn settle(&mut self) -> Option<Event> {
            timeout(Duration::from_millis(1), poll_fn(|cx| self.poll(cx)))
                .await
                .ok()
        }

        fn is_parked(&self) -> bool {
            matches!(self.protocol, Protocol::Parked(_))
        }
    }

    /// Counts the answers that the client got.
    async fn answers(client: &mut DuplexStream) -> usize {
        let mut all = Vec::new();
        let read = async { while client.read_buf(&mut all).await.expect("reads") > 0 {} };
        let _ = timeout(Duration::from_millis(1), read).await;
        let text = String::from_utf8_lossy(&all);
        text.matches("HTTP/1.1 200 OK\r\n").count()
    }

    async fn write(client: &mut DuplexStream, bytes: &str) {
        client.write_all(bytes.as_bytes()).await.expect("is taken");
    }

    #[tokio::test(start_paused = true)]
    async fn hyper_comes_with_a_head_and_goes_with_its_answer() {
        let (mut client, mut connection) = connect(open_gate(), 3, true);
        assert!(
            connection.settle().await.is_none() && connection.is_parked(),
            "before"
        );
        let upload = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
        let chunks =
            "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
        for asked in [ASK, upload, chunks, ASK] {
            advance(2 * BUSY_WINDOW).await;
            let (half, rest) = asked.split_at(15);
            write(&mut client, half).await;
            assert!(
                connection.settle().await.is_none() && connection.is_parked(),
                "half a head"
            );
            write(&mut client, rest).await;
            assert!(connection.settle().await.is_none());
            assert!(connection.is_parked(), "{asked}");
            assert_eq!(answers(&mut client).await, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_client_keeps_it_until_it_is_quiet() {
        let (mut client, mut connection) = connect(open_gate(), 3, true);
        write(&mut client, ASK).await;
        assert!(
            connection.settle().await.is_none() && connection.is_parked(),
            "the first"
        );
        advance(BUSY_WINDOW / 2).await;
        write(&mut client, ASK).await;
        let due = Instant::now() + BUSY_WINDOW;
        assert!(
            matches!(connection.settle().await, Some(Event::KeepAliveHot(recheck)) if recheck == due)
        );
        for _ in 0..5 {
            assert!(connection.settle().await.is_none() && !connection.is_parked());
            advance(BUSY_WINDOW / 2).await;
            let later = Instant::now() + PATIENCE;
            let next = connection.recheck_at(later);
            assert!(next > Instant::now() && next < later, "is not yet quiet");
            write(&mut client, ASK).await;
        }
        assert!(connection.settle().await.is_none());
        advance(BUSY_WINDOW).await;
        let later = Instant::now() + PATIENCE;
        assert_eq!(connection.recheck_at(later), later);
        assert!(connection.settle().await.is_none());
        assert!(matches!(&connection.protocol, Protocol::Parked(io) if !io.keeps_a_head()));
        assert_eq!(answers(&mut client).await, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn pipelined_requests_are_all_answered_before_it_is_parked() {
        for count in [2, 40] {
            let (mut client, mut connection) = connect(open_gate(), 3, true);
            let (half, rest) = ASK.split_at(15);
            write(&mut client, &(ASK.repeat(count) + half)).await;
            assert!(connection.settle().await.is_none());
            assert!(!connection.is_parked(), "hyper has asked for the half one");
            write(&mut client, rest).await;
            assert!(connection.settle().await.is_none() && connection.is_parked());
            assert_eq!(answers(&mut client).await, count + 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_in_progress_is_dropped() {
        // No answer yet.
        let gate = Box::leak(Box::new(Semaphore::new(0)));
        let (mut client, mut connection) = connect(gate, 100_000, true);
        write(&mut client, ASK).await;
        assert!(connection.settle().await.is_none() && !connection.is_parked());
        // One that the client takes its time with.
        gate.add_permits(1);
        assert!(connection.settle().await.is_none() && !connection.is_parked());
        let mut all = Vec::new();
        while !all.ends_with(&vec![b'.'; 100_000]) {
            let read = client.read_buf(&mut all).await.expect("reads");
            assert!(read > 0 && connection.settle().await.is_none());
        }
        assert!(connection.is_parked());
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_parked_before_a_body_is_read_to_its_end() {
        let (mut client, mut connection) = connect(open_gate(), 3, false);
        let upload = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
        write(&mut client, upload).await;
        assert!(connection.settle().await.is_none() && !connection.is_parked());
        write(&mut client, ASK).await;
        assert!(connection.settle().await.is_none() && connection.is_parked());
        assert_eq!(answers(&mut client).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn either_end_may_close_it_while_it_is_parked() {
        for closes in [true, false] {
            let (mut client, mut connection) = connect(open_gate(), 3, true);
            write(&mut client, ASK).await;
            assert!(connection.settle().await.is_none() && connection.is_parked());
            assert_eq!(answers(&mut client).await, 1);
            if closes {
                client.shutdown().await.expect("closes");
            } else {
                connection.close();
            }
            assert!(matches!(
                connection.settle().await,
                Some(Event::Ended(Ok(())))
            ));
            drop(connection);
            assert_eq!(client.read(&mut [0]).await.expect("is no reset"), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_is_never_parked() {
        let (mut client, mut connection) = connect(open_gate(), 3, true);
        for part in [
            "PRI * HT",
            "TP/2.0\r\n\r\nSM\r\n\r\n",
            "\0\0\0\x04\0\0\0\0\0",
        ] {
            write(&mut client, part).await;
            assert!(connection.settle().await.is_none());
        }
        advance(2 * BUSY_WINDOW).await;
        let later = Instant::now() + PATIENCE;
        assert_eq!(connection.recheck_at(later), later);
        assert!(connection.settle().await.is_none());
        assert!(matches!(connection.protocol, Protocol::Http2(_)));
    }
}
