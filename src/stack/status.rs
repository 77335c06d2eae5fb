//! The status endpoint, and the narrow waist: turns a status poll into a [`TaskQuery`], and an [`Answer`] into a response.
//! Nothing below looks at an HTTP request. It also chooses the dialect in which upstream is asked: above everything that
//! is remembered or shared, so that where one dialect is always asked, the clients of both paths share what is known.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either};
use http::header::IF_NONE_MATCH;
use http::{HeaderName, HeaderValue};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use crate::answer::handled::Handled;
use crate::answer::respond::Responder;
use crate::answer::{Answer, events};
use crate::config::{Config, UpstreamDialect};
use crate::error::Error;
use crate::request::key::{Credentials, TaskKey, detached};
use crate::request::preferences::{self, CacheMode};
use crate::request::query::{TaskQuery, Wait};
use crate::request::routed::StatusPoll;
use crate::task::Rendering;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The least that clients are told to wait between two polls.
const LEAST_POLL_AFTER: Duration = Duration::from_millis(500);

/// See the module.
#[derive(Debug, Clone)]
pub struct Status<S> {
    inner: S,
    settings: Arc<Settings>,
}

#[derive(Debug)]
struct Settings {
    dialect: UpstreamDialect,
    rendering: Rendering,
    timeout: Duration,
    max_wait: Duration,
    poll_after_ms: HeaderValue,
}

/// A poll that was read.
struct Reading {
    responder: Responder,
    query: TaskQuery,
    /// Whether the client wants a stream of events.
    events: bool,
}

impl<S> Status<S> {
    pub(super) fn new(inner: S, config: &Config) -> Self {
        // openai-python takes the first value it sees for the whole task, and crashes on anything but a positive
        // integer.
        let poll_after = config.cache.in_flight_ttl.max(LEAST_POLL_AFTER).as_millis();
        let settings = Settings {
            dialect: config.upstream.dialect,
            rendering: config.answers.rendering,
            timeout: config.upstream.timeout,
            max_wait: config.limits.max_wait,
            poll_after_ms: HeaderValue::from(u64::try_from(poll_after).unwrap_or(u64::MAX)),
        };
        Self {
            inner,
            settings: Arc::new(settings),
        }
    }
}

impl Settings {
    /// Reads who asks, for what, and how the answer is written.
    fn read(&self, poll: StatusPoll) -> Reading {
        let head = poll.is_head();
        let StatusPoll {
            dialect,
            task,
            identity,
            head: parts,
            received_at: now,
            asked,
        } = poll;
        let events = !head && preferences::wants_events(&parts.headers);
        // A client of an event stream knows the event that it saw last.
        let name = if events { LAST_EVENT_ID } else { IF_NONE_MATCH };
        let mut known = preferences::validators(&parts.headers, &name);
        let cache_mode = preferences::cache_mode(&parts.headers);
        let wait = preferences::wait(&parts.headers, self.max_wait)
            .filter(|_| !events && cache_mode != CacheMode::OnlyIfCached);
        let mut credentials = Credentials::of(identity, parts.headers, parts.uri);
        if events || wait.is_some() {
            // A poll that waits must not keep the buffer alive that its request was read into.
            credentials = credentials.detached();
            known = known.as_ref().map(detached);
        }
        let wait = wait.map(|wait| Wait {
            known: known.clone(),
            until: now + wait,
            dialect,
            rendering: self.rendering,
        });
        let vary = credentials.vary();
        let query = TaskQuery {
            key: TaskKey {
                caller: identity.caller,
                dialect: self.dialect.choose(dialect),
                task,
            },
            credentials,
            cache_mode,
            at: now,
            deadline: now + self.timeout,
            wait,
            asked,
        };
        let responder = Responder {
            dialect,
            rendering: self.rendering,
            known,
            vary,
            head,
            poll_after_ms: self.poll_after_ms.clone(),
        };
        Reading {
            responder,
            query,
            events,
        }
    }
}

impl<S> Service<StatusPoll> for Status<S>
where
    S: Service<TaskQuery, Response = Answer, Error = Error, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    type Response = Handled;
    type Error = Error;
    type Future = Either<StatusFuture<S::Future>, BoxFuture<'static, Result<Handled, Error>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, poll: StatusPoll) -> Self::Future {
        let now = poll.received_at;
        let Reading {
            responder,
            query,
            events,
        } = self.settings.read(poll);
        if events {
            return Either::Right(Box::pin(stream(self.inner.clone(), query, responder)));
        }
        Either::Left(StatusFuture {
            waited: query.wait.is_some(),
            now: Some(now),
            answer: self.inner.call(query),
            responder: Some(responder),
        })
    }
}

async fn stream<S>(inner: S, query: TaskQuery, responder: Responder) -> Result<Handled, Error>
where
    S: Service<TaskQuery, Response = Answer, Error = Error, Future: Send> + Clone + Send + 'static,
{
    let answer = inner.clone().oneshot(query.clone()).await?;
    Ok(if answer.reply.is_task() {
        events::stream(inner, query, responder, &answer)
    } else {
        responder.respond(&answer, Instant::now())
    })
}

pin_project! {
    /// A poll in progress.
    pub struct StatusFuture<F> {
        #[pin]
        answer: F,
        responder: Option<Responder>,
        waited: bool,
        // The time of the request, which still is the time of the answer where it is ready at once.
        now: Option<Instant>,
    }
}

impl<F> Future for StatusFuture<F>
where
    F: Future<Output = Result<Answer, Error>>,
{
    type Output = Result<Handled, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let now = this.now.take();
        let answer = ready!(this.answer.poll(cx))?;
        let responder = this
            .responder
            .take()
            .expect("a future is not polled after completion");
        let mut handled = responder.respond(&answer, now.unwrap_or_else(Instant::now));
        if *this.waited {
            handled
                .response
                .headers_mut()
                .insert(PREFERENCE_APPLIED, HeaderValue::from_static("wait"));
        }
        Poll::Ready(Ok(handled))
    }
}
