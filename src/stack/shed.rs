//! Sheds load: a request beyond the limits is refused at once instead of queued. It is below Rescue, which turns the
//! refusal into a response, and above everything that costs anything.
//!
//! A poll that is answered at once from the cache takes no permit, so that waiting clients cannot keep others from cached
//! answers. A poll that waits takes a permit from its caller's share.
//!
//! tower's `ConcurrencyLimit` releases its permit with the head of the response. Here a permit is kept until the body has
//! ended, since an event stream or a download is in progress until then.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use pin_project_lite::pin_project;
use tower::Service;

use super::state::{Limits, Resources};
use crate::answer::handled::Handled;
use crate::error::Error;
use crate::request::key::Caller;
use crate::request::routed::Kind;
use crate::sync::permits::Permit;
use crate::sync::shares::Share;

/// See the module.
#[derive(Debug, Clone)]
pub struct Shed<S> {
    inner: S,
    limits: Arc<Limits>,
}

impl<S> Shed<S> {
    pub(super) fn new(inner: S, resources: &Resources) -> Self {
        Self {
            inner,
            limits: Arc::new(resources.limits.clone()),
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
        let permission = match &kind {
            Kind::Poll(poll) => Permission::NotYet(Arc::clone(&self.limits), poll.caller),
            Kind::PollByBody(unread) => {
                Permission::NotYet(Arc::clone(&self.limits), unread.identity.caller)
            }
            Kind::Forward(_) | Kind::Refused(_) => {
                match self.limits.forwards.try_acquire(self.limits.each) {
                    Some(permit) => Permission::Granted(permit, None),
                    None => return Either::Right(ready(Err(REFUSED))),
                }
            }
        };
        Either::Left(Admitted {
            inner: self.inner.call(kind),
            permission: Some(permission),
        })
    }
}

const REFUSED: Error = Error::Overloaded("requests in progress");

/// A request's right to be in progress.
enum Permission {
    /// Nothing yet: it may be answered at once.
    NotYet(Arc<Limits>, Caller),
    /// A permit, and one of the caller's share. Both are only held.
    Granted(
        #[expect(dead_code)] Permit,
        #[expect(dead_code)] Option<Share<Caller>>,
    ),
}

impl Permission {
    fn granted(self) -> Result<Self, Error> {
        match self {
            Self::NotYet(limits, caller) => {
                let share = limits.shares.try_acquire(caller).ok_or(REFUSED)?;
                let permit = limits.polls.try_acquire(limits.each).ok_or(REFUSED)?;
                Ok(Self::Granted(permit, Some(share)))
            }
            granted @ Self::Granted(..) => Ok(granted),
        }
    }
}

pin_project! {
    /// A request in progress.
    pub struct Admitted<F> {
        #[pin]
        inner: F,
        permission: Option<Permission>,
    }
}

impl<F> Future for Admitted<F>
where
    F: Future<Output = Result<Handled, Error>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let polled = this.inner.poll(cx);
        let is_over = match &polled {
            Poll::Pending => false,
            Poll::Ready(Ok(handled)) => handled.response.body().is_buffered(),
            Poll::Ready(Err(_)) => true,
        };
        if is_over {
            return polled;
        }
        // Not answered at once: it needs a permit from now on.
        let permission = match this.permission.take().map(Permission::granted) {
            Some(Err(refused)) => return Poll::Ready(Err(refused)),
            Some(Ok(permission)) => Some(permission),
            None => None,
        };
        match polled {
            Poll::Pending => {
                *this.permission = permission;
                Poll::Pending
            }
            Poll::Ready(Ok(mut handled)) => {
                handled.response = handled.response.map(|body| body.guarded(permission));
                Poll::Ready(Ok(handled))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}
