//! The targets of log lines: the format and the filter tell them apart by these.

/// A request's line.
pub(super) const REQUESTS: &str = "pollgate::requests";

/// A snapshot of all metrics.
pub(super) const SNAPSHOTS: &str = "pollgate::snapshots";

/// The note that lines were dropped.
pub(super) const DROPS: &str = "pollgate::log";
