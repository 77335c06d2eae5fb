//! Sends status polls one way and everything else the other. Below Shed, which counts them apart.

use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use tower::Service;

use super::shared::Shared;
use crate::answer::handled::Handled;
use crate::error::Error;
use crate::request::routed::{Forwardable, Kind, StatusPoll};

/// See the module.
#[derive(Debug)]
pub struct Dispatch<P, F> {
    status: P,
    forward: Shared<F>,
}

impl<P, F> Dispatch<P, F> {
    pub(super) fn new(status: P, forward: F) -> Self {
        Self {
            status,
            forward: Shared::new(forward),
        }
    }
}

impl<P: Clone, F> Clone for Dispatch<P, F> {
    fn clone(&self) -> Self {
        Self {
            status: self.status.clone(),
            forward: self.forward.clone(),
        }
    }
}

impl<P, F> Service<Kind> for Dispatch<P, F>
where
    P: Service<StatusPoll, Response = Handled, Error = Error>,
    F: Service<Forwardable, Response = Handled, Error = Error> + Clone,
{
    type Response = Handled;
    type Error = Error;
    type Future = Either<P::Future, Either<F::Future, Ready<Result<Handled, Error>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, kind: Kind) -> Self::Future {
        match kind {
            Kind::Poll(poll) => Either::Left(self.status.call(poll)),
            Kind::Forward(request) => Either::Right(Either::Left(self.forward.call(*request))),
            Kind::Refused(error) => Either::Right(Either::Right(ready(Err(error)))),
        }
    }
}
