//! Lets everyone who wants the same task at the same time wait for one poll. Below Recall, which answers most
//! without one, and above Remember, whose work is then done once for all.

use std::cell::LazyCell;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _};

use super::{LeasedQuery, PollFlights};
use crate::answer::Answer;
use crate::answer::outcome::Outcome;
use crate::cache::Store;
use crate::error::Error;
use crate::request::preferences::CacheMode;
use crate::request::query::TaskQuery;
use crate::sync::flights::Role;
use crate::telemetry::Gauge;

/// See the module.
#[derive(Debug, Clone)]
pub struct Coalesce<S> {
    inner: S,
    terms: Arc<Terms>,
}

/// What all polls have in common.
#[derive(Debug)]
struct Terms {
    flights: PollFlights,
    store: Arc<Store>,
    waiters: Gauge,
    out_of_time: CancellationToken,
    max_waiters: NonZeroUsize,
}

impl<S> Coalesce<S> {
    pub(super) fn new(
        inner: S,
        flights: PollFlights,
        store: Arc<Store>,
        waiters: Gauge,
        out_of_time: CancellationToken,
        max_waiters: NonZeroUsize,
    ) -> Self {
        let terms = Terms {
            flights,
            store,
            waiters,
            out_of_time,
            max_waiters,
        };
        Self {
            inner,
            terms: Arc::new(terms),
        }
    }
}

impl<S> Service<TaskQuery> for Coalesce<S>
where
    S: Service<LeasedQuery, Response = Answer, Error = Error, Future: Send>
        + Clone
        + Send
        + 'static,
{
    type Response = Answer;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Answer, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, query: TaskQuery) -> Self::Future {
        let Self { inner, terms } = self.clone();
        let (key, cache_mode, deadline) = (query.key.clone(), query.cache_mode, query.deadline);
        // Only those who depart share it with their flight.
        let query = LazyCell::new(move || Arc::new(query));
        Box::pin(async move {
            let Terms {
                flights,
                store,
                waiters,
                out_of_time,
                max_waiters,
            } = &*terms;
            let _waiting = waiters.up();
            loop {
                let lease = store.lease(&key);
                let depart = || {
                    let (query, lease) = (Arc::clone(&query), lease.clone());
                    inner.clone().oneshot(LeasedQuery { query, lease })
                };
                let ticket = flights
                    .join((key.clone(), lease.clone()), max_waiters.get(), depart)
                    .map_err(|_| Error::Overloaded("clients waiting for this task"))?;
                let role = ticket.role();
                let answer = tokio::select! {
                    answer = timeout_at(deadline, ticket) => {
                        answer.map_err(|_| Error::UpstreamTimeout)?
                    }
                    () = out_of_time.cancelled() => return Err(Error::Draining),
                };
                let answer = answer.map_err(|_| Error::Panicked)??;
                // The flight found it in the store after all: nothing for one who demands what upstream says now.
                if cache_mode == CacheMode::NoCache && answer.asked.is_none() {
                    continue;
                }
                let outcome = match role {
                    Role::Leader => answer.outcome,
                    Role::Follower => Outcome::Shared,
                };
                return Ok(Answer { outcome, ..answer });
            }
        })
    }
}
