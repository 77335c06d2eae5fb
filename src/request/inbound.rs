//! What travels down the outer half of the stack: a request with its route.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderMap, Request, StatusCode};
use tokio::time::Instant;

use crate::error::Error;
use crate::message::body::Body;
use crate::request::key::Identity;
use crate::request::route::Route;

/// A client's request, as it comes in. Its route is read once, here.
#[derive(Debug)]
pub struct Inbound {
    /// What kind of request it is.
    pub route: Route,
    /// The request itself.
    pub request: Request<Body>,
    /// Who is at the other end of the connection.
    pub peer: Peer,
    /// When its head had arrived.
    pub at: Instant,
    /// Takes what upstream says before it answers, where the client's connection can carry it.
    pub interim: Option<Interim>,
    /// Who sent it, once that was looked at: only of status polls.
    pub sender: Option<Identity>,
}

/// The other end of a client's connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Whether it speaks TLS with us.
    pub tls: bool,
}

/// Among a request's extensions: why it goes nowhere. All else that the request says may be of our own making.
#[derive(Debug, Clone)]
pub struct Refusal(pub Error);

/// The way of interim answers (1xx, RFC 9110 §15.2) to a client.
#[derive(Clone)]
pub struct Interim(pub Arc<dyn TellInterim>);

/// Tells a client what comes before the answer that it waits for.
pub trait TellInterim: Send + Sync {
    /// Tells it, unless the answer has begun.
    fn tell(&self, status: StatusCode, headers: &HeaderMap);
}

impl fmt::Debug for Interim {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Interim")
    }
}

impl Inbound {
    /// Reads the request's route.
    #[must_use]
    pub fn new(request: Request<Body>, peer: Peer) -> Self {
        let mut route = Route::read(request.method(), request.uri().path());
        if request.extensions().get::<Refusal>().is_some() {
            let dialect = route.dialect();
            route = Route::Forward { dialect };
        }
        Self {
            route,
            request,
            peer,
            at: Instant::now(),
            interim: None,
            sender: None,
        }
    }

    /// Why it goes nowhere, where that is so.
    #[must_use]
    pub fn refusal(&self) -> Option<&Error> {
        let Refusal(why) = self.request.extensions().get()?;
        Some(why)
    }
}
