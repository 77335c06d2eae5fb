//! One client connection, from the TLS handshake to its end.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::iter;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::Either;
use http::Response;
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::activity::{Activity, Due};
use super::io::GuardedIo;
use super::on_demand::{Event, OnDemand};
use super::service::{Admission, ConnectionService};
use super::throttle::Throttle;
use super::{ServerOptions, TlsIdentity};
use crate::message::body::Body;
use crate::request::inbound::{Inbound, Peer};
use crate::sync::lock;

/// How long a connection that was told to close may take to do so.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// How long an idle connection is kept after the stop. HTTP/1.1 can announce the end on an answer only: a client that is
/// about to ask once more gets its answer, with `connection: close` on it, instead of a closed socket.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Serves one connection until it ends, is idle or stalled for too long, or `stop` is cancelled and its requests in
/// progress are answered.
pub(super) fn run<S>(
    stream: TcpStream,
    address: SocketAddr,
    service: S,
    options: Arc<ServerOptions>,
    stop: CancellationToken,
    admission: Admission,
    activity: Arc<Activity>,
) -> impl Future<Output = ()> + Send + use<S>
where
    S: Service<Inbound, Response = Response<Body>, Error = Infallible, Future: Send>
        + Send
        + 'static,
{
    // Answers are small and whole: waiting to fill a packet would cost the client 40 ms.
    let _ = stream.set_nodelay(true);
    let tls = options.tls.clone();
    let peer = Peer {
        address,
        tls: tls.is_some(),
    };
    let connection = ConnectionService::new(service, peer, options, admission, activity);
    match tls {
        None => Either::Left(drive(stream, connection, stop)),
        // Boxed: a TLS session is large, and connections without one should not pay for it.
        Some(tls) => Either::Right(Box::pin(drive_tls(stream, tls, connection, stop))),
    }
}

async fn drive_tls<S>(
    stream: TcpStream,
    tls: TlsIdentity,
    connection: Arc<ConnectionService<S>>,
    stop: CancellationToken,
) where
    S: Service<Inbound, Response = Response<Body>, Error = Infallible, Future: Send>
        + Send
        + 'static,
{
    let handshake = tls.acceptor().accept(stream);
    match timeout(connection.options.header_timeout, handshake).await {
        Ok(Ok(stream)) => drive(stream, connection, stop).await,
        Ok(Err(error)) => tracing::debug!("TLS handshake failed: {error}"),
        Err(_) => tracing::debug!("TLS handshake took longer than limits.header_timeout"),
    }
}

async fn drive<T, S>(stream: T, connection: Arc<ConnectionService<S>>, stop: CancellationToken)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: Service<Inbound, Response = Response<Body>, Error = Infallible, Future: Send>
        + Send
        + 'static,
{
    let options = &connection.options;
    let service = {
        let connection = Arc::clone(&connection);
        service_fn(move |request| Arc::clone(&connection).answer(request))
    };
    let activity = &connection.activity;
    let io = GuardedIo::new(stream, Arc::clone(activity), options.header_timeout);
    let mut on_demand = OnDemand::new(io, service, Arc::clone(activity));

    let mut idle_timeout = options.idle_timeout;
    let mut check = pin!(sleep_until(Instant::now() + idle_timeout));
    let (mut stopped_at, mut is_closing) = (None, false);
    loop {
        tokio::select! {
            event = poll_fn(|cx| on_demand.poll(cx)) => match event {
                Event::KeepAliveHot(recheck) => {
                    let recheck = recheck.min(check.deadline());
                    check.as_mut().reset(recheck);
                }
                Event::Ended(ended) => {
                    if let Err(error) = ended {
                        tracing::debug!("a client connection broke: {error}");
                        warn_of_protocol_errors(&*error);
                    }
                    if let Some(tunnel) = connection.take_tunnel() {
                        let _ = tunnel.collect().await;
                    }
                    return;
                }
            },
            () = check.as_mut() => match activity.due(options.idle_timeout, idle_timeout, stopped_at) {
                Due::Later(next) => {
                    // HTTP/2 may have begun after the stop.
                    if stopped_at.is_some() && connection.speaks_http_2() {
                        on_demand.close();
                    }
                    check.as_mut().reset(on_demand.recheck_at(next));
                }
                Due::Stalled => {
                    tracing::debug!("cutting off a client that has read nothing for limits.idle_timeout");
                    return;
                }
                // Told to close, and still there: most likely half a head.
                Due::Idle if is_closing => return,
                Due::Idle => {
                    is_closing = true;
                    on_demand.close();
                    check.as_mut().reset(Instant::now() + CLOSE_WITHIN);
                }
            },
            () = stop.cancelled(), if stopped_at.is_none() => {
                let now = Instant::now();
                stopped_at = Some(now);
                connection.stop();
                // GOAWAY names the last request that is answered, so the client need not guess.
                if connection.speaks_http_2() {
                    on_demand.close();
                }
                idle_timeout = idle_timeout.min(LAST_CALL).min(options.drain / 2);
                check.as_mut().reset(now + idle_timeout);
            }
        }
    }
}

