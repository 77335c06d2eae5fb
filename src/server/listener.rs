//! Accepts connections until the stop, and then waits for those that are busy.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::activity::Activity;
use super::connection;
use super::idlest::Closable;
use super::reserve::{Reserve, accept};
use super::service::Admission;
use super::throttle::Throttle;
use super::turn_away::turn_away;
use super::{ServerOptions, WhenFull};
use crate::error::{Error, OPEN_FILES};
use crate::message::body::Body;
use crate::request::inbound::Inbound;

/// After how much silence the system probes whether the client still exists, and how often then. Nine probes without an
/// answer end the connection.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(1);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);

/// How long accepting pauses after an error that is not about one connection, and the longest wait for the permit of a
/// connection that is closed for a new one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop` is cancelled, then waits for requests in progress, at most `options.drain`.
///
/// # Errors
/// The listener itself broke.
pub async fn serve<S>(
    listener: TcpListener,
    service: S,
    options: ServerOptions,
    stop: CancellationToken,
) -> io::Result<()>
where
    S: Service<Inbound, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    probe_silent_clients(&listener);
    let mut connections = JoinSet::new();
    let permits = Arc::new(Semaphore::new(options.max_connections));
    let options = Arc::new(options);
    let mut closable = Closable::default();
    let (mut reserve, mut failures) = (Reserve::new(), Throttle::new());
    loop {
        // Before anything else is accepted: a descriptor that became free is the reserve's first.
        reserve.refill();
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            Some(_) = connections.join_next() => continue,
            () = stop.cancelled() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_about_one_connection(&error) => continue,
            Err(error) => {
                // Most likely there is no free file descriptor: connections that end will free some.
                if let Some(count) = failures.note() {
                    tracing::warn!("cannot accept connections ({count} failures): {error}");
                }
                let refusal = || {
                    let why = Error::Overloaded(OPEN_FILES);
                    (options.refuse)(&why)
                };
                if !reserve.turn_away(&listener, refusal) {
                    sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let permit = match Arc::clone(&permits).try_acquire_owned() {
            Err(_) if options.when_full == WhenFull::CloseIdlest => {
                replace_idlest(&mut closable, &permits).await
            }
            permit => permit.ok(),
        };
        let Some(permit) = permit else {
            let why = Error::Overloaded("connections (limits.max_connections)");
            connections.spawn(turn_away(stream, (options.refuse)(&why)));
            continue;
        };
        let activity = Activity::new();
        let task = connections.spawn(connection::run(
            stream,
            address,
            service.clone(),
            Arc::clone(&options),
            stop.clone(),
            Admission::new(permit, options.gauge.as_ref()),
            Arc::clone(&activity),
        ));
        if options.when_full == WhenFull::CloseIdlest {
            closable.add(task, &activity);
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(options.drain, ended).await.is_err() {
        tracing::warn!(
            "closing {} connections that are still busy after limits.drain",
            connections.len()
        );
        connections.shutdown().await;
    }
    Ok(())
}

/// Closes the connection that has been idle for the longest time, and takes its permit.
async fn replace_idlest(
    closable: &mut Closable,
    permits: &Arc<Semaphore>,
) -> Option<OwnedSemaphorePermit> {
    if !closable.close_idlest() {
        return None;
    }
    let freed = Arc::clone(permits).acquire_owned();
    timeout(ACCEPT_PAUSE, freed).await.ok()?.ok()
}

/// A client that vanished never says so. Accepted sockets inherit the setting from their listener.
fn probe_silent_clients(listener: &TcpListener) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY);
    if let Err(error) = SockRef::from(listener).set_tcp_keepalive(&keepalive) {
        tracing::debug!("no TCP keepalive on client connections: {error}");
    }
}

/// Whether the client went away before its connection was accepted.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}
