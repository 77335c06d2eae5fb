//! Forwards everything that is not a status poll to upstream, streamed in both directions and unread. Nothing of it is
//! cached or shared, but a write to a task invalidates the task's cached answers.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Method;
use tower::Service;

use super::state::Resources;
use crate::answer::handled::{Facts, Handled};
use crate::answer::outcome::Outcome;
use crate::cache::Store;
use crate::config::{Config, Forwarded};
use crate::error::Error;
use crate::request::key::Caller;
use crate::request::routed::Forwardable;
use crate::route::TaskId;
use crate::upstream::{Upstream, forward_request};

/// See the module.
#[derive(Debug, Clone)]
pub struct Forward {
    upstream: Upstream,
    store: Arc<Store>,
    forwarded: Forwarded,
    idle_timeout: Duration,
}

impl Forward {
    pub(super) fn new(resources: &Resources, config: &Config) -> Self {
        Self {
            upstream: resources.upstream.clone(),
            store: Arc::clone(&resources.polls.store),
            forwarded: config.listen.forwarded,
            idle_timeout: config.limits.idle_timeout,
        }
    }

    async fn forward(self, forwardable: Forwardable) -> Result<Handled, Error> {
        let Forwardable {
            writes,
            mut request,
            peer,
            interim,
        } = forwardable;
        if request.method() == Method::CONNECT {
            return Err(Error::BadRequest(
                "CONNECT is not for this gateway; name a path of the video API",
            ));
        }
        let client = hyper::upgrade::on(&mut request);
        let request = forward_request(self.upstream.url(), request, peer, self.forwarded)?;
        let write = writes.map(|(task, caller)| Write::begin(self.store, task, caller));
        let response = self
            .upstream
            .exchange(request, client, interim, self.idle_timeout)
            .await?;
        if let Some(write) = write
            && response.status().is_success()
        {
            write.was_accepted();
        }
        Ok(Handled {
            response,
            facts: Facts::only(Outcome::Forwarded),
            named: None,
        })
    }
}

impl Service<Forwardable> for Forward {
    type Response = Handled;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Handled, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, forwardable: Forwardable) -> Self::Future {
        Box::pin(self.clone().forward(forwardable))
    }
}

/// A write to a task in progress. The caller's cached answers of the task are purged when it starts and when it ends,
/// however it ends (RFC 9111 §4.4), since a poll in between may have seen the old state. If upstream accepts the write,
/// the task is invalidated for all callers; one that upstream rejects or does not answer affects nobody else.
struct Write {
    store: Arc<Store>,
    task: TaskId,
    caller: Caller,
}

impl Write {
    fn begin(store: Arc<Store>, task: TaskId, caller: Caller) -> Self {
        store.invalidate_for(&task, caller);
        Self {
            store,
            task,
            caller,
        }
    }

    fn was_accepted(self) {
        self.store.invalidate(&self.task);
    }
}

impl Drop for Write {
    fn drop(&mut self) {
        self.store.invalidate_for(&self.task, self.caller);
    }
}
