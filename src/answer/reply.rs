//! One buffered answer of upstream, and its renderings for each kind of client.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER, SERVER};
use http::{HeaderMap, HeaderValue, StatusCode};
use once_cell::race::OnceBox;
use tokio::time::Instant;

use super::document::Document;
use super::etag::Tag;
use crate::message::fields::{JSON, RETRY_AFTER_MS, retry_after};
use crate::request::key::detached;
use crate::route::{self, AsIsRoute, TaskId};
use crate::task::{
    self, Dialect, ErrorDocument, ErrorForm, Form, Rendering, Source, State, TaskSnapshot,
};

/// One buffered answer of upstream, and what was read from it.
#[derive(Debug)]
pub struct Reply {
    /// Upstream's status.
    pub status: StatusCode,
    /// Upstream's headers that may be sent with a status answer: rate limits, request id, version. Only clients that
    /// waited for the answer get them; they are not cached.
    pub headers: Headers,
    /// Upstream's bytes.
    pub body: Document,
    /// When the body was complete.
    pub received: Instant,
    task: Option<Task>,
    /// Where it is passed on as it came, on what route, and what is passed on with it.
    as_is: Option<Box<AsIs>>,
    /// The validator of the body as it is.
    tag: OnceLock<Tag>,
    /// What was written for clients that get anything else, by [`Reply::slot`].
    written: OnceBox<Slots>,
}

/// What contains a reply.
pub trait HoldsReply: Send + Sync {
    /// The reply.
    fn reply(&self) -> &Reply;

    /// The reply takes more memory than before: a rendition was written, and is kept.
    fn has_grown(self: Arc<Self>);
}

impl HoldsReply for Reply {
    fn reply(&self) -> &Reply {
        self
    }

    fn has_grown(self: Arc<Self>) {}
}

/// A reply that many clients share, alone or as a part of its cache entry.
#[derive(Clone)]
pub struct SharedReply(Arc<dyn HoldsReply>);

impl SharedReply {
    /// Takes a reply, or anything that contains one.
    #[must_use]
    pub fn new(reply: Arc<impl HoldsReply + 'static>) -> Self {
        Self(reply)
    }

    /// The rendition for a client that gets documents in this form. Each rendition is written at most once, and then kept.
    #[must_use]
    pub fn rendition(&self, form: Form) -> Rendition {
        let reply = self.0.reply();
        let Form::Written(dialect, rendering) = form else {
            return reply.passed_on();
        };
        if let Some(status) = reply.untouched(dialect, rendering) {
            return Rendition {
                status,
                body: reply.body.bytes(),
                etag: reply.tag.get_or_init(|| Tag::of(&reply.body)).written(),
            };
        }
        let slot = reply.slot(dialect, rendering);
        let Written { status, body, tag } = if let Some(written) = slot.get() {
            written
        } else {
            let before = reply.weight();
            let written = slot.get_or_init(|| reply.write(dialect, rendering));
            if reply.weight() > before {
                Arc::clone(&self.0).has_grown();
            }
            written
        };
        Rendition {
            status: *status,
            body: body.clone(),
            etag: tag.written(),
        }
    }
}

impl Deref for SharedReply {
    type Target = Reply;

    fn deref(&self) -> &Reply {
        self.0.reply()
    }
}

impl std::fmt::Debug for SharedReply {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Reply::fmt(self, to)
    }
}

/// A rendering of the reply for one kind of client.
#[derive(Debug)]
struct Written {
    status: StatusCode,
    body: Bytes,
    tag: Tag,
}

/// A reply of a route whose answers are passed on as they come.
#[derive(Debug)]
struct AsIs {
    route: Arc<AsIsRoute>,
    /// `None` for JSON.
    content_type: Option<HeaderValue>,
}

/// Upstream's headers, shared by the clients that waited for them; `None` once the reply is stored.
pub type Headers = Option<Arc<HeaderMap>>;

/// What a reply contains.
#[derive(Debug)]
enum Task {
    /// A page that something between pollgate and upstream made; it says nothing about a task.
    Page(Sender),
    /// A task, as it was read.
    Read(Box<TaskSnapshot>),
    /// A task in storage. The rest is read from the body again where it is needed.
    Compact {
        created_at: i64,
        state: State,
        native: Option<Dialect>,
    },
}

/// What most likely made a page, judged by its headers and content.
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

/// What one kind of client is sent of a reply.
#[derive(Debug)]
pub struct Rendition {
    /// The status for the client.
    pub status: StatusCode,
    /// The bytes for the client.
    pub body: Bytes,
    /// A strong validator of those bytes.
    pub etag: HeaderValue,
}

