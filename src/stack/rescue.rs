//! Turns errors into responses in the dialect of the path, and keeps the latest of what went wrong for people. Below
//! Observe, so that what it counts is what the client sees; above the door, so that refusals there are worded like
//! everything else.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{CONNECTION, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use crate::answer::handled::{Facts, Handled};
use crate::answer::outcome::Outcome;
use crate::error::{Error, retry_after_seconds};
use crate::message::body::Body;
use crate::message::fields::{JSON, RETRY_AFTER_MS};
use crate::request::inbound::Inbound;
use crate::request::key::Caller;
use crate::request::route::Route;
use crate::task::{Dialect, ErrorDocument};
use crate::telemetry::{ErrorContext, RecentErrors, SeenBy};

/// See the module.
#[derive(Debug, Clone)]
pub struct Rescue<S> {
    inner: S,
    recent: Arc<RecentErrors>,
}

impl<S> Rescue<S> {
    pub(super) fn new(inner: S, recent: Arc<RecentErrors>) -> Self {
        Self { inner, recent }
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
        let route = inbound.route.clone();
        let caller = inbound.sender.map(|sender| sender.caller);
        Rescued {
            inner: self.inner.call(inbound),
            route,
            caller,
            recent: Arc::clone(&self.recent),
        }
    }
}

pin_project! {
    /// A request under way that cannot fail.
    pub struct Rescued<F> {
        #[pin]
        inner: F,
        route: Route,
        caller: Option<Caller>,
        recent: Arc<RecentErrors>,
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
            Ok(match handled {
                Ok(handled) => {
                    tell(this.recent, this.route, *this.caller, &handled);
                    handled
                }
                Err(error) => {
                    let circumstances = circumstances(this.route, SeenBy::Client, *this.caller);
                    let (code, reason) = (error.code(), error.reason());
                    this.recent
                        .record(circumstances, code, &reason, Instant::now());
                    rescue(&error, this.route)
                }
            })
        })
    }
}

fn rescue(error: &Error, route: &Route) -> Handled {
    let outcome = match error {
        Error::Overloaded(_) | Error::Draining => Outcome::Shed,
        error if error.is_bad_request() => Outcome::Shed,
        _ => Outcome::Failed,
    };
    let mut response = respond(error, route.dialect());
    if let Route::Poll { .. } = route {
        let detail = format!("pollgate; detail={}", error.code());
        if let Ok(value) = HeaderValue::from_maybe_shared(detail) {
            response
                .headers_mut()
                .insert(HeaderName::from_static("cache-status"), value);
        }
    }
    Handled {
        response,
        facts: Facts::only(outcome),
    }
}

/// Keeps what is worth it: errors, and answers that stood in for one. What upstream says of requests that are none of
/// ours is between it and the client, unless it fails.
fn tell(recent: &RecentErrors, route: &Route, caller: Option<Caller>, handled: &Handled) {
    let (status, facts) = (handled.response.status(), &handled.facts);
    let (seen, code, detail) = match facts.outcome {
        Outcome::Stale => (
            SeenBy::Hidden,
            "stale",
            "the last known state stood in for a failing upstream",
        ),
        Outcome::Forwarded if !status.is_server_error() => return,
        _ if status.is_client_error() || status.is_server_error() => (
            SeenBy::Client,
            status.as_str(),
            status.canonical_reason().unwrap_or_default(),
        ),
        _ => return,
    };
    let circumstances = circumstances(route, seen, caller);
    recent.record(circumstances, code, detail, Instant::now());
}

fn circumstances(route: &Route, seen: SeenBy, caller: Option<Caller>) -> ErrorContext<'_> {
    let task = match route {
        Route::Poll { task, .. } | Route::Write { task, .. } => Some(task.as_str()),
        Route::Forward { .. } => None,
    };
    ErrorContext {
        seen,
        route: route.as_str(),
        task,
        caller,
    }
}

/// An error as a client of this path reads it.
#[must_use]
pub(super) fn respond(error: &Error, dialect: Dialect) -> Response<Body> {
    let fault = ErrorDocument::new(error.code(), error.message(), error.kind());
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
    if error.is_bad_request() || *error == Error::Draining {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
