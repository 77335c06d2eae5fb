//! Counts, logs and signs every request. Outermost, so that nothing that happens below goes unseen.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use crate::answer::handled::{Facts, Handled};
use crate::answer::outcome::Outcome;
use crate::config::LogRequests;
use crate::message::body::Body;
use crate::message::fields::append_via;
use crate::message::request_id;
use crate::message::trace::Trace;
use crate::request::inbound::Inbound;
use crate::request::key::{Caller, CallerKey, apart};
use crate::request::route::Route;
use crate::task::State;
use crate::telemetry::{Metrics, RequestLine};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-oneapi-request-id");

/// What nginx counts a client as that went away before its answer was ready.
const CLIENT_GONE: u16 = 499;

/// See the module.
#[derive(Debug, Clone)]
pub struct Observe<S> {
    inner: S,
    metrics: Arc<Metrics>,
    caller_key: CallerKey,
    log: LogRequests,
}

impl<S> Observe<S> {
    pub(super) fn new(
        inner: S,
        metrics: Arc<Metrics>,
        caller_key: CallerKey,
        log: LogRequests,
    ) -> Self {
        Self {
            inner,
            metrics,
            caller_key,
            log,
        }
    }
}

impl<S> Service<Inbound> for Observe<S>
where
    S: Service<Inbound, Response = Handled, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Observed<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut inbound: Inbound) -> Self::Future {
        let headers = inbound.request.headers();
        // Looked at here already, so that it is told of those as well who are refused or go away.
        if let Route::Poll { .. } = inbound.route {
            let query = inbound.request.uri().query();
            inbound.sender = Some(self.caller_key.identify(headers, query));
        }
        let watch = Watch {
            metrics: Arc::clone(&self.metrics),
            log: self.log,
            started: inbound.at,
            route: inbound.route.clone(),
            caller: inbound.sender.map(|sender| sender.caller),
            trace: Trace::read(headers),
            facts: Facts::only(Outcome::Failed),
            code: CLIENT_GONE,
            request_id: headers.get(REQUEST_ID).cloned(),
            is_apart: false,
        };
        Observed {
            inner: self.inner.call(inbound),
            watch: Some(watch),
        }
    }
}

pin_project! {
    /// A request under way, under observation.
    pub struct Observed<F> {
        #[pin]
        inner: F,
        watch: Option<Watch>,
    }
}

impl<F> Future for Observed<F>
where
    F: Future<Output = Result<Handled, Infallible>>,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Poll::Ready(handled) = this.inner.poll(cx) else {
            if let Some(watch) = this.watch {
                watch.keep_apart();
            }
            return Poll::Pending;
        };
        let Handled {
            mut response,
            facts,
        } = handled?;
        let mut watch = this.watch.take();
        if let Some(watch) = &mut watch {
            watch.facts = facts;
            watch.code = response.status().as_u16();
            sign(response.headers_mut(), watch.request_id.take());
            if watch.is_told() {
                watch.request_id = response.headers().get(REQUEST_ID).cloned();
            }
        }
        // A streamed answer is over when its body is: only then the watch is dropped, and tells.
        Poll::Ready(Ok(if response.body().is_buffered() {
            response
        } else {
            response.map(|body| body.guarded(watch))
        }))
    }
}

/// Adds `via` (RFC 9110 §7.6.3) and `x-request-id`: upstream's own where it gave one, else the client's, else ours.
fn sign(headers: &mut HeaderMap, client_id: Option<HeaderValue>) {
    append_via(headers);
    if let Some(id) = headers.get(UPSTREAM_REQUEST_ID).cloned() {
        headers.insert(REQUEST_ID, id);
    } else {
        headers
            .entry(REQUEST_ID)
            .or_insert_with(|| client_id.unwrap_or_else(request_id::make));
    }
}

/// One request under way; tells of it when it is dropped.
struct Watch {
    metrics: Arc<Metrics>,
    log: LogRequests,
    started: Instant,
    route: Route,
    caller: Option<Caller>,
    trace: Option<Trace>,
    facts: Facts,
    code: u16,
    /// The client's name for it, until the answer has one.
    request_id: Option<HeaderValue>,
    is_apart: bool,
}

impl Watch {
    /// Whatever waits does so without the buffer that its request was read into.
    fn keep_apart(&mut self) {
        if !self.is_apart {
            self.is_apart = true;
            self.request_id = self.request_id.as_ref().map(apart);
        }
    }

    /// Whether it gets a line of the log.
    fn is_told(&self) -> bool {
        match self.log {
            LogRequests::All => true,
            LogRequests::Upstream => !matches!(self.facts.outcome, Outcome::Hit | Outcome::Shared),
            LogRequests::Off => false,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let seconds = self.started.elapsed().as_secs_f64();
        let outcome = self.facts.outcome;
        self.metrics
            .request(&self.route, outcome, self.code, seconds, self.trace);
        if self.is_told() {
            let request_id = self.request_id.as_ref();
            // Clients may send any bytes.
            let request_id = request_id.map(|id| String::from_utf8_lossy(id.as_bytes()));
            RequestLine {
                route: self.route.as_str(),
                outcome: outcome.as_str(),
                code: self.code,
                state: self.facts.state.map(State::as_str),
                task: match &self.route {
                    Route::Poll { task, .. } | Route::Write { task, .. } => Some(task.as_str()),
                    Route::Forward { .. } => None,
                },
                caller: self.caller,
                request_id: request_id.as_deref(),
                trace: self.trace,
                seconds,
            }
            .write();
        }
    }
}
