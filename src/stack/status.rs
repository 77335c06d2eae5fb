//! The status endpoint, the border between HTTP and plain values: turns a status poll into a [`TaskQuery`], and an
//! [`Answer`] into a response.
//! No layer below it sees an HTTP request. It also chooses the dialect for upstream: it is above the cache, so that with
//! `upstream.dialect` fixed, clients of both paths share the same entries.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{BoxFuture, Either};
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, IF_NONE_MATCH, VARY,
};
use http::{HeaderName, HeaderValue, Response};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use super::state::Resources;
use crate::answer::handled::{Facts, Handled};
use crate::answer::outcome::Outcome;
use crate::answer::reply::copy_allowed;
use crate::answer::respond::{CACHE_STATUS, Responder};
use crate::answer::{Answer, events};
use crate::config::{Config, UpstreamDialect};
use crate::error::Error;
use crate::message::body::Body;
use crate::request::key::{Credentials, TaskKey, detached};
use crate::request::preferences::{self, CacheMode};
use crate::request::query::{AskedAt, TaskQuery, Wait};
use crate::request::routed::StatusPoll;
use crate::route::{RouteId, StatusRoute};
use crate::task::{Dialect, Form, Rendering};
use crate::upstream::{StatusTarget, Upstream, document_request};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// The minimum interval between polls that clients are told.
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
    upstream: Upstream,
    idle_timeout: Duration,
}

/// A parsed status poll.
struct Reading {
    responder: Responder,
    query: TaskQuery,
    /// Whether the client wants a stream of events.
    events: bool,
}

impl<S> Status<S> {
    pub(super) fn new(inner: S, resources: &Resources, config: &Config) -> Self {
        // openai-python takes the first value it sees for the whole task, and crashes on anything but a positive
        // integer.
        let poll_after = config.cache.in_flight_ttl.max(LEAST_POLL_AFTER).as_millis();
        let settings = Settings {
            dialect: config.upstream.dialect,
            rendering: config.answers.rendering,
            timeout: config.upstream.timeout,
            max_wait: config.limits.max_wait,
            poll_after_ms: HeaderValue::from(u64::try_from(poll_after).unwrap_or(u64::MAX)),
            upstream: resources.upstream.clone(),
            idle_timeout: config.limits.idle_timeout,
        };
        Self {
            inner,
            settings: Arc::new(settings),
        }
    }
}

impl Settings {
    /// The form in which a client gets documents, and the route that upstream is asked on.
    fn form(&self, route: &StatusRoute) -> (Form, RouteId) {
        match route {
            StatusRoute::AsIs(route) => (Form::AsIs, route.id),
            StatusRoute::Converted(client) => {
                let asked = self.dialect.choose(*client);
                let form = Form::Written(*client, self.rendering(*client, asked));
                (form, RouteId::of(asked))
            }
        }
    }

    /// Upstream's own bytes are only useful to clients on the path that upstream is asked on.
    fn rendering(&self, client: Dialect, asked: Dialect) -> Rendering {
        match self.rendering {
            Rendering::Verbatim if asked != client => Rendering::Faithful,
            rendering => rendering,
        }
    }

