//! Exemplars: for each histogram bucket, the latest traced request in it. They lead from a slow bucket to a trace.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::message::trace::Trace;
use crate::sync::lock;

/// The latest traced request of a bucket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exemplar {
    /// Its trace.
    pub(super) trace: Trace,
    /// The measured value.
    pub(super) value: f64,
    /// When it was measured, in milliseconds since the Unix epoch.
    pub(super) millis: u128,
}

/// By the labels `route` and `outcome`, and the index of the bucket.
pub(super) type Kept = HashMap<(&'static str, &'static str, usize), Exemplar>;

/// The exemplars of all buckets.
#[derive(Debug, Default)]
pub(super) struct Exemplars(Mutex<Kept>);

impl Exemplars {
    /// Keeps an exemplar, unless that would block; there will be another.
    pub(super) fn keep(
        &self,
        route: &'static str,
        outcome: &'static str,
        bucket: usize,
        trace: Trace,
        value: f64,
    ) {
        if let Ok(mut kept) = self.0.try_lock() {
            let millis = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_millis();
            let exemplar = Exemplar {
                trace,
                value,
                millis,
            };
            kept.insert((route, outcome, bucket), exemplar);
        }
    }

    /// Locks and returns all exemplars.
    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.0)
    }
}
