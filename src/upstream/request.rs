//! The requests that upstream gets: a status poll made here, or a client's request passed on.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, COOKIE, HOST, USER_AGENT};
use http::uri::{self, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version};

use super::headers::{append_forwarded, strip_request};
use super::http1::PollBody;
use crate::config::{Forwarded, UpstreamUrl};
use crate::error::Error;
use crate::message::body::Body;
use crate::message::fields::append_via;
use crate::message::trace;
use crate::request::inbound::Peer;
use crate::request::key::Credentials;
use crate::request::query::{Resource, TaskQuery};
use crate::route::{RouteId, Routes, TaskId};
use crate::task::Dialect;

/// A status poll, for a path of upstream. Its answer is shared, so it holds nothing of the client but what made the caller,
/// and its user agent: some firewalls let known ones pass only.
///
/// # Errors
/// [`Error::BadRequest`] where the path and upstream's prefix make no valid target.
pub fn status_request(
    upstream: &UpstreamUrl,
    query: &TaskQuery,
) -> Result<Request<PollBody>, Error> {
    let (key, resource) = (&query.key, query.resource.as_deref());
    let credentials = &query.credentials;
    let uri = status_target(upstream, key.route, &key.task, resource, credentials)?;
    Ok(poll_request(uri.into(), credentials, resource))
}

/// What a poll asks for.
#[derive(Debug, Clone)]
pub struct StatusTarget {
    /// The route that upstream is asked on.
    pub route: RouteId,
    /// The task.
    pub task: TaskId,
    /// What is asked for, where the route and the task do not tell it.
    pub resource: Option<Arc<Resource>>,
}

/// The same for a document that is passed through as it arrives.
///
/// # Errors
/// [`Error::BadRequest`] where the path and upstream's prefix make no valid target.
pub fn document_request(
    upstream: &UpstreamUrl,
    asked: &StatusTarget,
    credentials: &Credentials,
) -> Result<Request<Body>, Error> {
    let StatusTarget {
        route,
        task,
        resource,
    } = asked;
    let resource = resource.as_deref();
    let target = status_target(upstream, *route, task, resource, credentials)?;
    let uri = absolute(upstream, target)?;
    Ok(poll_request(uri, credentials, resource).map(Body::boxed))
}

fn status_target(
    upstream: &UpstreamUrl,
    route: RouteId,
    task: &TaskId,
    resource: Option<&Resource>,
    credentials: &Credentials,
) -> Result<PathAndQuery, Error> {
    let converted = || Routes::status_path(route.dialect().unwrap_or(Dialect::OpenAi), task);
    let mut path = resource.map_or_else(converted, |resource| resource.path.to_string());
    if let Some(query) = credentials.query() {
        path.push('?');
        path.push_str(query);
    }
    target(upstream, path)
}

fn poll_request(
    uri: Uri,
    credentials: &Credentials,
    resource: Option<&Resource>,
) -> Request<PollBody> {
    let body = resource.and_then(|resource| resource.body.clone());
    let mut request = Request::new(PollBody::default());
    *request.uri_mut() = uri;
    // Those that follow, and `host`: the map never grows.
    request.headers_mut().reserve(8);
    if let Some((body, content_type)) = body {
        *request.method_mut() = Method::POST;
        request.headers_mut().insert(CONTENT_TYPE, content_type);
        *request.body_mut() = PollBody::new(body);
    }
    let headers = request.headers_mut();
    credentials.copy_into(headers);
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let agent = credentials.user_agent().cloned();
    headers.insert(USER_AGENT, agent.unwrap_or(AGENT));
    append_via(headers);
    // A trace of its own: the answer is for many, and belongs to none of their traces.
    trace::begin(headers);
    request
}

fn absolute(upstream: &UpstreamUrl, target: PathAndQuery) -> Result<Uri, Error> {
    let mut uri = uri::Parts::default();
    uri.scheme = Some(upstream.scheme().clone());
    uri.authority = Some(upstream.authority().clone());
    uri.path_and_query = Some(target);
    Uri::from_parts(uri).map_err(|_| NOT_VALID)
}

/// A client's request, ready to be passed on.
#[derive(Debug)]
pub struct ForwardRequest {
    /// The request as upstream gets it.
    pub request: Request<Body>,
    /// Whether the client would rather speak another protocol.
    pub upgrades: bool,
}

/// A client's request, passed on: same method, path, query and body, headers as a proxy owes them.
///
/// # Errors
/// [`Error::BadRequest`] where the path and upstream's prefix make no valid target.
pub fn forward_request(
    upstream: &UpstreamUrl,
    request: Request<Body>,
    peer: Peer,
    forwarded: Forwarded,
) -> Result<ForwardRequest, Error> {
    let (mut parts, body) = request.into_parts();
    let upgrades = strip_request(&mut parts.headers, parts.version);
    append_forwarded(&mut parts.headers, peer, &parts.uri, forwarded);
    append_via(&mut parts.headers);
    join_cookies(&mut parts.headers);
    trace::continue_or_begin(&mut parts.headers);
    // The client library sets upstream's.
    parts.headers.remove(HOST);
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    parts.uri = absolute(upstream, target(upstream, path.to_owned())?)?;
    parts.version = Version::HTTP_11;
    Ok(ForwardRequest {
        request: Request::from_parts(parts, body),
        upgrades,
    })
}

/// What pollgate calls itself where the client does not say who it is.
const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("pollgate/", env!("CARGO_PKG_VERSION")));

/// Joins cookies that HTTP/2 has split for its compression, which HTTP/1.1 must not see (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(mut cookies) = HeaderValue::from_bytes(&joined) {
        cookies.set_sensitive(true);
        headers.insert(COOKIE, cookies);
    }
}

const NOT_VALID: Error = Error::BadRequest("the request's target is not valid");

/// Upstream's prefix and the raw path, byte for byte.
fn target(upstream: &UpstreamUrl, mut path: String) -> Result<PathAndQuery, Error> {
    // `OPTIONS *` asks about the server, not about a path.
    if path == "*" {
        path = String::from("/");
    }
    path.insert_str(0, upstream.prefix());
    PathAndQuery::from_maybe_shared(Bytes::from(path)).map_err(|_| NOT_VALID)
}
