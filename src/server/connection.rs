//! One client connection, from the handshake to its end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _};

use super::activity::{Activity, Watched};
use super::{Keeping, TlsIdentity};
use crate::body::Body;
use crate::exchange::{Inbound, Peer};

/// The most that is kept of a head, or of a body on its way, in bytes; a client that does not read costs a few of these.
const BUFFER: usize = 64 << 10;

/// How long an idle connection has to close in an orderly way.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long an idle connection is kept after the stop. HTTP/1.1 has no way to say goodbye but on an answer: a client that
/// is about to ask once more gets its answer, with `connection: close` on it, in place of a closed door.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Serves one connection until it ends, stands idle for too long, or `stop` is cancelled and what is under way is done.
pub(super) async fn run<S>(
    stream: TcpStream,
    address: SocketAddr,
    service: S,
    keeping: Arc<Keeping>,
    stop: CancellationToken,
) where
    S: Service<Inbound, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let _counted = keeping.gauge.as_ref().map(crate::telemetry::Gauge::up);
    // Answers are small and whole: waiting to fill a packet only costs the client 40 ms.
    let _ = stream.set_nodelay(true);
    match &keeping.tls {
        None => {
            let peer = Peer {
                address,
                tls: false,
            };
            converse(stream, peer, service, &keeping, stop).await;
        }
        // Boxed: a TLS session is large, and connections without one should not pay for it.
        Some(tls) => Box::pin(converse_tls(stream, address, service, &keeping, tls, stop)).await,
    }
}

async fn converse_tls<S>(
    stream: TcpStream,
    address: SocketAddr,
    service: S,
    keeping: &Keeping,
    tls: &TlsIdentity,
    stop: CancellationToken,
) where
    S: Service<Inbound, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let handshake = timeout(keeping.header_timeout, tls.acceptor().accept(stream));
    match handshake.await {
        Ok(Ok(stream)) => {
            let peer = Peer { address, tls: true };
            converse(stream, peer, service, keeping, stop).await;
        }
        Ok(Err(error)) => tracing::debug!("TLS handshake failed: {error}"),
        Err(_) => tracing::debug!("TLS handshake took longer than limits.header_timeout"),
    }
}

async fn converse<T, S>(
    stream: T,
    peer: Peer,
    service: S,
    keeping: &Keeping,
    stop: CancellationToken,
) where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Inbound, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    let activity = Activity::new();
    let is_http_2 = Arc::new(AtomicBool::new(false));
    // What follows the connection's HTTP, where it switches to another protocol.
    let afterwards = Arc::new(Mutex::new(None));
    let handle = {
        let (activity, is_http_2) = (Arc::clone(&activity), Arc::clone(&is_http_2));
        let (stop, afterwards) = (stop.clone(), Arc::clone(&afterwards));
        service_fn(move |request: Request<Incoming>| {
            let busy = activity.request();
            if request.version() == Version::HTTP_2 {
                is_http_2.store(true, Ordering::Relaxed);
            }
            let last = (request.version() < Version::HTTP_2).then(|| stop.clone());
            let answer = service
                .clone()
                .oneshot(Inbound::new(request.map(Body::from), peer));
            let afterwards = Arc::clone(&afterwards);
            async move {
                let mut response = answer.await?;
                if last.is_some_and(|stop| stop.is_cancelled())
                    && response.status() != StatusCode::SWITCHING_PROTOCOLS
                {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                // A streamed answer keeps the connection busy until its end.
                Ok::<_, Infallible>(if response.body().is_buffered() {
                    response
                } else if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    let (head, body) = response.into_parts();
                    *lock(&afterwards) = Some(body.guarded(busy));
                    Response::from_parts(head, Body::empty())
                } else {
                    response.map(|body| body.guarded(busy))
                })
            }
        })
    };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(BUFFER)
        .header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250);
    let io = TokioIo::new(Watched::new(
        stream,
        Arc::clone(&activity),
        keeping.header_timeout,
    ));
    let mut connection = pin!(builder.serve_connection_with_upgrades(io, handle));

    let mut patience = keeping.idle_timeout;
    let mut idle_check = pin!(sleep_until(Instant::now() + patience));
    let (mut stopping, mut closing) = (None, false);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!("a client connection broke: {error}");
                }
                let switched = lock(&afterwards).take();
                if let Some(body) = switched {
                    let _ = body.collect().await;
                }
                return;
            }
            () = idle_check.as_mut() => match next_idle_check(&activity, patience, stopping) {
                Some(next) => {
                    if stopping.is_some() && is_http_2.load(Ordering::Relaxed) {
                        close(connection.as_mut());
                    }
                    idle_check.as_mut().reset(next);
                }
                // Said goodbye to already, and still there: half a head, most likely.
                None if closing => return,
                None => {
                    closing = true;
                    close(connection.as_mut());
                    idle_check.as_mut().reset(Instant::now() + FAREWELL);
                }
            },
            () = stop.cancelled(), if stopping.is_none() => {
                let now = Instant::now();
                stopping = Some(now);
                // GOAWAY names the last request that is answered: nobody has to guess.
                if is_http_2.load(Ordering::Relaxed) {
                    close(connection.as_mut());
                }
                patience = patience.min(LAST_CALL).min(keeping.drain / 2);
                idle_check.as_mut().reset(now + patience);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When to look again; `None` where the connection has stood idle for long enough, after the stop if there was one.
fn next_idle_check(
    activity: &Activity,
    patience: Duration,
    stopped: Option<Instant>,
) -> Option<Instant> {
    let now = Instant::now();
    let since = activity.idle_since().unwrap_or(now);
    let since = stopped.map_or(since, |stopped| stopped.max(since));
    let due = since + patience;
    (due > now).then_some(due)
}

/// Says goodbye as the protocol has it; a request that is under way is still answered.
fn close<C: hyper_util::server::graceful::GracefulConnection>(connection: Pin<&mut C>) {
    connection.graceful_shutdown();
}
