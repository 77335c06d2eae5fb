//! Keeps polls from an upstream that asked for a pause or is down, but for a probe now and then. Below Retry, so that
//! every single request is admitted and judged: an upstream that is gone is known by the first few, and a probe that
//! failed is not tried again at once.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use crate::answer::reply::Reply;
use crate::error::Error;
use crate::request::key::TaskKey;
use crate::request::query::TaskFetch;
use crate::telemetry::{ErrorContext, RecentErrors, SeenBy};
use crate::upstream::breakers::{CircuitBreakers, Observation};

/// See the module.
#[derive(Debug, Clone)]
pub struct Breaker<S> {
    inner: S,
    breakers: Arc<CircuitBreakers>,
    recent: Arc<RecentErrors>,
}

impl<S> Breaker<S> {
    pub(super) fn new(inner: S, breakers: Arc<CircuitBreakers>, recent: Arc<RecentErrors>) -> Self {
        Self {
            inner,
            breakers,
            recent,
        }
    }
}

impl<S> Service<TaskFetch> for Breaker<S>
where
    S: Service<TaskFetch, Response = Reply, Error = Error, Future: Send> + Clone + Send + 'static,
{
    type Response = Reply;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, fetch: TaskFetch) -> Self::Future {
        let Self {
            inner,
            breakers,
            recent,
        } = self.clone();
        Box::pin(async move {
            let key = fetch.query.key.clone();
            let caller = key.caller;
            let admission = breakers.admit(caller, Instant::now(), fastrand::f64())?;
            let result = inner.oneshot(fetch).await;
            if let Some(observation) = Observation::of(&result) {
                if observation != Observation::Answered {
                    tell(&recent, &key, &result);
                }
                breakers.record(
                    caller,
                    admission,
                    observation,
                    Instant::now(),
                    fastrand::f64(),
                );
            }
            result
        })
    }
}

fn tell(recent: &RecentErrors, key: &TaskKey, result: &Result<Reply, Error>) {
    let circumstances = ErrorContext {
        seen: SeenBy::Upstream,
        route: key.dialect.as_str(),
        task: Some(key.task.as_str()),
        caller: Some(key.caller),
    };
    let now = Instant::now();
    match result {
        Ok(reply) => {
            let reason = reply.status.canonical_reason().unwrap_or_default();
            recent.record(circumstances, reply.status.as_str(), reason, now);
        }
        Err(error) => recent.record(circumstances, error.code(), &error.reason(), now),
    }
}
