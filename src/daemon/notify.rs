//! Notifies the service manager (`sd_notify(3)`); does nothing without `NOTIFY_SOCKET`.

use std::convert::Infallible;
use std::future::pending;

use sd_notify::NotifyState;

/// Reports that the process is ready for traffic; `status` is shown to people.
pub(super) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports that a reload has started. [`ready`] has to follow, whether or not the reload succeeds.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("cannot notify the service manager of the reload: {error}"),
    }
}

/// Reports that the process is stopping.
pub(super) fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Feeds the watchdog at twice the required rate (`WATCHDOG_USEC`). Runs as a task, so that a stuck runtime stops
/// feeding it.
pub(super) async fn feed_watchdog() -> Infallible {
    let Some(within) = sd_notify::watchdog_enabled().filter(|within| !within.is_zero()) else {
        return pending().await;
    };
    let mut interval = tokio::time::interval(within / 2);
    loop {
        interval.tick().await;
        send(&[NotifyState::Watchdog]);
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot tell the service manager: {error}");
    }
}
