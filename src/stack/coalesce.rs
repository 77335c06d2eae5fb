//! Lets concurrent polls of one task share one flight. It is below Recall, which answers most polls without one, and
//! above Remember, so that an answer is stored once for all waiters.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::shared::ask;
use super::state::{LeasedQuery, Miss, PollFlights, PollState};
use crate::answer::outcome::Outcome;
use crate::answer::{Answer, Landed, Origin};
use crate::cache::Store;
use crate::config;
use crate::error::Error;
use crate::request::preferences::CacheMode;
use crate::sync::flights::Role;
use crate::telemetry::Gauge;

/// How many times a poll is repeated if its task is written to meanwhile.
const MOST_AGAIN: u32 = 3;

/// See the module.
#[derive(Debug, Clone)]
pub struct Coalesce<S>(Arc<Layer<S>>);

#[derive(Debug)]
struct Layer<S> {
    inner: S,
    flights: PollFlights,
    store: Arc<Store>,
    waiters: Gauge,
    out_of_time: CancellationToken,
    max_waiters: NonZeroUsize,
}

impl<S> Coalesce<S> {
    pub(super) fn new(inner: S, state: &PollState, config: &config::Config) -> Self {
        Self(Arc::new(Layer {
            inner,
            flights: state.flights.clone(),
            store: Arc::clone(&state.store),
            waiters: state.waiters.clone(),
            out_of_time: state.out_of_time.clone(),
            max_waiters: config.limits.max_waiters,
        }))
    }
}

impl<S> Service<Miss> for Coalesce<S>
where
    S: Service<LeasedQuery, Response = Landed, Error = Error, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    type Response = Answer;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Answer, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, miss: Miss) -> Self::Future {
        let layer = Arc::clone(&self.0);
        Box::pin(async move { layer.call(miss).await })
    }
}

impl<S> Layer<S>
where
    S: Service<LeasedQuery, Response = Landed, Error = Error, Future: Send + 'static> + Clone,
{
    async fn call(&self, miss: Miss) -> Result<Answer, Error> {
        let Miss {
            query,
            reason,
            patient_until,
        } = miss;
        let (cache_mode, deadline) = (query.cache_mode, query.deadline);
        let until = patient_until.map_or(deadline, |until| until.min(deadline));
        let _waiting = self.waiters.up();
        let mut again = 0;
        loop {
            let lease = self.store.lease(&query.key);
            let start = || {
                let leased = LeasedQuery {
                    query: Arc::clone(&query),
                    lease: lease.clone(),
                    arrival: None,
                    members: 1,
                };
                ask(&self.inner, leased)
            };
            let mut waiter = self
                .flights
                .join(
                    (query.key.clone(), lease.clone()),
                    self.max_waiters.get(),
                    start,
                )
                .map_err(|_| Error::Overloaded("clients waiting for this task"))?;
            let role = waiter.role();
            let landed = tokio::select! {
                biased;
                landed = timeout_at(until, &mut waiter) => landed,
                () = self.out_of_time.cancelled() => return Err(Error::Draining),
            };
            let Ok(landed) = landed else {
                // The flight's answer is for the next poll; its failure, which is due about now, counts against upstream.
                waiter.detach();
                return Err(Error::UpstreamTimeout);
            };
            let landed = landed.map_err(|_| Error::Panicked)??;
            // The flight was answered from memory, but this client demands a new answer.
            let is_from_memory = match (landed.origin, role) {
                (Origin::Memory, _) => true,
                // What a leader is given is as new as it demands.
                (Origin::Fleet { waited }, Role::Follower) => !waited,
                _ => false,
            };
            if cache_mode == CacheMode::NoCache && is_from_memory {
                continue;
            }
            // The task was written to meanwhile. Ask again, so that no client sees a state and then an earlier one. A 403 is
            // no state, and itself ends the lease.
            let is_overwritten = !landed.reply.is_forbidden() && self.store.is_overwritten(&lease);
            if is_overwritten && again < MOST_AGAIN {
                again += 1;
                continue;
            }
            let own = match role {
                Role::Leader => Outcome::Fetched,
                Role::Follower => Outcome::Shared,
            };
            return Ok(landed.answer(reason, own));
        }
    }
}
