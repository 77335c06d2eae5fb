//! A gate that holds status polls back while it is closed, so that tests need no sleeps.

use tokio::sync::watch;

/// Holds status polls back while closed; a cheap handle.
#[derive(Debug, Clone)]
pub struct Gate(watch::Sender<Inner>);

/// The polls waiting at a [`Gate`].
#[derive(Debug)]
pub struct Waiting(watch::Receiver<Inner>);

#[derive(Debug, Clone, Copy, Default)]
struct Inner {
    closed: bool,
    waiting: usize,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Inner::default()))
    }

    /// Holds status polls back from now on.
    pub fn close(&self) {
        self.0.send_modify(|gate| gate.closed = true);
    }

    /// Releases all waiting polls, and holds none back from now on.
    pub fn open(&self) {
        self.0.send_modify(|gate| gate.closed = false);
    }

    /// Whether status polls are held back.
    pub(super) fn is_closed(&self) -> bool {
        self.0.borrow().closed
    }

    /// The polls waiting at the gate.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        Waiting(self.0.subscribe())
    }

    /// Waits until the gate is open. Dropping the future leaves the queue.
    pub(super) async fn pass(&self) {
        let mut queued = false;
        self.0.send_if_modified(|gate| {
            queued = gate.closed;
            gate.waiting += usize::from(queued);
            queued
        });
        if queued {
            let _waiting = WaitingPoll(self);
            // The sender lives in `self`, so that this ends only when the gate opens.
            let _ = self.0.subscribe().wait_for(|gate| !gate.closed).await;
        }
    }
}

impl Waiting {
    /// Number of waiting polls.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.borrow().waiting
    }

    /// Waits until at least `n` polls wait at the same time.
    pub async fn await_at_least(mut self, n: usize) {
        let _ = self.0.wait_for(|gate| gate.waiting >= n).await;
    }

    /// Waits until at most `n` polls wait.
    #[cfg(test)]
    async fn await_at_most(mut self, n: usize) {
        let _ = self.0.wait_for(|gate| gate.waiting <= n).await;
    }
}

/// Counts a poll as waiting until it is dropped.
struct WaitingPoll<'a>(&'a Gate);

impl Drop for WaitingPoll<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|gate| gate.waiting -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_gate_holds_until_it_opens() {
        let gate = Gate::new();
        gate.pass().await;
        gate.close();
        let held = tokio::spawn({
            let gate = gate.clone();
            async move { gate.pass().await }
        });
        gate.waiting().await_at_least(1).await;
        assert!(!held.is_finished());
        gate.open();
        held.await.expect("passes");
        assert_eq!(gate.waiting().count(), 0);
    }

    #[tokio::test]
    async fn a_dropped_poll_leaves_the_queue() {
        let gate = Gate::new();
        gate.close();
        let held = tokio::spawn({
            let gate = gate.clone();
            async move { gate.pass().await }
        });
        gate.waiting().await_at_least(1).await;
        held.abort();
        gate.waiting().await_at_most(0).await;
    }
}
