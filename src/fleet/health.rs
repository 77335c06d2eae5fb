//! Whether the engine is worth asking. It is left alone after three polls in a row that it did not answer in time, when the
//! connection is lost, and when its heartbeat is slow; only a heartbeat brings it back: one within `fleet.timeout`, or a
//! fast one where it was slow.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::engine::Away;
use crate::sync::lock;
use crate::telemetry::FleetMetrics;

/// How many timeouts in a row, with no answer in time between them, are too many.
const TIMEOUTS: u32 = 3;

/// How many slow heartbeats in a row are too many.
const SLOW_BEATS: u32 = 5;

/// A heartbeat is slow that takes more than this share of `fleet.timeout`.
const SLOW: u32 = 4;

/// See the module.
#[derive(Debug)]
pub struct Health {
    together: AtomicBool,
    timeouts: AtomicU32,
    slow_beats: AtomicU32,
    /// Whether it is away since its heartbeat was slow.
    is_slow: AtomicBool,
    since: Mutex<(Instant, String)>,
    timeout: Duration,
}

impl Health {
    /// Away, until the first heartbeat.
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            together: AtomicBool::new(false),
            timeouts: AtomicU32::new(0),
            slow_beats: AtomicU32::new(0),
            is_slow: AtomicBool::new(false),
            since: Mutex::new((Instant::now(), "it has not been reached yet".into())),
            timeout,
        }
    }

    /// Whether the engine is asked.
    #[must_use]
    pub fn is_together(&self) -> bool {
        self.together.load(Ordering::Acquire)
    }

    /// Since when this has been so, and why, where it is away.
    #[must_use]
    pub fn since(&self) -> (Instant, String) {
        lock(&self.since).clone()
    }

    /// A command of a poll was answered in time.
    pub fn answered(&self) {
        if self.timeouts.load(Ordering::Relaxed) > 0 {
            self.timeouts.store(0, Ordering::Relaxed);
        }
    }

    /// A command of a poll was not answered in time.
    pub(super) fn timed_out(&self, metrics: &FleetMetrics) {
        let timeouts = self.timeouts.fetch_add(1, Ordering::Relaxed) + 1;
        if timeouts >= TIMEOUTS {
            let timeout = self.timeout.as_secs_f64() * 1000.0;
            self.leave(metrics, || {
                format!("it did not answer {TIMEOUTS} polls in a row within {timeout:.0} ms")
            });
        }
    }

    /// The engine could not be asked.
    pub(super) fn failed(&self, away: &Away, metrics: &FleetMetrics) {
        // A full engine still answers others.
        if *away != Away::Full {
            self.leave(metrics, || away.to_string());
        }
    }

    /// A heartbeat was answered.
    pub(super) fn beaten(&self, took: Duration, metrics: &FleetMetrics) {
        let is_slow = took > self.timeout / SLOW;
        if is_slow {
            let beats = self.slow_beats.fetch_add(1, Ordering::Relaxed) + 1;
            if beats >= SLOW_BEATS {
                if self.is_together() {
                    self.is_slow.store(true, Ordering::Relaxed);
                }
                let took = took.as_secs_f64() * 1000.0;
                self.leave(metrics, || {
                    format!("its heartbeat takes {took:.0} ms, {SLOW_BEATS} times in a row")
                });
                return;
            }
        } else {
            self.slow_beats.store(0, Ordering::Relaxed);
        }
        let is_too_slow = if self.is_slow.load(Ordering::Relaxed) {
            is_slow
        } else {
            took > self.timeout
        };
        if is_too_slow && !self.is_together() {
            return;
        }
        self.is_slow.store(false, Ordering::Relaxed);
        self.timeouts.store(0, Ordering::Relaxed);
        if !self.together.swap(true, Ordering::AcqRel) {
            metrics.set_together(true);
            let before =
                std::mem::replace(&mut *lock(&self.since), (Instant::now(), String::new()));
            tracing::info!(
                "fleet: the engine answers, after {:.1} s",
                before.0.elapsed().as_secs_f64()
            );
        }
    }

    fn leave(&self, metrics: &FleetMetrics, why: impl FnOnce() -> String) {
        if self.together.swap(false, Ordering::AcqRel) {
            metrics.set_together(false);
            let why = why();
            tracing::warn!(
                "fleet: the engine is left alone, and this sidecar polls for itself: {why}"
            );
            *lock(&self.since) = (Instant::now(), why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    const TIMEOUT: Duration = Duration::from_millis(20);
    const FAST: Duration = Duration::from_millis(1);
    const SLOWER: Duration = Duration::from_millis(12);

    fn together() -> (Health, FleetMetrics) {
        let metrics = Metrics::new()
            .and_then(|metrics| metrics.fleet())
            .expect("metrics");
        let health = Health::new(TIMEOUT);
        health.beaten(FAST, &metrics);
        assert!(health.is_together());
        (health, metrics)
    }

    #[test]
    fn after_timeouts_a_heartbeat_that_would_be_in_time_brings_it_back() {
        let (health, metrics) = together();
        for _ in 0..TIMEOUTS {
            health.timed_out(&metrics);
        }
        assert!(!health.is_together());
        health.beaten(TIMEOUT + FAST, &metrics);
        assert!(!health.is_together());
        health.beaten(SLOWER, &metrics);
        assert!(health.is_together());
    }

    #[test]
    fn after_slow_heartbeats_only_a_fast_one_does() {
        let (health, metrics) = together();
        for _ in 0..SLOW_BEATS {
            health.beaten(SLOWER, &metrics);
        }
        assert!(!health.is_together());
        health.beaten(SLOWER, &metrics);
        assert!(!health.is_together(), "it would leave again at once");
        health.beaten(FAST, &metrics);
        assert!(health.is_together());
    }
}
