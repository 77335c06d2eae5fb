//! What upstream said, bounded and buffered, and how each kind of client is shown it.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, RETRY_AFTER, SERVER};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::Instant;

use super::document::Document;
use super::etag::Tag;
use crate::message::fields::{RETRY_AFTER_MS, retry_after};
use crate::request::route::{self, TaskId};
use crate::task::{self, Dialect, ErrorDocument, Rendering, State, TaskSnapshot};

/// One bounded, buffered answer of upstream, and what was read from it.
#[derive(Debug)]
pub struct Reply {
    /// Upstream's status.
    pub status: StatusCode,
    /// Upstream's headers that may leave with a status answer: rate limits, request id, version. They go to those who
    /// waited for it, and are not remembered.
    pub headers: Headers,
    /// Upstream's bytes.
    pub body: Document,
    /// When all of it had arrived.
    pub received: Instant,
    task: Option<Task>,
    /// Of the body as it is.
    tag: OnceLock<Tag>,
    /// For those who get something else, by dialect and rendering.
    written: OnceLock<Box<[OnceLock<Written>; 4]>>,
}

impl AsRef<Self> for Reply {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// A reply that many are shown, by itself or as part of what is remembered of it.
#[derive(Clone)]
pub struct SharedReply(Arc<dyn AsRef<Reply> + Send + Sync>);

impl SharedReply {
    /// Of a reply, or of what contains one.
    #[must_use]
    pub fn new(reply: Arc<impl AsRef<Reply> + Send + Sync + 'static>) -> Self {
        Self(reply)
    }
}

impl Deref for SharedReply {
    type Target = Reply;

    fn deref(&self) -> &Reply {
        (*self.0).as_ref()
    }
}

impl std::fmt::Debug for SharedReply {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Reply::fmt(self, to)
    }
}

/// What was written of a reply for one kind of client.
#[derive(Debug)]
struct Written {
    status: StatusCode,
    body: Bytes,
    tag: Tag,
}

/// Upstream's headers, where there still are some; shared by those who waited for them.
pub type Headers = Option<Arc<HeaderMap>>;

/// What a reply tells.
#[derive(Debug)]
enum Task {
    /// Nothing of a task: something on the way made it, and not upstream.
    Page(Sender),
    /// As it was read.
    Read(Box<TaskSnapshot>),
    /// What is kept in memory: the rest can be read from the body again.
    Compact {
        created_at: i64,
        state: State,
        native: Option<Dialect>,
    },
}

/// What most likely made a page, told by its headers and its looks.
#[derive(Debug, Clone, Copy)]
enum Sender {
    Cloudflare,
    LoadBalancer,
    Router,
    Nobody,
    Unknown,
}

impl Sender {
    fn of(headers: &HeaderMap, body: &[u8]) -> Self {
        let server = headers.get(SERVER).map_or(&b""[..], HeaderValue::as_bytes);
        let server = server.to_ascii_lowercase();
        if body.trim_ascii().is_empty() {
            return Self::Nobody;
        }
        let beginning = &body[..body.len().min(4096)];
        let says = |words: &[u8]| beginning.windows(words.len()).any(|part| part == words);
        if headers.contains_key("cf-mitigated")
            || server.starts_with(b"cloudflare")
            || says(b"Just a moment...")
        {
            Self::Cloudflare
        } else if says(b"404 page not found") || says(b"no available server") {
            Self::Router
        } else if server.starts_with(b"awselb")
            || server.starts_with(b"nginx")
            || says(b"<center>nginx")
        {
            Self::LoadBalancer
        } else {
            Self::Unknown
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Cloudflare => "a page of a CDN or firewall (Cloudflare)",
            Self::LoadBalancer => "a page of a load balancer or proxy",
            Self::Router => "a page of a proxy that knows no such route",
            Self::Nobody => "an empty body",
            Self::Unknown => "a page that is not JSON",
        }
    }
}

/// A reply as one kind of client gets it.
#[derive(Debug)]
pub struct Rendition {
    /// The status for the client.
    pub status: StatusCode,
    /// The bytes for the client.
    pub body: Bytes,
    /// A strong validator of those bytes.
    pub etag: HeaderValue,
}

