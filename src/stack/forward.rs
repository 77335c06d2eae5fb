//! Passes everything that is no status poll through, streamed both ways and unread. Beside the task pipeline, since
//! nothing of it is remembered or shared; only a write to a task makes the store forget that task.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Method, Response};
use tower::Service;

use crate::body::Body;
use crate::config::Forwarded;
use crate::error::Error;
use crate::exchange::{Facts, Handled, Inbound};
use crate::route::Route;
use crate::store::Store;
use crate::upstream::{Upstream, forward_request, headers};
use crate::verdict::Verdict;

/// See the module.
#[derive(Debug, Clone)]
pub struct Forward {
    upstream: Upstream,
    store: Arc<Store>,
    forwarded: Forwarded,
}

impl Forward {
    pub(super) fn new(upstream: Upstream, store: Arc<Store>, forwarded: Forwarded) -> Self {
        Self {
            upstream,
            store,
            forwarded,
        }
    }

    async fn forward(self, inbound: Inbound) -> Result<Handled, Error> {
        let Inbound {
            route,
            request,
            peer,
            ..
        } = inbound;
        if request.method() == Method::CONNECT {
            return Err(Error::BadRequest(
                "CONNECT is not for this gateway; name a path of the video API",
            ));
        }
        let request = forward_request(self.upstream.url(), request, peer, self.forwarded)?;
        // Forgotten before and after (RFC 9111 §4.4): a poll in between may have seen the state from before.
        let _forgets = match route {
            Route::Write { task, .. } => Some(ForgetsTwice::new(self.store, task)),
            Route::Poll { .. } | Route::Forward { .. } => None,
        };
        let response = self.upstream.forward(request).await?;
        let (mut parts, body) = response.into_parts();
        headers::strip_hop_by_hop(&mut parts.headers);
        let response = Response::from_parts(parts, Body::from(body));
        Ok(Handled {
            response,
            facts: Facts::only(Verdict::Forwarded),
        })
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
    task: crate::route::TaskId,
}

impl ForgetsTwice {
    fn new(store: Arc<Store>, task: crate::route::TaskId) -> Self {
        store.touch(&task);
        Self { store, task }
    }
}

impl Drop for ForgetsTwice {
    fn drop(&mut self) {
        self.store.touch(&self.task);
    }
}
