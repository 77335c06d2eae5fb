//! Keeps a warning that recurs from filling the log.

use std::time::Duration;

use tokio::time::Instant;

/// The pause between two warnings of one kind.
const PAUSE: Duration = Duration::from_secs(10);

/// Counts events of one kind, and says when it is time to warn of them.
#[derive(Debug)]
pub(super) struct Throttle {
    warned_at: Option<Instant>,
    count: u64,
}

impl Throttle {
    pub(super) const fn new() -> Self {
        Self {
            warned_at: None,
            count: 0,
        }
    }

    /// Counts an event. Returns the number of those not warned of yet, this one included, where it is time to warn.
    pub(super) fn note(&mut self) -> Option<u64> {
        self.count += 1;
        if self.warned_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        self.warned_at = Some(Instant::now());
        Some(std::mem::take(&mut self.count))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_event_is_told_at_once_and_the_others_together() {
        let mut throttle = Throttle::new();
        assert_eq!(throttle.note(), Some(1));
        assert_eq!((throttle.note(), throttle.note()), (None, None));
        advance(PAUSE).await;
        assert_eq!(throttle.note(), Some(3));
        assert_eq!(throttle.note(), None);
    }
}
