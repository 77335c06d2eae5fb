//! A scripted upstream: answers by a script, holds requests at a gate, and records them.

use std::borrow::Cow;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::eventually;

/// One request that upstream got.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("text"))
    }
}

/// One response.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    status: StatusCode,
    headers: Vec<(Cow<'static, str>, String)>,
    body: Bytes,
    after: Duration,
}

impl Reply {
    pub(crate) fn json(body: impl Into<Bytes>) -> Self {
        Self::new(200, "application/json", body)
    }

    pub(crate) fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self {
            status: StatusCode::from_u16(status).unwrap(),
            headers: vec![("content-type".into(), content_type.into())],
            body: body.into(),
            after: Duration::ZERO,
        }
    }

    /// Sent so long after the request.
    #[allow(dead_code, reason = "tests/fleet uses it")]
    pub(crate) fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    pub(crate) fn with(mut self, name: impl Into<Cow<'static, str>>, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

type Script = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

/// A scripted upstream. Stops with the test's runtime.
pub(crate) struct Upstream {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    script: Arc<Mutex<Script>>,
    gate: Arc<Semaphore>,
    gated: Arc<watch::Sender<bool>>,
}

impl Upstream {
    pub(crate) async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            script: Arc::new(Mutex::new(Arc::new(script))),
            gate: Arc::new(Semaphore::new(0)),
            gated: Arc::new(watch::Sender::new(false)),
        };
        let (asked, script) = (Arc::clone(&upstream.asked), Arc::clone(&upstream.script));
        let (gate, gated) = (Arc::clone(&upstream.gate), Arc::clone(&upstream.gated));
        let handle = move |request: Request<Incoming>| {
            let (asked, script) = (Arc::clone(&asked), Arc::clone(&script));
            let (gate, gated) = (Arc::clone(&gate), Arc::clone(&gated));
            async move {
                let (parts, body) = request.into_parts();
                let one = Asked {
                    method: parts.method,
                    target: parts
                        .uri
                        .path_and_query()
                        .map_or("/", |path| path.as_str())
                        .into(),
                    headers: parts.headers,
                    body: body
                        .collect()
                        .await
                        .map(http_body_util::Collected::to_bytes)
                        .unwrap_or_default(),
                };
                asked.lock().unwrap().push(one.clone());
                if *gated.borrow() {
                    gate.acquire().await.expect("never closed").forget();
                }
                let script = Arc::clone(&script.lock().unwrap());
                let Reply {
                    status,
                    headers,
                    body,
                    after,
                } = script(&one);
                tokio::time::sleep(after).await;
                let mut response = Response::builder().status(status);
                for (name, value) in headers {
                    response = response.header(&*name, value);
                }
                Ok::<_, Infallible>(response.body(Full::new(body)).unwrap())
            }
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let handle = handle.clone();
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service_fn(handle))
                        .await;
                });
            }
        });
        upstream
    }

    /// Answers every status poll with this body.
    pub(crate) async fn saying(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self::start(move |_| Reply::json(body.clone())).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Replaces the script.
    pub(crate) fn now(&self, script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    /// The requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// Makes requests wait for [`Upstream::let_pass`].
    pub(crate) fn close_gate(&self) {
        self.gated.send_replace(true);
    }

    /// Lets all requests pass, waiting and future ones.
    pub(crate) fn open_gate(&self) {
        self.gated.send_replace(false);
        // Those who wait get theirs at once; none is left for the next gate.
        self.gate.add_permits(Semaphore::MAX_PERMITS / 2);
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Lets this many requests pass, waiting or future ones.
    pub(crate) fn let_pass(&self, count: usize) {
        self.gate.add_permits(count);
    }

    /// Waits until this many requests have arrived.
    pub(crate) async fn was_asked(&self, count: usize) {
        eventually(&format!("{count} upstream requests"), async || {
            self.count() >= count
        })
        .await;
    }
}
