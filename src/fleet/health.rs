//! Whether the engine is worth asking. It is left alone after three polls in a row that it did not answer in time, when the
//! connection is lost, and when its heartbeat is slow; only a heartbeat brings it back.

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
                let took = took.as_secs_f64() * 1000.0;
                self.leave(metrics, || {
                    format!("its heartbeat takes {took:.0} ms, {SLOW_BEATS} times in a row")
                });
                return;
            }
        } else {
            self.slow_beats.store(0, Ordering::Relaxed);
        }
        if is_slow && !self.is_together() {
            return;
        }
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
