//! Targets of log events, by which format and filter distinguish them.

/// Requests.
pub(super) const REQUESTS: &str = "pollgate::requests";

/// Snapshots of all metrics.
pub(super) const SNAPSHOTS: &str = "pollgate::snapshots";

/// Reports of dropped lines.
pub(super) const DROPS: &str = "pollgate::log";
