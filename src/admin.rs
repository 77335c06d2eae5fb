//! The admin listener: metrics, health, and forgetting what is remembered.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::body::Body;
use crate::exchange::Inbound;
use crate::gateway::Gateway;
use crate::route::TaskId;
use crate::telemetry::Exposition;

/// Serves the admin listener.
#[derive(Debug, Clone)]
pub struct Admin {
    gateway: Gateway,
    draining: CancellationToken,
}

const TEXT: &str = "text/plain; charset=utf-8";

/// What there is, for people who open the address in a browser.
const INDEX: &str = "\
pollgate: a caching gateway for video-task status polls

GET    /metrics          counters, gauges and histograms (Prometheus text format; OpenMetrics when asked for)
GET    /healthz          the process lives
GET    /readyz           ready for traffic; 503 while draining
DELETE /cache/{task_id}  forget one task, for every caller
DELETE /cache            forget everything
";

impl Admin {
    /// For this gateway; not ready any more once `draining` is cancelled.
    #[must_use]
    pub fn new(gateway: Gateway, draining: CancellationToken) -> Self {
        Self { gateway, draining }
    }

    fn answer(&self, inbound: &Inbound) -> Response<Body> {
        let method = inbound.request.method();
        let path = inbound.request.uri().path();
        let reads = method == Method::GET || method == Method::HEAD;
        match path {
            "/" if reads => text(StatusCode::OK, INDEX),
            "/healthz" if reads => text(StatusCode::OK, "alive\n"),
            "/readyz" if reads && self.draining.is_cancelled() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            "/readyz" if reads => text(StatusCode::OK, "ready\n"),
            "/metrics" if reads => {
                let format = Exposition::wanted(inbound.request.headers());
                respond(
                    StatusCode::OK,
                    format.content_type(),
                    self.gateway.expose(format),
                )
            }
            "/cache" if method == Method::DELETE => forgot(self.gateway.store().forget_all()),
            "/" | "/healthz" | "/readyz" | "/metrics" => not_allowed("GET, HEAD"),
            "/cache" => not_allowed("DELETE"),
            path => match path.strip_prefix("/cache/") {
                Some("") | None => text(StatusCode::NOT_FOUND, INDEX),
                Some(task) if method == Method::DELETE => {
                    forgot(self.gateway.store().forget_task(&TaskId::new(task)))
                }
                Some(_) => not_allowed("DELETE"),
            },
        }
    }
}

impl Service<Inbound> for Admin {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        ready(Ok(self.answer(&inbound)))
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Body> {
    respond(status, TEXT, text)
}

fn forgot(count: usize) -> Response<Body> {
    respond(
        StatusCode::OK,
        "application/json",
        format!("{{\"forgotten\":{count}}}"),
    )
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response = respond(
        StatusCode::METHOD_NOT_ALLOWED,
        TEXT,
        format!("only {allowed} here\n"),
    );
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<bytes::Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
