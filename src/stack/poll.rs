//! The narrow waist: turns a status request into a [`TaskQuery`], and an [`Answer`] into a response. Nothing below
//! looks into a request any more.

use std::fmt::Write as _;
use std::task::{Context, Poll as Polled};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::header::{AGE, CACHE_CONTROL, CONTENT_LENGTH, ETAG, IF_NONE_MATCH, RETRY_AFTER, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use crate::body::Body;
use crate::config::Config;
use crate::error::{Error, UPSTREAM_RECOVERY};
use crate::exchange::{Facts, Handled, Inbound};
use crate::key::{Caller, CallerKey, Credentials, TaskKey};
use crate::reply::{Answer, Demand, JSON, TaskQuery};
use crate::route::Route;
use crate::task::{Dialect, Rendering, TaskSnapshot};
use crate::verdict::Verdict;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const POLL_AFTER: HeaderName = HeaderName::from_static("openai-poll-after-ms");

/// See the module.
#[derive(Debug, Clone)]
pub struct Poll<S> {
    inner: S,
    caller_key: CallerKey,
    rendering: Rendering,
    timeout: Duration,
    pace: HeaderValue,
}

impl<S> Poll<S> {
    pub(super) fn new(inner: S, caller_key: CallerKey, config: &Config) -> Self {
        // openai-python takes the first value it sees for the whole task, and crashes on anything but a positive
        // integer.
        let poll_after = config
            .cache
            .in_flight_ttl
            .max(Duration::from_millis(500))
            .as_millis();
        Self {
            inner,
            caller_key,
            rendering: config.answers.rendering,
            timeout: config.upstream.timeout,
            pace: HeaderValue::from(u64::try_from(poll_after).unwrap_or(u64::MAX)),
        }
    }
}

impl<S> Service<Inbound> for Poll<S>
where
    S: Service<TaskQuery, Response = Answer, Error = Error, Future: Send> + Clone + Send + 'static,
{
    type Response = Handled;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Handled, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Polled<Result<(), Error>> {
        Polled::Ready(Ok(()))
    }

    fn call(&mut self, inbound: Inbound) -> Self::Future {
        let Self {
            inner,
            caller_key,
            rendering,
            timeout,
            pace,
        } = self.clone();
        Box::pin(async move {
            let Inbound { route, request, .. } = inbound;
            let Route::Poll { dialect, task } = route else {
                return Err(Error::BadRequest("this is no status poll"));
            };
            let (parts, _) = request.into_parts();
            let known = parts.headers.get(IF_NONE_MATCH).cloned();
            let demand = demand(&parts.headers);
            let credentials = Credentials::new(parts.headers, parts.uri);
            let caller = caller_key.caller(&credentials);
            let asker = Asker {
                dialect,
                rendering,
                caller,
                known,
                vary: credentials.vary(),
                head: parts.method == Method::HEAD,
                pace,
            };
            let query = TaskQuery {
                key: TaskKey {
                    caller,
                    dialect,
                    task,
                },
                credentials,
                demand,
                deadline: Instant::now() + timeout,
            };
            let answer = inner.oneshot(query).await?;
            Ok(asker.respond(&answer, Instant::now()))
        })
    }
}

/// What the client's `cache-control` asks for (RFC 9111 §5.2.1); other directives change nothing here.
fn demand(headers: &HeaderMap) -> Demand {
    let mut demand = Demand::Fresh;
    for value in headers.get_all(CACHE_CONTROL) {
        for directive in value.to_str().unwrap_or_default().split(',') {
            let directive = directive.trim().to_ascii_lowercase();
            match directive.as_str() {
                "no-cache" | "max-age=0" | "no-store" if demand == Demand::Fresh => {
                    demand = Demand::Refetched;
                }
                "only-if-cached" => demand = Demand::Remembered,
                _ => {}
            }
        }
    }
    demand
}

/// Whom an answer is for.
struct Asker {
    dialect: Dialect,
    rendering: Rendering,
    caller: Caller,
    known: Option<HeaderValue>,
    vary: Option<HeaderValue>,
    head: bool,
    pace: HeaderValue,
}

impl Asker {
    fn respond(self, answer: &Answer, now: Instant) -> Handled {
        let reply = &answer.reply;
        let rendition = reply.rendition(self.dialect, self.rendering);
        let ok = rendition.status == StatusCode::OK;
        let matches = ok
            && self
                .known
                .as_ref()
                .is_some_and(|known| names(known, &rendition.etag));

        let body = if matches || self.head {
            Body::empty()
        } else {
            Body::full(rendition.body.clone())
        };
        let mut response = Response::new(body);
        *response.status_mut() = if matches {
            StatusCode::NOT_MODIFIED
        } else {
            rendition.status
        };
        let headers = response.headers_mut();
        let fresh = matches!(answer.verdict, Verdict::Fetched | Verdict::Shared);
        if fresh {
            headers.clone_from(&reply.headers);
        } else {
            headers.insert(
                AGE,
                HeaderValue::from(now.duration_since(answer.received).as_secs()),
            );
        }
        if fresh && reply.is_upstream_failing() && !headers.contains_key(RETRY_AFTER) {
            headers.insert(RETRY_AFTER, HeaderValue::from(UPSTREAM_RECOVERY.as_secs()));
        }
        if !matches {
            let (name, value) = JSON;
            headers.insert(name, value);
        }
        if self.head {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(rendition.body.len()));
        }
        insert(headers, CACHE_STATUS, cache_status(answer, now));
        if ok {
            headers.insert(ETAG, rendition.etag.clone());
            insert(headers, CACHE_CONTROL, cache_control(answer, now));
            if let Some(vary) = self.vary {
                headers.insert(VARY, vary);
            }
        }
        let state = reply.snapshot.as_ref().map(TaskSnapshot::state);
        if ok && state.is_some_and(|state| !state.is_terminal()) {
            headers.insert(POLL_AFTER, self.pace);
        }
        Handled {
            response,
            facts: Facts {
                verdict: answer.verdict,
                state,
                caller: Some(self.caller),
            },
        }
    }
}

