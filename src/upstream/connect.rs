//! How connections to upstream come about: TCP or a proxy, and TLS on top.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::TryFutureExt as _;
use futures_util::future::BoxFuture;
use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::dns::{GaiAddrs, GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower::timeout::Timeout;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceBuilder};

use crate::config;
use crate::message::flatten;

/// The time after which the system probes a silent connection.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(1);

/// The time between two probes.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// The number of unanswered probes after which the connection is dead: two minutes in all.
const KEEPALIVE_PROBES: u32 = 4;

/// Opens connections to upstream.
pub(super) type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<Wire>, BoxError>;

/// Which HTTP versions are offered over TLS. Without TLS, it is HTTP/1.1 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// HTTP/2 and HTTP/1.1, in this order.
    Both,
    /// HTTP/1.1 alone.
    Http1,
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

/// The way to upstream, as configured.
pub(super) fn connector(config: &config::Upstream, tls: ClientConfig, offer: Offer) -> Connector {
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1();
    let wires = wires(config);
    let https = match offer {
        Offer::Both => builder.enable_http2().wrap_connector(wires),
        Offer::Http1 => builder.wrap_connector(wires),
    };
    BoxCloneSyncService::new(Timeout::new(https, config.connect_timeout))
}

fn wires(config: &config::Upstream) -> BoxCloneSyncService<Uri, Wire, BoxError> {
    let mut tcp = HttpConnector::new_with_resolver(Resolver(GaiResolver::new()));
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(KEEPALIVE_AFTER));
    tcp.set_keepalive_interval(Some(KEEPALIVE_EVERY));
    tcp.set_keepalive_retries(Some(KEEPALIVE_PROBES));
    let Some(proxy) = &config.proxy else {
        return BoxCloneSyncService::new(
            ServiceBuilder::new()
                .map_response(Wire::direct)
                .map_err(Into::into)
                .service(tcp),
        );
    };
    let uri = proxy.uri().clone();
    if *config.url.scheme() == Scheme::HTTPS {
        let mut tunnel = Tunnel::new(uri, tcp);
        if let Some(authorization) = proxy.authorization() {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        return BoxCloneSyncService::new(
            ServiceBuilder::new()
                .map_response(Wire::direct)
                .map_err(|error| ProxyFailed(Box::new(error)).into())
                .service(tunnel),
        );
    }
    BoxCloneSyncService::new(
        ServiceBuilder::new()
            .map_request(move |_| uri.clone())
            .map_response(Wire::through_proxy)
            .map_err(|error| ProxyFailed(Box::new(error)).into())
            .service(tcp),
    )
}

/// The system's resolver, whose errors tell which name they are about.
#[derive(Clone)]
struct Resolver(GaiResolver);

impl Service<Name> for Resolver {
    type Response = GaiAddrs;
    type Error = Unresolved;
    type Future = BoxFuture<'static, Result<GaiAddrs, Unresolved>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolved = self.0.call(name.clone());
        Box::pin(resolved.map_err(move |error| {
            let name = name.to_string();
            Unresolved { name, error }
        }))
    }
}

/// A name could not be resolved.
#[derive(Debug)]
pub(super) struct Unresolved {
    pub(super) name: String,
    pub(super) error: io::Error,
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the name {} could not be resolved", self.name)
    }
}

impl std::error::Error for Unresolved {}

/// The proxy could not be reached, or refused.
#[derive(Debug)]
pub(super) struct ProxyFailed(pub(super) BoxError);

impl fmt::Display for ProxyFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the proxy failed: {}", self.0)
    }
}

impl std::error::Error for ProxyFailed {}

/// A TCP connection, to upstream or to a proxy that is asked in absolute form (RFC 9112 §3.2.2).
pub(super) struct Wire {
    io: TokioIo<TcpStream>,
    asks_proxy: bool,
}

impl Wire {
    fn direct(io: TokioIo<TcpStream>) -> Self {
        let asks_proxy = false;
        Self { io, asks_proxy }
    }

    fn through_proxy(io: TokioIo<TcpStream>) -> Self {
        let asks_proxy = true;
        Self { io, asks_proxy }
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.asks_proxy)
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        flatten::poll_write(Pin::new(self.io.inner_mut()), cx, bufs)
    }
}

/// What TLS to upstream is done with: no client certificate, and these roots.
pub(super) fn tls(config: &config::Upstream) -> Result<ClientConfig, UpstreamProblem> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(UpstreamProblem::Tls)?
        .with_root_certificates(roots(config.ca_file.as_deref()).map_err(|why| {
            UpstreamProblem::CaFile(config.ca_file.clone().unwrap_or_default(), why)
        })?)
        .with_no_client_auth())
}

/// The system's roots, or Mozilla's where the system has none (an image from scratch); a private CA comes on top.
///
/// # Errors
/// The CA's file cannot be used; in words.
pub(crate) fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = ca_file {
        let mut file = BufReader::new(File::open(path).map_err(|error| error.to_string())?);
        let mut found = 0;
        for certificate in CertificateDer::pem_reader_iter(&mut file) {
            let certificate = certificate.map_err(|error| error.to_string())?;
            roots.add(certificate).map_err(|error| error.to_string())?;
            found += 1;
        }
        if found == 0 {
            return Err("there is none in it".into());
        }
    }
    Ok(roots)
}
