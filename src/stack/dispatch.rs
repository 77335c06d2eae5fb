//! Sends status polls one way and everything else the other. Below the door, which counts them.

use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use tower::Service;

use crate::answer::handled::Handled;
use crate::error::Error;
use crate::request::inbound::Inbound;
use crate::request::route::Route;

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
    P: Service<Inbound, Response = Handled, Error = Error>,
    F: Service<Inbound, Response = Handled, Error = Error>,
{
    type Response = Handled;
    type Error = Error;
    type Future = Either<P::Future, Either<F::Future, Ready<Result<Handled, Error>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        if let Some(why) = inbound.refusal() {
            return Either::Right(Either::Right(ready(Err(why.clone()))));
        }
        match inbound.route {
            Route::Poll { .. } => Either::Left(self.polls.call(inbound)),
            Route::Write { .. } | Route::Forward { .. } => {
                Either::Right(Either::Left(self.forward.call(inbound)))
            }
        }
    }
}
