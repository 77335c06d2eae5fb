//! Answers from memory what is fresh, and with the last known state when upstream fails. Outside Coalesce, so that a
//! hit never touches the flight table, and so that everyone who waited for a flight in vain can fall back.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, Ready, ready};
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use crate::answer::outcome::Outcome;
use crate::answer::{Answer, FwdReason};
use crate::cache::{Entry, Found, Store};
use crate::error::Error;
use crate::request::key::TaskKey;
use crate::request::preferences::CacheMode;
use crate::request::query::TaskQuery;

/// See the module.
#[derive(Debug, Clone)]
pub struct Recall<S> {
    inner: S,
    store: Arc<Store>,
    credential_ttl: Duration,
}

impl<S> Recall<S> {
    pub(super) fn new(inner: S, store: Arc<Store>, credential_ttl: Duration) -> Self {
        Self {
            inner,
            store,
            credential_ttl,
        }
    }
}

impl<S> Service<TaskQuery> for Recall<S>
where
    S: Service<TaskQuery, Response = Answer, Error = Error, Future: Send> + Clone + Send + 'static,
{
    type Response = Answer;
    type Error = Error;
    type Future = Either<Ready<Result<Answer, Error>>, BoxFuture<'static, Result<Answer, Error>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, query: TaskQuery) -> Self::Future {
        let found = self.store.find(&query.key, query.at, self.credential_ttl);
        let asked = match (found, query.cache_mode) {
            (Found::Fresh(entry), CacheMode::Default | CacheMode::OnlyIfCached) => {
                return Either::Left(ready(Ok(entry.answer(Outcome::Hit, None))));
            }
            (Found::CoolingDown(entry), CacheMode::Default) if entry.reply.is_task() => {
                return Either::Left(ready(Ok(
                    entry.answer(Outcome::Stale, Some(FwdReason::Stale))
                )));
            }
            (_, CacheMode::OnlyIfCached) => return Either::Left(ready(Err(Error::NotCached))),
            (_, CacheMode::NoCache) => FwdReason::Request,
            (Found::Stale(_) | Found::CoolingDown(_), CacheMode::Default) => FwdReason::Stale,
            (Found::Nothing, CacheMode::Default) => FwdReason::Miss,
        };
        let Self {
            inner,
            store,
            credential_ttl,
        } = self.clone();
        Either::Right(Box::pin(async move {
            let key = query.key.clone();
            let answer = inner.oneshot(query).await;
            let failing = match &answer {
                Ok(answer) => answer.reply.is_upstream_failing(),
                Err(error) => error.is_upstream_failing(),
            };
            match failing
                .then(|| stand_in(&store, &key, credential_ttl))
                .flatten()
            {
                Some(entry) => Ok(entry.answer(Outcome::Stale, Some(asked))),
                None => answer.map(|answer| Answer {
                    asked: answer.asked.map(|_| asked),
                    ..answer
                }),
            }
        }))
    }
}

/// What may be shown while upstream fails: the last known state, or else the end that the task is known to have come
/// to on the other path. Looked up only now: what was known before may have been forgotten while upstream was asked.
fn stand_in(store: &Store, key: &TaskKey, credential_ttl: Duration) -> Option<Arc<Entry>> {
    let now = Instant::now();
    let known = |key: &TaskKey| match store.find(key, now, credential_ttl) {
        Found::Fresh(entry) | Found::CoolingDown(entry) | Found::Stale(entry) => Some(entry),
        Found::Nothing => None,
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
