//! A gate before the status polls: while it is closed they wait, so that tests need no sleeps.

use tokio::sync::watch;

/// Holds status polls back while closed; a cheap handle.
#[derive(Clone, Debug)]
pub struct Gate(watch::Sender<Inner>);

/// Who stands before a [`Gate`].
#[derive(Debug)]
pub struct Waiting(watch::Receiver<Inner>);

#[derive(Clone, Copy, Debug, Default)]
struct Inner {
    closed: bool,
    waiting: usize,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Inner::default()))
    }

    /// From now on status polls wait before they are answered.
    pub fn close(&self) {
        self.0.send_modify(|gate| gate.closed = true);
    }

    /// Lets everyone through, now and from now on.
    pub fn open(&self) {
        self.0.send_modify(|gate| gate.closed = false);
    }

    /// Whether status polls are being held back.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.borrow().closed
    }

    /// The polls that stand before the gate.
    #[must_use]
    pub fn waiting(&self) -> Waiting {
        Waiting(self.0.subscribe())
    }

    /// Returns at once when open, else when it opens. Dropping the future leaves the queue.
    pub(super) async fn pass(&self) {
        let mut queued = false;
        self.0.send_if_modified(|gate| {
            queued = gate.closed;
            gate.waiting += usize::from(queued);
            queued
        });
        if queued {
            let _place = Place(self);
            // The sender lives in `self`, so that this only ends when the gate opens.
            let _ = self.0.subscribe().wait_for(|gate| !gate.closed).await;
        }
    }
}

impl Waiting {
    /// How many wait just now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.borrow().waiting
    }

    /// Returns as soon as `n` polls or more wait at the same time.
    pub async fn await_at_least(mut self, n: usize) {
        let _ = self.0.wait_for(|gate| gate.waiting >= n).await;
    }

    /// Returns as soon as `n` polls or fewer wait at the same time.
    pub async fn await_at_most(mut self, n: usize) {
        let _ = self.0.wait_for(|gate| gate.waiting <= n).await;
    }
}

/// A place in the queue, given up when dropped.
struct Place<'a>(&'a Gate);

impl Drop for Place<'_> {
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
    async fn one_who_hangs_up_leaves_the_queue() {
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
