//! A client of the gateway: creates tasks and polls their status.

use std::time::Duration;

use bytes::Bytes;
use http::header::{AGE, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::route::Route;
use super::workload::Job;
use crate::gateway::Problem;

/// Timeout of a request; the gateway's own is shorter.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client with its own connections; clones share them.
#[derive(Debug, Clone)]
pub(super) struct Client {
    gateway: String,
    http: legacy::Client<HttpConnector, Full<Bytes>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    pub(super) body: Bytes,
    /// When the request was sent.
    pub(super) sent: Instant,
}

impl Client {
    /// Creates a client of the gateway at this base URL.
    pub(super) fn new(gateway: &str) -> Self {
        Self {
            gateway: gateway.to_owned(),
            http: legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .build_http(),
        }
    }

    /// Creates a task, and returns its id.
    pub(super) async fn create(&self, job: &Job, route: &Route) -> Result<String, Problem> {
        let body = job.document(route.model).to_string();
        let answer = self
            .send(Method::POST, route.create, job.key, body.into())
            .await?;
        let document: Value = serde_json::from_slice(&answer.body)?;
        Ok(route.created_id(&document).ok_or("no id")?.to_owned())
    }

    /// Polls a task's status.
    pub(super) async fn status(
        &self,
        route: &Route,
        key: &str,
        id: &str,
    ) -> Result<Answer, Problem> {
        self.send(Method::GET, &route.target(id), key, Bytes::new())
            .await
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        key: &str,
        body: Bytes,
    ) -> Result<Answer, Problem> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{target}", self.gateway))
            .header(AUTHORIZATION, format!("Bearer {key}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let sent = Instant::now();
        timeout(PATIENCE, async {
            let (parts, body) = self.http.request(request).await?.into_parts();
            Ok(Answer {
                status: parts.status,
                headers: parts.headers,
                body: body.collect().await?.to_bytes(),
                sent,
            })
        })
        .await?
    }
}

impl Answer {
    /// The `cache-status` field, or an empty string.
    pub(super) fn cache_status(&self) -> &str {
        self.header("cache-status")
    }

    /// Whether it is a page for people instead of a document.
    pub(super) fn is_page(&self) -> bool {
        self.header(CONTENT_TYPE.as_str()).starts_with("text/html")
    }

    /// The `age` field, in seconds.
    pub(super) fn age(&self) -> Option<u64> {
        self.header(AGE.as_str()).parse().ok()
    }

    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }
}
