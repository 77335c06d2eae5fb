//! Holds a poll until there is news (RFC 7240 `wait`, and every event of a stream). Above Translate, and so above all
//! that remembers and shares: it only sleeps until what it was told stops being fresh, and then asks like anyone else.
//! All who wait for a task cost upstream one poll per freshness, and nobody waiting means no polling.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tower::Service;

use crate::answer::Answer;
use crate::answer::etag::names;
use crate::error::Error;
use crate::request::preferences::CacheMode;
use crate::request::query::{TaskQuery, Wait};
use crate::telemetry::Gauge;

/// The least time between two looks of one who waits, where nothing stays fresh.
const PAUSE: Duration = Duration::from_millis(100);

/// The same while upstream is failing.
const STALE_PAUSE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Clone)]
pub struct Hold<S> {
    inner: S,
    terms: Arc<Terms>,
}

/// What those who wait have in common.
#[derive(Debug)]
struct Terms {
    timeout: Duration,
    waiters: Gauge,
    draining: CancellationToken,
}

impl<S> Hold<S> {
    pub(super) fn new(
        inner: S,
        timeout: Duration,
        waiters: Gauge,
        draining: CancellationToken,
    ) -> Self {
        let terms = Terms {
            timeout,
            waiters,
            draining,
        };
        Self {
            inner,
            terms: Arc::new(terms),
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
        let Self { mut inner, terms } = self.clone();
        Either::Right(Box::pin(async move {
            let Terms {
                timeout,
                waiters,
                draining,
            } = &*terms;
            let timeout = *timeout;
            let mut known: Option<Answer> = None;
            loop {
                let now = Instant::now();
                // The first look may take as long as any poll; those after it end with the wait.
                query.deadline = match known {
                    None => now + timeout,
                    Some(_) => (now + timeout).min(wait.until),
                };
                query.at = now;
                // `oneshot` would keep room for the query.
                poll_fn(|cx| inner.poll_ready(cx)).await?;
                let looked = inner.call(query.clone()).await;
                let over = Instant::now() >= wait.until;
                let answer = match (known, looked) {
                    // Cut off by the end of the wait, which says nothing of upstream.
                    (Some(known), Err(_)) if over => known,
                    (Some(known), Ok(answer)) if over && answer.received <= known.received => known,
                    (_, looked) => looked?,
                };
                if is_over(&wait, &answer) || draining.is_cancelled() {
                    return Ok(answer);
                }
                let next = next_look(&answer, Instant::now());
                let _waiting = waiters.up();
                tokio::select! {
                    () = sleep_until(next.min(wait.until)) => {}
                    () = draining.cancelled() => {}
                }
                if draining.is_cancelled() || Instant::now() >= wait.until {
                    // Others may have been told more in the meantime.
                    query.cache_mode = CacheMode::OnlyIfCached;
                    query.at = Instant::now();
                    poll_fn(|cx| inner.poll_ready(cx)).await?;
                    let told = inner.call(query).await.ok();
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

/// Whether an answer is worth ending the wait: it is new, it is the end, or it is no task at all.
fn is_over(wait: &Wait, answer: &Answer) -> bool {
    if !answer.reply.is_task() || answer.reply.is_terminal() {
        return true;
    }
    let rendition = answer.reply.rendition(wait.dialect, wait.rendering);
    wait.known
        .as_ref()
        .is_some_and(|known| !names(known, &rendition.etag))
}

/// When the answer may have changed: once it is no longer fresh, and not too soon where it never is.
fn next_look(answer: &Answer, now: Instant) -> Instant {
    let pause = if answer.outcome.is_stale() {
        STALE_PAUSE
    } else {
        PAUSE
    };
    answer.fresh_until.max(now + pause)
}
