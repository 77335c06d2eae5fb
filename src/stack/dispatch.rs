//! Sends status polls one way and everything else the other. Below Shed, which counts them apart. A `POST` on a route that
//! is polled by `POST` is one or the other by its body, which is read first.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, Either, Ready, ready};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use tokio::time::timeout;
use tower::{Service, ServiceExt as _};

use super::shared::Shared;
use crate::answer::handled::{Handled, Named};
use crate::config::Config;
use crate::error::Error;
use crate::message::body::Body;
use crate::request::routed::{Forwardable, Kind, LARGEST_ASKING_BODY, StatusPoll, UnreadPoll};

/// See the module.
#[derive(Debug)]
pub struct Dispatch<P, F> {
    status: P,
    forward: Shared<F>,
    body_timeout: Duration,
}

impl<P, F> Dispatch<P, F> {
    pub(super) fn new(status: P, forward: F, config: &Config) -> Self {
        Self {
            status,
            forward: Shared::new(forward),
            body_timeout: config.limits.header_timeout,
        }
    }
}

impl<P: Clone, F> Clone for Dispatch<P, F> {
    fn clone(&self) -> Self {
        Self {
            status: self.status.clone(),
            forward: self.forward.clone(),
            body_timeout: self.body_timeout,
        }
    }
}

type Other<F> = Either<F, Either<Ready<Result<Handled, Error>>, Unread>>;
type Unread = BoxFuture<'static, Result<Handled, Error>>;

impl<P, F> Service<Kind> for Dispatch<P, F>
where
    P: Service<StatusPoll, Response = Handled, Error = Error, Future: Send>
        + Clone
        + Send
        + 'static,
    F: Service<Forwardable, Response = Handled, Error = Error, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    type Response = Handled;
    type Error = Error;
    type Future = Either<P::Future, Other<F::Future>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, kind: Kind) -> Self::Future {
        match kind {
            Kind::Poll(poll) => Either::Left(self.status.call(poll)),
            Kind::Forward(request) => Either::Right(Either::Left(self.forward.call(*request))),
            Kind::Refused(error) => Either::Right(Either::Right(Either::Left(ready(Err(error))))),
            Kind::PollByBody(unread) => {
                let read = self.clone().read(*unread);
                Either::Right(Either::Right(Either::Right(Box::pin(read))))
            }
        }
    }
}

impl<P, F> Dispatch<P, F>
where
    P: Service<StatusPoll, Response = Handled, Error = Error, Future: Send>,
    F: Service<Forwardable, Response = Handled, Error = Error, Future: Send> + Clone,
{
    /// Reads the body of a request, and answers it if it asks for tasks.
    async fn read(self, mut unread: UnreadPoll) -> Result<Handled, Error> {
        let body = std::mem::replace(unread.forwardable.request.body_mut(), Body::empty());
        let body = timeout(self.body_timeout, small(body))
            .await
            .map_err(|_| Error::RequestTimeout)?;
        let (poll, body) = match body {
            Small::Whole(bytes) => (unread.with_body(&bytes), Body::full(bytes)),
            Small::Not(body) => (None, body),
        };
        let (handled, named) = if let Some(poll) = poll {
            let task = poll.task.clone();
            // Its headers are slices of the connection's read buffer, which a poll that waits must not keep.
            drop(unread);
            (self.status.oneshot(poll).await?, Named::Tasks(task))
        } else {
            unread.asked.set();
            let mut forwardable = unread.forwardable;
            *forwardable.request.body_mut() = body;
            (self.forward.oneshot(forwardable).await?, Named::Nothing)
        };
        Ok(Handled {
            named: Some(Box::new(named)),
            ..handled
        })
    }
}

/// A body that has been read as far as it may be.
enum Small {
    Whole(Bytes),
    /// It is larger, has trailers or broke off: still all of it.
    Not(Body),
}

/// Reads a body of at most [`LARGEST_ASKING_BODY`] bytes.
async fn small(mut body: Body) -> Small {
    let mut read = BytesMut::new();
    loop {
        match body.frame().await {
            None => return Small::Whole(read.freeze()),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    read.extend_from_slice(&data);
                    if read.len() > LARGEST_ASKING_BODY {
                        return Small::Not(body.after(Frame::data(read.freeze())));
                    }
                }
                Err(trailers) => {
                    let rest = Body::empty().after(trailers);
                    return Small::Not(rest.after(Frame::data(read.freeze())));
                }
            },
            Some(Err(error)) => return Small::Not(Body::broken(read.freeze(), error)),
        }
    }
}
