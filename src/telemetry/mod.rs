//! Metrics and the log.

mod demand;
mod escape_c1;
mod exemplars;
mod exposition;
mod fleet;
mod journal;
mod log;
mod metrics;
mod non_blocking;
mod process;
mod prometheus_format;
mod recent;
mod targets;

pub use demand::{CallerDemand, CallerDigest, Demand, TaskDemand};
pub use exposition::Exposition;
pub use fleet::FleetMetrics;
pub use log::{LogGuard, Reload, RequestLine, start, write_snapshot};
pub use metrics::{CLIENT_GONE, Counted, Gauge, Metrics, UpstreamKind};
pub use recent::{ErrorContext, ErrorRecord, RecentErrors, SeenBy};