/// Whether `If-None-Match` names this validator; compared weakly, as RFC 9110 §13.1.2 wants it.
fn names(known: &HeaderValue, etag: &HeaderValue) -> bool {
    let known = known.as_bytes();
    known == b"*"
        || known
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|tag| tag.strip_prefix(b"W/").unwrap_or(tag) == etag.as_bytes())
}

/// RFC 9211: a hit has a time to live; what went forward says why, with whom, and whether it stayed.
fn cache_status(answer: &Answer, now: Instant) -> String {
    let mut status = String::with_capacity(64);
    status.push_str("pollgate");
    match answer.asked {
        None => status.push_str("; hit"),
        Some(asked) => {
            let _ = write!(status, "; fwd={}", asked.as_str());
        }
    }
    if answer.verdict == Verdict::Shared {
        status.push_str("; collapsed");
    }
    if answer.stored {
        status.push_str("; stored");
    }
    let left = seconds(answer.fresh_until.saturating_duration_since(now));
    if answer.stored || answer.asked.is_none() {
        let _ = write!(status, "; ttl={left}");
    }
    if answer.verdict == Verdict::Stale {
        let over = seconds(now.saturating_duration_since(answer.fresh_until));
        let _ = write!(status, "; ttl=-{over}; detail=stale_if_error");
    }
    status
}

/// What is left of the answer's freshness, for this client alone.
fn cache_control(answer: &Answer, now: Instant) -> String {
    let left = answer.fresh_until.saturating_duration_since(now);
    if answer.verdict == Verdict::Stale || left.is_zero() {
        "private, no-cache".into()
    } else {
        format!("private, max-age={}", seconds(left))
    }
}

/// To the nearest: an answer that was made just now is fresh for all of its two seconds, not for one.
fn seconds(duration: Duration) -> u64 {
    (duration + Duration::from_millis(500)).as_secs()
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(value)) {
        headers.insert(name, value);
    }
}
