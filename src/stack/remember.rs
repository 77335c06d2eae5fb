//! Looks up the cache again, asks upstream, decides how long the answer is kept, and stores it. It is below Coalesce: an
//! answer is stored once, before its flight leaves the table. The second look-up is for a poll that missed the cache just
//! before another flight landed.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::StatusCode;
use tokio::time::Instant;
use tower::Service;

use super::shared::ask;
use super::state::{LeasedQuery, PollState};
use crate::answer::reply::Reply;
use crate::answer::{Landed, Origin};
use crate::cache::cadence::Cadence;
use crate::cache::created::{Created, Record};
use crate::cache::freshness::{self, Decision, Fault, Known};
use crate::cache::{Entry, Lease, Looked, Store, Use};
use crate::config;
use crate::error::Error;
use crate::fleet::envelope::Arrival;
use crate::message::fields::unix_now;
use crate::request::key::TaskKey;
use crate::request::preferences::CacheMode;
use crate::request::query::{TaskFetch, TaskQuery};
use crate::task::{ErrorForm, Source, State, TaskSnapshot};

/// A flight's share of `upstream.timeout`. It has to end before its waiters give up: they would abort it, and its result
/// would not reach the circuit breakers.
const FLIGHT_SHARE: f64 = 0.98;

/// Why a task that was running a moment ago is not shown as missing yet.
const EARLY_MISSING: &str = "it says that a task does not exist which was running a moment ago";

/// See the module.
#[derive(Debug, Clone)]
pub struct Remember<S>(Arc<Layer<S>>);

#[derive(Debug)]
struct Layer<S> {
    inner: S,
    store: Arc<Store>,
    created: Arc<Created>,
    cadence: Arc<Cadence>,
    cache: Arc<config::Cache>,
    timeout: Duration,
}

impl<S> Remember<S> {
    pub(super) fn new(
        inner: S,
        state: &PollState,
        cache: &Arc<config::Cache>,
        config: &config::Config,
    ) -> Self {
        Self(Arc::new(Layer {
            inner,
            store: Arc::clone(&state.store),
            created: Arc::clone(&state.created),
            cadence: Arc::clone(&state.cadence),
            cache: Arc::clone(cache),
            timeout: config.upstream.timeout.mul_f64(FLIGHT_SHARE),
        }))
    }
}

impl<S> Service<LeasedQuery> for Remember<S>
where
    S: Service<TaskFetch, Response = Reply, Error = Error, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    type Response = Landed;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Landed, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, leased: LeasedQuery) -> Self::Future {
        let layer = Arc::clone(&self.0);
        Box::pin(async move { layer.call(leased).await })
    }
}

impl<S> Layer<S>
where
    S: Service<TaskFetch, Response = Reply, Error = Error> + Clone,
{
    async fn call(&self, leased: LeasedQuery) -> Result<Landed, Error> {
        let LeasedQuery {
            query,
            lease,
            arrival: slot,
            members,
        } = leased;
        let Self {
            store,
            created,
            cache,
            ..
        } = self;
        let (key, now) = (&query.key, Instant::now());

        // Look again.
        let (known, is_shown) = match store.look(key, now, cache.credential_ttl) {
            Some(Looked {
                entry,
                good_for: Use::Fresh,
            }) if query.cache_mode == CacheMode::Default => {
                return Ok(entry.landed());
            }
            Some(Looked { entry, good_for }) => (Some(entry), good_for.is_shown_while_failing()),
            None => (None, false),
        };

        // Ask.
        let first_seen = known
            .as_ref()
            .map_or_else(unix_now, |known| known.first_seen());
        let deadline = now + self.timeout;
        let fetch = TaskFetch {
            query: Arc::clone(&query),
            first_seen,
            deadline,
            is_probe: false,
        };
        let reply = match ask(&self.inner, fetch).await {
            Ok(reply) => reply,
            Err(error) => {
                self.record_failure(key, &error, &lease);
                return Err(error);
            }
        };

        // In a fleet, a flight outlives its clients, and may land behind a later one. A refusal counts all the same.
        if slot.is_some()
            && reply.is_task()
            && let Some(later) = store.known_since(key, now, &reply)
        {
            return Ok(later.landed());
        }

        let created = created.get(key.caller, &key.task);
        let reply = match &created {
            Some(created) if is_early(&reply, created, known.as_deref(), now) => {
                early(&query, created, reply)
            }
            _ => reply,
        };

        // Decide.
        let known = known.as_deref().map(|entry| Known {
            reply: &entry.reply,
            age: entry.task_age(),
            // Said twice in a row, or after a write, it is believed that the task does not exist.
            may_vanish: !is_shown
                || store.last_fault(key) == Some(Fault::EarlyMissing)
                || !store.is_valid(&lease),
        });
        let model = created
            .as_ref()
            .and_then(|created| created.task.model.as_deref());
        let decision = self.decide(&reply, known, model);
        let decision = decision.stretched(members, cache.in_flight_max);

        // Keep.
        let (received, headers) = (reply.received, reply.headers.clone());
        let headers = if reply.is_page() {
            lease.with_cors(headers)
        } else {
            headers
        };
        let kept = store.keep(key, reply, &decision, first_seen, &lease);
        let landed = Landed {
            reply: kept.reply,
            headers,
            received,
            fresh_until: received + decision.fresh_for(),
            origin: Origin::Upstream {
                stored: kept.stored,
            },
        };
        let fault = decision.fault;
        if let Some(slot) = slot {
            // Nobody else sets it.
            let asked = now;
            let _ = slot.set(Arrival {
                asked,
                decision,
                first_seen,
            });
        }
        match fault {
            None => Ok(landed),
            Some(fault) => self.landed_with(fault, landed, key, &lease),
        }
    }
}

