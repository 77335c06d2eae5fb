//! What pollgate tells of itself: metrics, and log lines in the same spirit.

mod exemplars;
mod exposition;
mod lines;
mod log;
mod metrics;
mod outlet;
mod recent;

pub use exposition::Exposition;
pub use log::{LogGuard, Reload, RequestLine, start, write_snapshot};
pub use metrics::{Counted, Gauge, Metrics, UpstreamKind};
pub use recent::{Circumstances, RecentErrors, Seen, Trouble};
