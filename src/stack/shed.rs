//! Sheds load: beyond the limit a request is refused at once instead of waiting for its turn. Between Rescue, which words
//! the refusal, and everything that costs something.
//!
//! tower's `ConcurrencyLimit` releases its permit with the head of the response. Here a permit is kept until the body has
//! ended, since an event stream or a download is in progress until then.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::future::{Either, Ready, ready};
use pin_project_lite::pin_project;
use tower::Service;

use super::state::{Limits, Resources};
use crate::answer::handled::Handled;
use crate::error::Error;
use crate::request::routed::Kind;
use crate::sync::permits::Permit;

/// See the module.
#[derive(Debug, Clone)]
pub struct Shed<S> {
    inner: S,
    limits: Limits,
}

impl<S> Shed<S> {
    pub(super) fn new(inner: S, resources: &Resources) -> Self {
        Self {
            inner,
            limits: resources.limits.clone(),
        }
    }
}

impl<S> Service<Kind> for Shed<S>
where
    S: Service<Kind, Response = Handled, Error = Error>,
{
    type Response = Handled;
    type Error = Error;
    type Future = Either<Admitted<S::Future>, Ready<Result<Handled, Error>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, kind: Kind) -> Self::Future {
        let permits = match kind {
            Kind::Poll(_) => &self.limits.polls,
            Kind::Forward(_) | Kind::Refused(_) => &self.limits.forwards,
        };
        match permits.try_acquire(self.limits.each) {
            Some(permit) => Either::Left(Admitted {
                inner: self.inner.call(kind),
                permit: Some(permit),
            }),
            None => Either::Right(ready(Err(Error::Overloaded("requests in progress")))),
        }
    }
}

pin_project! {
    /// A request that holds a permit.
    pub struct Admitted<F> {
        #[pin]
        inner: F,
        permit: Option<Permit>,
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
        let permit = this.permit.take();
        if !handled.response.body().is_buffered() {
            handled.response = handled.response.map(|body| body.guarded(permit));
        }
        Poll::Ready(Ok(handled))
    }
}
