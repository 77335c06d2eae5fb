//! What the requests of one connection have in common, and how each of them is answered.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST};
use http::uri::Authority;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tower::Service;

use super::activity::Activity;
use super::bodies::{Download, Upload};
use super::{ServerOptions, guard};
use crate::error::Error;
use crate::message::body::Body;
use crate::request::inbound::{Inbound, Interim, Peer};
use crate::sync::lock;
use crate::telemetry::Counted;

/// See the module.
pub(super) struct ConnectionService<S> {
    pub(super) activity: Arc<Activity>,
    /// This connection's own: what it counts on is hot in the cache of the core that serves the connection.
    service: Mutex<S>,
    peer: Peer,
    pub(super) options: Arc<ServerOptions>,
    speaks_http_2: AtomicBool,
    /// Whether the next answer is the last one.
    stopping: AtomicBool,
    /// See [`ConnectionService::afterwards`].
    afterwards: Mutex<Option<Body>>,
    _admission: (OwnedSemaphorePermit, Option<Counted>),
}

impl<S> ConnectionService<S> {
    /// With the connection's `admission`: its place among the connections, and its part in their number.
    pub(super) fn new(
        service: S,
        peer: Peer,
        options: Arc<ServerOptions>,
        admission: (OwnedSemaphorePermit, Option<Counted>),
    ) -> Arc<Self> {
        Arc::new(Self {
            activity: Activity::new(),
            service: Mutex::new(service),
            peer,
            options,
            speaks_http_2: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            afterwards: Mutex::new(None),
            _admission: admission,
        })
    }

    pub(super) fn speaks_http_2(&self) -> bool {
        self.speaks_http_2.load(Ordering::Relaxed)
    }

    /// The next answer is the last one.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// What follows the connection's HTTP, where it has switched to another protocol.
    pub(super) fn afterwards(&self) -> Option<Body> {
        lock(&self.afterwards).take()
    }
}

impl<S> ConnectionService<S>
where
    S: Service<Inbound, Response = Response<Body>, Error = Infallible>,
{
    /// Answers one request, or says why it is refused.
    pub(super) fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<S> {
        let is_http_2 = request.version() == Version::HTTP_2;
        let (busy, refused) = self.activity.begin_request();
        if is_http_2 {
            self.speaks_http_2.store(true, Ordering::Relaxed);
        }
        let refusal = refused.or_else(|| refuse_http_2(&request));
        if let Some(why) = &refusal {
            tracing::debug!("a client's request is refused: {why}");
        }
        let request =
            request.map(|body| Upload::watch(body, &self.activity, self.options.idle_timeout));
        let speaks_http_11 = request.version() == Version::HTTP_11;
        let mut inbound = Inbound::new(request, self.peer);
        inbound.refusal = refusal;
        if speaks_http_11 {
            inbound.interim = Some(Interim(Arc::clone(&self.activity) as _));
        }
        let answer = lock(&self.service).call(inbound);
        // No `async` block: it would have room for the future twice.
        answer.map(move |answer| {
            let mut response = answer?;
            let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if switches {
                self.activity.answered_with_switch();
            } else {
                self.activity.answered();
            }
            if self.stopping.load(Ordering::Relaxed) && !is_http_2 && !switches {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            if response.body().is_buffered() {
                return Ok(response);
            }
            // A streamed answer keeps the connection busy until its end.
            let (head, body) = response.into_parts();
            let body = body.guarded(busy);
            let body = if switches {
                *lock(&self.afterwards) = Some(body);
                Body::empty()
            } else if is_http_2 {
                Download::watch(body, &self.activity)
            } else {
                body
            };
            Ok(Response::from_parts(head, body))
        })
    }
}

/// What HTTP/2's own framing leaves open: two hosts (RFC 9113 §8.3.1), two lengths, a user in the target.
fn refuse_http_2(request: &Request<Incoming>) -> Option<Error> {
    if request.version() != Version::HTTP_2 {
        return None;
    }
    let authority = request.uri().authority().map(Authority::as_str);
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    let why = if hosts.next().is_some() {
        "the request has more than one host"
    } else if authority.is_none() && host.is_none() {
        "the request has no host; HTTP/2 takes an authority"
    } else if authority.is_some_and(|authority| authority.contains('@')) {
        "the request's authority names a user; credentials have their own header"
    } else if let (Some(authority), Some(host)) = (authority, host)
        && !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes())
    {
        "the request's authority and its host header name two hosts"
    } else if request.headers().get_all(CONTENT_LENGTH).iter().count() > 1 {
        "the request has more than one length"
    } else if request
        .headers()
        .keys()
        .any(|name| guard::is_misleading(name.as_str()))
    {
        "a header's name is all but content-length or transfer-encoding"
    } else {
        return None;
    };
    Some(Error::BadRequest(why))
}