/// Whether a task is said not to exist that was created a moment ago: upstream does not know it yet. One of which more is
/// known does not go back to its create.
fn is_early(reply: &Reply, created: &Record, known: Option<&Entry>, now: Instant) -> bool {
    let is_news = |known: &Entry| {
        let task = known.reply.snapshot();
        task.is_some_and(|task| task.state() != State::Queued || task.progress() > 0)
    };
    reply.is_task_not_exist() && created.is_early(now) && !known.is_some_and(is_news)
}

/// The state of a task that was just created, in place of the answer that there is no such task.
fn early(query: &TaskQuery, created: &Record, missing: Reply) -> Reply {
    let headers = missing.headers.as_deref().cloned().unwrap_or_default();
    let asked_id = query.key.task.decoded();
    let source = |body| Source {
        asked_id: &asked_id,
        status: 200,
        body,
        first_seen: created.first_seen,
    };
    if let Some(asked) = &query.resource {
        let route = &asked.route;
        // In the route's own shape the answer to the create is upstream's word; else it is written here.
        let own = route
            .reader
            .has_status(&created.answer)
            .then(|| created.answer.clone());
        let body = own.unwrap_or_else(|| created.task.queued(route.errors, created.first_seen));
        let snapshot = TaskSnapshot::read_by(&route.reader, &source(&body)).ok();
        if snapshot
            .as_ref()
            .is_some_and(|task| !task.state().is_terminal())
        {
            return Reply::as_is(route, StatusCode::OK, &headers, body, snapshot);
        }
        return missing;
    }
    let Some(dialect) = query.key.route.dialect() else {
        return missing;
    };
    let body = created
        .task
        .queued(ErrorForm::of(dialect), created.first_seen);
    match TaskSnapshot::read(&source(&body)) {
        Ok(snapshot) => Reply::new(StatusCode::OK, &headers, body, Some(snapshot)),
        Err(_) => missing,
    }
}

impl<S> Layer<S> {
    /// Decides what becomes of a reply, and lets the cadence learn from it.
    fn decide(&self, reply: &Reply, known: Option<Known<'_>>, model: Option<&str>) -> Decision {
        let Self { cache, cadence, .. } = self;
        let found = freshness::found(reply, known, model);
        if let Some((class, found)) = &found {
            cadence.see(class, found);
        }
        let has_changed = found.is_some_and(|(_, found)| found.changed.is_some());
        let now = unix_now();
        let decision = freshness::decide(reply, known, model, has_changed, now, cache, cadence);
        if let Some(end) = &decision.ended {
            cadence.learn(&end.model, end.seen_running_at, end.seen_ended_at);
        }
        decision
    }

    /// Leaves the task alone for a while, where the answer is a failure.
    fn landed_with(
        &self,
        fault: Fault,
        landed: Landed,
        key: &TaskKey,
        lease: &Lease,
    ) -> Result<Landed, Error> {
        let (store, received) = (&self.store, landed.received);
        let pause = freshness::cool_down(&self.cache);
        let result = match fault {
            Fault::Way => {
                store.back_off(key, received, pause);
                return Ok(landed);
            }
            Fault::Own => Ok(landed),
            Fault::EarlyMissing => Err(Error::NotATask(EARLY_MISSING.into())),
        };
        store.fail(key, fault, result.clone(), lease, received, pause);
        result
    }

    /// The same where upstream was asked for it in vain.
    fn record_failure(&self, key: &TaskKey, error: &Error, lease: &Lease) {
        let (now, pause) = (Instant::now(), freshness::cool_down(&self.cache));
        if *error == Error::TooLarge {
            // What was known before must not come back as the last known state: upstream has gone beyond it.
            self.store.purge_for(key);
            self.store
                .fail(key, Fault::Own, Err(error.clone()), lease, now, pause);
        } else if error.is_own_fault() {
            self.store
                .fail(key, Fault::Own, Err(error.clone()), lease, now, pause);
        } else if error.is_way_failure() {
            self.store.back_off(key, now, pause);
        }
    }
}
