//! One client program: makes tasks and asks for their status, through the gateway.

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

use super::workload::Job;
use crate::gateway::Problem;

/// How long a client waits for an answer; the gateway gives up on upstream earlier.
const PATIENCE: Duration = Duration::from_secs(20);

/// One of the two status paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// `/v1/video/generations`.
    Unified,
    /// `/v1/videos`.
    OpenAi,
}

impl Path {
    /// Where tasks are made; they are polled below it.
    pub(super) const fn base(self) -> &'static str {
        match self {
            Self::Unified => "/v1/video/generations",
            Self::OpenAi => "/v1/videos",
        }
    }

    /// Every other poller, or task, has the one and the rest the other.
    pub(super) fn of(number: usize) -> Self {
        if number.is_multiple_of(2) {
            Self::Unified
        } else {
            Self::OpenAi
        }
    }
}

/// A client with connections of its own; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Client {
    gateway: String,
    http: legacy::Client<HttpConnector, Full<Bytes>>,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// Its status.
    pub(super) status: StatusCode,
    headers: HeaderMap,
    /// Its bytes.
    pub(super) body: Bytes,
    /// When it was asked for.
    pub(super) asked: Instant,
}

impl Client {
    /// Of the gateway at this base URL.
    pub(super) fn new(gateway: &str) -> Self {
        Self {
            gateway: gateway.to_owned(),
            http: legacy::Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .build_http(),
        }
    }

    /// Makes a task through the gateway, and gives its id.
    pub(super) async fn make(&self, job: &Job, path: Path) -> Result<String, Problem> {
        let body = job.document().to_string();
        let answer = self
            .send(Method::POST, path.base(), job.key, body.into())
            .await?;
        let document: Value = serde_json::from_slice(&answer.body)?;
        let id = match path {
            Path::Unified => &document["task_id"],
            Path::OpenAi => &document["id"],
        };
        Ok(id.as_str().ok_or("no id")?.to_owned())
    }

    /// One status poll.
    pub(super) async fn status(&self, path: Path, key: &str, id: &str) -> Result<Answer, Problem> {
        let target = format!("{}/{id}", path.base());
        self.send(Method::GET, &target, key, Bytes::new()).await
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
        let asked = Instant::now();
        timeout(PATIENCE, async {
            let (parts, body) = self.http.request(request).await?.into_parts();
            Ok(Answer {
                status: parts.status,
                headers: parts.headers,
                body: body.collect().await?.to_bytes(),
                asked,
            })
        })
        .await?
    }
}

impl Answer {
    /// How the gateway came by it.
    pub(super) fn cache_status(&self) -> &str {
        self.header("cache-status")
    }

    /// How old the gateway says it is, in seconds.
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
