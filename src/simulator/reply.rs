//! Answers: heads, errors, and bodies that a fault can damage.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::counts::Visit;
use super::json::go_json;
use super::rule::Fault;

/// Number of chunks of a slow body.
const SLOW_CHUNKS: usize = 20;

/// An answer before it is sent.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    headers: HeaderMap,
    body: Payload,
}

/// A body.
enum Payload {
    Full(Bytes),
    /// The length, if known, and the chunks.
    Stream(Option<u64>, Chunks),
}

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, Broken>> + Send>>;

/// The body of every answer. Its request counts as in flight until it has been sent.
pub(super) struct Outgoing {
    payload: Payload,
    _visit: Option<Visit>,
}

/// Breaks a connection before or within an answer.
#[derive(Debug)]
pub(super) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken off on purpose")
    }
}

impl std::error::Error for Broken {}

impl Reply {
    fn new(status: StatusCode, content_type: &'static str, body: Payload) -> Self {
        let reply = Self {
            status,
            headers: HeaderMap::new(),
            body,
        };
        if content_type.is_empty() {
            return reply;
        }
        reply.header(CONTENT_TYPE, HeaderValue::from_static(content_type))
    }

    /// A document, with new-api's exact `Content-Type`.
    pub(super) fn document(json: Bytes) -> Self {
        Self::new(StatusCode::OK, "application/json", Payload::Full(json))
    }

    /// JSON as gin sends it.
    pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Self {
        let body = Payload::Full(go_json(value));
        Self::new(status, "application/json; charset=utf-8", body)
    }

    pub(super) fn html(status: StatusCode, page: impl Into<Bytes>) -> Self {
        Self::new(
            status,
            "text/html; charset=utf-8",
            Payload::Full(page.into()),
        )
    }

    pub(super) fn empty(status: StatusCode) -> Self {
        Self::new(status, "", Payload::Full(Bytes::new()))
    }

    pub(super) fn full(status: StatusCode, content_type: &'static str, body: Bytes) -> Self {
        Self::new(status, content_type, Payload::Full(body))
    }

    pub(super) fn stream(
        status: StatusCode,
        content_type: &'static str,
        length: Option<u64>,
        chunks: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Self {
        let chunks = Box::pin(chunks.map(Ok));
        Self::new(status, content_type, Payload::Stream(length, chunks))
    }

    /// new-api's `dto.TaskError`.
    pub(super) fn task_error(status: StatusCode, code: &str, message: &str) -> Self {
        #[derive(Serialize)]
        struct TaskError<'a> {
            code: &'a str,
            message: &'a str,
            data: Option<()>,
        }
        let data = None;
        Self::json(
            status,
            &TaskError {
                code,
                message,
                data,
            },
        )
    }

    /// An error in the envelope of `/content`.
    pub(super) fn content_error(status: StatusCode, message: &str) -> Self {
        let kind = if status.is_server_error() {
            "server_error"
        } else {
            "invalid_request_error"
        };
        let error = serde_json::json!({"error": {"message": message, "type": kind}});
        Self::json(status, &error)
    }

    /// `TokenAuth`'s answer to a rejected key.
    pub(super) fn unauthorised(request_id: &str) -> Self {
        let message = format!("Invalid token (request id: {request_id})");
        let error = serde_json::json!({"code": "", "message": message, "type": "new_api_error"});
        Self::json(
            StatusCode::UNAUTHORIZED,
            &serde_json::json!({"error": error}),
        )
    }

    /// new-api's `RelayNotFound`.
    pub(super) fn invalid_url(method: &str, path: &str) -> Self {
        #[derive(Serialize)]
        struct Envelope {
            error: Inner,
        }
        #[derive(Serialize)]
        struct Inner {
            message: String,
            r#type: &'static str,
            param: &'static str,
            code: &'static str,
        }
        let error = Inner {
            message: format!("Invalid URL ({method} {path})"),
            r#type: "invalid_request_error",
            param: "",
            code: "",
        };
        Self::json(StatusCode::NOT_FOUND, &Envelope { error })
    }

    pub(super) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Sets a header from a string; ignores a string that is not a valid value.
    pub(super) fn text_header(self, name: HeaderName, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => self.header(name, value),
            Err(_) => self,
        }
    }

    /// Creates the response, with its body damaged if the fault is one that damages bodies.
    pub(super) fn into_response(
        self,
        visit: Option<Visit>,
        damage: Option<Fault>,
        slow: Duration,
    ) -> Response<Outgoing> {
        let payload = match damage {
            Some(fault) => self.body.damaged(fault, slow),
            None => self.body,
        };
        let mut response = Response::new(Outgoing {
            payload,
            _visit: visit,
        });
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

impl Payload {
    /// Damages the body; a fault of another kind leaves it unchanged.
    fn damaged(self, fault: Fault, slow: Duration) -> Self {
        match fault {
            Fault::Truncated => match self {
                Self::Full(bytes) => Self::Full(bytes.slice(..bytes.len() / 2)),
                Self::Stream(_, chunks) => Self::Stream(None, Box::pin(chunks.take(1))),
            },
            Fault::ResetMidBody => {
                let broken = async {
                    // The first half is sent before the connection breaks.
                    tokio::task::yield_now().await;
                    Err(Broken)
                };
                self.halved(stream::once(broken))
            }
            Fault::StallMidBody => self.halved(stream::pending()),
            Fault::SlowBody => self.slowed(slow),
            _ => self,
        }
    }

    /// The first half (of a stream: its first chunk), followed by `rest`.
    fn halved(self, rest: impl Stream<Item = Result<Bytes, Broken>> + Send + 'static) -> Self {
        match self {
            Self::Full(bytes) => {
                let length = bytes.len() as u64;
                let half = stream::iter([Ok(bytes.slice(..bytes.len() / 2))]);
                Self::Stream(Some(length), Box::pin(half.chain(rest)))
            }
            Self::Stream(length, chunks) => {
                Self::Stream(length, Box::pin(chunks.take(1).chain(rest)))
            }
        }
    }

    /// Splits the body into chunks with pauses of `slow` in total (of a stream: per twenty chunks).
    fn slowed(self, slow: Duration) -> Self {
        let pause = slow / u32::try_from(SLOW_CHUNKS).unwrap_or(1);
        let (length, chunks): (_, Chunks) = match self {
            Self::Full(bytes) => {
                let size = bytes.len().div_ceil(SLOW_CHUNKS).max(1);
                let starts = (0..bytes.len()).step_by(size);
                let chunks: Vec<_> = starts
                    .map(|at| Ok(bytes.slice(at..bytes.len().min(at + size))))
                    .collect();
                (Some(bytes.len() as u64), Box::pin(stream::iter(chunks)))
            }
            Self::Stream(length, chunks) => (length, chunks),
        };
        let paused = chunks.then(move |chunk| async move {
            tokio::time::sleep(pause).await;
            chunk
        });
        Self::Stream(length, Box::pin(paused))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match &mut self.payload {
            Payload::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Payload::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Payload::Stream(_, chunks) => chunks
                .poll_next_unpin(cx)
                .map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.payload, Payload::Full(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.payload {
            Payload::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Payload::Stream(Some(length), _) => SizeHint::with_exact(*length),
            Payload::Stream(None, _) => SizeHint::default(),
        }
    }
}