/// Counts clients that broke HTTP/2's rules, and warns of them now and then: an attack may open thousands of connections.
fn warn_of_protocol_errors(error: &(dyn Error + 'static)) {
    static THROTTLE: Mutex<Throttle> = Mutex::new(Throttle::new());
    let mut causes = iter::successors(Some(error), |&error| error.source());
    let is_protocol_error = causes
        .find_map(|error| error.downcast_ref::<h2::Error>())
        .is_some_and(|error| error.is_go_away() && error.is_library());
    if is_protocol_error && let Some(count) = lock(&THROTTLE).note() {
        tracing::warn!("closed {count} HTTP/2 connections whose clients broke the protocol");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::sync::Semaphore;
    use tokio::time::sleep;

    use super::*;
    use crate::server::WhenFull;

    const IDLE: Duration = Duration::from_secs(75);
    const HEADER: Duration = Duration::from_secs(10);

    /// The client's end of a connection whose requests are all answered at once.
    fn client(stop: &CancellationToken) -> DuplexStream {
        let (client, server) = duplex(4096);
        let options = ServerOptions {
            max_connections: 1,
            when_full: WhenFull::TurnAway,
            header_timeout: HEADER,
            idle_timeout: IDLE,
            drain: IDLE,
            tls: None,
            gauge: None,
            refuse: |_| Response::new(Body::empty()),
        };
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned();
        let answer = |_| async { Ok(Response::new(Body::full("."))) };
        let peer = Peer {
            address: ([127, 0, 0, 1], 1).into(),
            tls: false,
        };
        let connection = ConnectionService::new(
            tower::service_fn(answer),
            peer,
            Arc::new(options),
            Admission::new(permit.expect("is free"), None),
            Activity::new(),
        );
        tokio::spawn(drive(server, connection, stop.clone()));
        client
    }

    async fn ask(client: &mut DuplexStream) -> String {
        let request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        client.write_all(request).await.expect("is taken");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n.") {
            let read = client.read_buf(&mut answer).await.expect("reads");
            assert!(read > 0, "is closed");
        }
        String::from_utf8(answer).expect("text")
    }

    /// How long the connection is kept from now on, and what is written on it until then.
    async fn end(client: &mut DuplexStream) -> (Duration, String) {
        let started = Instant::now();
        let mut said = String::new();
        client.read_to_string(&mut said).await.expect("ends");
        (started.elapsed(), said)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_idle_for_its_time_from_its_last_answer_on() {
        let never = CancellationToken::new();
        for (asked, pause) in [(0, IDLE), (1, IDLE / 4), (3, IDLE / 2), (20, IDLE / 1000)] {
            let mut client = client(&never);
            for _ in 0..asked {
                sleep(pause).await;
                ask(&mut client).await;
            }
            let (kept, said) = end(&mut client).await;
            assert_eq!(said, "");
            let off = kept.abs_diff(IDLE);
            assert!(off < Duration::from_millis(5), "{asked}: {kept:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte_on() {
        let mut client = client(&CancellationToken::new());
        ask(&mut client).await;
        sleep(IDLE / 2).await;
        client.write_all(b"GET / HT").await.expect("is taken");
        let (kept, said) = end(&mut client).await;
        // The service words the refusal.
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        assert!(
            kept >= HEADER && kept < HEADER + 2 * CLOSE_WITHIN,
            "{kept:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_is_told_on_the_next_answer_and_ends_a_silent_connection() {
        for asks in [true, false] {
            let stop = CancellationToken::new();
            let mut client = client(&stop);
            assert!(!ask(&mut client).await.contains("connection: close"));
            stop.cancel();
            sleep(LAST_CALL / 2).await;
            if asks {
                assert!(ask(&mut client).await.contains("connection: close"));
            }
            let (kept, said) = end(&mut client).await;
            let left = if asks { Duration::ZERO } else { LAST_CALL / 2 };
            assert_eq!(said, "");
            assert!(kept.abs_diff(left) < Duration::from_millis(5), "{kept:?}");
        }
    }
}
