//! Retries failures that may be transient, within the poll's deadline and a budget; one immediate retry does not count
//! against the budget. It is above Breaker, which every attempt has to pass, and above Fetch, so that no permit of
//! `limits.max_upstream` is held between two attempts.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until};
use tower::Service;
use tower::retry::budget::{Budget as _, TpsBudget};

use super::shared::ask;
use super::state::PollState;
use crate::answer::reply::Reply;
use crate::error::Error;
use crate::request::query::TaskFetch;
use crate::upstream::breakers::is_gateway_failure;

/// The maximum number of attempts per poll.
const TRIES: u32 = 3;

/// The pause before the second attempt, doubled before the third; half of it is random.
const BACKOFF: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug, Clone)]
pub struct Retry<S>(Arc<Layer<S>>);

#[derive(Debug)]
struct Layer<S> {
    inner: S,
    budget: Arc<TpsBudget>,
}

impl<S> Retry<S> {
    pub(super) fn new(inner: S, state: &PollState) -> Self {
        Self(Arc::new(Layer {
            inner,
            budget: Arc::clone(&state.retries),
        }))
    }
}

impl<S> Service<TaskFetch> for Retry<S>
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
        let Self { inner, budget } = self;
        budget.deposit();
        let mut last = ask(inner, fetch.clone()).await;
        for further in 1..TRIES {
            // One immediate retry: most likely the connection was closed while it was idle.
            let at_once = further == 1
                && last
                    .as_ref()
                    .is_err_and(|error| *error == Error::UpstreamClosed);
            if !at_once {
                if !may_pass(&last) {
                    return last;
                }
                let next = Instant::now() + backoff(further);
                if next >= fetch.deadline || !budget.withdraw() {
                    return last;
                }
                sleep_until(next).await;
            }
            let result = ask(inner, fetch.clone()).await;
            // The circuit opened meanwhile: the previous result says more.
            if result.as_ref().is_err_and(Error::is_refusal_to_ask) {
                return last;
            }
            last = result;
        }
        last
    }
}

fn backoff(further: u32) -> Duration {
    BACKOFF.mul_f64(f64::from(1 << (further - 1)) * (0.5 + fastrand::f64() / 2.0))
}

/// Whether another attempt may succeed: after a failed or broken connection, a broken answer, or a 502, 503 or 504 from a
/// proxy, but not after a timeout, which has used up the poll's deadline.
fn may_pass(result: &Result<Reply, Error>) -> bool {
    match result {
        Ok(reply) => is_gateway_failure(reply.status),
        Err(Error::UpstreamUnavailable(_) | Error::UpstreamClosed | Error::UpstreamInvalid(_)) => {
            true
        }
        Err(_) => false,
    }
}
