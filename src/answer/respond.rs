//! Turns a status answer into an HTTP response: the document in the client's dialect, with headers that say where it
//! came from.

use std::time::Duration;

use arrayvec::ArrayString;
use http::header::{AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, RETRY_AFTER, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio::time::Instant;

use super::etag::names;
use crate::answer::Answer;
use crate::answer::handled::{Facts, Handled};
use crate::answer::outcome::Outcome;
use crate::answer::reply::Rendition;
use crate::error::{UPSTREAM_RECOVERY, retry_after_seconds};
use crate::message::body::Body;
use crate::message::fields::{RETRY_AFTER_MS, retry_after};
use crate::task::{ErrorForm, Form};

/// How a status answer was produced (RFC 9211).
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// Capacity for all headers of a status answer, including those added by outer layers, so that the map never grows.
const HEADERS: usize = 12;

const POLL_AFTER: HeaderName = HeaderName::from_static("openai-poll-after-ms");

/// The client that an answer is for.
#[derive(Debug, Clone)]
pub struct Responder {
    /// The form in which it gets documents.
    pub form: Form,
    /// The form in which it reads errors.
    pub errors: ErrorForm,
    /// The validators in its `If-None-Match`.
    pub known: Option<HeaderValue>,
    /// The names of the headers that identify the caller, for `vary`.
    pub vary: Option<HeaderValue>,
    /// Whether the method is `HEAD`.
    pub head: bool,
    /// The value of `openai-poll-after-ms`.
    pub poll_after_ms: HeaderValue,
}

impl Responder {
    /// The answer's document for this client.
    #[must_use]
    pub fn rendition(&self, answer: &Answer) -> Rendition {
        answer.reply.rendition(self.form)
    }

    /// What metrics and logs record about the answer.
    #[must_use]
    pub fn facts(&self, answer: &Answer) -> Facts {
        let state = answer.reply.state();
        Facts {
            outcome: answer.outcome,
            state,
            error: None,
        }
    }

    /// The response.
    #[must_use]
    pub fn respond(self, answer: &Answer, now: Instant) -> Handled {
        let reply = &answer.reply;
        let rendition = self.rendition(answer);
        let facts = self.facts(answer);
        let ok = rendition.status.is_success();
        let matches = ok
            && self
                .known
                .as_ref()
                .is_some_and(|known| names(known, &rendition.etag));

        let length = rendition.body.len();
        let body = if matches || self.head {
            Body::empty()
        } else {
            Body::full(rendition.body)
        };
        let mut response = Response::new(body);
        *response.status_mut() = if matches {
            StatusCode::NOT_MODIFIED
        } else {
            rendition.status
        };
        let headers = response.headers_mut();
        let fresh = matches!(
            (answer.outcome, answer.fwd),
            (Outcome::Fetched | Outcome::Shared, _) | (Outcome::Fleet, Some(_))
        );
        headers.reserve(HEADERS);
        if let Some(upstreams) = answer.headers.as_deref() {
            for (name, value) in upstreams {
                headers.append(name, value.clone());
            }
        }
        let age = now.duration_since(answer.received).as_secs();
        // A document that was fetched and then held has an age too.
        if !fresh || age > 0 {
            headers.insert(AGE, HeaderValue::from(age));
        }
        // Of a redirect it would say when to follow it (RFC 9110 §10.2.3).
        if reply.is_upstream_failing() && !rendition.status.is_redirection() {
            let told = answer.headers.as_deref().and_then(retry_after);
            let pause = told.unwrap_or(UPSTREAM_RECOVERY);
            headers.remove(RETRY_AFTER_MS);
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_seconds(pause)));
        }
        if !matches {
            headers.insert(CONTENT_TYPE, reply.content_type());
        }
        if self.head {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        insert(headers, CACHE_STATUS, &cache_status(answer, now));
        if ok {
            headers.insert(ETAG, rendition.etag);
            insert(headers, CACHE_CONTROL, &cache_control(answer, now));
        }
        if let Some(vary) = self.vary {
            headers.insert(VARY, vary);
        }
        if ok && facts.state.is_some_and(|state| !state.is_terminal()) {
            headers.insert(POLL_AFTER, self.poll_after_ms);
        }
        Handled {
            response,
            facts,
            named: None,
        }
    }
}

/// Capacity for the longest header value built here.
pub type HeaderText = ArrayString<160>;

/// The `cache-status` of an answer: `hit` if upstream was not asked, else why it was asked, and whether the answer was
/// shared and stored. `ttl` is the remaining freshness, negative if stale.
#[must_use]
pub fn cache_status(answer: &Answer, now: Instant) -> HeaderText {
    let mut status = HeaderText::new();
    status.push_str("pollgate");
    match answer.fwd {
        None => status.push_str("; hit"),
        Some(reason) => {
            status.push_str("; fwd=");
            status.push_str(reason.as_str());
            if matches!(answer.outcome, Outcome::Shared | Outcome::Fleet) {
                status.push_str("; collapsed");
            }
        }
    }
    if answer.stored {
        status.push_str("; stored");
    }
    if answer.outcome.is_stale() {
        let over = now.saturating_duration_since(answer.fresh_until).as_secs();
        status.push_str(if over > 0 { "; ttl=-" } else { "; ttl=" });
        status.push_str(itoa::Buffer::new().format(over));
        status.push_str("; detail=stale_if_error");
    } else if answer.stored || answer.fwd.is_none() {
        let left = seconds(answer.fresh_until.saturating_duration_since(now));
        status.push_str("; ttl=");
        status.push_str(itoa::Buffer::new().format(left));
    }
    if answer.outcome == Outcome::Fleet {
        status.push_str("; detail=fleet");
    }
    status
}

/// The remaining freshness of the answer for this client.
fn cache_control(answer: &Answer, now: Instant) -> HeaderText {
    let left = answer.fresh_until.saturating_duration_since(now);
    let mut control = HeaderText::new();
    if answer.outcome.is_stale() || left.is_zero() {
        control.push_str("private, no-cache");
    } else {
        control.push_str("private, max-age=");
        control.push_str(itoa::Buffer::new().format(seconds(left)));
    }
    control
}

/// Rounds to the nearest second: an answer produced just now is fresh for two seconds, not one.
fn seconds(duration: Duration) -> u64 {
    (duration + Duration::from_millis(500)).as_secs()
}

/// Adds a header whose value is built here.
pub fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