/// Headers of upstream that may leave with a status answer.
const ALLOWED: [HeaderName; 5] = [
    RETRY_AFTER,
    RETRY_AFTER_MS,
    HeaderName::from_static("x-oneapi-request-id"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-new-api-version"),
];

/// How the names of those begin that are more than one.
const ALLOWED_PREFIXES: [&str; 3] = ["x-ratelimit-", "ratelimit", CORS];

/// How the headers begin by which upstream lets pages of other origins read an answer.
pub const CORS: &str = "access-control-";

impl Reply {
    /// From what upstream sent; of its headers only those stay that may leave with a status answer.
    #[must_use]
    pub fn new(
        status: StatusCode,
        headers: &HeaderMap,
        body: Bytes,
        snapshot: Option<TaskSnapshot>,
    ) -> Self {
        let is_page = !status.is_success() && snapshot.is_none() && !is_json_object(&body);
        let task = match snapshot {
            Some(snapshot) => Some(Task::Read(Box::new(snapshot))),
            None => is_page.then(|| Task::Page(Sender::of(headers, &body))),
        };
        let mut allowed = HeaderMap::new();
        copy_allowed(headers, &mut allowed);
        Self {
            status,
            headers: Some(Arc::new(allowed)),
            body: body.into(),
            task,
            received: Instant::now(),
            tag: OnceLock::new(),
            written: OnceLock::new(),
        }
    }

    /// The reply as a client of this path gets it. What has to be written for it is written once.
    #[must_use]
    pub fn rendition(&self, dialect: Dialect, rendering: Rendering) -> Rendition {
        if rendering == Rendering::Faithful && self.native() == Some(dialect) {
            return Rendition {
                status: StatusCode::OK,
                body: self.body.bytes(),
                etag: self.tag.get_or_init(|| Tag::of(&self.body)).written(),
            };
        }
        let place = 2 * usize::from(dialect == Dialect::OpenAi)
            + usize::from(rendering == Rendering::Documented);
        let written = self.written.get_or_init(Box::default);
        let Written { status, body, tag } = written[place].get_or_init(|| {
            let (status, body) = if let Some(document) = self.converted(dialect) {
                (StatusCode::OK, document)
            } else if self.is_page() && self.status != StatusCode::TOO_MANY_REQUESTS {
                let message = format!(
                    "{}, which says nothing about the task or the key; retry shortly",
                    self.reason()
                );
                let error = ErrorDocument::new("upstream_error", message, "api_error");
                (self.status, error.write(dialect))
            } else {
                let (status, body) = task::render_error(
                    self.status.as_u16(),
                    &self.body.bytes(),
                    dialect,
                    rendering,
                );
                (StatusCode::from_u16(status).unwrap_or(self.status), body)
            };
            let tag = Tag::of(&body);
            Written { status, body, tag }
        });
        Rendition {
            status: *status,
            body: body.clone(),
            etag: tag.written(),
        }
    }

    /// The task that it tells of, written in this dialect.
    fn converted(&self, dialect: Dialect) -> Option<Bytes> {
        match self.task.as_ref()? {
            Task::Page(_) => None,
            Task::Read(snapshot) => Some(snapshot.render(dialect, Rendering::Documented)),
            Task::Compact { created_at, .. } => {
                let asked = route::decoded(self.body.task());
                task::convert(&asked, &self.body.bytes(), *created_at, dialect).ok()
            }
        }
    }

    /// Whether it tells of a task.
    #[must_use]
    pub fn is_task(&self) -> bool {
        matches!(self.task, Some(Task::Read(_) | Task::Compact { .. }))
    }

    /// The state of the task that it tells of.
    #[must_use]
    pub fn state(&self) -> Option<State> {
        match self.task.as_ref()? {
            Task::Page(_) => None,
            Task::Read(snapshot) => Some(snapshot.state()),
            Task::Compact { state, .. } => Some(*state),
        }
    }

    /// All that was read of the task; read once more where it is compact.
    #[must_use]
    pub fn snapshot(&self) -> Option<Cow<'_, TaskSnapshot>> {
        match self.task.as_ref()? {
            Task::Page(_) => None,
            Task::Read(snapshot) => Some(Cow::Borrowed(snapshot)),
            Task::Compact { created_at, .. } => {
                let asked = route::decoded(self.body.task());
                let snapshot = TaskSnapshot::read(&asked, &self.body.bytes(), *created_at);
                snapshot.ok().map(Cow::Owned)
            }
        }
    }

    /// The dialect in which its body may be served as it is, if any.
    fn native(&self) -> Option<Dialect> {
        match self.task.as_ref()? {
            Task::Page(_) => None,
            Task::Read(snapshot) => snapshot.native(),
            Task::Compact { native, .. } => *native,
        }
    }

    /// To be remembered as what was said of `task`: only what a hit needs stays in memory beside the body.
    #[must_use]
    pub fn for_storage(mut self, task: &TaskId) -> Self {
        self.headers = None;
        self.body = self.body.labelled(task);
        if let Some(Task::Read(snapshot)) = &self.task {
            self.task = Some(Task::Compact {
                created_at: snapshot.created_at(),
                state: snapshot.state(),
                native: snapshot.native(),
            });
        }
        self
    }

    /// Whether upstream itself refused the credential: an unknown, spent or banned key. A page that is not JSON is not
    /// upstream's word.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED && self.is_json()
    }

    /// Whether upstream itself refused this caller this task. It says 403 of model lists and addresses, too, so it says
    /// nothing about the key.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.status == StatusCode::FORBIDDEN && self.is_json()
    }

    /// Whether it is the end of a task.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.state().is_some_and(State::is_terminal)
    }

    /// Whether upstream says that there is no such task.
    #[must_use]
    pub fn is_task_not_exist(&self) -> bool {
        !self.is_task() && task::is_task_not_exist(self.status.as_u16(), &self.body)
    }

    /// Whether upstream says, in any of its words, that there is no such task.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        let not_found = self.status == StatusCode::NOT_FOUND && self.is_json();
        not_found || self.is_task_not_exist()
    }

    /// Whether upstream is failing, so that the last known state may stand in.
    #[must_use]
    pub fn is_upstream_failing(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
            || self.status.is_server_error()
            || self.is_page()
    }

    /// Whether upstream itself failed on this task: an error that it tells in JSON. It says nothing about other tasks.
    #[must_use]
    pub fn is_own_fault(&self) -> bool {
        self.status.is_server_error()
            && !matches!(self.status.as_u16(), 502..=504)
            && self.is_json()
    }

    /// Whether it is an error that something on the way made: its body is not JSON. Load balancers, firewalls and CDNs
    /// answer with pages, which say nothing about key or task.
    #[must_use]
    pub fn is_page(&self) -> bool {
        matches!(self.task, Some(Task::Page(_)))
    }

    /// How long upstream asked to be left alone: `retry-after-ms`, or `retry-after` in seconds or as a date
    /// (RFC 9110 §10.2.3).
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.headers.as_deref().and_then(retry_after)
    }

    /// Whether its body is a JSON object. new-api's limit by address answers 429 without any body.
    #[must_use]
    pub fn is_json(&self) -> bool {
        is_json_object(&self.body)
    }

    /// What kind of error it is, in words.
    #[must_use]
    pub fn reason(&self) -> String {
        let status = self.status.as_u16();
        let reason = self
            .status
            .canonical_reason()
            .unwrap_or("an unknown status");
        match self.task {
            Some(Task::Page(sender)) => {
                format!(
                    "the video API answered {status} {reason} with {}",
                    sender.as_str()
                )
            }
            _ => format!("the video API answered {status} {reason}"),
        }
    }

    /// Roughly the memory it takes where it is remembered, in bytes, once it has been rendered for the clients of one path.
    #[must_use]
    pub fn weight(&self) -> usize {
        // Upstream's own bytes may be served to some.
        let written = match self.native() {
            Some(_) => 0,
            None => size_of::<[OnceLock<Written>; 4]>() + self.body.len() + 512,
        };
        size_of::<Self>() + self.body.weight() + written
    }
}

fn is_json_object(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// Copies those of upstream's headers that may leave with a status answer.
pub fn copy_allowed(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from.iter().filter(|(name, _)| is_allowed(name)) {
        to.append(name.clone(), value.clone());
    }
}

fn is_allowed(name: &HeaderName) -> bool {
    ALLOWED.contains(name)
        || ALLOWED_PREFIXES
            .iter()
            .any(|prefix| name.as_str().starts_with(prefix))
}
