//! A task's changes as an event stream (`text/event-stream`, HTML standard §9.2), until the task ends.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt as _};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, VARY};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use super::etag::names;
use crate::answer::Answer;
use crate::answer::handled::Handled;
use crate::answer::reply::CORS;
use crate::answer::respond::{self, CACHE_STATUS, Responder};
use crate::error::Error;
use crate::message::body::Body;
use crate::request::preferences::CacheMode;
use crate::request::query::{TaskQuery, Wait};
use crate::task::ErrorDocument;

/// How long the stream may be silent before a comment is sent to show proxies and clients that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long clients are told to wait before they reconnect, in milliseconds.
const RETRY: &str = "retry: 2000\n";

/// Streams a task's changes, starting with `answer`. The caller has checked that it holds a task.
pub fn stream<S>(service: S, query: TaskQuery, responder: Responder, answer: &Answer) -> Handled
where
    S: Service<TaskQuery, Response = Answer, Error = Error, Future: Send> + Clone + Send + 'static,
{
    let facts = responder.facts(answer);
    let vary = responder.vary.clone();
    let known = responder
        .known
        .as_ref()
        .is_some_and(|known| names(known, &responder.rendition(answer).etag));
    if known && answer.reply.is_terminal() {
        // Nothing more will come, and 204 makes an EventSource stop reconnecting.
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let status = respond::cache_status(answer, Instant::now());
        respond::insert(response.headers_mut(), CACHE_STATUS, &status);
        return Handled {
            response,
            facts,
            named: None,
        };
    }
    let frames = frames(service, query, responder, answer, known);
    let mut response = Response::new(Body::boxed(StreamBody::new(
        frames.map(Ok::<_, Infallible>),
    )));
    let headers = response.headers_mut();
    if let Some(upstreams) = answer.headers.as_deref() {
        let cors = upstreams
            .iter()
            .filter(|(name, _)| name.as_str().starts_with(CORS));
        headers.extend(cors.map(|(name, value)| (name.clone(), value.clone())));
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    respond::insert(
        headers,
        CACHE_STATUS,
        &respond::cache_status(answer, Instant::now()),
    );
    if let Some(vary) = vary {
        headers.insert(VARY, vary);
    }
    // nginx and proxies that copied it would otherwise buffer events.
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Handled {
        response,
        facts,
        named: None,
    }
}

fn frames<S>(
    service: S,
    query: TaskQuery,
    responder: Responder,
    answer: &Answer,
    known: bool,
) -> impl Stream<Item = Frame<Bytes>> + Send + use<S>
where
    S: Service<TaskQuery, Response = Answer, Error = Error, Future: Send> + Clone + Send + 'static,
{
    let first = if known {
        format!("{RETRY}: known\n\n")
    } else {
        format!("{RETRY}{}", event(&responder, answer))
    };
    let told = responder.rendition(answer).etag;
    let next = (!answer.reply.is_terminal()).then_some(told);
    unfold(Some((Some(first), next)), move |state| {
        let (service, query, responder) = (service.clone(), query.clone(), responder.clone());
        async move {
            let (first, told) = state?;
            if let Some(first) = first {
                return Some((frame(first), told.map(|told| (None, Some(told)))));
            }
            let told = told?;
            let until = Instant::now() + HEARTBEAT;
            let wait = Wait {
                known: Some(told.clone()),
                until,
                form: responder.form,
            };
            let query = TaskQuery {
                wait: Some(wait),
                cache_mode: CacheMode::Default,
                ..query
            };
            Some(match service.oneshot(query).await {
                Ok(answer) if !answer.reply.is_task() => {
                    (frame(failure(&responder.rendition(&answer).body)), None)
                }
                // The hold returned early without a change: this process is stopping, and the client will reconnect
                // elsewhere.
                Ok(answer)
                    if responder.rendition(&answer).etag == told && Instant::now() < until =>
                {
                    return None;
                }
                Ok(answer) => {
                    let etag = responder.rendition(&answer).etag;
                    let text = if etag == told {
                        ": still here\n\n".to_owned()
                    } else {
                        event(&responder, &answer)
                    };
                    let next = (!answer.reply.is_terminal()).then_some((None, Some(etag)));
                    (frame(text), next)
                }
                Err(error) => {
                    let fault = ErrorDocument::new(error.code(), error.message(), error.kind());
                    (frame(failure(&fault.write(responder.errors))), None)
                }
            })
        }
    })
}

fn event(responder: &Responder, answer: &Answer) -> String {
    let rendition = responder.rendition(answer);
    let etag = rendition.etag.to_str().unwrap_or_default();
    format!(
        "event: status\nid: {etag}\ndata: {}\n\n",
        one_line(&rendition.body)
    )
}

fn failure(document: &[u8]) -> String {
    format!("event: error\ndata: {}\n\n", one_line(document))
}

/// Line breaks in JSON occur only between tokens, where a space is equivalent.
fn one_line(document: &[u8]) -> String {
    String::from_utf8_lossy(document).replace(['\r', '\n'], " ")
}

fn frame(text: String) -> Frame<Bytes> {
    Frame::data(text.into())
}
