//! The admin listener: a page for people, metrics, health, and removal of cached answers.
//!
//! | file | holds |
//! |---|---|
//! | `same_origin` | refuses requests that other sites' pages send |
//! | `live` | samples the page's numbers once a second while someone watches |
//! | `totals`, `history` | the counts, and their rates over the last two minutes |
//! | `recorder`, `hour` | the last hour, whether or not anyone watches |
//! | `upstream_state` | how upstream is doing, read off the circuit breaker |
//! | `view`, `words` | the view model: everything that the page shows, as text |
//! | `lookup` | explains why a task is answered as it is |
//! | `html`, `page` | writes the document from `page.html`, `page.css` and `page.js` |

mod history;
mod hour;
mod html;
mod live;
mod lookup;
mod page;
mod recorder;
mod same_origin;
mod totals;
mod upstream_state;
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
use crate::route::TaskId;
use crate::telemetry::Exposition;

/// Serves the admin listener.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    gateway: Gateway,
    draining: CancellationToken,
    bound: SocketAddr,
    live: Live,
}

const TEXT: &str = "text/plain; charset=utf-8";

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// The list of endpoints, for clients that do not ask for HTML.
const INDEX: &str = "\
pollgate: a caching gateway for video-task status polls

GET    /                 the page, in a browser: how upstream is doing, errors, savings, and why a task is answered as it is
GET    /live             the page's numbers once a second (text/event-stream)
GET    /metrics          all metrics (Prometheus text format; OpenMetrics if Accept asks for it)
GET    /healthz          200 while the process lives
GET    /readyz           200 when ready for traffic, 503 while draining
DELETE /cache/{task_id}  removes one task from the cache, for every caller
DELETE /cache            removes everything from the cache
";

impl Admin {
    /// Creates the service for a listener that is bound to `bound`. Reports "not ready" once `draining` is cancelled.
    #[must_use]
    pub(crate) fn new(gateway: Gateway, draining: CancellationToken, bound: SocketAddr) -> Self {
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
        let is_read = *method == Method::GET || *method == Method::HEAD;
        match head.uri.path() {
            "/" if is_read => self.index(&head).await,
            LIVE if is_read => self.stream(method),
            "/healthz" if is_read => text(StatusCode::OK, "alive\n"),
            "/readyz" if is_read && self.draining.is_cancelled() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            "/readyz" if is_read => text(StatusCode::OK, "ready\n"),
            "/metrics" if is_read => {
                let format = Exposition::wanted(&head.headers);
                respond(
                    StatusCode::OK,
                    format.content_type(),
                    self.gateway.expose(format),
                )
            }
            "/cache" if *method == Method::DELETE => removed(self.gateway.forget_all().await),
            "/" | LIVE | "/healthz" | "/readyz" | "/metrics" => not_allowed("GET, HEAD"),
            "/cache" => not_allowed("DELETE"),
            path => match path.strip_prefix("/cache/") {
                Some("") | None => text(StatusCode::NOT_FOUND, INDEX),
                Some(task) if *method == Method::DELETE => {
                    removed(self.gateway.forget_task(&TaskId::new(task)).await)
                }
                Some(_) => not_allowed("DELETE"),
            },
        }
    }

    /// Answers with the page if `Accept` names HTML, as browsers' does, and with the list of endpoints otherwise.
    async fn index(&self, head: &Parts) -> Response<Body> {
        let headers = &head.headers;
        let html = preferences::weight(headers, "text/html");
        let mut response = if html > 0.0 && html >= preferences::weight(headers, "text/plain") {
            let routes = self.gateway.routes();
            let query = head.uri.query();
            let wanted = query.and_then(|query| Wanted::read(query, &routes));
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
        // On a blocking thread, since a look-up scans the whole cache.
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

    fn stream(&self, method: &Method) -> Response<Body> {
        if self.draining.is_cancelled() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
        }
        let mut response = respond(StatusCode::OK, "text/event-stream", "");
        if *method == Method::HEAD {
            return response;
        }
        if let Some(body) = self.live.stream() {
            *response.body_mut() = body;
            return response;
        }
        let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "too many watchers\n");
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
pub(crate) fn refuse(error: &Error) -> Response<Body> {
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

fn removed(count: usize) -> Response<Body> {
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
        format!("this path allows {allowed} only\n"),
    );
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// Adds the headers that keep caches, other sites and content sniffing away from every answer.
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
