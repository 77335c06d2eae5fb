//! The narrow waist: turns a status request into a [`TaskQuery`], and an [`Answer`] into a response. Nothing below
//! looks into a request any more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll as Polled, ready};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, ready};
use http::header::IF_NONE_MATCH;
use http::{HeaderName, HeaderValue, Method};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use crate::answer::Answer;
use crate::answer::events;
use crate::answer::handled::Handled;
use crate::answer::respond::Responder;
use crate::config::Config;
use crate::error::Error;
use crate::request::inbound::Inbound;
use crate::request::key::{Credentials, TaskKey, apart};
use crate::request::preferences;
use crate::request::preferences::CacheMode;
use crate::request::query::{TaskQuery, Wait};
use crate::request::route::Route;
use crate::task::Rendering;

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// See the module.
#[derive(Debug, Clone)]
pub struct Poll<S> {
    inner: S,
    reader: Arc<Reader>,
}

/// Reads requests.
#[derive(Debug)]
struct Reader {
    rendering: Rendering,
    timeout: Duration,
    max_wait: Duration,
    pace: HeaderValue,
}

impl<S> Poll<S> {
    pub(super) fn new(inner: S, config: &Config) -> Self {
        // openai-python takes the first value it sees for the whole task, and crashes on anything but a positive
        // integer.
        let pace = config
            .cache
            .in_flight_ttl
            .max(Duration::from_millis(500))
            .as_millis();
        let reader = Reader {
            rendering: config.answers.rendering,
            timeout: config.upstream.timeout,
            max_wait: config.limits.max_wait,
            pace: HeaderValue::from(u64::try_from(pace).unwrap_or(u64::MAX)),
        };
        Self {
            inner,
            reader: Arc::new(reader),
        }
    }
}

impl Reader {
    /// Reads the request: who asks, for what, and how long they wait.
    fn read(&self, inbound: Inbound) -> Result<(Responder, TaskQuery, bool), Error> {
        let Inbound {
            route,
            request,
            at: now,
            sender,
            ..
        } = inbound;
        let (Route::Poll { dialect, task }, Some(sender)) = (route, sender) else {
            return Err(Error::BadRequest("this is no status poll"));
        };
        let (parts, _) = request.into_parts();
        let head = parts.method == Method::HEAD;
        let events = !head && preferences::wants_events(&parts.headers);
        // What an event stream told last is what its client knows.
        let name = if events { LAST_EVENT_ID } else { IF_NONE_MATCH };
        let mut known = preferences::validators(&parts.headers, &name);
        let cache_mode = preferences::cache_mode(&parts.headers);
        let wait = preferences::wait(&parts.headers, self.max_wait)
            .filter(|_| !events && cache_mode != CacheMode::OnlyIfCached);
        let mut credentials = Credentials::of(sender, parts.headers, parts.uri);
        if events || wait.is_some() {
            // Whoever waits does so without the buffer that the request was read into.
            credentials = credentials.apart();
            known = known.as_ref().map(apart);
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
                caller: sender.caller,
                dialect,
                task,
            },
            credentials,
            cache_mode,
            at: now,
            deadline: now + self.timeout,
            wait,
        };
        let responder = Responder {
            dialect,
            rendering: self.rendering,
            known,
            vary,
            head,
            pace: self.pace.clone(),
        };
        Ok((responder, query, events))
    }
}

impl<S> Service<Inbound> for Poll<S>
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

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Polled<Result<(), Error>> {
        Polled::Ready(Ok(()))
    }

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        let at = inbound.at;
        match self.reader.read(inbound) {
            Ok((responder, query, false)) => Either::Left(StatusFuture {
                waited: query.wait.is_some(),
                now: Some(at),
                answer: self.inner.call(query),
                responder: Some(responder),
            }),
            Ok((responder, query, true)) => {
                Either::Right(Box::pin(stream(self.inner.clone(), query, responder)))
            }
            Err(error) => Either::Right(Box::pin(ready(Err(error)))),
        }
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
    /// A poll under way.
    pub struct StatusFuture<F> {
        #[pin]
        answer: F,
        responder: Option<Responder>,
        waited: bool,
        // Known for as long as nothing had to be waited for.
        now: Option<Instant>,
    }
}

impl<F> Future for StatusFuture<F>
where
    F: Future<Output = Result<Answer, Error>>,
{
    type Output = Result<Handled, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<Self::Output> {
        let this = self.project();
        let now = this.now.take();
        let answer = ready!(this.answer.poll(cx))?;
        let responder = this
            .responder
            .take()
            .expect("is polled no more once it is ready");
        let mut handled = responder.respond(&answer, now.unwrap_or_else(Instant::now));
        if *this.waited {
            handled
                .response
                .headers_mut()
                .insert(PREFERENCE_APPLIED, HeaderValue::from_static("wait"));
        }
        Polled::Ready(Ok(handled))
    }
}
