//! Passes everything that is no status poll through, streamed both ways and unread. Beside the task pipeline, since
//! nothing of it is remembered or shared; only a write to a task makes the store forget that task.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Method, StatusCode};
use tokio::sync::mpsc;
use tower::Service;

use crate::answer::handled::{Facts, Handled};
use crate::answer::outcome::Outcome;
use crate::cache::Store;
use crate::config::{Config, Forwarded};
use crate::error::Error;
use crate::message::body::Body;
use crate::request::inbound::{Inbound, Interim};
use crate::request::route::Route;
use crate::upstream::interim::{self, Hint};
use crate::upstream::{Upstream, expect_continue, forward_request, headers, tunnel};

/// See the module.
#[derive(Debug, Clone)]
pub struct Forward {
    upstream: Upstream,
    store: Arc<Store>,
    forwarded: Forwarded,
    idle: Duration,
}

impl Forward {
    pub(super) fn new(upstream: Upstream, store: Arc<Store>, config: &Config) -> Self {
        Self {
            upstream,
            store,
            forwarded: config.listen.forwarded,
            idle: config.limits.idle_timeout,
        }
    }

    async fn forward(self, inbound: Inbound) -> Result<Handled, Error> {
        let Inbound {
            route,
            mut request,
            peer,
            interim,
            ..
        } = inbound;
        if request.method() == Method::CONNECT {
            return Err(Error::BadRequest(
                "CONNECT is not for this gateway; name a path of the video API",
            ));
        }
        let client = hyper::upgrade::on(&mut request);
        let passage = forward_request(self.upstream.url(), request, peer, self.forwarded)?;
        let facts = Facts::only(Outcome::Forwarded);
        // Forgotten before and after (RFC 9111 §4.4): a poll in between may have seen the state from before.
        let _forgets = match route {
            Route::Write { task, .. } => Some(ForgetsTwice::new(self.store, task)),
            Route::Poll { .. } | Route::Forward { .. } => None,
        };
        let (mut request, expectation) = expect_continue(passage.request);
        let hints = interim::listen(&mut request, expectation.clone());
        let answer = async {
            if passage.upgrades {
                self.upstream.upgrade(request).await
            } else {
                self.upstream.forward(request).await
            }
        };
        let mut response = passing_on(hints, interim, answer).await?;
        let status = response.status();
        headers::strip_response(response.headers_mut(), status);
        if status == StatusCode::SWITCHING_PROTOCOLS {
            if !passage.upgrades {
                return Err(Error::UpstreamInvalid("a 101 that nobody asked for".into()));
            }
            let upstream = hyper::upgrade::on(&mut response);
            let bytes = Body::lasting(tunnel(client, upstream, self.idle));
            let response = response.map(|_| bytes);
            return Ok(Handled { response, facts });
        }
        // An upstream that falls silent in the middle is as good as dead; before the head it may take its time.
        let mut response = response.map(|body| body.never_silent_for(self.idle));
        if let Some(expectation) = expectation {
            expectation.answered();
            response = response.map(|body| body.guarded(expectation));
        }
        Ok(Handled { response, facts })
    }
}

/// Passes on what upstream says before it answers.
async fn passing_on<T>(
    mut hints: mpsc::Receiver<Hint>,
    client: Option<Interim>,
    answer: impl Future<Output = T>,
) -> T {
    let mut answer = pin!(answer);
    loop {
        tokio::select! {
            answer = answer.as_mut() => return answer,
            Some((status, headers)) = hints.recv() => if let Some(Interim(client)) = &client {
                client.tell(status, &headers);
            },
        }
    }
}

impl Service<Inbound> for Forward {
    type Response = Handled;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Handled, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        Box::pin(self.clone().forward(inbound))
    }
}

/// A write to a task under way: the task is forgotten when it starts, and when it ends, however it ends.
struct ForgetsTwice {
    store: Arc<Store>,
    task: crate::request::route::TaskId,
}

impl ForgetsTwice {
    fn new(store: Arc<Store>, task: crate::request::route::TaskId) -> Self {
        store.invalidate(&task);
        Self { store, task }
    }
}

impl Drop for ForgetsTwice {
    fn drop(&mut self) {
        self.store.invalidate(&self.task);
    }
}
