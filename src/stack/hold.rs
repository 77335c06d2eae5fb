//! Long polls: holds a poll until its answer changes (RFC 7240 `wait`, and every event of a stream). It is above the
//! cache: it sleeps until its answer is no longer fresh, then asks again like any other client. All waiters of a task
//! share one upstream poll per freshness period; without waiters nothing is polled.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::shared::ask;
use super::state::PollState;
use crate::answer::Answer;
use crate::answer::etag::names;
use crate::config;
use crate::error::Error;
use crate::request::preferences::CacheMode;
use crate::request::query::{TaskQuery, Wait};
use crate::telemetry::Gauge;

/// The minimum time between two polls of an answer that is never fresh.
const PAUSE: Duration = Duration::from_millis(100);

/// The minimum time between two polls while upstream is failing.
const STALE_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Clone)]
pub struct Hold<S> {
    inner: S,
    shared: Arc<Config>,
}

#[derive(Debug)]
struct Config {
    timeout: Duration,
    waiters: Gauge,
    draining: CancellationToken,
}

impl<S> Hold<S> {
    pub(super) fn new(inner: S, state: &PollState, config: &config::Config) -> Self {
        let shared = Config {
            timeout: config.upstream.timeout,
            waiters: state.waiters.clone(),
            draining: state.draining.clone(),
        };
        Self {
            inner,
            shared: Arc::new(shared),
        }
    }
}

impl<S> Service<TaskQuery> for Hold<S>
where
    S: Service<TaskQuery, Response = Answer, Error = Error, Future: Send> + Clone + Send + 'static,
{
    type Response = Answer;
    type Error = Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Answer, Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut query: TaskQuery) -> Self::Future {
        let Some(wait) = query.wait.take() else {
            return Either::Left(self.inner.call(query));
        };
        let Self { inner, shared } = self.clone();
        Either::Right(Box::pin(async move {
            let Config {
                timeout,
                waiters,
                draining,
            } = &*shared;
            let timeout = *timeout;
            let mut known: Option<Answer> = None;
            loop {
                let now = Instant::now();
                // The first poll may take as long as any other; later ones end with the wait.
                query.deadline = match known {
                    None => now + timeout,
                    Some(_) => (now + timeout).min(wait.until),
                };
                query.at = now;
                let looked = ask(&inner, query.clone()).await;
                let over = Instant::now() >= wait.until;
                let answer = match (known, looked) {
                    // Cut short by the end of the wait, not by a failing upstream.
                    (Some(known), Err(_)) if over => known,
                    (Some(known), Ok(answer)) if over && answer.received <= known.received => known,
                    (_, looked) => looked?,
                };
                if is_over(&wait, &answer) || draining.is_cancelled() {
                    return Ok(answer);
                }
                let next = next_look(&answer, Instant::now());
                let _waiting = waiters.up();
                let _ = timeout_at(next.min(wait.until), draining.cancelled()).await;
                if draining.is_cancelled() || Instant::now() >= wait.until {
                    // Another client's poll may have brought a newer state meanwhile.
                    query.cache_mode = CacheMode::OnlyIfCached;
                    query.at = Instant::now();
                    let told = ask(&inner, query).await.ok();
                    return Ok(told
                        .filter(|told| told.received > answer.received)
                        .unwrap_or(answer));
                }
                query.cache_mode = CacheMode::Default;
                known = Some(answer);
            }
        }))
    }
}

/// Whether an answer ends the wait: it is new, terminal, or not a task.
fn is_over(wait: &Wait, answer: &Answer) -> bool {
    if !answer.reply.is_task() || answer.reply.is_terminal() {
        return true;
    }
    let rendition = answer.reply.rendition(wait.form);
    wait.known
        .as_ref()
        .is_some_and(|known| !names(known, &rendition.etag))
}

/// When to ask again: once the answer is no longer fresh, but not at once if it never was.
fn next_look(answer: &Answer, now: Instant) -> Instant {
    let pause = if answer.outcome.is_stale() {
        STALE_PAUSE
    } else {
        PAUSE
    };
    answer.fresh_until.max(now + pause)
}
