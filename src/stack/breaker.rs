//! Refuses polls while upstream is down or has asked for a pause, except for a probe now and then. It is below Retry, so
//! that every attempt is admitted and recorded on its own: failures are known at once, and a failed probe is not retried
//! immediately.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tower::Service;

use super::shared::ask;
use super::state::PollState;
use crate::answer::reply::Reply;
use crate::error::Error;
use crate::request::key::TaskKey;
use crate::request::query::{AskedAt, TaskFetch};
use crate::route::RouteLabel;
use crate::telemetry::{ErrorContext, RecentErrors, SeenBy};
use crate::upstream::breakers::{Admission, CircuitBreakers, Observation, Scope};
use crate::upstream::lost::{LostPolls, SILENT};
use crate::upstream::response_time::ResponseTime;

/// See the module.
#[derive(Debug, Clone)]
pub struct Breaker<S>(Arc<Layer<S>>);

#[derive(Debug)]
struct Layer<S> {
    inner: S,
    breakers: Arc<CircuitBreakers>,
    response_time: Arc<ResponseTime>,
    lost: Arc<LostPolls>,
    recent: Arc<RecentErrors>,
}

impl<S> Breaker<S> {
    pub(super) fn new(inner: S, state: &PollState) -> Self {
        Self(Arc::new(Layer {
            inner,
            breakers: Arc::clone(&state.breakers),
            response_time: Arc::clone(&state.response_time),
            lost: Arc::clone(&state.lost),
            recent: Arc::clone(&state.recent_errors),
        }))
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
        let layer = Arc::clone(&self.0);
        Box::pin(async move { layer.call(fetch).await })
    }
}

impl<S> Layer<S>
where
    S: Service<TaskFetch, Response = Reply, Error = Error> + Clone,
{
    async fn call(&self, fetch: TaskFetch) -> Result<Reply, Error> {
        let breakers = &*self.breakers;
        let key = &fetch.query.key;
        let admission = breakers.admit(key.caller, Instant::now(), fastrand::f64())?;
        let asked_at = &fetch.query.asked_at;
        asked_at.clear();
        let mut silence = Silence {
            breakers,
            key: Some(key),
            admission,
            asked_at,
        };
        let admitted = TaskFetch {
            is_probe: admission == Admission::Probe,
            ..fetch.clone()
        };
        let result = ask(&self.inner, admitted).await;
        let received = |reply: &Reply| reply.received;
        let now = result.as_ref().map_or_else(|_| Instant::now(), received);
        if let (Ok(_), Some(asked_at)) = (&result, asked_at.last()) {
            self.response_time.record(now - asked_at);
            self.lost.answered(asked_at);
        }
        if let Some(key) = silence.key.take()
            && let Some(observation) = Observation::of(&result)
        {
            if observation != Observation::Answered || result.is_err() {
                record(&self.recent, fetch.query.label(), key, &result);
            }
            breakers.record(key, admission, observation, now, fastrand::f64());
        }
        result
    }
}

/// A poll that upstream has not answered yet. If it is abandoned after a while, it counts as a failure, since clients
/// with short timeouts must not hide that upstream is silent.
struct Silence<'a> {
    breakers: &'a CircuitBreakers,
    key: Option<&'a TaskKey>,
    admission: Admission,
    asked_at: &'a AskedAt,
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take()
            && let Some(asked_at) = self.asked_at.first()
            && asked_at.elapsed() >= SILENT
        {
            let reason = "the video API did not answer before its clients gave up";
            let observation = Observation::Failed(Scope::Channel, reason.into());
            let (now, chance) = (Instant::now(), fastrand::f64());
            self.breakers
                .record(key, self.admission, observation, now, chance);
        }
    }
}

fn record(recent: &RecentErrors, label: RouteLabel, key: &TaskKey, result: &Result<Reply, Error>) {
    let context = ErrorContext {
        seen: SeenBy::Upstream,
        route: label.as_str(),
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
