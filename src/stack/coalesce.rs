//! Lets concurrent polls of one task share one flight. It is below Recall, which answers most polls without one, and
//! above Remember, so that an answer is stored once for all waiters.

use std::cell::LazyCell;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _};

use super::shared::Shared;
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
#[derive(Debug)]
pub struct Coalesce<S> {
    inner: Shared<S>,
    shared: Arc<Config>,
}

#[derive(Debug)]
struct Config {
    flights: PollFlights,
    store: Arc<Store>,
    waiters: Gauge,
    out_of_time: CancellationToken,
    max_waiters: NonZeroUsize,
}

impl<S> Coalesce<S> {
    pub(super) fn new(inner: S, state: &PollState, config: &config::Config) -> Self {
        let shared = Config {
            flights: state.flights.clone(),
            store: Arc::clone(&state.store),
            waiters: state.waiters.clone(),
            out_of_time: state.out_of_time.clone(),
            max_waiters: config.limits.max_waiters,
        };
        Self {
            inner: Shared::new(inner),
            shared: Arc::new(shared),
        }
    }
}

impl<S> Clone for Coalesce<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: Arc::clone(&self.shared),
        }
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
        let Miss {
            query,
            reason,
            patient_until,
        } = miss;
        let Self { inner, shared } = self.clone();
        let (key, cache_mode, deadline) = (query.key.clone(), query.cache_mode, query.deadline);
        // Shared with the flight only by its leader.
        let query = LazyCell::new(move || Arc::new(query));
        Box::pin(async move {
            let Config {
                flights,
                store,
                waiters,
                out_of_time,
                max_waiters,
            } = &*shared;
            let _waiting = waiters.up();
            let mut again = 0;
            loop {
                let lease = store.lease(&key);
                let start = || {
                    let (query, lease) = (Arc::clone(&query), lease.clone());
                    inner.clone().oneshot(LeasedQuery {
                        query,
                        lease,
                        arrival: None,
                    })
                };
                let mut waiter = flights
                    .join((key.clone(), lease.clone()), max_waiters.get(), start)
                    .map_err(|_| Error::Overloaded("clients waiting for this task"))?;
                let role = waiter.role();
                let until = patient_until.map_or(deadline, |until| until.min(deadline));
                let landed = tokio::select! {
                    landed = timeout_at(until, &mut waiter) => landed,
                    () = out_of_time.cancelled() => return Err(Error::Draining),
                };
                let Ok(landed) = landed else {
                    // The flight's answer is for the next poll; its failure, which is due about now, counts against upstream.
                    flights.detach(&(key, lease), waiter);
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
                // The task was written to meanwhile. Ask again, so that no client sees a state and then an earlier one.
                if store.is_overwritten(&lease) && again < MOST_AGAIN {
                    again += 1;
                    continue;
                }
                let own = match role {
                    Role::Leader => Outcome::Fetched,
                    Role::Follower => Outcome::Shared,
                };
                return Ok(landed.answer(reason, own));
            }
        })
    }
}
