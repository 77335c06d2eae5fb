//! Keeps polls from an upstream that asked for a pause or is down, but for a probe now and then. Below Retry, so that every
//! single try is admitted and recorded: the first few failures are known at once, and a probe that failed is not repeated
//! immediately.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use super::shared::Shared;
use super::state::PollState;
use crate::answer::reply::Reply;
use crate::error::Error;
use crate::request::key::TaskKey;
use crate::request::query::TaskFetch;
use crate::telemetry::{ErrorContext, RecentErrors, SeenBy};
use crate::upstream::breakers::{CircuitBreakers, Observation};

/// See the module.
#[derive(Debug)]
pub struct Breaker<S> {
    inner: Shared<S>,
    breakers: Arc<CircuitBreakers>,
    recent: Arc<RecentErrors>,
}

impl<S> Breaker<S> {
    pub(super) fn new(inner: S, state: &PollState) -> Self {
        Self {
            inner: Shared::new(inner),
            breakers: Arc::clone(&state.breakers),
            recent: Arc::clone(&state.recent_errors),
        }
    }
}

impl<S> Clone for Breaker<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            breakers: Arc::clone(&self.breakers),
            recent: Arc::clone(&self.recent),
        }
    }
}

impl<S> Service<TaskFetch> for Breaker<S>
where
    S: Service<TaskFetch, Response = Reply, Error = Error, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
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
                    record(&recent, &key, &result);
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

fn record(recent: &RecentErrors, key: &TaskKey, result: &Result<Reply, Error>) {
    let context = ErrorContext {
        seen: SeenBy::Upstream,
        route: key.dialect.as_str(),
        task: Some(key.task.as_str()),
        caller: Some(key.caller),
    };
    let now = Instant::now();
    match result {
        Ok(reply) => {
            let reason = reply.status.canonical_reason().unwrap_or_default();
            recent.record(context, reply.status.as_str(), reason, now);
        }
        Err(error) => recent.record(context, error.code(), &error.reason(), now),
    }
}
