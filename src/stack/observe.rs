//! Reads the route of every request, counts and logs it, and adds `via` and a request id to its response. The outermost
//! layer, so that it sees everything.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use super::state::Resources;
use crate::answer::handled::{Facts, Handled};
use crate::answer::outcome::Outcome;
use crate::config::{Config, LogRequests};
use crate::message::body::Body;
use crate::message::fields::append_via;
use crate::message::request_id;
use crate::message::trace::Trace;
use crate::request::inbound::Inbound;
use crate::request::key::{CallerKey, detached};
use crate::request::query::AskedUpstream;
use crate::request::routed::{Kind, Routed, Subject};
use crate::route::{Routes, TaskId};
use crate::task::State;
use crate::telemetry::{CLIENT_GONE, Metrics, RequestLine};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-oneapi-request-id");

/// The maximum length of a client's request id, in bytes, as it is echoed and logged. The answers of a client that does
/// not read stay in memory, so it must not choose their size.
const MAX_REQUEST_ID: usize = 128;

/// See the module.
#[derive(Debug, Clone)]
pub struct Observe<S> {
    inner: S,
    metrics: Arc<Metrics>,
    caller_key: CallerKey,
    routes: Arc<Routes>,
    log: LogRequests,
    spare: Spare,
}

/// The flag by which a poll learns whether it went upstream. The next poll on the connection reuses it, so that none
/// allocates. Each clone of the stack has its own.
#[derive(Debug, Default)]
struct Spare(AskedUpstream);

impl Clone for Spare {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl<S> Observe<S> {
    pub(super) fn new(
        inner: S,
        resources: &Resources,
        config: &Config,
        routes: &Arc<Routes>,
    ) -> Self {
        Self {
            inner,
            metrics: Arc::clone(&resources.metrics),
            caller_key: resources.caller_key.with_headers(&config.callers.headers),
            routes: Arc::clone(routes),
            log: config.log.requests,
            spare: Spare::default(),
        }
    }
}

impl<S> Service<Inbound> for Observe<S>
where
    S: Service<Routed, Response = Handled, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Observed<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        let headers = inbound.request.headers();
        let (trace, request_id) = (Trace::read(headers), headers.get(REQUEST_ID).map(cut));
        let started = inbound.received_at;
        let mut routed = Routed::read(inbound, &self.routes, &self.caller_key);
        let asked = match &mut routed.kind {
            Kind::Poll(poll) => Some(&mut poll.asked),
            Kind::PollByBody(unread) => Some(&mut unread.asked),
            Kind::Forward(_) | Kind::Refused(_) => None,
        };
        let asked = asked.map(|asked| {
            *asked = std::mem::take(&mut self.spare.0).recycled();
            self.spare.0 = asked.clone();
            asked.clone()
        });
        let watch = Watch {
            metrics: Arc::clone(&self.metrics),
            log: self.log,
            started,
            subject: routed.subject.clone(),
            trace,
            asked,
            facts: Facts::only(Outcome::Failed),
            code: CLIENT_GONE,
            request_id,
            is_detached: false,
        };
        Observed {
            inner: self.inner.call(routed),
            watch: Some(watch),
        }
    }
}

pin_project! {
    /// A request in progress, under observation.
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
                watch.detach();
            }
            return Poll::Pending;
        };
        let Handled {
            mut response,
            facts,
            named,
        } = handled?;
        let mut watch = this.watch.take();
        if let Some(watch) = &mut watch {
            watch.facts = facts;
            if let Some(named) = named {
                named.tell(&mut watch.subject);
            }
            watch.code = response.status().as_u16();
            sign(response.headers_mut(), watch.request_id.take());
            if watch.is_logged() {
                watch.request_id = response.headers().get(REQUEST_ID).cloned();
            }
        }
        if response.body().is_buffered() {
            return Poll::Ready(Ok(response));
        }
        // A streamed answer ends with its body; only then is the watch dropped, which reports it.
        if let Some(watch) = &mut watch {
            watch.request_id = watch.request_id.as_ref().map(detached);
        }
        Poll::Ready(Ok(response.map(|body| body.guarded(watch))))
    }
}

/// Adds `via` (RFC 9110 §7.6.3) and `x-request-id`: upstream's if it sent one, else the client's, else a new one.
pub(super) fn sign(headers: &mut HeaderMap, client_id: Option<HeaderValue>) {
    append_via(headers);
    if let Some(id) = headers.get(UPSTREAM_REQUEST_ID).cloned() {
        headers.insert(REQUEST_ID, id);
    } else {
        headers
            .entry(REQUEST_ID)
            .or_insert_with(|| client_id.unwrap_or_else(request_id::make));
    }
}

/// A client's request id, cut to [`MAX_REQUEST_ID`].
fn cut(id: &HeaderValue) -> HeaderValue {
    if id.len() <= MAX_REQUEST_ID {
        return id.clone();
    }
    let start = id.as_bytes().get(..MAX_REQUEST_ID).unwrap_or_default();
    HeaderValue::from_bytes(start).unwrap_or_else(|_| request_id::make())
}

/// One request in progress; counts and logs it when dropped.
struct Watch {
    metrics: Arc<Metrics>,
    log: LogRequests,
    started: Instant,
    subject: Subject,
    trace: Option<Trace>,
    /// Whether it went upstream; only for status polls.
    asked: Option<AskedUpstream>,
    facts: Facts,
    code: u16,
    /// The client's request id, until the answer has one.
    request_id: Option<HeaderValue>,
    is_detached: bool,
}

impl Watch {
    /// Copies what would otherwise keep the request's read buffer alive while the request waits.
    fn detach(&mut self) {
        if !self.is_detached {
            self.is_detached = true;
            self.request_id = self.request_id.as_ref().map(detached);
        }
    }

    /// Whether it is logged.
    fn is_logged(&self) -> bool {
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
            .request(self.subject.route, outcome, self.code, seconds, self.trace);
        if let (Some(caller), Some(task)) = (self.subject.caller, &self.subject.task) {
            let demand = self.metrics.demand();
            demand.record(caller, task.as_str(), self.facts.state, self.code);
        }
        if self.asked.as_ref().is_some_and(|asked| !asked.get()) {
            self.metrics.poll_avoided();
        }
        if self.is_logged() {
            let request_id = self.request_id.as_ref();
            // Clients may send any bytes.
            let request_id = request_id.map(|id| String::from_utf8_lossy(id.as_bytes()));
            RequestLine {
                route: self.subject.route.as_str(),
                outcome: outcome.as_str(),
                code: self.code,
                error: self.facts.error,
                state: self.facts.state.map(State::as_str),
                task: self.subject.task.as_ref().map(TaskId::as_str),
                caller: self.subject.caller,
                request_id: request_id.as_deref(),
                trace: self.trace,
                seconds,
            }
            .write();
        }
    }
}
