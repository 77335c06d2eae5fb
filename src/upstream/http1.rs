//! An HTTP/1.1 connection that status polls go over, one after the other. The poll that uses it drives it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Waker};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_rustls::MaybeHttpsStream;

use super::READ_AHEAD;
use super::connect::Wire;
use super::failure::failure;
use super::received::{BodyLimit, Received};
use crate::error::Error;

/// A status poll has no body.
pub(super) type NoBody = Empty<Bytes>;

/// See the module.
pub(super) struct Line {
    sender: http1::SendRequest<NoBody>,
    /// None once it is over: what it had not sent yet comes back when it is dropped.
    connection: Option<Box<Http1>>,
    /// Whether it leads to a proxy, which is asked in absolute form (RFC 9112 §3.2.2).
    pub(super) asks_proxy: bool,
}

type Http1 = http1::Connection<MaybeHttpsStream<Wire>, NoBody>;

impl Line {
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
        request: Request<NoBody>,
        limit: &BodyLimit,
        tell: impl Fn(Option<StatusCode>),
    ) -> Result<Received, Failed> {
        let mut answer = pin!(receive(self.sender.try_send_request(request), limit, tell));
        let connection = &mut self.connection;
        poll_fn(|cx| {
            drive(connection, cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Whether it can be used again: nothing is under way, and upstream has not closed it. Nobody is told when it does.
    pub(super) fn rests(&mut self) -> bool {
        drive(
            &mut self.connection,
            &mut Context::from_waker(Waker::noop()),
        );
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Says goodbye, where TLS wants it.
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

/// Goes on with whatever there is to do.
fn drive(connection: &mut Option<Box<Http1>>, cx: &mut Context<'_>) {
    if let Some(running) = connection
        && Pin::new(&mut **running).poll(cx).is_ready()
    {
        // How it ended, the answer says.
        *connection = None;
    }
}

/// Why there is no answer.
pub(super) enum Failed {
    /// Nothing was sent, and the request is here again.
    Unsent(Box<Request<NoBody>>, Error),
    /// There was no head.
    Broken(Error),
    /// There was one, and no whole body.
    Cut(Error),
}

/// Receives a whole answer.
pub(super) async fn receive(
    head: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<NoBody>>>>,
    limit: &BodyLimit,
    tell: impl Fn(Option<StatusCode>),
) -> Result<Received, Failed> {
    let (head, body) = match head.await {
        Ok(response) => response.into_parts(),
        Err(mut error) => {
            let why = failure(error.error());
            return Err(match error.take_message() {
                Some(request) => Failed::Unsent(Box::new(request), why),
                None => Failed::Broken(why),
            });
        }
    };
    tell(Some(head.status));
    Received::receive(head, body, limit)
        .await
        .map_err(Failed::Cut)
}
