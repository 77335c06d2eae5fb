//! Whether a connection's client has stopped reading.

use std::sync::Mutex;

use tokio::time::Instant;

use crate::sync::lock;

/// See the module.
#[derive(Debug)]
pub(in crate::server) struct Stall(Mutex<Progress>);

#[derive(Debug)]
struct Progress {
    /// Since when the socket has been full.
    blocked_since: Option<Instant>,
    /// Parts of HTTP/2 answers that wait for the client to open its window.
    offered: usize,
    /// When the client last took such a part.
    taken_at: Instant,
}

impl Stall {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(Progress {
            blocked_since: None,
            offered: 0,
            taken_at: now,
        }))
    }

    /// Notes that the socket is full.
    pub(in crate::server) fn blocked(&self) {
        lock(&self.0).blocked_since = Some(Instant::now());
    }

    /// Notes that the socket takes bytes again.
    pub(in crate::server) fn unblocked(&self) {
        lock(&self.0).blocked_since = None;
    }

    /// Notes a part of an answer that is sent as soon as the client opens its window.
    pub(in crate::server) fn offered(&self) {
        let mut progress = lock(&self.0);
        if progress.offered == 0 {
            progress.taken_at = Instant::now();
        }
        progress.offered += 1;
    }

    /// Notes that an offered part was sent, or never will be.
    pub(in crate::server) fn taken(&self) {
        let mut progress = lock(&self.0);
        progress.offered = progress.offered.saturating_sub(1);
        progress.taken_at = Instant::now();
    }

    /// Since when the client has read nothing, although there is something to read.
    pub(super) fn since(&self) -> Option<Instant> {
        let progress = lock(&self.0);
        let unread = (progress.offered > 0).then_some(progress.taken_at);
        [progress.blocked_since, unread].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_one_of_many_answers_is_reading() {
        let stall = Stall::new(Instant::now());
        assert_eq!(stall.since(), None);
        let start = Instant::now();
        stall.offered();
        advance(Duration::from_secs(5)).await;
        stall.offered();
        assert_eq!(stall.since(), Some(start));
        stall.taken();
        assert_eq!(stall.since(), Some(Instant::now()));
        stall.taken();
        assert_eq!(stall.since(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_socket_counts_from_when_it_filled() {
        let stall = Stall::new(Instant::now());
        stall.offered();
        let start = Instant::now();
        stall.blocked();
        advance(Duration::from_secs(5)).await;
        stall.taken();
        assert_eq!(stall.since(), Some(start));
        stall.unblocked();
        assert_eq!(stall.since(), None);
    }
}
