//! The API behind pollgate: pooled connections, over HTTP or HTTPS, HTTP/1.1 or HTTP/2.

use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::PROXY_AUTHORIZATION;
use http::uri::Scheme;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::connect::{self, Connector, Offer, ProxyFailed};
use crate::body::Body;
use crate::config::{self, UpstreamUrl};
use crate::error::Error;
use crate::telemetry::{Metrics, UpstreamKind};

/// How long an unused connection is kept; below the 60 s that proxies in front of upstream usually allow.
const POOL_IDLE: Duration = Duration::from_secs(50);

/// Forwarded requests at once over one HTTP/2 connection. Servers allow about a hundred (RFC 9113 §6.5.2), and those
/// beyond would wait unseen, behind downloads that may last for hours.
const STREAMS: u32 = 32;

/// What one HTTP/2 stream may send ahead of its reader, in bytes. The connection may send as much for each of
/// [`STREAMS`], so that clients that do not read hold up no one else.
const STREAM_WINDOW: u32 = 2 << 20;

/// The most that is read ahead of an HTTP/1.1 connection's reader, in bytes: what a download that no one reads costs,
/// a few times over.
const READ_AHEAD: usize = 64 << 10;

/// How often an HTTP/2 connection in use is asked whether it lives, and how long it has to answer: all requests share
/// it, and the system would take minutes to notice.
const PING: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));

/// The API behind pollgate. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    /// Polls have connections of their own: no flood of downloads stands before them in an HTTP/2 connection.
    polls: Client<Connector, Body>,
    forwards: Client<Connector, Body>,
    /// HTTP/1.1 only, for upgrades, and for forwarded requests beyond [`STREAMS`].
    singles: Client<Connector, Body>,
    streams: Arc<Semaphore>,
    url: UpstreamUrl,
    /// For a proxy that is asked in absolute form.
    proxy_authorization: Option<HeaderValue>,
    metrics: Arc<Metrics>,
}

/// Why upstream cannot be set up.
#[derive(Debug)]
pub enum UpstreamProblem {
    /// The file of `upstream.ca_file` cannot be used.
    CaFile(PathBuf, String),
    /// The TLS library refuses its own settings.
    Tls(rustls::Error),
}

impl fmt::Display for UpstreamProblem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CaFile(path, why) => write!(
                to,
                "upstream.ca_file: got \"{}\", takes a PEM file with at least one certificate: {why}",
                path.display()
            ),
            Self::Tls(error) => write!(to, "TLS to upstream cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for UpstreamProblem {}

impl Upstream {
    /// Reads the roots; opens no connection yet.
    ///
    /// # Errors
    /// The CA file cannot be read.
    pub fn new(config: &config::Upstream, metrics: Arc<Metrics>) -> Result<Self, UpstreamProblem> {
        let tls = connect::tls(config)?;
        let client = |offer| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .pool_idle_timeout(POOL_IDLE)
                .http1_max_buf_size(READ_AHEAD)
                .http2_initial_stream_window_size(STREAM_WINDOW)
                .http2_initial_connection_window_size(STREAM_WINDOW * STREAMS)
                .http2_keep_alive_interval(PING.0)
                .http2_keep_alive_timeout(PING.1)
                .build(connect::connector(config, tls.clone(), offer))
        };
        let is_plain = *config.url.scheme() == Scheme::HTTP;
        let proxy_authorization = config
            .proxy
            .as_ref()
            .filter(|_| is_plain)
            .and_then(|proxy| proxy.authorization().cloned());
        Ok(Self(Arc::new(Inner {
            polls: client(Offer::Both),
            forwards: client(Offer::Both),
            singles: client(Offer::Http1),
            streams: Arc::new(Semaphore::new(STREAMS as usize)),
            url: config.url.clone(),
            proxy_authorization,
            metrics,
        })))
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> &UpstreamUrl {
        &self.0.url
    }

    /// Sends a status poll; resolves when the head of the answer is there.
    ///
    /// # Errors
    /// [`Error::UpstreamClosed`] where the connection was closed before any answer, else
    /// [`Error::UpstreamUnavailable`].
    pub async fn poll(&self, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        self.send(UpstreamKind::Poll, &self.0.polls, request).await
    }

    /// Sends a client's request on; resolves when the head of the answer is there, however long that takes. Never sent
    /// twice, unless its connection turned out to be closed before the first byte was written.
    ///
    /// # Errors
    /// As [`Upstream::poll`].
    pub async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let kind = UpstreamKind::Forward;
        let Ok(stream) = Arc::clone(&self.0.streams).try_acquire_owned() else {
            let response = self.send(kind, &self.0.singles, request).await?;
            return Ok(response.map(Body::from));
        };
        let response = self.send(kind, &self.0.forwards, request).await?;
        Ok(response.map(|body| Body::from(body).guarded(stream)))
    }

    /// Sends on a request for another protocol (RFC 9110 §7.8), over HTTP/1.1, the one version that knows upgrades.
    ///
    /// # Errors
    /// As [`Upstream::poll`].
    pub async fn upgrade(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let kind = UpstreamKind::Forward;
        let response = self.send(kind, &self.0.singles, request).await?;
        Ok(response.map(Body::from))
    }

    async fn send(
        &self,
        kind: UpstreamKind,
        client: &Client<Connector, Body>,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, Error> {
        if let Some(authorization) = &self.0.proxy_authorization {
            let headers = request.headers_mut();
            headers.insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        let started = Instant::now();
        let result = client.request(request).await;
        let code = result
            .as_ref()
            .ok()
            .map(|response| response.status().as_u16());
        self.0
            .metrics
            .upstream(kind, code, started.elapsed().as_secs_f64());
        result.map_err(|error| failure(&error))
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Upstream")
            .field("url", &self.0.url)
            .finish_non_exhaustive()
    }
}

fn failure(error: &legacy::Error) -> Error {
    // The client's own doing: its request's body broke off.
    let mut causes = std::iter::successors(error.source(), |error| (*error).source());
    if let Some(own) = causes.find_map(|cause| cause.downcast_ref::<Error>()) {
        return own.clone();
    }
    let closed = error
        .source()
        .and_then(|source| source.downcast_ref::<hyper::Error>())
        .is_some_and(hyper::Error::is_incomplete_message);
    if closed {
        return Error::UpstreamClosed;
    }
    let why = reason(error).unwrap_or_else(|| "the connection broke".into());
    tracing::debug!("upstream request failed: {why}: {error:?}");
    Error::UpstreamUnavailable(why.into())
}

/// What went wrong, in words that name no address: the innermost cause that says something.
fn reason(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if error.is::<tower::timeout::error::Elapsed>() {
        return Some("connecting took longer than upstream.connect_timeout".into());
    }
    if let Some(proxy) = error.downcast_ref::<ProxyFailed>() {
        return Some(proxy.to_string());
    }
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(format!("TLS failed: {tls}"));
    }
    if let Some(io) = error.downcast_ref::<io::Error>() {
        // What an I/O error wraps is not among its sources.
        let wrapped = io.get_ref().and_then(|wrapped| reason(wrapped));
        return wrapped.or_else(|| Some(io.kind().to_string()));
    }
    error.source().and_then(reason)
}
