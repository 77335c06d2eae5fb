//! What pollgate tells of itself: metrics, and log lines in the same spirit.

mod escape_c1;
mod exemplars;
mod exposition;
mod log;
mod metrics;
mod non_blocking;
mod prometheus_format;
mod recent;
mod targets;

pub use exposition::Exposition;
pub use log::{LogGuard, Reload, RequestLine, start, write_snapshot};
pub use metrics::{Counted, Gauge, Metrics, UpstreamKind};
pub use recent::{ErrorContext, ErrorRecord, RecentErrors, SeenBy};
