//! The API behind pollgate: what is sent there, over which connections.

pub mod breakers;
mod circuit;
mod client;
mod connect;
mod exchange;
mod expect;
mod failure;
mod headers;
mod http1;
mod interim;
mod pool;
mod received;
mod request;
mod tunnel;

use std::time::Duration;

pub use client::Upstream;
pub use connect::UpstreamProblem;
pub use received::{BodyLimit, Received};
pub use request::{ForwardRequest, document_request, forward_request, status_request};

/// How long an unused connection is kept; below the 60 s that proxies in front of upstream usually allow.
const POOL_IDLE: Duration = Duration::from_secs(50);

/// Forwarded requests at once over one HTTP/2 connection. Servers allow about a hundred (RFC 9113 §6.5.2), and those
/// beyond would wait unseen, behind downloads that may last for hours.
const STREAMS: u32 = 32;

/// What one HTTP/2 stream may send ahead of its reader, in bytes. The connection may send as much for each of
/// [`STREAMS`], so that clients that do not read hold up no one else.
const STREAM_WINDOW: u32 = 2 << 20;

/// The most that is read ahead of an HTTP/1.1 connection's reader, in bytes: what a download that no one reads costs,
/// a few times over.
const READ_AHEAD: usize = 64 << 10;

/// How often an HTTP/2 connection in use is asked whether it lives, and how long it has to answer: all requests share
/// it, and the system would take minutes to notice.
const PING: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));
