//! Turns errors into responses in the dialect of the path, and keeps the latest errors for people. Below Observe, so that
//! what it counts is what the client sees; above Shed, so that its refusals are worded like all others.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{CONNECTION, RETRY_AFTER, VARY};
use http::{HeaderName, HeaderValue, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::state::Resources;
use crate::answer::handled::{Facts, Handled};
use crate::answer::outcome::Outcome;
use crate::answer::respond::CACHE_STATUS;
use crate::cache::Store;
use crate::error::{Error, retry_after_seconds};
use crate::message::body::Body;
use crate::message::fields::{JSON, RETRY_AFTER_MS};
use crate::request::routed::{Kind, Routed, Subject};
use crate::route::{RouteLabel, TaskId};
use crate::task::{ErrorDocument, ErrorForm};
use crate::telemetry::{ErrorContext, RecentErrors, SeenBy};

/// By which SDKs of OpenAI decide whether to send a request again, before they look at the status.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// See the module.
#[derive(Debug, Clone)]
pub struct Rescue<S> {
    inner: S,
    recent: Arc<RecentErrors>,
    store: Arc<Store>,
}

impl<S> Rescue<S> {
    pub(super) fn new(inner: S, resources: &Resources) -> Self {
        Self {
            inner,
            recent: Arc::clone(&resources.polls.recent_errors),
            store: Arc::clone(&resources.polls.store),
        }
    }
}

impl<S> Service<Routed> for Rescue<S>
where
    S: Service<Kind, Response = Handled, Error = Error>,
{
    type Response = Handled;
    type Error = Infallible;
    type Future = Rescued<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, routed: Routed) -> Self::Future {
        Rescued {
            inner: self.inner.call(routed.kind),
            subject: routed.subject,
            recent: Arc::clone(&self.recent),
            store: Arc::clone(&self.store),
        }
    }
}

pin_project! {
    /// A request in progress that cannot fail.
    pub struct Rescued<F> {
        #[pin]
        inner: F,
        subject: Subject,
        recent: Arc<RecentErrors>,
        store: Arc<Store>,
    }
}

impl<F> Future for Rescued<F>
where
    F: Future<Output = Result<Handled, Error>>,
{
    type Output = Result<Handled, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.inner.poll(cx).map(|result| {
            Ok(match result {
                Ok(handled) => {
                    record(this.recent, this.subject, &handled);
                    handled
                }
                Err(error) => {
                    let context = context(this.subject, SeenBy::Client);
                    let (code, reason) = (error.code(), error.reason());
                    this.recent.record(context, code, &reason, Instant::now());
                    let mut handled = rescue(&error, this.subject);
                    // A page of another origin may read this error if upstream lets it read its answers.
                    let cors = this
                        .subject
                        .caller
                        .and_then(|caller| this.store.cors(caller));
                    if let Some(cors) = cors {
                        let headers = handled.response.headers_mut();
                        headers.extend((*cors).clone());
                        headers.append(VARY, HeaderValue::from_static("origin"));
                    }
                    handled
                }
            })
        })
    }
}

fn rescue(error: &Error, subject: &Subject) -> Handled {
    let outcome = match error {
        Error::Overloaded(_) | Error::Draining => Outcome::Shed,
        error if error.is_bad_request() => Outcome::Shed,
        _ => Outcome::Failed,
    };
    let mut response = respond(error, subject.errors);
    if subject.route != RouteLabel::FORWARD {
        let detail = format!("pollgate; detail={}", error.code());
        if let Ok(value) = HeaderValue::from_maybe_shared(detail) {
            response.headers_mut().insert(CACHE_STATUS, value);
        }
    }
    Handled {
        response,
        facts: Facts {
            error: Some(error.code()),
            ..Facts::only(outcome)
        },
        named: None,
    }
}

/// Records errors, and answers that stood in for one. What upstream says of forwarded requests is between it and the
/// client, unless it is failing.
fn record(recent: &RecentErrors, subject: &Subject, handled: &Handled) {
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
    recent.record(context(subject, seen), code, detail, Instant::now());
}

fn context(subject: &Subject, seen: SeenBy) -> ErrorContext<'_> {
    ErrorContext {
        seen,
        route: subject.route.as_str(),
        task: subject.task.as_ref().map(TaskId::as_str),
        caller: subject.caller,
    }
}

/// An error as a client of this path reads it.
#[must_use]
pub(super) fn respond(error: &Error, form: ErrorForm) -> Response<Body> {
    let document = ErrorDocument::new(error.code(), error.message(), error.kind());
    let mut response = Response::new(Body::full(document.write(form)));
    *response.status_mut() = error.status();
    let headers = response.headers_mut();
    let (name, value) = JSON;
    headers.insert(name, value);
    if let Some(pause) = error.retry_after() {
        let seconds = retry_after_seconds(pause);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        headers.insert(RETRY_AFTER_MS, HeaderValue::from(seconds * 1000));
    }
    if error.forbids_retry() {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    // What follows a bad request on its connection is not trusted either.
    if error.is_bad_request() || *error == Error::Draining {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