    /// Parses the caller, the question and the form of the answer.
    fn read(&self, poll: StatusPoll) -> Reading {
        let StatusPoll {
            route,
            task,
            resource,
            caller,
            mut credentials,
            is_head: head,
            received_at: now,
            asked,
        } = poll;
        let headers = credentials.headers();
        let events = !head && preferences::wants_events(headers);
        // The client of an event stream sends the id of the last event it saw.
        let name = if events { LAST_EVENT_ID } else { IF_NONE_MATCH };
        let mut known = preferences::validators(headers, &name);
        let cache_mode = preferences::cache_mode(headers);
        let wait = preferences::wait(headers, self.max_wait)
            .filter(|_| !events && cache_mode != CacheMode::OnlyIfCached);
        if events || wait.is_some() {
            // A waiting poll must not keep the read buffer of its request alive.
            credentials = credentials.detached();
            known = known.as_ref().map(detached);
        }
        let (form, asked_on) = self.form(&route);
        let errors = route.errors();
        let wait = wait.map(|wait| Wait {
            known: known.clone(),
            until: now + wait,
            form,
        });
        let is_post = resource.as_ref().is_some_and(|asked| asked.body.is_some());
        if is_post && !events {
            // Only the answer to a `GET` or `HEAD` is 304 (RFC 9110 §13.1.2).
            known = None;
        }
        let vary = credentials.vary();
        let query = TaskQuery {
            key: TaskKey {
                caller,
                route: asked_on,
                task,
            },
            resource,
            credentials,
            cache_mode,
            at: now,
            deadline: now + self.timeout,
            wait,
            asked,
            asked_at: AskedAt::default(),
        };
        let responder = Responder {
            form,
            errors,
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

    #[expect(
        clippy::inline_always,
        reason = "called from two places, of which one is on the way of a hit: left to itself, the compiler inlines it \
                  into neither, which costs a hit 170 instructions"
    )]
    #[inline(always)]
    fn call(&mut self, poll: StatusPoll) -> Self::Future {
        let (now, route) = (poll.received_at, poll.route.id());
        let Reading {
            responder,
            query,
            events,
        } = self.settings.read(poll);
        if events {
            return Either::Right(Box::pin(stream(self.inner.clone(), query, responder)));
        }
        // Passed through only on the path that upstream is asked on.
        let large = (query.key.route == route).then(|| Large {
            settings: Arc::clone(&self.settings),
            target: StatusTarget {
                route,
                task: query.key.task.clone(),
                resource: query.resource.clone(),
            },
            credentials: query.credentials.clone(),
            is_head: responder.head,
        });
        Either::Left(StatusFuture::Asking {
            waited: query.wait.is_some(),
            now: Some(now),
            answer: self.inner.call(query),
            responder: Some(responder),
            large,
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
    #[project = StatusProjection]
    pub enum StatusFuture<F> {
        /// The layers below are working on it.
        Asking {
            #[pin]
            answer: F,
            responder: Option<Responder>,
            waited: bool,
            // The time of the request, which is also that of an answer that is ready at once.
            now: Option<Instant>,
            large: Option<Large>,
        },
        /// The document is too large to be cached or shared, and is streamed through.
        PassingThrough {
            response: BoxFuture<'static, Result<Handled, Error>>,
        },
    }
}

impl<F> Future for StatusFuture<F>
where
    F: Future<Output = Result<Answer, Error>>,
{
    type Output = Result<Handled, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let handled = match self.as_mut().project() {
            StatusProjection::PassingThrough { response } => return response.as_mut().poll(cx),
            StatusProjection::Asking {
                answer,
                responder,
                waited,
                now,
                large,
            } => {
                let at = now.take();
                let answer = match ready!(answer.poll(cx)) {
                    Ok(answer) => answer,
                    Err(error) => match large.take().filter(|_| error == Error::TooLarge) {
                        Some(large) => {
                            let response = Box::pin(large.pass_through());
                            self.set(Self::PassingThrough { response });
                            return self.poll(cx);
                        }
                        None => return Poll::Ready(Err(error)),
                    },
                };
                let responder = responder
                    .take()
                    .expect("a future is not polled after completion");
                let mut handled = responder.respond(&answer, at.unwrap_or_else(Instant::now));
                if *waited {
                    handled
                        .response
                        .headers_mut()
                        .insert(PREFERENCE_APPLIED, HeaderValue::from_static("wait"));
                }
                handled
            }
        };
        Poll::Ready(Ok(handled))
    }
}

/// What is needed to request a document again if it turns out to be too large.
#[derive(Debug)]
pub struct Large {
    settings: Arc<Settings>,
    target: StatusTarget,
    credentials: Credentials,
    is_head: bool,
}

impl Large {
    /// Asks upstream again and streams its answer, unread.
    async fn pass_through(self) -> Result<Handled, Error> {
        let Settings {
            upstream,
            idle_timeout,
            ..
        } = &*self.settings;
        let request = document_request(upstream.url(), &self.target, &self.credentials)?;
        let response = upstream.document(request).await?;
        let (head, body) = response.into_parts();
        let body = if self.is_head {
            Body::empty()
        } else {
            body.never_silent_for(*idle_timeout)
        };
        let mut response = Response::new(body);
        *response.status_mut() = head.status;
        let headers = response.headers_mut();
        copy_allowed(&head.headers, headers);
        for name in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LENGTH] {
            if let Some(value) = head.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        let status = "pollgate; fwd=bypass; detail=too_large";
        headers.insert(CACHE_STATUS, HeaderValue::from_static(status));
        if let Some(vary) = self.credentials.vary() {
            headers.insert(VARY, vary);
        }
        Ok(Handled {
            response,
            facts: Facts::only(Outcome::Fetched),
            named: None,
        })
    }
}
