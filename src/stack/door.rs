//! The door: beyond the limit a request is refused at once, instead of waiting for its turn. Between Observe, which
//! counts refusals, and all that costs something.
//!
//! tower's own concurrency limit ends with the response's head; here a place is kept until its body has ended, since
//! a stream of events or a download is under way until then.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::future::{Either, Ready, ready};
use pin_project_lite::pin_project;
use tower::Service;

use crate::answer::handled::Handled;
use crate::error::Error;
use crate::request::inbound::Inbound;
use crate::request::route::Route;
use crate::sync::permits::{Permit, Permits};

/// The places behind the door. Polls and forwarded requests have their own, so that neither keeps the other out.
#[derive(Debug, Clone)]
pub struct Places {
    each: usize,
    polls: Arc<Permits>,
    forwards: Arc<Permits>,
}

impl Places {
    /// So many for each of the two.
    #[must_use]
    pub fn new(each: usize) -> Self {
        Self {
            each,
            polls: Arc::default(),
            forwards: Arc::default(),
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Door<S> {
    inner: S,
    places: Places,
}

impl<S> Door<S> {
    pub(super) fn new(inner: S, places: Places) -> Self {
        Self { inner, places }
    }
}

impl<S> Service<Inbound> for Door<S>
where
    S: Service<Inbound, Response = Handled, Error = Error>,
{
    type Response = Handled;
    type Error = Error;
    type Future = Either<Admitted<S::Future>, Ready<Result<Handled, Error>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        let places = match inbound.route {
            Route::Poll { .. } => &self.places.polls,
            Route::Write { .. } | Route::Forward { .. } => &self.places.forwards,
        };
        match places.try_acquire(self.places.each) {
            Some(place) => Either::Left(Admitted {
                inner: self.inner.call(inbound),
                place: Some(place),
            }),
            None => Either::Right(ready(Err(Error::Overloaded("requests under way")))),
        }
    }
}

pin_project! {
    /// A request that has its place.
    pub struct Admitted<F> {
        #[pin]
        inner: F,
        place: Option<Permit>,
    }
}

impl<F> Future for Admitted<F>
where
    F: Future<Output = Result<Handled, Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut handled = ready!(this.inner.poll(cx))?;
        let place = this.place.take();
        if !handled.response.body().is_buffered() {
            handled.response = handled.response.map(|body| body.guarded(place));
        }
        Poll::Ready(Ok(handled))
    }
}
