//! The exchange of one forwarded request: the request goes out, interim responses and the final one come back, and where
//! both sides switch protocols, so do the bytes after them.

use std::pin::pin;
use std::time::Duration;

use http::{Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use tokio::sync::mpsc;

use super::Upstream;
use super::expect::expect_continue;
use super::headers::strip_response;
use super::interim::{self, Hint};
use super::request::ForwardRequest;
use super::tunnel::tunnel;
use crate::error::Error;
use crate::message::body::Body;
use crate::request::inbound::Interim;

impl Upstream {
    /// Sends a client's request, passes interim responses on through `interim`, and resolves with the head of the final
    /// response. `client` is the client's connection, should the response switch protocols. A body or a tunnel on which
    /// nothing moves for `idle` is broken off; until the head, upstream may take its time.
    ///
    /// # Errors
    /// As [`Upstream::forward`], and [`Error::UpstreamInvalid`] for a 101 that the request did not ask for.
    pub async fn exchange(
        &self,
        forward: ForwardRequest,
        client: OnUpgrade,
        client_interim: Option<Interim>,
        idle: Duration,
    ) -> Result<Response<Body>, Error> {
        let upgrades = forward.upgrades;
        let (mut request, expectation) = expect_continue(forward.request);
        let hints = interim::listen(&mut request, expectation.clone());
        let answer = async {
            if upgrades {
                self.upgrade(request).await
            } else {
                self.forward(request).await
            }
        };
        let mut response = pass_on(hints, client_interim, answer).await?;
        let status = response.status();
        strip_response(response.headers_mut(), status);
        // An HTTP/1.0 response would end with the client's connection, whether it is complete or broke off.
        *response.version_mut() = Version::HTTP_11;
        if status == StatusCode::SWITCHING_PROTOCOLS {
            if !upgrades {
                return Err(Error::UpstreamInvalid("a 101 that nobody asked for".into()));
            }
            let upstream = hyper::upgrade::on(&mut response);
            let tunnel = Body::lasting(tunnel(client, upstream, idle));
            return Ok(response.map(|_| tunnel));
        }
        let response = response.map(|body| body.never_silent_for(idle));
        Ok(match expectation {
            Some(expectation) => {
                expectation.answered();
                response.map(|body| body.guarded(expectation))
            }
            None => response,
        })
    }
}

/// Passes interim responses on to the client until the final one is there.
async fn pass_on<T>(
    mut hints: mpsc::Receiver<Hint>,
    client: Option<Interim>,
    answer: impl Future<Output = T>,
) -> T {
    let mut answer = pin!(answer);
    let pass = |(status, headers): Hint| {
        if let Some(Interim(client)) = &client {
            client.send(status, &headers);
        }
    };
    loop {
        tokio::select! {
            answer = answer.as_mut() => {
                // Those that came with it.
                while let Ok(hint) = hints.try_recv() {
                    pass(hint);
                }
                return answer;
            }
            Some(hint) = hints.recv() => pass(hint),
        }
    }
}
