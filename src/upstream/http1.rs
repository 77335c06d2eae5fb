//! An HTTP/1.1 connection that status polls use one after the other. The poll that uses it drives it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::{TrySendError, http1};
use hyper_rustls::MaybeHttpsStream;

use super::READ_AHEAD;
use super::connect::Wire;
use super::failure::failure;
use super::received::{BodyLimit, Received};
use crate::error::Error;

/// The body of a status poll: most have none.
pub(super) type PollBody = Full<Bytes>;

/// See the module.
pub(super) struct Http1Connection {
    sender: http1::SendRequest<PollBody>,
    /// `None` once it has ended: what it had not sent yet comes back when it is dropped.
    connection: Option<Box<Http1>>,
    /// Whether it leads to a proxy, which is asked in absolute form (RFC 9112 §3.2.2).
    pub(super) asks_proxy: bool,
}

type Http1 = http1::Connection<MaybeHttpsStream<Wire>, PollBody>;

impl Http1Connection {
    pub(super) async fn begin(io: MaybeHttpsStream<Wire>, asks_proxy: bool) -> Result<Self, Error> {
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_AHEAD)
            .handshake(io)
            .await
            .map_err(|error| failure(&error))?;
        Ok(Self {
            sender,
            connection: Some(Box::new(connection)),
            asks_proxy,
        })
    }

    pub(super) async fn ask(
        &mut self,
        request: Box<Request<PollBody>>,
        limit: &BodyLimit,
        tell: impl Fn(Option<StatusCode>),
    ) -> Result<Received, SendError> {
        let sent = self.sender.try_send_request(*request);
        let mut answer = pin!(async {
            let (head, body) = sent.await.map_err(unanswered)?.into_parts();
            tell(Some(head.status));
            Received::receive(head, body, limit)
                .await
                .map_err(SendError::Truncated)
        });
        let connection = &mut self.connection;
        poll_fn(|cx| {
            drive(connection, cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Whether it can be used again: nothing is in progress, and upstream has not closed it, of which nothing is notified.
    pub(super) fn is_idle(&mut self) -> bool {
        drive(
            &mut self.connection,
            &mut Context::from_waker(Waker::noop()),
        );
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Closes it in order, with TLS's `close_notify`.
    pub(super) fn close(self) {
        let Self {
            sender,
            mut connection,
            ..
        } = self;
        drop(sender);
        drive(&mut connection, &mut Context::from_waker(Waker::noop()));
    }
}

/// Drives the connection.
fn drive(connection: &mut Option<Box<Http1>>, cx: &mut Context<'_>) {
    if let Some(running) = connection
        && Pin::new(&mut **running).poll(cx).is_ready()
    {
        // The answer tells how it ended.
        *connection = None;
    }
}

/// Why there is no whole answer.
pub(super) enum SendError {
    /// Nothing was sent, and the request is here again.
    NotSent(Box<Request<PollBody>>, Error),
    /// Upstream refused the stream, unprocessed (RFC 9113 §8.7).
    Refused(Error),
    /// The HTTP/2 connection ended before the request was sent, or upstream said goodbye before it processed it (RFC 9113
    /// §6.8).
    Left(Error),
    /// There was no head.
    NoResponse(Error),
    /// There was one, and no whole body.
    Truncated(Error),
}

/// Why there is no head.
fn unanswered(mut error: TrySendError<Request<PollBody>>) -> SendError {
    let why = failure(error.error());
    match error.take_message() {
        Some(request) => SendError::NotSent(Box::new(request), why),
        None => SendError::NoResponse(why),
    }
}
