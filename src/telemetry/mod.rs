//! What pollgate tells of itself: metrics, and log lines in the same spirit.

mod log;
mod metrics;
mod recent;

pub use log::{LogGuard, Reload, RequestLine, start, write_snapshot};
pub use metrics::{Exposition, Gauge, Metrics, UpstreamKind};
pub use recent::{Circumstances, RecentErrors, Seen, Trouble};
