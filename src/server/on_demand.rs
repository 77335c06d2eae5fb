//! What speaks HTTP on one connection, and only while there is something to say: between two requests nothing is kept
//! but the connection itself.
//!
//! hyper's part of a connection is 16 KiB of buffers and its state. A client that polls every few seconds needs them
//! for some microseconds each time: they are set up when a head is there, and given back with its answer. A client
//! that asks again at once keeps them until it is quiet for [`BUSY_WINDOW`], so that nobody in a hurry pays for this.

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

/// How soon a client is in a hurry that asks again, and how long it may then be quiet before it no longer is.
const BUSY_WINDOW: Duration = Duration::from_secs(1);

/// How often a client in a hurry is looked at while it has a request under way.
const RECHECK: Duration = Duration::from_secs(5);

/// The most that is kept of a head, or of a body on its way, in bytes; a client that does not read costs a few of these.
const BUFFER: usize = 64 << 10;

/// How often an HTTP/2 client is asked whether it is there, and how long it may take to say so.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// Bytes that the headers of an HTTP/2 request may have: as many as an HTTP/1.1 head.
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// Bytes that wait for room on one HTTP/2 stream.
const MAX_SEND_BUFFER: usize = 128 * 1024;

/// See the module. `H` answers the requests.
pub(super) struct OnDemand<T, H: Answers> {
    protocol: Protocol<T, H>,
    handle: H,
    activity: Arc<Activity>,
    /// Whether hyper's part stays when a request is answered.
    busy: bool,
    closing: bool,
}

/// Answers a connection's requests.
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

/// As hyper sees it.
type Io<T> = TokioIo<Box<GuardedIo<T>>>;

enum Protocol<T, H: Answers> {
    /// Nobody, until a request's head is there, or the end.
    None(Box<GuardedIo<T>>),
    Http1(Box<http1::UpgradeableConnection<Io<T>, H>>),
    Http2(Box<http2::Connection<Io<T>, H, TokioExecutor>>),
    /// Nobody any more.
    Closing(Box<GuardedIo<T>>),
    Over,
}

/// What happens on a line.
#[derive(Debug)]
pub(super) enum Event {
    /// Its client is in a hurry: it is to be [looked](OnDemand::recheck_at) at when [`Event::KeepAliveHot`] is that old.
    KeepAliveHot(Instant),
    /// It has ended.
    Over(Result<(), BoxError>),
}

impl<T, H> OnDemand<T, H>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Answers,
{
    pub(super) fn new(io: GuardedIo<T>, handle: H, activity: Arc<Activity>) -> Self {
        Self {
            protocol: Protocol::None(Box::new(io)),
            handle,
            activity,
            busy: false,
            closing: false,
        }
    }

