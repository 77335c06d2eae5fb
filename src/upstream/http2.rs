//! An HTTP/2 connection, which all status polls share, and which has a task of its own.
//!
//! It stands on `h2` alone: where a connection ends while a request waits for a free stream, hyper's client does not tell
//! whether that was sent.

use std::error::Error as StdError;
use std::future::poll_fn;
use std::io;
use std::iter::successors;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::{Builder, Connection, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use http::header::CONTENT_LENGTH;
use http::{Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};

use super::connect::Wire;
use super::failure::failure;
use super::http1::{PollBody, SendError};
use super::received::{BodyLimit, Received};
use super::{FIRST_STREAMS, PING_EVERY, PING_TIMEOUT, STREAM_WINDOW, STREAMS};
use crate::error::Error;
use crate::sync::lock;

/// See the module. Clones share the connection, which is closed with the last of them.
#[derive(Clone)]
pub(super) struct Http2Connection(Arc<Shared>);

struct Shared {
    /// Held by a poll until there is a stream for it; the others wait for that one. Of what waits in h2 instead, h2 does not
    /// tell whether it was sent, and sends it even where it was abandoned.
    sender: tokio::sync::Mutex<SendRequest<Bytes>>,
    opened: Instant,
    /// When upstream last sent anything of an answer on it.
    heard: Arc<Mutex<Instant>>,
    /// Whether its first request was sent, and has not come back without an answer.
    has_taken_first: AtomicBool,
}

impl Drop for Shared {
    /// h2 closes the connection when the last sender goes, which has to be after the last request: that may be one that still
    /// waits for its stream.
    fn drop(&mut self) {
        let sender = self.sender.get_mut();
        *sender = sender.clone();
    }
}

/// The largest head of an answer, in bytes: as hyper's client.
const LARGEST_HEAD: u32 = 16 << 10;

impl Http2Connection {
    pub(super) async fn begin(io: MaybeHttpsStream<Wire>) -> Result<Self, Error> {
        Self::over(TokioIo::new(io)).await
    }

    async fn over(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Self, Error> {
        let (sender, connection) = Builder::new()
            .initial_max_send_streams(FIRST_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * STREAMS)
            .max_header_list_size(LARGEST_HEAD)
            .enable_push(false)
            .handshake(io)
            .await
            .map_err(|error| broken(&error))?;
        let opened = Instant::now();
        let heard = Arc::new(Mutex::new(opened));
        tokio::spawn(drive(connection, Arc::clone(&heard)));
        Ok(Self(Arc::new(Shared {
            sender: tokio::sync::Mutex::new(sender),
            opened,
            heard,
            has_taken_first: AtomicBool::new(false),
        })))
    }

    /// Whether it takes polls: it has neither ended nor said goodbye.
    pub(super) fn is_open(&self) -> bool {
        // A poll that waits for a stream learns by itself that it has ended.
        let Ok(mut sender) = self.0.sender.try_lock() else {
            return true;
        };
        let ready = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        !matches!(ready, Poll::Ready(Err(_)))
    }

    /// Whether upstream has taken any request on it: a goodbye leaves the last ones.
    pub(super) fn has_taken_any(&self) -> bool {
        self.0.has_taken_first.load(Ordering::Relaxed) || self.has_answered_since(self.0.opened)
    }

    pub(super) fn has_answered_since(&self, since: Instant) -> bool {
        *lock(&self.0.heard) > since
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Sends a poll, whose target is absolute, as soon as there is a free stream, and receives the whole answer.
    pub(super) async fn ask(
        &self,
        request: Request<PollBody>,
        limit: &BodyLimit,
        tell: impl Fn(Option<StatusCode>),
    ) -> Result<Received, SendError> {
        let response = self.send(request).await?;
        let is_first = is_first(&response);
        let response = response.await.map_err(|error| {
            if is_first {
                self.0.has_taken_first.store(false, Ordering::Relaxed);
            }
            unanswered(&error)
        });
        let (head, body) = response?.into_parts();
        *lock(&self.0.heard) = Instant::now();
        tell(Some(head.status));
        let body = Incoming {
            data: body,
            heard: &self.0.heard,
        };
        Received::receive(head, body, limit)
            .await
            .map_err(SendError::Truncated)
    }

    async fn send(&self, request: Request<PollBody>) -> Result<ResponseFuture, SendError> {
        let (mut head, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let body = body.to_bytes();
        if !body.is_empty() {
            head.headers.insert(CONTENT_LENGTH, body.len().into());
        }
        let mut sender = self.0.sender.lock().await;
        // One that was abandoned may still wait for its stream.
        let ready = poll_fn(|cx| sender.poll_ready(cx)).await;
        ready.map_err(|error| unsent(&error))?;
        let sent = sender.send_request(Request::from_parts(head, ()), body.is_empty());
        let (response, mut stream) = sent.map_err(|error| unsent(&error))?;
        if is_first(&response) {
            self.0.has_taken_first.store(true, Ordering::Relaxed);
        }
        // What goes wrong from here on is told in place of the response.
        if !body.is_empty() {
            let _ = stream.send_data(body, true);
        }
        let _ = poll_fn(|cx| sender.poll_ready(cx)).await;
        Ok(response)
    }
}

/// Whether the request is its connection's first (RFC 9113 §5.1.1).
fn is_first(response: &ResponseFuture) -> bool {
    response.stream_id().as_u32() == 1
}

/// Drives a connection until it ends, or does not answer a ping.
async fn drive(
    mut connection: Connection<impl AsyncRead + AsyncWrite + Unpin, Bytes>,
    heard: Arc<Mutex<Instant>>,
) {
    let pings = connection.ping_pong().expect("is taken once");
    tokio::select! {
        // Polls in progress observe the connection's error themselves.
        _ = connection => {}
        () = unanswered_ping(pings, &heard) => {}
    }
}

/// Pings where no answer shows that upstream is there: behind a large one, a pong would come late.
async fn unanswered_ping(mut pings: PingPong, heard: &Mutex<Instant>) {
    let mut alive = Instant::now();
    loop {
        sleep_until(alive + PING_EVERY).await;
        let last = *lock(heard);
        if last > alive {
            alive = last;
            continue;
        }
        let pong = timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return;
        }
        alive = Instant::now();
    }
}

/// Whether an HTTP/2 upstream says that it has not processed a request: it refused the stream, or said goodbye before it
/// (RFC 9113 §8.7).
pub(super) fn is_unprocessed(error: &(dyn StdError + 'static)) -> bool {
    let causes = successors(Some(error), |error| (*error).source());
    let mut of_http2 = causes.filter_map(|cause| cause.downcast_ref::<h2::Error>());
    of_http2.any(|error| {
        // h2 tells a stream of a goodbye, whatever its reason, only where the peer leaves it unprocessed.
        error.reason() == Some(h2::Reason::REFUSED_STREAM)
            || (error.is_go_away() && error.is_remote())
    })
}

/// Why a request could not be sent.
fn unsent(error: &h2::Error) -> SendError {
    let why = broken(error);
    if error.is_io() || error.is_go_away() {
        SendError::Left(why)
    } else {
        SendError::NoResponse(why)
    }
}

/// Why there is no head.
fn unanswered(error: &h2::Error) -> SendError {
    let why = broken(error);
    match is_unprocessed(error) {
        true if error.is_go_away() => SendError::Left(why),
        true => SendError::Refused(why),
        false => SendError::NoResponse(why),
    }
}

fn broken(error: &h2::Error) -> Error {
    match error.get_io() {
        // h2 calls every end so.
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => failure(error),
        _ => failure(error),
    }
}

/// The body of an answer.
struct Incoming<'c> {
    data: RecvStream,
    heard: &'c Mutex<Instant>,
}

impl Body for Incoming<'_> {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        // What comes after the data, trailers, is of no use to a poll.
        let data = ready!(self.data.poll_data(cx));
        Poll::Ready(data.map(|data| {
            let data = data?;
            *lock(self.heard) = Instant::now();
            self.data.flow_control().release_capacity(data.len())?;
            Ok(Frame::data(data))
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;
    use tokio::time::sleep;

    use super::*;

    /// Starts a poll.
    fn ask(connection: &Http2Connection) -> JoinHandle<Result<Received, SendError>> {
        let connection = connection.clone();
        let limit = BodyLimit {
            most: 64,
            budget: Arc::new(Semaphore::new(64)),
        };
        tokio::spawn(async move {
            let request = Request::get("https://upstream.test/").body(PollBody::default());
            let request = request.expect("a request");
            connection.ask(request, &limit, |_| {}).await
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_a_ping_is_not_answered() {
        let (client, _silent) = duplex(1 << 20);
        let (_sender, connection) = Builder::new().handshake(client).await.expect("is sent");
        let begun = Instant::now();
        drive(connection, Arc::new(Mutex::new(begun))).await;
        assert_eq!(begun.elapsed(), PING_EVERY + PING_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_pings_are_answered_ends_with_its_last_sender() {
        let (client, server) = duplex(1 << 20);
        let serve = async {
            let mut connection = h2::server::handshake(server).await.expect("is met");
            assert!(connection.accept().await.is_none());
        };
        let serve = tokio::spawn(serve);
        let (sender, connection) = Builder::new().handshake(client).await.expect("is sent");
        let heard = Arc::new(Mutex::new(Instant::now()));
        let driven = tokio::spawn(drive(connection, heard));
        sleep(Duration::from_mins(10)).await;
        assert!(!driven.is_finished());
        drop(sender);
        driven.await.expect("no panic");
        serve.await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_the_last_poll_got_no_stream_ends_with_it() {
        let (client, server) = duplex(1 << 20);
        let serve = tokio::spawn(async {
            let mut builder = h2::server::Builder::new();
            let builder = builder.max_concurrent_streams(0);
            let connection = builder.handshake::<_, Bytes>(server).await;
            assert!(connection.expect("is met").accept().await.is_none());
        });
        let connection = Http2Connection::over(client).await.expect("is sent");
        // Its settings are known by then.
        sleep(Duration::from_millis(1)).await;
        let poll = ask(&connection);
        sleep(Duration::from_millis(1)).await;
        poll.abort();
        assert!(poll.await.is_err_and(|error| error.is_cancelled()));
        let begun = Instant::now();
        drop(connection);
        serve.await.expect("no panic");
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_an_answer_comes_slowly_needs_no_pong() {
        const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        /// `:status: 200` for the first request.
        const HEAD: &[u8] = &[0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
        const BYTE: &[u8] = &[0, 0, 1, 0, 0, 0, 0, 0, 1, b'x'];
        const LAST_BYTE: &[u8] = &[0, 0, 1, 0, 1, 0, 0, 0, 1, b'x'];
        let (client, mut server) = duplex(1 << 20);
        let connection = Http2Connection::over(client).await.expect("is sent");
        let poll = ask(&connection);
        sleep(Duration::from_millis(1)).await;
        // The peer sends, and does not read.
        let first = [EMPTY_SETTINGS, HEAD].concat();
        server.write_all(&first).await.expect("is taken");
        for part in [[BYTE; 9].concat(), LAST_BYTE.to_vec()].concat().chunks(10) {
            sleep(PING_TIMEOUT).await;
            server.write_all(part).await.expect("is taken");
        }
        let answer = poll.await.expect("no panic");
        let Ok(Received { body, .. }) = answer else {
            panic!("is cut off");
        };
        assert_eq!(body, "xxxxxxxxxx");
        let quiet = Instant::now();
        let end = server.read_to_end(&mut Vec::new()).await;
        end.expect("is closed");
        assert_eq!(quiet.elapsed(), PING_EVERY + PING_TIMEOUT);
    }
}
