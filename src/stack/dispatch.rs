//! Sends status polls one way and everything else the other. Below the door, which counts both alike.

use std::task::{Context, Poll};

use futures_util::future::Either as EitherFuture;
use tower::Service;
use tower::ServiceExt as _;
use tower::util::Oneshot;

use crate::error::Error;
use crate::exchange::{Handled, Inbound};
use crate::route::Route;

/// See the module.
#[derive(Debug, Clone)]
pub struct Dispatch<P, F> {
    polls: P,
    forward: F,
}

impl<P, F> Dispatch<P, F> {
    pub(super) fn new(polls: P, forward: F) -> Self {
        Self { polls, forward }
    }
}

impl<P, F> Service<Inbound> for Dispatch<P, F>
where
    P: Service<Inbound, Response = Handled, Error = Error> + Clone,
    F: Service<Inbound, Response = Handled, Error = Error> + Clone,
{
    type Response = Handled;
    type Error = Error;
    type Future = EitherFuture<Oneshot<P, Inbound>, Oneshot<F, Inbound>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        match inbound.route {
            Route::Poll { .. } => EitherFuture::Left(self.polls.clone().oneshot(inbound)),
            Route::Write { .. } | Route::Forward { .. } => {
                EitherFuture::Right(self.forward.clone().oneshot(inbound))
            }
        }
    }
}