/// Upstream's headers that may be sent with a status answer.
const ALLOWED: [HeaderName; 5] = [
    RETRY_AFTER,
    RETRY_AFTER_MS,
    HeaderName::from_static("x-oneapi-request-id"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-new-api-version"),
];

/// The prefix of families of such headers.
const ALLOWED_PREFIXES: [&str; 3] = ["x-ratelimit-", "ratelimit", CORS];

/// The prefix of the CORS headers, by which upstream lets pages of other origins read an answer.
pub const CORS: &str = "access-control-";

impl Reply {
    /// Creates a reply from what upstream sent. Keeps only headers that may be sent with a status answer.
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
            as_is: None,
            received: Instant::now(),
            tag: OnceLock::new(),
            written: OnceBox::new(),
        }
    }

    /// Creates a reply of a route whose answers are passed on as they come: what is no task stays what it is.
    #[must_use]
    pub fn as_is(
        route: &Arc<AsIsRoute>,
        status: StatusCode,
        headers: &HeaderMap,
        body: Bytes,
        snapshot: Option<TaskSnapshot>,
    ) -> Self {
        let content_type = headers.get(CONTENT_TYPE).filter(|value| *value != JSON.1);
        let as_is = AsIs {
            route: Arc::clone(route),
            content_type: content_type.map(detached),
        };
        let mut reply = Self::new(status, headers, body, snapshot);
        reply.as_is = Some(Box::new(as_is));
        let passed = reply.headers.as_mut().and_then(Arc::get_mut);
        if let (true, Some(location), Some(passed)) =
            (status.is_redirection(), headers.get(LOCATION), passed)
        {
            passed.insert(LOCATION, location.clone());
        }
        reply
    }

    /// The route on which it is passed on as it came.
    #[must_use]
    pub fn as_is_route(&self) -> Option<&AsIsRoute> {
        Some(&self.as_is.as_ref()?.route)
    }

    /// The type of its body.
    #[must_use]
    pub fn content_type(&self) -> HeaderValue {
        let own = self.as_is.as_ref().and_then(|own| own.content_type.clone());
        own.unwrap_or(JSON.1)
    }

    /// Where a rendition is kept. What is not upstream's own bytes is the same in the verbatim and the faithful rendering.
    fn slot(&self, dialect: Dialect, rendering: Rendering) -> &OnceLock<Written> {
        let slots = self.written.get_or_init(Box::default);
        let documented = usize::from(rendering == Rendering::Documented);
        &slots[2 * usize::from(dialect == Dialect::OpenAi) + documented]
    }

    /// Upstream's own bytes and status.
    fn passed_on(&self) -> Rendition {
        let volatile = self.as_is.as_ref().map(|own| &own.route.reader);
        let volatile = volatile.filter(|reader| !reader.volatile.is_empty());
        let tag = self.tag.get_or_init(|| match volatile {
            Some(reader) => {
                let volatile = reader.volatile_in(&self.body, self.state());
                Tag::without(&self.body, &volatile)
            }
            None => Tag::of(&self.body),
        });
        Rendition {
            status: self.status,
            body: self.body.bytes(),
            etag: match volatile {
                Some(_) => tag.written_weak(),
                None => tag.written(),
            },
        }
    }

    /// The status with which the body passes untouched to a client of this path, if it may.
    fn untouched(&self, dialect: Dialect, rendering: Rendering) -> Option<StatusCode> {
        let passes = if self.is_task() {
            rendering.passes(self.native(), dialect)
        } else {
            rendering == Rendering::Verbatim && self.is_json()
        };
        let status = match rendering {
            Rendering::Verbatim => self.status,
            Rendering::Faithful | Rendering::Documented => StatusCode::OK,
        };
        passes.then_some(status)
    }

    /// Writes the status and the document for a client of this path.
    fn write(&self, dialect: Dialect, rendering: Rendering) -> Written {
        let (status, body) = self.document(dialect, rendering);
        let tag = Tag::of(&body);
        Written { status, body, tag }
    }

    fn document(&self, dialect: Dialect, rendering: Rendering) -> (StatusCode, Bytes) {
        let task = self.with_source(|source| task::write_task(source, dialect, rendering).ok());
        if let Some(document) = task.flatten() {
            return (StatusCode::OK, document);
        }
        if self.is_page() && self.status != StatusCode::TOO_MANY_REQUESTS {
            let message = format!(
                "{}, which says nothing about the task or the key; retry shortly",
                self.reason()
            );
            let error = ErrorDocument::new("upstream_error", message, "api_error");
            return (self.status, error.write(ErrorForm::of(dialect)));
        }
        let body = self.body.bytes();
        let (status, body) = task::render_error(self.status.as_u16(), &body, dialect, rendering);
        (StatusCode::from_u16(status).unwrap_or(self.status), body)
    }

    /// Calls `read` with what the task was read from, if the reply tells of one.
    fn with_source<T>(&self, read: impl FnOnce(&Source<'_>) -> T) -> Option<T> {
        let decoded;
        let (asked_id, first_seen) = match self.task.as_ref()? {
            Task::Page(_) => return None,
            Task::Read(snapshot) => (snapshot.asked_id(), snapshot.created_at()),
            Task::Compact { created_at, .. } => {
                decoded = route::decoded(self.body.task());
                (&*decoded, *created_at)
            }
        };
        Some(read(&Source {
            asked_id,
            status: self.status.as_u16(),
            body: &self.body,
            first_seen,
        }))
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

    /// The snapshot of the task; read from the body again if it is compact.
    #[must_use]
    pub fn snapshot(&self) -> Option<Cow<'_, TaskSnapshot>> {
        match self.task.as_ref()? {
            Task::Page(_) => None,
            Task::Read(snapshot) => Some(Cow::Borrowed(snapshot)),
            Task::Compact { .. } => {
                let snapshot = self.with_source(|source| match self.as_is_route() {
                    Some(route) => TaskSnapshot::read_by(&route.reader, source),
                    None => TaskSnapshot::read(source),
                })?;
                snapshot.ok().map(Cow::Owned)
            }
        }
    }

    /// The dialect that its body already is a document of, if any.
    fn native(&self) -> Option<Dialect> {
        match self.task.as_ref()? {
            Task::Page(_) => None,
            Task::Read(snapshot) => snapshot.native(),
            Task::Compact { native, .. } => *native,
        }
    }

    /// Labels the reply with its task and drops all that a hit does not need.
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

    /// Whether upstream itself refused the credential: an unknown, spent or banned key. A page that is not JSON does not
    /// come from upstream.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED && self.is_json()
    }

    /// Whether upstream itself denied this caller access to this task. It also answers 403 for models and addresses that
    /// a key may not use, so a 403 says nothing about the key.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        self.status == StatusCode::FORBIDDEN && self.is_json()
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.state().is_some_and(State::is_terminal)
    }

    /// Whether it tells of an earlier state of the same task than `other`: running where the other has ended, queued where
    /// the other runs, or of less progress.
    #[must_use]
    pub fn is_behind(&self, other: &Self) -> bool {
        let stage = |reply: &Self| {
            let snapshot = reply.snapshot()?;
            let state = snapshot.state();
            let rank = match state {
                State::Queued => 0,
                State::Processing => 1,
                State::Succeeded | State::Failed => 2,
            };
            let progress = if state.is_terminal() {
                0
            } else {
                snapshot.progress()
            };
            Some((rank, progress))
        };
        // What tells of no task is behind any that does.
        stage(self) < stage(other)
    }

    /// Whether upstream says that there is no such task. A page that is not JSON does not come from upstream.
    #[must_use]
    pub fn is_task_not_exist(&self) -> bool {
        let says_so = match self.as_is {
            Some(_) => task::is_missing_as_is,
            None => task::is_task_not_exist,
        };
        self.task.is_none() && says_so(self.status.as_u16(), &self.body)
    }

    /// Whether upstream says, in any of its wordings, that there is no such task.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        let not_found = self.status == StatusCode::NOT_FOUND && self.is_json();
        not_found || self.is_task_not_exist()
    }

    /// Whether upstream is failing, so that the last known state may be served instead.
    #[must_use]
    pub fn is_upstream_failing(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
            || self.status.is_server_error()
            || self.is_page()
    }

    /// Whether upstream itself failed on this task, with an error in JSON. That says nothing about other tasks.
    #[must_use]
    pub fn is_own_fault(&self) -> bool {
        self.status.is_server_error()
            && !matches!(self.status.as_u16(), 502..=504)
            && self.is_json()
    }

    /// Whether it is an error page of a load balancer, firewall or CDN: its body is not JSON. Such a page says nothing
    /// about the key or the task.
    #[must_use]
    pub fn is_page(&self) -> bool {
        matches!(self.task, Some(Task::Page(_)))
    }

    /// The pause that upstream asked for: `retry-after-ms`, or `retry-after` in seconds or as a date
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

    /// A short description of the error, in words.
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

    /// The memory that it takes in storage, in bytes, with every rendition that was written so far. The first one is part
    /// of it from the start where no client gets upstream's own bytes, so that most replies are weighed once.
    #[must_use]
    pub fn weight(&self) -> usize {
        let expected = match (self.native(), &self.as_is) {
            (None, None) => size_of::<Slots>() + self.body.len() + task::SPARE,
            _ => 0,
        };
        let as_is = self.as_is.as_ref().map_or(0, |own| {
            let content_type = own.content_type.as_ref().map_or(0, HeaderValue::len);
            size_of::<AsIs>() + content_type
        });
        let written = self.written.get().map_or(0, |slots| {
            let own = self.body.as_ptr_range();
            let written = slots.iter().filter_map(OnceLock::get);
            // Some are a part of the body.
            let apart = written.filter(|written| !own.contains(&written.body.as_ptr()));
            let bytes = apart.map(|written| written.body.len() + task::SPARE);
            size_of::<Slots>() + bytes.sum::<usize>()
        });
        size_of::<Self>() + self.body.weight() + as_is + written.max(expected)
    }
}

/// What can be written of one reply: by dialect, as documented or with more of upstream's own.
const SLOTS: usize = 4;

type Slots = [OnceLock<Written>; SLOTS];

fn is_json_object(body: &[u8]) -> bool {
    let body = task::without_byte_order_mark(body);
    body.trim_ascii_start().starts_with(b"{")
        && serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok()
}

/// Copies those of upstream's headers that may be sent with a status answer.
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
