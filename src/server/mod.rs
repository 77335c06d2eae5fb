//! Listens, and serves connections until told to stop; then lets what is under way finish. It knows HTTP and
//! sockets, and nothing of what its service does.

mod activity;
mod bodies;
mod connection;

mod guard;
mod io;
mod on_demand;
mod service;
mod tls;

use std::convert::Infallible;

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::message::body::Body;
use crate::message::request_id;
use crate::request::inbound::Inbound;
use crate::telemetry::Gauge;

pub use tls::{TlsIdentity, TlsProblem};

/// How long a connection may be silent before the system asks its client for a sign of life, and how often then; nine
/// unanswered ones end it.
const PROBE_AFTER: Duration = Duration::from_mins(1);
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// How long a client that is still sending may take to read our last answer. Closed at once, its next bytes would
/// meet a closed socket, and the reset that follows takes the answer away from it (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);

/// How much of what nobody wants is read meanwhile, in bytes.
const MAX_LEFTOVERS: u64 = 1 << 20;

/// How many clients turned away may take that time at once.
static LINGERING: Semaphore = Semaphore::const_new(256);

/// How connections are kept.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// How many at once; one more is told so and closed.
    pub max_connections: usize,
    /// How long a request's head may take to arrive, and a TLS handshake to finish.
    pub header_timeout: Duration,
    /// How long a connection may stand idle between requests.
    pub idle_timeout: Duration,
    /// How long requests under way may take to finish after the stop.
    pub drain: Duration,
    /// HTTPS, where set.
    pub tls: Option<TlsIdentity>,
    /// Counts the connections, where they count.
    pub gauge: Option<Gauge>,
}

/// Serves until `stop` is cancelled, then waits for what is under way, at most `options.drain`.
///
/// # Errors
/// The listener itself broke.
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    options: ServerOptions,
    stop: CancellationToken,
) -> std::io::Result<()>
where
    S: Service<Inbound, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    // A client that vanished never says so; accepted sockets take this over from their listener.
    let keepalive = TcpKeepalive::new()
        .with_time(PROBE_AFTER)
        .with_interval(PROBE_EVERY);
    if let Err(error) = SockRef::from(&listener).set_tcp_keepalive(&keepalive) {
        tracing::debug!("connections go without TCP keepalive: {error}");
    }
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(options.max_connections));
    let options = Arc::new(options);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            () = stop.cancelled() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_about_one_connection(&error) => continue,
            Err(error) => {
                // Out of file descriptors, most likely: those under way will give some back.
                tracing::warn!("cannot accept connections: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            connections.spawn(turn_away(stream));
            continue;
        };
        connections.spawn(connection::run(
            stream,
            address,
            service.clone(),
            Arc::clone(&options),
            stop.clone(),
            place,
        ));
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(options.drain, ended).await.is_err() {
        tracing::warn!(
            "{} connections were still busy after limits.drain, and are closed now",
            connections.len()
        );
        connections.shutdown().await;
    }
    Ok(())
}

/// The client went away between its connection and our accepting it.
fn is_about_one_connection(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::ConnectionRefused
            | std::io::ErrorKind::ConnectionAborted
            | std::io::ErrorKind::ConnectionReset
    )
}

/// Tells one client too many so, in the time that a write into an empty socket takes.
async fn turn_away(mut stream: TcpStream) {
    let body = concat!(
        r#"{"error":{"message":"too many connections here (limits.max_connections); ask again shortly","#,
        r#""type":"api_error","param":null,"code":"overloaded"}}"#,
    );
    let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
        retry-after-ms: 1000\r\nconnection: close\r\nvia: 1.1 pollgate";
    let id = request_id::make();
    let id = id.to_str().unwrap_or_default();
    let refusal = format!(
        "{head}\r\nx-request-id: {id}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    if stream.writable().await.is_ok() {
        let _ = stream.try_write(refusal.as_bytes());
    }
    // Closed at once, a client that has sent its request already would read a reset instead.
    if let Ok(_place) = LINGERING.try_acquire() {
        let _ = stream.shutdown().await;
        let (mut rest, mut nowhere) = (stream.take(MAX_LEFTOVERS), tokio::io::sink());
        let reading = tokio::io::copy(&mut rest, &mut nowhere);
        let _ = tokio::time::timeout(LINGER, reading).await;
    }
}
