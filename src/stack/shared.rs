//! One service for all requests, by reference. Stands between the layers, so that a request under way holds a pointer
//! to the rest of its way instead of a copy of it: a copy in each layer's future would come to kilobytes a request.

use std::sync::Arc;
use std::task::{Context, Poll};

use tower::Service;

/// See the module. Only for services that are always ready, as all here are below the door.
#[derive(Debug)]
pub struct Shared<S>(Arc<S>);

impl<S> Shared<S> {
    pub(super) fn new(inner: S) -> Self {
        Self(Arc::new(inner))
    }
}

impl<S> Clone for Shared<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S, R> Service<R> for Shared<S>
where
    S: Service<R> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        S::clone(&self.0).call(request)
    }
}
