//! Answers from memory what is fresh, and with the last known state while upstream is failing. Outside Coalesce, so that a
//! hit never touches the flight table, and so that every waiter of a failed flight can fall back.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, Ready, ready};
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use super::shared::Shared;
use super::state::{Miss, PollState};
use crate::answer::outcome::Outcome;
use crate::answer::{Answer, FwdReason};
use crate::cache::{Entry, Looked, Store, Use};
use crate::config;
use crate::error::Error;
use crate::request::key::TaskKey;
use crate::request::preferences::CacheMode;
use crate::request::query::TaskQuery;

/// See the module.
#[derive(Debug)]
pub struct Recall<S> {
    inner: Shared<S>,
    store: Arc<Store>,
    credential_ttl: Duration,
}

impl<S> Recall<S> {
    pub(super) fn new(inner: S, state: &PollState, cache: &config::Cache) -> Self {
        Self {
            inner: Shared::new(inner),
            store: Arc::clone(&state.store),
            credential_ttl: cache.credential_ttl,
        }
    }
}

impl<S> Clone for Recall<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            store: Arc::clone(&self.store),
            credential_ttl: self.credential_ttl,
        }
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
        let known = self.store.look(&query.key, query.at, self.credential_ttl);
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
        let Self {
            inner,
            store,
            credential_ttl,
        } = self.clone();
        Either::Right(Box::pin(async move {
            let key = query.key.clone();
            let result = inner.oneshot(Miss { query, reason }).await;
            let (is_failing, fwd) = match &result {
                Ok(answer) => (answer.reply.is_upstream_failing(), Some(reason)),
                Err(error) if error.is_refusal_to_ask() => (true, None),
                Err(error) => (error.is_upstream_failing(), Some(reason)),
            };
            match is_failing
                .then(|| last_known(&store, &key, credential_ttl))
                .flatten()
            {
                Some(entry) => Ok(entry.answer(Outcome::Stale, fwd)),
                None => result,
            }
        }))
    }
}

/// What may be shown while upstream is failing: the last known state of the task, or else the end that it is known to have
/// come to on the other path. Looked up only now: what was known before may have been purged while upstream was asked.
fn last_known(store: &Store, key: &TaskKey, credential_ttl: Duration) -> Option<Arc<Entry>> {
    let now = Instant::now();
    let known = |key: &TaskKey| {
        let looked = store.look(key, now, credential_ttl)?;
        looked
            .good_for
            .is_shown_while_failing()
            .then_some(looked.entry)
    };
    let own = known(key).filter(|entry| entry.reply.is_task());
    own.or_else(|| {
        let other = TaskKey {
            dialect: key.dialect.other(),
            ..key.clone()
        };
        known(&other).filter(|entry| entry.reply.is_terminal())
    })
}
