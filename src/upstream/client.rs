//! Pooled connections to upstream, over HTTP or HTTPS, HTTP/1.1 or HTTP/2.

use std::error::Error as _;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::{self, Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::BoxError;
use tower::timeout::Timeout;
use tower::util::BoxCloneSyncService;

use crate::body::Body;
use crate::config::{self, UpstreamUrl};
use crate::error::Error;
use crate::telemetry::{Metrics, UpstreamKind};

/// How long an unused connection is kept; below the 60 s that proxies in front of upstream usually allow.
const POOL_IDLE: Duration = Duration::from_secs(50);

type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, BoxError>;

/// The API behind pollgate. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Upstream {
    client: Client<Connector, Body>,
    url: UpstreamUrl,
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
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_mins(1)));
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .map_err(UpstreamProblem::Tls)?
        .with_root_certificates(roots(config.ca_file.as_deref())?)
        .with_no_client_auth();
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .build(BoxCloneSyncService::new(Timeout::new(
                https,
                config.connect_timeout,
            )));
        Ok(Self {
            client,
            url: config.url.clone(),
            metrics,
        })
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> &UpstreamUrl {
        &self.url
    }

    /// Sends a status poll; resolves when the head of the answer is there.
    ///
    /// # Errors
    /// [`Error::UpstreamClosed`] where the connection was closed before any answer, else
    /// [`Error::UpstreamUnavailable`].
    pub async fn poll(&self, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        self.send(UpstreamKind::Poll, request).await
    }

    /// Sends a client's request on; resolves when the head of the answer is there. Never sent twice, unless its
    /// connection turned out to be closed before the first byte was written.
    ///
    /// # Errors
    /// [`Error::UpstreamUnavailable`].
    pub async fn forward(&self, request: Request<Body>) -> Result<Response<Incoming>, Error> {
        self.send(UpstreamKind::Forward, request).await
    }

    async fn send(
        &self,
        kind: UpstreamKind,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Error> {
        let started = Instant::now();
        let result = self.client.request(request).await;
        let code = result
            .as_ref()
            .ok()
            .map(|response| response.status().as_u16());
        self.metrics
            .upstream(kind, code, started.elapsed().as_secs_f64());
        result.map_err(|error| failure(&error))
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Upstream")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

fn failure(error: &legacy::Error) -> Error {
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

/// The system's roots, or Mozilla's where the system has none (an image from scratch); a private CA comes on top.
fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, UpstreamProblem> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = ca_file {
        let refuse = |why: String| UpstreamProblem::CaFile(path.to_owned(), why);
        let mut file = BufReader::new(File::open(path).map_err(|error| refuse(error.to_string()))?);
        let mut found = 0;
        for certificate in CertificateDer::pem_reader_iter(&mut file) {
            let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| refuse(error.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(refuse("there is none in it".into()));
        }
    }
    Ok(roots)
}
