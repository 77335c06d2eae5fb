//! A file descriptor kept in reserve, so that clients are told when the process has no other left. Without it they wait
//! in the listener's backlog, connected and unanswered.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

use futures_util::FutureExt as _;
use http::Response;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::turn_away::turn_away_at_once;
use crate::message::body::Body;
use crate::sync::lock;

/// Held while a descriptor changes hands, so that no other listener of the process accepts with it.
static ACCEPTING: Mutex<()> = Mutex::new(());

/// See the module.
#[derive(Debug)]
pub(super) struct Reserve(Option<Socket>);

impl Reserve {
    pub(super) fn new() -> Self {
        let mut reserve = Self(None);
        reserve.refill();
        reserve
    }

    /// Opens the descriptor where it was lost to something else.
    pub(super) fn refill(&mut self) {
        if self.0.is_none() {
            self.0 = Socket::new(Domain::IPV4, Type::DGRAM, None).ok();
        }
    }

    /// Turns the next connection away that waits, and closes it; `false` where none does, or the descriptor is lost.
    pub(super) fn turn_away(
        &mut self,
        listener: &TcpListener,
        refusal: impl FnOnce() -> Response<Body>,
    ) -> bool {
        let _accepting = lock(&ACCEPTING);
        let Some(descriptor) = self.0.take() else {
            return false;
        };
        drop(descriptor);
        let accepted = listener.accept().now_or_never();
        let is_accepted = if let Some(Ok((stream, _))) = accepted {
            turn_away_at_once(stream, refusal());
            true
        } else {
            false
        };
        self.refill();
        is_accepted
    }
}

/// Accepts a connection.
pub(super) async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|cx| {
        let _accepting = lock(&ACCEPTING);
        listener.poll_accept(cx)
    })
    .await
}
