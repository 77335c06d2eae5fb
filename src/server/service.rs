//! The service of one connection: refuses a request or hands it to the stack, and notes when it is answered.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
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
use crate::telemetry::{Counted, Gauge};

/// A connection's permit, and its part in the gauge. Both are given back when this is dropped.
#[derive(Debug)]
pub(super) struct Admission {
    _permit: OwnedSemaphorePermit,
    _counted: Option<Counted>,
}

impl Admission {
    pub(super) fn new(permit: OwnedSemaphorePermit, gauge: Option<&Gauge>) -> Self {
        Self {
            _permit: permit,
            _counted: gauge.map(Gauge::up),
        }
    }
}

/// See the module.
pub(super) struct ConnectionService<S> {
    pub(super) activity: Arc<Activity>,
    /// This connection's own copy: its counters stay in the cache of the core that serves the connection.
    inner: Mutex<S>,
    peer: Peer,
    pub(super) options: Arc<ServerOptions>,
    speaks_http_2: AtomicBool,
    /// Whether the next answer is the last one.
    is_stopping: AtomicBool,
    /// Carries the bytes of the protocol that the connection has switched to.
    tunnel: Mutex<Option<Body>>,
    _admission: Admission,
}

impl<S> ConnectionService<S> {
    pub(super) fn new(
        inner: S,
        peer: Peer,
        options: Arc<ServerOptions>,
        admission: Admission,
        activity: Arc<Activity>,
    ) -> Arc<Self> {
        Arc::new(Self {
            activity,
            inner: Mutex::new(inner),
            peer,
            options,
            speaks_http_2: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            tunnel: Mutex::new(None),
            _admission: admission,
        })
    }

    pub(super) fn speaks_http_2(&self) -> bool {
        self.speaks_http_2.load(Ordering::Relaxed)
    }

    /// Makes the next answer the last one.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Takes what has to run on after the connection's HTTP: a tunnel, once it has switched to another protocol.
    pub(super) fn take_tunnel(&self) -> Option<Body> {
        lock(&self.tunnel).take()
    }
}

impl<S> ConnectionService<S>
where
    S: Service<Inbound, Response = Response<Body>, Error = Infallible>,
{
    /// Answers one request. A refused one goes through the stack too, with its error.
    pub(super) fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<S> {
        let is_http_2 = request.version() == Version::HTTP_2;
        // hyper would send the body of an error, which fails the stream for its client (RFC 9110 §9.3.2).
        let is_http_2_head = is_http_2 && request.method() == Method::HEAD;
        let (in_progress, refusal) = self.activity.begin_request();
        if is_http_2 {
            self.speaks_http_2.store(true, Ordering::Relaxed);
        }
        let refusal = refusal.or_else(|| refuse_http_2(&request));
        if let Some(why) = &refusal {
            tracing::debug!("refusing a request: {why}");
        }
        let request =
            request.map(|body| Upload::watch(body, &self.activity, self.options.idle_timeout));
        let takes_interim = request.version() == Version::HTTP_11;
        let mut inbound = Inbound::new(request, self.peer);
        inbound.refusal = refusal;
        if takes_interim {
            inbound.interim = Some(Interim(Arc::clone(&self.activity) as _));
        }
        let answer = lock(&self.inner).call(inbound);
        // Not an `async` block, which would have room for the future twice.
        answer.map(move |answer| {
            let mut response = answer?;
            let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if switches {
                self.activity.answered_with_switch();
            } else {
                self.activity.answered();
            }
            if self.is_stopping.load(Ordering::Relaxed) && !is_http_2 && !switches {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            if response.body().is_buffered() {
                if is_http_2_head {
                    *response.body_mut() = Body::empty();
                }
                return Ok(response);
            }
            // A streamed answer keeps its request in progress until its end.
            let (head, body) = response.into_parts();
            let body = body.guarded(in_progress);
            let body = if switches {
                *lock(&self.tunnel) = Some(body);
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

/// What HTTP/2's own framing leaves ambiguous: two hosts (RFC 9113 §8.3.1), two lengths, a user in the target. And what
/// HTTP/1.1 refuses: a target that is no path or too long, too many headers, a GET with a body of unknown length.
fn refuse_http_2(request: &Request<Incoming>) -> Option<Error> {
    if request.version() != Version::HTTP_2 {
        return None;
    }
    let target = request.uri().path_and_query();
    if target.is_some_and(|target| target.as_str().len() > guard::MAX_TARGET) {
        return Some(Error::UriTooLong);
    }
    if request.headers().len() > guard::MAX_HEADERS {
        return Some(Error::HeadTooLarge);
    }
    let authority = request.uri().authority().map(Authority::as_str);
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    let why = if hosts.next().is_some() {
        "the request has more than one host"
    } else if authority.is_none() && host.is_none() {
        "the request has no host; HTTP/2 needs an authority"
    } else if authority.is_some_and(|authority| authority.contains('@')) {
        "the request's authority names a user; credentials have their own header"
    } else if let (Some(authority), Some(host)) = (authority, host)
        && !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes())
    {
        "the request's authority and its host header name two hosts"
    } else if !is_target(request) {
        "the request's target is not valid"
    } else if matches!(*request.method(), Method::GET | Method::HEAD)
        && !request.body().is_end_stream()
        && !request.headers().contains_key(CONTENT_LENGTH)
    {
        // As in HTTP/1.1: hyper would not send it upstream.
        "a GET or HEAD request has a body without a content-length"
    } else if request.headers().get_all(CONTENT_LENGTH).iter().count() > 1 {
        "the request has more than one content-length"
    } else if request
        .headers()
        .keys()
        .any(|name| guard::is_misleading(name.as_str()))
    {
        "a header's name looks like content-length or transfer-encoding"
    } else {
        return None;
    };
    Some(Error::BadRequest(why))
}

/// Whether an HTTP/2 target begins with its path, or is the `*` of OPTIONS. `http` takes a query without a path, and
/// nothing before a fragment, for `/`.
fn is_target(request: &Request<Incoming>) -> bool {
    const ROOT: PathAndQuery = PathAndQuery::from_static("/");
    // Only CONNECT has no path, which the stack refuses.
    request.uri().path_and_query().is_none_or(|target| {
        match target.as_str() {
            // What was empty is written like this too, but is not equal to it.
            "/" => *target == ROOT,
            "*" => *request.method() == Method::OPTIONS,
            target => target.starts_with('/'),
        }
    })
}
