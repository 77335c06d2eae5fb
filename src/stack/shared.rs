//! One service for all requests, by reference: a layer that holds its inner service in here keeps a pointer to it in each
//! request's future instead of a copy, which would come to kilobytes a request over all layers.

use std::sync::Arc;
use std::task::{Context, Poll};

use tower::Service;

/// See the module. Only for services that are always ready, as all of them are below Shed.
#[derive(Debug)]
pub(super) struct Shared<S>(Arc<S>);

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

/// Calls a service that is always ready, as all below Shed are; tower's `oneshot` would keep room for the request too.
pub(super) fn ask<S, R>(service: &S, request: R) -> S::Future
where
    S: Service<R> + Clone,
{
    service.clone().call(request)
}
