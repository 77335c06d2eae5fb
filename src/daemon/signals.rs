//! Signals: SIGTERM and SIGINT stop, SIGHUP reloads.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Cancels the token at the first SIGTERM or SIGINT and exits at the second.
///
/// # Errors
/// A signal handler cannot be installed.
pub(crate) fn stop_on_signals(stop: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for last in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if last {
                std::process::exit(1);
            }
            stop.cancel();
        }
    });
    Ok(())
}

/// Calls `reload` at each SIGHUP.
///
/// # Errors
/// A signal handler cannot be installed.
pub(crate) fn reload_on_hangup(mut reload: impl FnMut() + Send + 'static) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload();
        }
    });
    Ok(())
}
