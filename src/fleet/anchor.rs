//! Times of the engine and of this process, by one exchange with the engine. Nothing here looks at a wall clock.

use std::time::Duration;

use tokio::time::Instant;

use super::engine::EngineTime;

/// A moment that the engine told of, between two moments of this process.
#[derive(Debug, Clone, Copy)]
pub struct Anchor {
    /// The moment, by the engine's clock.
    pub at: EngineTime,
    /// Before it: when the engine was asked.
    pub sent: Instant,
    /// After it: when its answer was here.
    pub received: Instant,
}

impl Anchor {
    /// The engine's time at `instant`: not later than in truth.
    #[must_use]
    pub fn engine_time(&self, instant: Instant) -> EngineTime {
        match instant.checked_duration_since(self.received) {
            Some(later) => self.at.after(later),
            None => self.at.before(self.received - instant),
        }
    }

    /// The engine's time at `instant`: not earlier than in truth.
    #[must_use]
    pub fn latest(&self, instant: Instant) -> EngineTime {
        match instant.checked_duration_since(self.sent) {
            Some(later) => self.at.after(later),
            None => self.at.before(self.sent - instant),
        }
    }

    /// When it was `time` on the engine's clock: not later than in truth, nor than now. `None` where that is before
    /// anything that this process can tell of.
    #[must_use]
    pub fn instant(&self, time: EngineTime) -> Option<Instant> {
        let instant = if time >= self.at {
            self.sent.checked_add(time.since(self.at))
        } else {
            self.sent.checked_sub(self.at.since(time))
        };
        instant.map(|instant| instant.min(Instant::now()))
    }

    /// How long the exchange took.
    #[must_use]
    pub fn took(&self) -> Duration {
        self.received.saturating_duration_since(self.sent)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;

    proptest! {
        /// Wherever between its two ends the exchange was decided, an answer never looks younger to another member than it
        /// is.
        #[test]
        fn nothing_looks_younger_than_it_is(
            there in 0u64..1000, back in 0u64..1000, waited in 0u64..1000,
            other_there in 0u64..1000, other_back in 0u64..1000, apart in 0u64..5000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let millis = Duration::from_millis;
                let start = Instant::now();
                let engine = |instant: Instant| EngineTime(1_000_000_000).after(instant - start);
                let sent = Instant::now();
                advance(millis(there)).await;
                let at = engine(Instant::now());
                advance(millis(back)).await;
                let leader = Anchor { at, sent, received: Instant::now() };
                advance(millis(waited)).await;
                let asked = Instant::now();
                let told = leader.engine_time(asked);
                prop_assert!(told <= engine(asked));

                advance(millis(apart)).await;
                let sent = Instant::now();
                advance(millis(other_there)).await;
                let at = engine(Instant::now());
                advance(millis(other_back)).await;
                let reader = Anchor { at, sent, received: Instant::now() };
                prop_assert!(reader.instant(told).is_some_and(|seen| seen <= asked));
                Ok(())
            })?;
        }
    }
}
