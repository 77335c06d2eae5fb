//! The API behind pollgate: what is sent there, over which connections.

pub mod breakers;
mod circuit;
mod client;
pub(crate) mod connect;
mod exchange;
mod expect;
mod failure;
mod headers;
mod http1;
mod http2;
mod interim;
pub mod lost;
mod pool;
mod received;
mod request;
pub mod resend;
pub mod response_time;
mod tunnel;

use std::time::Duration;

pub use client::Upstream;
pub use connect::UpstreamProblem;
pub use received::{BodyLimit, Received, decoded};
pub use request::{
    ForwardRequest, StatusTarget, document_request, forward_request, status_request,
};

/// An unused connection is kept this long: less than the 60 s that proxies in front of upstream usually allow.
const POOL_IDLE: Duration = Duration::from_secs(50);

/// A connection takes new polls for this long after it was opened, so that a name that now resolves elsewhere is followed.
const POOL_AGE: Duration = Duration::from_mins(1);

/// The number of forwarded requests on one HTTP/2 connection. Servers allow about a hundred (RFC 9113 §6.5.2), and those
/// beyond would wait unseen, behind downloads that may last for hours.
const STREAMS: u32 = 32;

/// The number of streams on a new HTTP/2 connection until upstream has said how many it takes: it refuses those beyond.
const FIRST_STREAMS: usize = 1;

/// A forwarded request that its connection has not taken for so long is handed over anew: nobody has seen it.
const NOT_TAKEN: Duration = Duration::from_secs(2);

/// What one HTTP/2 stream may send ahead of its reader, in bytes. The connection may send as much for each of
/// [`STREAMS`], so that clients that do not read hold up no one else.
const STREAM_WINDOW: u32 = 2 << 20;

/// The most that is read ahead of an HTTP/1.1 connection's reader, in bytes: what an unread download costs, a few times
/// over.
const READ_AHEAD: usize = 64 << 10;

/// The time without a part of an answer after which an HTTP/2 connection is pinged: all requests share it, and the system
/// would take minutes to notice that it is dead.
const PING_EVERY: Duration = Duration::from_secs(15);

/// The time in which a ping has to be answered.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