    /// Goes on with whatever there is to do.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let ended = match &mut self.protocol {
                Protocol::None(io) => {
                    if let Err(error) = ready!(io.poll_begun(cx)) {
                        return Poll::Ready(Event::Over(Err(error.into())));
                    }
                    if io.has_ended() {
                        self.close();
                        continue;
                    }
                    self.unpark();
                    if self.busy {
                        return Poll::Ready(Event::KeepAliveHot(Instant::now() + BUSY_WINDOW));
                    }
                    continue;
                }
                Protocol::Http1(connection) => match Pin::new(&mut **connection).poll(cx) {
                    Poll::Pending
                        if !self.busy && !self.closing && self.activity.requests.are_settled() =>
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
                Protocol::Over => Ok(()),
            };
            return Poll::Ready(Event::Over(ended));
        }
    }

    /// When to look next at a connection that is left alone until then.
    pub(super) fn recheck_at(&mut self, then: Instant) -> Instant {
        if !self.busy {
            return then;
        }
        let now = Instant::now();
        let quiet = self
            .activity
            .requests
            .idle_since()
            .map(|since| since + BUSY_WINDOW);
        self.busy = quiet.is_none_or(|quiet| quiet > now);
        match quiet {
            Some(quiet) if quiet <= now => then,
            Some(quiet) => then.min(quiet),
            None => then.min(now + RECHECK),
        }
    }

    /// Says goodbye as the protocol has it; a request that is under way is still answered.
    pub(super) fn close(&mut self) {
        self.closing = true;
        match &mut self.protocol {
            Protocol::Http1(connection) => Pin::new(&mut **connection).graceful_shutdown(),
            Protocol::Http2(connection) => Pin::new(&mut **connection).graceful_shutdown(),
            Protocol::None(_) => {
                if let Protocol::None(io) = mem::replace(&mut self.protocol, Protocol::Over) {
                    self.protocol = Protocol::Closing(io);
                }
            }
            Protocol::Closing(_) | Protocol::Over => {}
        }
    }

    fn unpark(&mut self) {
        let Protocol::None(io) = mem::replace(&mut self.protocol, Protocol::Over) else {
            return;
        };
        let handle = self.handle.clone();
        self.busy = self.activity.requests.ended_within(BUSY_WINDOW);
        self.protocol = if io.speaks_http_2() {
            Protocol::Http2(Box::new(http2().serve_connection(TokioIo::new(io), handle)))
        } else {
            let connection = http1().serve_connection(TokioIo::new(io), handle);
            Protocol::Http1(Box::new(connection.with_upgrades()))
        };
    }

    /// hyper has nothing: no byte that is not answered, and no byte of an answer.
    fn park(&mut self) {
        let Protocol::Http1(connection) = mem::replace(&mut self.protocol, Protocol::Over) else {
            return;
        };
        // None where another protocol has it, which is no rest.
        if let Some(parts) = connection.into_parts() {
            debug_assert!(parts.read_buf.is_empty(), "not at rest");
            self.protocol = Protocol::None(parts.io.into_inner());
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
        // A client that is gone says nothing; one that waits for an event answers.
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

    /// A client, and the line it is on. Each answer waits for the gate, then has this many bytes; `reads` is whether
    /// requests' bodies are read before.
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
            let (busy, _) = activity.begin_request();
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
                drop((busy, kept));
                Ok(Response::new(Body::full(vec![b'.'; size])))
            }
        });
        (client, OnDemand::new(io, handle, activity))
    }

    fn open_gate() -> &'static Semaphore {
        Box::leak(Box::new(Semaphore::new(1000)))
    }

    impl<H: Answers> OnDemand<DuplexStream, H> {
        /// Goes on until there is nothing left to do; says what has happened.
        async fn settle(&mut self) -> Option<Event> {
            timeout(Duration::from_millis(1), poll_fn(|cx| self.poll(cx)))
                .await
                .ok()
        }

        fn is_parked(&self) -> bool {
            matches!(self.protocol, Protocol::None(_))
        }
    }

    /// What has come for the client.
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
    async fn a_client_in_a_hurry_keeps_it_until_it_is_quiet() {
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
        assert!(connection.settle().await.is_none() && connection.is_parked());
        assert_eq!(answers(&mut client).await, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn pipelined_requests_are_all_answered_before_it_rests() {
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
    async fn nothing_under_way_is_left() {
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
    async fn a_body_that_was_not_read_to_its_end_is_no_rest() {
        let (mut client, mut connection) = connect(open_gate(), 3, false);
        let upload = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
        write(&mut client, upload).await;
        assert!(connection.settle().await.is_none() && !connection.is_parked());
        write(&mut client, ASK).await;
        assert!(connection.settle().await.is_none() && connection.is_parked());
        assert_eq!(answers(&mut client).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn either_end_may_close_it_at_rest() {
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
                Some(Event::Over(Ok(())))
            ));
            drop(connection);
            assert_eq!(client.read(&mut [0]).await.expect("is no reset"), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_stays_what_it_is() {
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
