//! The admin listener: a page for people, metrics, health, and forgetting what is remembered.
//!
//! | file | holds |
//! |---|---|
//! | `same_origin` | keeps other sites' pages away |
//! | `live` | the numbers of the page, once a second while someone watches |
//! | `totals`, `history` | what is counted, and how fast |
//! | `view`, `words` | what the page shows, in words |
//! | `lookup` | why one task is answered as it is |
//! | `html`, `page` | the document, with `page.html`, `page.css` and `page.js` |

mod history;
mod html;
mod live;
mod lookup;
mod page;
mod same_origin;
mod totals;
mod view;
mod words;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER,
    VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use tokio_util::sync::CancellationToken;
use tower::Service;

use self::live::{Live, PATH as LIVE};
use self::lookup::Wanted;
use crate::error::{Error, retry_after_seconds};
use crate::gateway::Gateway;
use crate::message::body::Body;
use crate::request::inbound::Inbound;
use crate::request::preferences;
use crate::request::route::TaskId;
use crate::telemetry::Exposition;

/// Serves the admin listener.
#[derive(Debug, Clone)]
pub struct Admin {
    gateway: Gateway,
    draining: CancellationToken,
    bound: SocketAddr,
    live: Live,
}

const TEXT: &str = "text/plain; charset=utf-8";

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// What there is, for those who do not ask for the page.
const INDEX: &str = "\
pollgate: a caching gateway for video-task status polls

GET    /                 in a browser: what it saves, what it hides, what hurts, and why one task is answered as it is
GET    /live             the numbers of that page, once a second (text/event-stream)
GET    /metrics          counters, gauges and histograms (Prometheus text format; OpenMetrics when asked for)
GET    /healthz          the process lives
GET    /readyz           ready for traffic; 503 while draining
DELETE /cache/{task_id}  forget one task, for every caller
DELETE /cache            forget everything
";

impl Admin {
    /// For this gateway, on a listener bound there; not ready any more once `draining` is cancelled.
    #[must_use]
    pub fn new(gateway: Gateway, draining: CancellationToken, bound: SocketAddr) -> Self {
        Self {
            live: Live::new(gateway.clone(), draining.clone()),
            gateway,
            draining,
            bound,
        }
    }

    async fn answer(self, inbound: Inbound) -> Response<Body> {
        if let Some(why) = &inbound.refusal {
            return refuse(why);
        }
        let (head, _) = inbound.request.into_parts();
        if let Err(refusal) = same_origin::examine(&head, self.bound) {
            return text(refusal.status(), refusal.reason());
        }
        let method = &head.method;
        let reads = *method == Method::GET || *method == Method::HEAD;
        match head.uri.path() {
            "/" if reads => self.index(&head).await,
            LIVE if reads => self.stream(*method == Method::HEAD),
            "/healthz" if reads => text(StatusCode::OK, "alive\n"),
            "/readyz" if reads && self.draining.is_cancelled() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            "/readyz" if reads => text(StatusCode::OK, "ready\n"),
            "/metrics" if reads => {
                let format = Exposition::wanted(&head.headers);
                respond(
                    StatusCode::OK,
                    format.content_type(),
                    self.gateway.expose(format),
                )
            }
            "/cache" if *method == Method::DELETE => forgot(self.gateway.store().purge_all()),
            "/" | LIVE | "/healthz" | "/readyz" | "/metrics" => not_allowed("GET, HEAD"),
            "/cache" => not_allowed("DELETE"),
            path => match path.strip_prefix("/cache/") {
                Some("") | None => text(StatusCode::NOT_FOUND, INDEX),
                Some(task) if *method == Method::DELETE => {
                    forgot(self.gateway.store().purge_task(&TaskId::new(task)))
                }
                Some(_) => not_allowed("DELETE"),
            },
        }
    }

    /// The page where HTML is asked for by name, as browsers do; else a plain list of what there is.
    async fn index(&self, head: &Parts) -> Response<Body> {
        let headers = &head.headers;
        let html = preferences::weight(headers, "text/html");
        let mut response = if html > 0.0 && html >= preferences::weight(headers, "text/plain") {
            let wanted = head.uri.query().and_then(Wanted::read);
            self.page(wanted).await
        } else {
            text(StatusCode::OK, INDEX)
        };
        response
            .headers_mut()
            .insert(VARY, HeaderValue::from_static("accept"));
        response
    }

    async fn page(&self, wanted: Option<Wanted>) -> Response<Body> {
        let view = self.live.view().await;
        let gateway = self.gateway.clone();
        // Looks at every entry.
        let written = tokio::task::spawn_blocking(move || {
            let found = wanted.map(|wanted| (wanted.typed().to_owned(), wanted.look(&gateway)));
            page::write(
                &view,
                found.as_ref().map(|(typed, found)| (typed.as_str(), found)),
            )
        });
        let Ok(Ok(page)) = written.await else {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the page could not be written\n",
            );
        };
        let mut response = respond(StatusCode::OK, "text/html; charset=utf-8", page.html);
        if let Ok(policy) = HeaderValue::from_maybe_shared(page.policy) {
            response
                .headers_mut()
                .insert(CONTENT_SECURITY_POLICY, policy);
        }
        response
    }

    fn stream(&self, head: bool) -> Response<Body> {
        if self.draining.is_cancelled() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
        }
        let mut response = respond(StatusCode::OK, "text/event-stream", "");
        if head {
            return response;
        }
        if let Some(body) = self.live.stream() {
            *response.body_mut() = body;
            return response;
        }
        let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "too many watch already\n");
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("10"));
        response
    }
}

impl Service<Inbound> for Admin {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        let answer = self.clone().answer(inbound);
        Box::pin(async move { Ok(answer.await) })
    }
}

/// The answer to a request that is not read any further.
#[must_use]
pub fn refuse(error: &Error) -> Response<Body> {
    let mut response = respond(error.status(), TEXT, format!("{error}\n"));
    if let Some(pause) = error.retry_after() {
        let seconds = HeaderValue::from(retry_after_seconds(pause));
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
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

/// Nothing here is for a cache, another site, or a guess at its type.
fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<bytes::Bytes>,
) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
