//! For every bucket of a histogram, the newest request in it that belongs to a trace: the way from a slow bucket to
//! an example of what was slow.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::message::trace::Trace;
use crate::sync::lock;

/// One such request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exemplar {
    /// The trace it belongs to.
    pub(super) trace: Trace,
    /// What was measured.
    pub(super) value: f64,
    /// When, in milliseconds since 1970.
    pub(super) millis: u128,
}

/// By route and outcome, as they stand in the labels, and the place of the bucket.
pub(super) type Kept = HashMap<(&'static str, &'static str, usize), Exemplar>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Exemplars(Mutex<Kept>);

impl Exemplars {
    /// Keeps it, unless that meant waiting: another will come.
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

    /// All of them.
    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        lock(&self.0)
    }
}
