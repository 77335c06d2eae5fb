//! Sends status polls one way and everything else the other. Below the door, which counts them.

use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::header::HOST;
use http::{Request, Version};
use tower::Service;

use crate::body::Body;
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
        if let Err(error) = check_host(&inbound.request) {
            return Either::Right(Either::Right(ready(Err(error))));
        }
        match inbound.route {
            Route::Poll { .. } => Either::Left(self.polls.call(inbound)),
            Route::Write { .. } | Route::Forward { .. } => {
                Either::Right(Either::Left(self.forward.call(inbound)))
            }
        }
    }
}

/// An HTTP/1.1 request has just one `Host` (RFC 9112 §3.2); with fewer or more, two servers may read two requests in it.
fn check_host(request: &Request<Body>) -> Result<(), Error> {
    let hosts = request.headers().get_all(HOST).iter().count();
    match request.version() {
        Version::HTTP_11 if hosts == 0 => Err(Error::BadRequest(
            "the request has no host; HTTP/1.1 takes one",
        )),
        Version::HTTP_10 | Version::HTTP_11 if hosts > 1 => {
            Err(Error::BadRequest("the request has more than one host"))
        }
        _ => Ok(()),
    }
}
