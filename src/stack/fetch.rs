//! Asks upstream for a task's status, within the limits of time, size and number. Innermost.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::timeout_at;
use tower::Service;

use super::state::Resources;
use crate::answer::reply::Reply;
use crate::config::Config;
use crate::error::Error;
use crate::request::query::TaskFetch;
use crate::task::TaskSnapshot;
use crate::upstream::{Upstream, status_request};

/// See the module.
#[derive(Debug, Clone)]
pub struct Fetch {
    upstream: Upstream,
    permits: Arc<Semaphore>,
    max_body: usize,
}

impl Fetch {
    pub(super) fn new(resources: &Resources, config: &Config) -> Self {
        let max_body = config.upstream.max_status_body.bytes();
        Self {
            upstream: resources.upstream.clone(),
            permits: Arc::clone(&resources.upstream_permits),
            max_body: usize::try_from(max_body).unwrap_or(usize::MAX),
        }
    }

    async fn fetch(self, fetch: TaskFetch) -> Result<Reply, Error> {
        let deadline = fetch.deadline;
        let _permit = timeout_at(deadline, self.permits.acquire())
            .await
            .map_err(|_| Error::Overloaded("status polls of the video API"))?
            .map_err(|_| Error::Draining)?;
        // Pinned in place: the future is too large to move.
        timeout_at(deadline, pin!(self.ask(&fetch)))
            .await
            .map_err(|_| Error::UpstreamTimeout)?
    }

    async fn ask(&self, fetch: &TaskFetch) -> Result<Reply, Error> {
        let request = status_request(self.upstream.url(), &fetch.query)?;
        fetch.query.asked.set();
        let response = self.upstream.poll(request, self.max_body).await?;
        let (parts, body) = response.into_parts();
        if parts.status.is_informational() || parts.status.is_redirection() {
            return Err(Error::UpstreamInvalid(format!("a {}", parts.status).into()));
        }
        let snapshot = if parts.status.is_success() {
            let asked = fetch.query.key.task.decoded();
            let snapshot = TaskSnapshot::read(&asked, &body, fetch.first_seen)
                .map_err(|why| Error::UpstreamInvalid(why.to_string().into()))?;
            Some(snapshot)
        } else {
            None
        };
        Ok(Reply::new(parts.status, &parts.headers, body, snapshot))
    }
}

impl Service<TaskFetch> for Fetch {
    type Response = Reply;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, fetch: TaskFetch) -> Self::Future {
        Box::pin(self.clone().fetch(fetch))
    }
}
