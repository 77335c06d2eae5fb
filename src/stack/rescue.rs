//! Turns errors into responses in the dialect of the path. Below Observe, so that what it counts is what the client
//! sees; above the door, so that refusals there are worded like everything else.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::header::{CONNECTION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response};
use tower::{BoxError, Service, ServiceExt as _};

use crate::body::Body;
use crate::error::{Error, retry_after_seconds};
use crate::exchange::{Facts, Handled, Inbound};
use crate::reply::{JSON, RETRY_AFTER_MS};
use crate::task::{Dialect, Fault};
use crate::verdict::Verdict;

/// See the module.
#[derive(Debug, Clone)]
pub struct Rescue<S> {
    inner: S,
}

impl<S> Rescue<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S> Service<Inbound> for Rescue<S>
where
    S: Service<Inbound, Response = Handled, Error = BoxError, Future: Send>
        + Clone
        + Send
        + 'static,
{
    type Response = Handled;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Handled, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        let dialect = inbound.route.dialect();
        let is_poll = matches!(inbound.route, crate::route::Route::Poll { .. });
        let inner = self.inner.clone();
        Box::pin(async move {
            Ok(inner.oneshot(inbound).await.unwrap_or_else(|error| {
                let error = Error::from_stack(&error);
                let verdict = match error {
                    Error::Overloaded(_) | Error::Draining | Error::BadRequest(_) => Verdict::Shed,
                    _ => Verdict::Failed,
                };
                let mut response = respond(&error, dialect);
                if is_poll {
                    let detail = format!("pollgate; detail={}", error.code());
                    if let Ok(value) = HeaderValue::from_maybe_shared(detail) {
                        response
                            .headers_mut()
                            .insert(HeaderName::from_static("cache-status"), value);
                    }
                }
                Handled {
                    response,
                    facts: Facts::only(verdict),
                }
            }))
        })
    }
}

/// An error as a client of this path reads it.
#[must_use]
pub(super) fn respond(error: &Error, dialect: Dialect) -> Response<Body> {
    let fault = Fault::new(error.code(), error.message(), error.kind());
    let mut response = Response::new(Body::full(fault.write(dialect)));
    *response.status_mut() = error.status();
    let headers = response.headers_mut();
    let (name, value) = JSON;
    headers.insert(name, value);
    if let Some(pause) = error.retry_after() {
        let seconds = retry_after_seconds(pause);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        headers.insert(RETRY_AFTER_MS, HeaderValue::from(seconds * 1000));
    }
    // After a request that is not what it should be, the next one is not to be trusted either.
    if matches!(error, Error::Draining | Error::BadRequest(_)) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
