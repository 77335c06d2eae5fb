//! A client's request as the server hands it over, before anything was decided about it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, Request, StatusCode};
use tokio::time::Instant;

use crate::error::Error;
use crate::message::body::Body;

/// A client's request.
#[derive(Debug)]
pub struct Inbound {
    /// The request itself. Where it is refused, it may be synthetic but for its method and target.
    pub request: Request<Body>,
    /// The other end of the connection.
    pub peer: Peer,
    /// When the whole head had arrived.
    pub received_at: Instant,
    /// Passes interim responses on to the client, where its connection can carry them.
    pub interim: Option<Interim>,
    /// Why the server refuses the request. It goes through the stack all the same, to be counted, logged and answered
    /// in the language of its path.
    pub refusal: Option<Error>,
}

impl Inbound {
    /// A request that has just arrived and is not refused.
    #[must_use]
    pub fn new(request: Request<Body>, peer: Peer) -> Self {
        Self {
            request,
            peer,
            received_at: Instant::now(),
            interim: None,
            refusal: None,
        }
    }
}

/// The other end of a client's connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The client's address, or that of the last proxy before pollgate.
    pub address: SocketAddr,
    /// Whether the connection uses TLS.
    pub tls: bool,
}

/// Passes interim responses (1xx, RFC 9110 §15.2) on to a client.
#[derive(Clone)]
pub struct Interim(pub Arc<dyn SendInterim>);

/// A connection that can carry interim responses.
pub trait SendInterim: Send + Sync {
    /// Sends one, unless the final response has begun.
    fn send(&self, status: StatusCode, headers: &HeaderMap);
}

impl fmt::Debug for Interim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Interim")
    }
}
