//! An HTTP/2 connection, which all status polls share, and which has a task of its own.
//!
//! It stands on `h2` alone: where a connection ends while a request waits for a free stream, hyper's client does not tell
//! whether that was sent.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use http::header::CONTENT_LENGTH;
use http::{Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout};

use super::connect::Wire;
use super::failure::failure;
use super::http1::{PollBody, SendError, is_unprocessed};
use super::received::{BodyLimit, Received};
use super::{FIRST_STREAMS, PING_EVERY, PING_TIMEOUT, STREAM_WINDOW, STREAMS};
use crate::error::Error;
use crate::sync::lock;

/// See the module. Clones share the connection, which is closed with the last of them.
#[derive(Clone)]
pub(super) struct Http2Connection {
    sender: SendRequest<Bytes>,
    opened: Instant,
    /// When upstream last answered on it.
    heard: Arc<Mutex<Instant>>,
}

/// The largest head of an answer, in bytes: as hyper's client.
const LARGEST_HEAD: u32 = 16 << 10;

impl Http2Connection {
    pub(super) async fn begin(io: MaybeHttpsStream<Wire>) -> Result<Self, Error> {
        let (sender, connection) = Builder::new()
            .initial_max_send_streams(FIRST_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * STREAMS)
            .max_header_list_size(LARGEST_HEAD)
            .enable_push(false)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| broken(&error))?;
        tokio::spawn(drive(connection));
        let opened = Instant::now();
        Ok(Self {
            sender,
            opened,
            heard: Arc::new(Mutex::new(opened)),
        })
    }

    /// Whether it takes polls: it has neither ended nor said goodbye.
    pub(super) fn is_open(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        // The pool's own has sent nothing, so that it never waits for a stream.
        matches!(self.sender.poll_ready(&mut cx), Poll::Ready(Ok(())))
    }

    /// Whether upstream has answered on it.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered_since(self.opened)
    }

    pub(super) fn has_answered_since(&self, since: Instant) -> bool {
        *lock(&self.heard) > since
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.heard, &other.heard)
    }

    /// Sends a poll, whose target is absolute, as soon as there is a free stream, and receives the whole answer.
    pub(super) async fn ask(
        &mut self,
        request: Request<PollBody>,
        limit: &BodyLimit,
        tell: impl Fn(Option<StatusCode>),
    ) -> Result<Received, SendError> {
        let (mut head, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let body = body.to_bytes();
        if !body.is_empty() {
            head.headers.insert(CONTENT_LENGTH, body.len().into());
        }
        let request = Request::from_parts(head, ());
        let sent = self.sender.send_request(request, body.is_empty());
        let (response, mut stream) = sent.map_err(|error| unanswered(&error))?;
        if !body.is_empty() {
            // That it cannot be sent is told in place of the response.
            let _ = stream.send_data(body, true);
        }
        let response = response.await.map_err(|error| unanswered(&error))?;
        let (head, body) = response.into_parts();
        *lock(&self.heard) = Instant::now();
        tell(Some(head.status));
        Received::receive(head, Incoming(body), limit)
            .await
            .map_err(SendError::Truncated)
    }
}

/// Drives a connection until it ends, or does not answer a ping.
async fn drive(mut connection: Connection<impl AsyncRead + AsyncWrite + Unpin, Bytes>) {
    let pings = connection.ping_pong().expect("is taken once");
    tokio::select! {
        // Polls in progress observe the connection's error themselves.
        _ = connection => {}
        () = unanswered_ping(pings) => {}
    }
}

async fn unanswered_ping(mut pings: PingPong) {
    loop {
        sleep(PING_EVERY).await;
        let pong = timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await;
        if !matches!(pong, Ok(Ok(_))) {
            return;
        }
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
        Some(error) => failure(error),
        None => failure(error),
    }
}

/// The body of an answer.
struct Incoming(RecvStream);

impl Body for Incoming {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        // What comes after the data, trailers, is of no use to a poll.
        let data = ready!(self.0.poll_data(cx));
        Poll::Ready(data.map(|data| {
            let data = data?;
            self.0.flow_control().release_capacity(data.len())?;
            Ok(Frame::data(data))
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::duplex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_a_ping_is_not_answered() {
        let (client, _silent) = duplex(1 << 20);
        let (_sender, connection) = Builder::new().handshake(client).await.expect("is sent");
        let begun = Instant::now();
        drive(connection).await;
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
        let driven = tokio::spawn(drive(connection));
        sleep(Duration::from_mins(10)).await;
        assert!(!driven.is_finished());
        drop(sender);
        driven.await.expect("no panic");
        serve.await.expect("no panic");
    }
}
