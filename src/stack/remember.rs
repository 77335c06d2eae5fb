//! Stores what upstream said, and notes whether it accepted the caller. Inside Coalesce: an answer is stored once,
//! before its flight leaves the table; and it looks into the store once more first, for a poll that missed there just
//! before another one's flight landed. It is also where tasks are seen to end, and so where the cadence is learnt.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use super::LeasedQuery;
use crate::answer::outcome::Outcome;
use crate::answer::reply::{Reply, SharedReply};
use crate::answer::{Answer, FwdReason};
use crate::cache::cadence::{Bounds, Cadence, TaskAge};
use crate::cache::freshness::lifetime;
use crate::cache::{Entry, Found, Store, StoreMeta};
use crate::config;
use crate::error::Error;
use crate::request::preferences::CacheMode;
use crate::request::query::TaskFetch;

/// How long a task is at most left alone after upstream failed on it, so that its recovery is noticed soon.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// How much of `upstream.timeout` a flight has. It has to end before those who wait for it give up: they would cancel
/// it, and what it came to would be lost to everyone who judges upstream by it.
const FLIGHT_SHARE: f64 = 0.98;

/// See the module.
#[derive(Debug, Clone)]
pub struct Remember<S> {
    inner: S,
    store: Arc<Store>,
    cadence: Arc<Cadence>,
    cache: Arc<config::Cache>,
    timeout: Duration,
}

impl<S> Remember<S> {
    pub(super) fn new(
        inner: S,
        store: Arc<Store>,
        cadence: Arc<Cadence>,
        cache: config::Cache,
        timeout: Duration,
    ) -> Self {
        Self {
            inner,
            store,
            cadence,
            cache: Arc::new(cache),
            timeout,
        }
    }
}

impl<S> Service<LeasedQuery> for Remember<S>
where
    S: Service<TaskFetch, Response = Reply, Error = Error, Future: Send> + Clone + Send + 'static,
{
    type Response = Answer;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Answer, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, LeasedQuery { query, lease }: LeasedQuery) -> Self::Future {
        let Self {
            inner,
            store,
            cadence,
            cache,
            timeout,
        } = self.clone();
        Box::pin(async move {
            let key = query.key.clone();
            if query.cache_mode == CacheMode::Default
                && let Found::Fresh(entry) = store.find(&key, Instant::now(), cache.credential_ttl)
            {
                return Ok(entry.answer(Outcome::Hit, None));
            }
            let last = store.peek(&key);
            let first_seen = last.as_ref().map_or_else(unix_now, |last| last.first_seen);
            let deadline = Instant::now() + timeout.mul_f64(FLIGHT_SHARE);
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
                store.back_off(&key, now, cache.in_flight_ttl.min(LONGEST_REST));
            }
            let reply = result?;
            // A failure that no further try mended is from before the last of them.
            let now = reply.received;
            if reply.is_refusal() {
                store.refuse(key.caller);
            } else if reply.is_task() || reply.is_task_not_exist() {
                store.accept(&lease, now);
            }
            let life = life(&reply, last.as_deref(), now);
            if let (Some(life), Some(last)) = (life, &last) {
                learn(&cadence, &reply, last, life, now);
            }
            let in_flight = pace(&cadence, &reply, life, now, &cache);
            let lifetime = lifetime(&reply, unix_now(), &cache, in_flight);
            let headers = reply.headers.clone();
            let (reply, stored) = match lifetime {
                Some(lifetime) => {
                    let arrival = StoreMeta {
                        now,
                        lifetime,
                        first_seen,
                        life,
                    };
                    store.remember(&key, reply, arrival, &lease)
                }
                None => (SharedReply::new(Arc::new(reply)), false),
            };
            Ok(Answer {
                reply,
                headers,
                outcome: Outcome::Fetched,
                asked: Some(FwdReason::Miss),
                received: now,
                fresh_until: now + lifetime.map(|lifetime| lifetime.fresh).unwrap_or_default(),
                stored,
            })
        })
    }
}

/// The task's life, from where it was first seen on.
fn life(reply: &Reply, last: Option<&Entry>, now: Instant) -> Option<TaskAge> {
    let snapshot = reply.snapshot()?;
    let age = || u64::try_from(unix_now().saturating_sub(snapshot.created_at())).unwrap_or(0);
    let begun = || TaskAge::begun(now, Duration::from_secs(age()));
    Some(last.and_then(Entry::life).unwrap_or_else(begun))
}

/// Learns from a task that was running when it was last seen, and is over. Under the model it was told with while it
/// ran, since that is the one that will be asked for.
fn learn(cadence: &Cadence, reply: &Reply, last: &Entry, life: TaskAge, now: Instant) {
    if reply.is_terminal()
        && !last.reply.is_terminal()
        && let Some(before) = last.reply.snapshot()
    {
        cadence.learn(before.model(), life.age(last.reply.received), life.age(now));
    }
}

/// How long a running task need not be looked at again.
fn pace(
    cadence: &Cadence,
    reply: &Reply,
    life: Option<TaskAge>,
    now: Instant,
    cache: &config::Cache,
) -> Duration {
    match (reply.snapshot(), life) {
        (Some(snapshot), Some(life)) if cache.adaptive && !snapshot.state().is_terminal() => {
            let bounds = Bounds {
                least: cache.in_flight_ttl,
                most: cache.in_flight_max,
            };
            cadence.interval(snapshot.model(), life.age(now), snapshot.progress(), bounds)
        }
        _ => cache.in_flight_ttl,
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
