//! Serves fresh answers from the cache, and the last known state while upstream is failing. It is above Coalesce, so that
//! a hit never touches the flight table, and every waiter of a failed flight can fall back.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, Ready, ready};
use tokio::time::Instant;
use tower::Service;

use super::shared::ask;
use super::state::{Miss, PollState};
use crate::answer::outcome::Outcome;
use crate::answer::{Answer, FwdReason, Landed};
use crate::cache::{Entry, Looked, Store, Use};
use crate::config;
use crate::error::Error;
use crate::request::key::TaskKey;
use crate::request::preferences::CacheMode;
use crate::request::query::TaskQuery;
use crate::upstream::breakers::{CircuitBreakers, Outlook};
use crate::upstream::response_time::ResponseTime;

/// See the module.
#[derive(Debug, Clone)]
pub struct Recall<S>(Arc<Layer<S>>);

#[derive(Debug)]
struct Layer<S> {
    inner: S,
    store: Arc<Store>,
    breakers: Arc<CircuitBreakers>,
    credential_ttl: Duration,
    response_time: Arc<ResponseTime>,
    patience: Duration,
}

impl<S> Recall<S> {
    pub(super) fn new(inner: S, state: &PollState, config: &config::Config) -> Self {
        Self(Arc::new(Layer {
            inner,
            store: Arc::clone(&state.store),
            breakers: Arc::clone(&state.breakers),
            credential_ttl: config.cache.credential_ttl,
            response_time: Arc::clone(&state.response_time),
            patience: config.upstream.patience,
        }))
    }
}

impl<S> Service<TaskQuery> for Recall<S>
where
    S: Service<Miss, Response = Answer, Error = Error, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    type Response = Answer;
    type Error = Error;
    type Future = Either<Ready<Result<Answer, Error>>, BoxFuture<'static, Result<Answer, Error>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, query: TaskQuery) -> Self::Future {
        let Layer {
            store,
            credential_ttl,
            ..
        } = &*self.0;
        let known = store.look(&query.key, query.at, *credential_ttl);
        let (entry, good_for) = match known {
            Some(Looked { entry, good_for }) => (Some(entry), good_for),
            None => (None, Use::Expired),
        };
        let reason = match (query.cache_mode, good_for, entry) {
            (CacheMode::Default | CacheMode::OnlyIfCached, Use::Fresh, Some(entry)) => {
                return Either::Left(ready(Ok(entry.answer(Outcome::Hit, None))));
            }
            (CacheMode::Default, Use::CoolingDown, Some(entry)) if entry.reply.is_task() => {
                return Either::Left(ready(Ok(entry.answer(Outcome::Stale, None))));
            }
            (CacheMode::OnlyIfCached, ..) => return Either::Left(ready(Err(Error::NotCached))),
            (CacheMode::NoCache, ..) => FwdReason::Request,
            (CacheMode::Default, Use::CoolingDown | Use::StaleIfError, _) => FwdReason::Stale,
            (CacheMode::Default, ..) => FwdReason::Miss,
        };
        let layer = Arc::clone(&self.0);
        Either::Right(Box::pin(async move { layer.miss(query, reason).await }))
    }
}

impl<S> Layer<S>
where
    S: Service<Miss, Response = Answer, Error = Error> + Clone,
{
    /// Handles a cache miss: asks upstream, and falls back to the last known state if that fails.
    async fn miss(&self, mut query: TaskQuery, reason: FwdReason) -> Result<Answer, Error> {
        if query.cache_mode == CacheMode::Default
            && let Some(failure) = self.store.failure(&query.key, query.at)
        {
            // Upstream itself failed on this task a moment ago: repeat that answer without asking again.
            let failed = failure.map(Landed::remembered);
            return match falls_back(&failed).then(|| self.last_known(&query.key, query.at)) {
                Some(Some(known)) => Ok(known.answer(Outcome::Stale, None)),
                _ => failed,
            };
        }
        let expected = self.response_time.expected();
        let mut patience = expected.map_or(self.patience, |expected| self.patience.min(expected));
        if let Some(timeout) = query.credentials.client_timeout() {
            query.deadline = query.deadline.min(query.at + timeout);
            patience = patience.min(timeout);
        }
        let mut patient_until = None;
        if let Some(known) = self.last_known(&query.key, query.at) {
            let demands_news = query.cache_mode == CacheMode::NoCache;
            patient_until = Some(match self.breakers.outlook(query.key.caller, query.at) {
                Outlook::Passes if demands_news => query.deadline,
                Outlook::Passes => query.at + patience,
                // The poll triggers a probe, but its client does not wait for it.
                Outlook::Probes => query.at,
                Outlook::Refuses => return Ok(known.answer(Outcome::Stale, None)),
            });
        }
        let query = Arc::new(query);
        let key = &query.key;
        let miss = |patient_until| Miss {
            query: Arc::clone(&query),
            reason,
            patient_until,
        };
        let mut result = ask(&self.inner, miss(patient_until)).await;
        if patient_until.is_some()
            && matches!(result, Err(Error::UpstreamTimeout))
            && Instant::now() < query.deadline
            && self.last_known(key, Instant::now()).is_none()
        {
            // The last known state has been purged meanwhile: wait for the flight after all.
            result = ask(&self.inner, miss(None)).await;
        }
        if !falls_back(&result) {
            return result;
        }
        let was_asked = !result.as_ref().is_err_and(Error::is_refusal_to_ask);
        // Looked up only now, since it may have been purged while upstream was asked.
        match self.last_known(key, Instant::now()) {
            Some(entry) => Ok(entry.answer(Outcome::Stale, was_asked.then_some(reason))),
            None => result,
        }
    }

    /// The state that may be served while upstream is failing: the last known state of the task, or its final state if
    /// that is known from the other path.
    fn last_known(&self, key: &TaskKey, now: Instant) -> Option<Arc<Entry>> {
        let known = |key: &TaskKey| {
            let looked = self.store.look(key, now, self.credential_ttl)?;
            looked
                .good_for
                .is_shown_while_failing()
                .then_some(looked.entry)
        };
        let own = known(key).filter(|entry| entry.reply.is_task());
        own.or_else(|| {
            let final_on = |route| {
                let other = TaskKey {
                    route,
                    ..key.clone()
                };
                known(&other).filter(|entry| entry.reply.is_terminal())
            };
            key.route.others().find_map(final_on)
        })
    }
}

/// Whether the last known state may be served in place of this result.
fn falls_back(result: &Result<Answer, Error>) -> bool {
    match result {
        Ok(answer) => answer.reply.is_upstream_failing(),
        Err(error) => error.lets_stale_stand_in(),
    }
}
