//! Turns errors into responses in the dialect of the path. Below Observe, so that what it counts is what the client
//! sees; above the door, so that refusals there are worded like everything else.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::header::{CONNECTION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response};
use pin_project_lite::pin_project;
use tower::Service;

use crate::body::Body;
use crate::error::{Error, retry_after_seconds};
use crate::exchange::{Facts, Handled, Inbound};
use crate::reply::{JSON, RETRY_AFTER_MS};
use crate::route::Route;
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
    S: Service<Inbound, Response = Handled, Error = Error>,
{
    type Response = Handled;
    type Error = Infallible;
    type Future = Rescued<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        let dialect = inbound.route.dialect();
        let is_poll = matches!(inbound.route, Route::Poll { .. });
        Rescued {
            inner: self.inner.call(inbound),
            dialect,
            is_poll,
        }
    }
}

pin_project! {
    /// A request under way that cannot fail.
    pub struct Rescued<F> {
        #[pin]
        inner: F,
        dialect: Dialect,
        is_poll: bool,
    }
}

impl<F> Future for Rescued<F>
where
    F: Future<Output = Result<Handled, Error>>,
{
    type Output = Result<Handled, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.inner.poll(cx).map(|handled| {
            Ok(handled.unwrap_or_else(|error| rescue(&error, *this.dialect, *this.is_poll)))
        })
    }
}

fn rescue(error: &Error, dialect: Dialect, is_poll: bool) -> Handled {
    let verdict = match error {
        Error::Overloaded(_) | Error::Draining | Error::BadRequest(_) => Verdict::Shed,
        _ => Verdict::Failed,
    };
    let mut response = respond(error, dialect);
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
