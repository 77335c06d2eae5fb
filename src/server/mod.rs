//! The listening side: accepts connections, speaks HTTP/1.1 or HTTP/2 on each, and drains on a stop. It knows sockets and
//! HTTP, but neither routes nor dialects: every request goes to the service, refused ones too.
//!
//! | file | holds |
//! |---|---|
//! | `listener` | accepting, `limits.max_connections`, the drain |
//! | `idlest` | which connection a new one replaces |
//! | `reserve` | a file descriptor for clients that have to be turned away |
//! | `turn_away` | the answer to a connection that is not served |
//! | `throttle` | one warning for many events |
//! | `connection` | one connection: the TLS handshake, its timeouts, the stop |
//! | `on_demand` | hyper, kept only while there is something to do |
//! | `io` | the bytes between the socket and hyper |
//! | `guard` | which of those bytes hyper may read: no request smuggling |
//! | `service` | one request: refused or answered |
//! | `bodies` | request and response bodies, timed |
//! | `activity` | what the parts above tell each other |
//! | `tls` | the certificate for HTTPS |
//!
//! # The life of a connection
//!
//! 1. `listener` accepts it and takes a permit for it; without a permit, or a file descriptor, `turn_away` writes a 503.
//! 2. `connection` makes the TLS handshake where there is TLS, and then drives the connection to its end.
//! 3. `io` reads bytes. `guard` passes a head on once it is whole and can be read in one way only.
//! 4. With the first byte that may be passed on, `on_demand` sets hyper up: HTTP/1.1, or HTTP/2 after its preface.
//! 5. hyper parses the request, and `service` hands it to the stack with what it knows of the connection.
//! 6. A head that is refused never reaches hyper. A stand-in takes its place, and `service` passes it on with the error,
//!    so that the refusal is answered in order, and is worded and counted by the stack like every other answer.
//! 7. The answer goes out through `io`. A client that stops reading, or sending, is cut off after `limits.idle_timeout`.
//! 8. When all is answered and written, `on_demand` drops hyper and its buffers, unless the client asks again at once.
//! 9. After `limits.idle_timeout` without a request, or on a stop once its requests are answered, it is closed.
//! 10. `io` gives the client a second to read the last answer before the socket closes; then the permit is free again.

mod activity;
mod bodies;
mod connection;
mod guard;
mod idlest;
mod io;
mod listener;
mod on_demand;
mod reserve;
mod service;
mod throttle;
mod tls;
mod turn_away;

use std::time::Duration;

use http::Response;

use crate::error::Error;
use crate::message::body::Body;
use crate::telemetry::Gauge;

pub use self::listener::serve;
pub use self::tls::{TlsIdentity, TlsProblem};

/// How long a client that is still sending may take to read the last answer. If the socket were closed at once, its next
/// bytes would be answered with a reset, which takes the answer away from it (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);

/// How many bytes are read and thrown away meanwhile.
const MAX_DISCARDED: u64 = 1 << 20;

/// What becomes of a new connection where there are as many as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It is turned away.
    TurnAway,
    /// It takes the place of the connection that has been idle for the longest time, and is turned away where a request is
    /// in progress on every one.
    CloseIdlest,
}

/// How a listener treats its connections.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The most connections at once.
    pub max_connections: usize,
    /// What becomes of one more.
    pub when_full: WhenFull,
    /// How long the head of a request may take to arrive, and a TLS handshake to finish.
    pub header_timeout: Duration,
    /// How long a connection may be idle between requests.
    pub idle_timeout: Duration,
    /// How long requests in progress may take to finish after the stop.
    pub drain: Duration,
    /// The certificate, for HTTPS.
    pub tls: Option<TlsIdentity>,
    /// Counts open connections.
    pub gauge: Option<Gauge>,
    /// Words the answer to a connection that is not served.
    pub refuse: fn(&Error) -> Response<Body>,
}
