//! A simulator that listens, and a client of it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::TokioExecutor;
use pollgate::simulator::{Counts, Settings, Simulator, Status, TaskOptions};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) const UNIFIED: &str = "/v1/video/generations";
pub(crate) const OPENAI: &str = "/v1/videos";
/// Longer than any wait. Under paused time it passes at once when nothing else can happen.
pub(crate) const EVER: Duration = Duration::from_hours(1);

/// A simulator, listening, and a client.
pub(crate) struct World {
    pub simulator: Simulator,
    pub address: SocketAddr,
    pub client: Client<HttpConnector, Full<Bytes>>,
    pub stop: oneshot::Sender<()>,
    pub served: JoinHandle<std::io::Result<()>>,
}

/// A response whose body was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let simulator = Simulator::new(settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn({
            let simulator = simulator.clone();
            async move { simulator.run(listener, stopped.map(drop)).await }
        });
        Self {
            simulator,
            address,
            client: Client::builder(TokioExecutor::new()).build_http(),
            stop,
            served,
        }
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> http::request::Builder {
        let url = match path.strip_prefix("http") {
            Some(_) => path.to_owned(),
            None => format!("http://{}{path}", self.address),
        };
        Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("a method"))
            .uri(url)
            .header("authorization", "Bearer sk-K")
    }

    pub(crate) async fn open(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, Error> {
        self.client.request(request).await
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let response = self.open(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.expect("a whole body").to_bytes(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(
            self.request("GET", path)
                .body(Full::default())
                .expect("valid"),
        )
        .await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self
            .request("POST", path)
            .header("content-type", "application/json")
            .body(body.to_string().into());
        self.send(request.expect("valid")).await
    }

    pub(crate) async fn as_key(&self, authorization: &str, path: &str) -> Answer {
        let mut request = self
            .request("GET", path)
            .body(Full::default())
            .expect("valid");
        let value = authorization.parse().expect("a header value");
        request.headers_mut().insert("authorization", value);
        self.send(request).await
    }

    /// Creates a task of key K that stays in this status.
    pub(crate) fn held(&self, model: &str, status: Status) -> String {
        let options = TaskOptions {
            status: Some(status),
            ..TaskOptions::default()
        };
        self.simulator
            .create("K", model, options)
            .expect("a free id")
    }

    /// Waits until the counts satisfy the predicate.
    pub(crate) async fn counted(&self, met: impl Fn(&Counts) -> bool) {
        while !met(&self.simulator.counts()) {
            tokio::task::yield_now().await;
        }
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}
