//! What the service manager is told (`sd_notify(3)`). Without `NOTIFY_SOCKET` nobody is told anything.

use std::convert::Infallible;
use std::future::pending;

use sd_notify::NotifyState;

/// Ready for traffic; `status` is for people.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reading the configuration again. [`ready`] has to follow, whatever comes of it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!("cannot tell the time to the service manager: {error}"),
    }
}

/// On the way out.
pub(super) fn stopping(status: &str) {
    tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Says that the process lives, twice as often as the service manager (`WATCHDOG_USEC`) wants to hear it. To be run as a task:
/// a runtime that is stuck falls silent.
pub(super) async fn stay_alive() -> Infallible {
    let Some(within) = sd_notify::watchdog_enabled().filter(|within| !within.is_zero()) else {
        return pending().await;
    };
    let mut pace = tokio::time::interval(within / 2);
    loop {
        pace.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot tell the service manager: {error}");
    }
}
