//! Stores what upstream said, and notes whether it accepted the caller. Inside Coalesce: an answer is stored once,
//! before its flight leaves the table; and it looks into the store once more first, for a poll that missed there just
//! before another one's flight landed.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use super::Departure;
use crate::config;
use crate::error::Error;
use crate::freshness::lifetime;
use crate::reply::{Answer, Asked, Demand, Reply, TaskFetch};
use crate::store::{Arrival, Found, Store};
use crate::verdict::Verdict;

/// How long a task is at most left alone after upstream failed on it, so that its recovery is noticed soon.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Clone)]
pub struct Remember<S> {
    inner: S,
    store: Arc<Store>,
    cache: Arc<config::Cache>,
    timeout: Duration,
}

impl<S> Remember<S> {
    pub(super) fn new(
        inner: S,
        store: Arc<Store>,
        cache: config::Cache,
        timeout: Duration,
    ) -> Self {
        Self {
            inner,
            store,
            cache: Arc::new(cache),
            timeout,
        }
    }
}

impl<S> Service<Departure> for Remember<S>
where
    S: Service<TaskFetch, Response = Reply, Error = Error, Future: Send> + Clone + Send + 'static,
{
    type Response = Answer;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Answer, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, Departure { query, takeoff }: Departure) -> Self::Future {
        let Self {
            inner,
            store,
            cache,
            timeout,
        } = self.clone();
        Box::pin(async move {
            let key = query.key.clone();
            if query.demand == Demand::Fresh
                && let Found::Fresh(entry) = store.find(&key, Instant::now(), cache.credential_ttl)
            {
                return Ok(entry.answer(Verdict::Hit, None));
            }
            let first_seen = store.first_seen(&key).unwrap_or_else(unix_now);
            let deadline = Instant::now() + timeout;
            let fetch = TaskFetch {
                query,
                first_seen,
                deadline,
            };
            let result = inner.oneshot(fetch).await;
            let now = Instant::now();
            let failed = match &result {
                Ok(reply) => reply.is_upstream_failing(),
                Err(error) => error.was_asked_in_vain(),
            };
            if failed {
                store.rest(&key, now, cache.in_flight_ttl.min(LONGEST_REST));
            }
            let reply = Arc::new(result?);
            // A failure that no further try mended is from before the last of them.
            let now = reply.received;
            if reply.is_refusal() {
                store.refuse(key.caller);
            } else if reply.snapshot.is_some() || reply.is_task_not_exist() {
                store.accept(key.caller, takeoff, now);
            }
            let lifetime = lifetime(&reply, unix_now(), &cache);
            let stored = lifetime.is_some_and(|lifetime| {
                store.remember(
                    &key,
                    &reply,
                    Arrival {
                        now,
                        lifetime,
                        first_seen,
                    },
                    takeoff,
                )
            });
            Ok(Answer {
                reply,
                verdict: Verdict::Fetched,
                asked: Some(Asked::Miss),
                received: now,
                fresh_until: now + lifetime.map(|lifetime| lifetime.fresh).unwrap_or_default(),
                stored,
            })
        })
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
