//! Which part of a body is the task, and which is only the vendor's word on it.
//!
//! The shape is told by content, never by path: every shape turns up on both paths.

use std::cell::OnceCell;
use std::fmt;
use std::iter::successors;

use super::State;
use super::json::{Json, Object};

/// The most wrappers, and the most vendor documents, that are opened one inside the other: a channel that is itself a
/// new-api stores its upstream's whole envelope.
const LAYERS: usize = 4;

/// The objects inside a task that fields are read from.
const PARTS: [&str; 8] = [
    "metadata",
    "properties",
    "output",
    "content",
    "video",
    "task_result",
    "base_resp",
    "error",
];

/// Where a field is in a task.
pub(super) struct Path {
    /// The object inside the task that it is in, by its place in [`PARTS`].
    part: Option<usize>,
    name: &'static str,
}

/// The places that are spelled `name` or `part.name`.
pub(super) const fn paths<const N: usize>(spelled: [&'static str; N]) -> [Path; N] {
    let mut paths = [const {
        Path {
            part: None,
            name: "",
        }
    }; N];
    let mut at = 0;
    while at < N {
        paths[at] = Path::of(spelled[at]);
        at += 1;
    }
    paths
}

impl Path {
    const fn of(spelled: &'static str) -> Self {
        let mut dot = 0;
        while dot < spelled.len() && spelled.as_bytes()[dot] != b'.' {
            dot += 1;
        }
        if dot == spelled.len() {
            return Self {
                part: None,
                name: spelled,
            };
        }
        let (part, name) = spelled.split_at(dot);
        let mut at = 0;
        while !is_same(PARTS[at], part) {
            at += 1;
        }
        Self {
            part: Some(at),
            name: name.split_at(1).1,
        }
    }

    /// The member of the task that it begins with.
    pub(super) fn member(&self) -> &'static str {
        self.part.map_or(self.name, |at| PARTS[at])
    }
}

const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// The members that may carry the id that was asked for.
const IDS: [&str; 4] = ["id", "task_id", "video_id", "request_id"];

/// The HTTP status of a task that is accepted and not done.
pub(super) const ACCEPTED: u16 = 202;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A 2xx answer of upstream, and the question that it answers.
#[derive(Clone, Copy)]
pub struct Source<'a> {
    /// The id in the client's path, percent-decoded.
    pub asked_id: &'a str,
    /// Upstream's HTTP status.
    pub status: u16,
    /// Upstream's bytes.
    pub body: &'a [u8],
    /// When the gateway first saw the task, in Unix seconds. Stands in for a creation time that is not told.
    pub first_seen: i64,
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("status", &self.status)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Why a body is no task. Says nothing of what the body holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotATask {
    /// There is no body.
    Empty,
    /// A page for people, most often of something in front of upstream.
    Html,
    /// Anything else that is not JSON, or is cut short.
    NotJson,
    /// JSON, but no object.
    NotAnObject,
    /// A wrapper around nothing: `data` is null.
    NoData,
    /// An object with neither the asked id nor a status.
    NoStatus,
    /// A status that is not listed, and neither a wrapper nor an id.
    NoId,
}

impl fmt::Display for NotATask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "the body is empty",
            Self::Html => "the body is HTML, not JSON",
            Self::NotJson => "the body is not JSON",
            Self::NotAnObject => "the body is JSON, but not an object",
            Self::NoData => "the wrapper holds no task",
            Self::NoStatus => "the body tells neither a status nor the id that was asked for",
            Self::NoId => "the body tells a status, but of no task",
        })
    }
}

impl std::error::Error for NotATask {}

/// A body without its byte order mark, which a reader of JSON may ignore (RFC 8259 §8.1).
#[must_use]
pub fn without_byte_order_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body)
}

/// A body's outermost object and, one inside the other, what it wraps.
pub(super) struct Layers<'a> {
    /// Never empty.
    objects: Vec<Object<'a>>,
    task: Candidate,
}

/// The object that is the task, if there is one.
#[derive(Clone, Copy)]
struct Candidate {
    index: usize,
    /// Whether its status is a listed word.
    is_listed: bool,
}

impl<'a> Layers<'a> {
    /// Opens a body, or says why it holds no JSON object.
    pub(super) fn of(source: &Source<'a>) -> Result<Self, NotATask> {
        let body = without_byte_order_mark(source.body);
        let start = body.trim_ascii_start().first();
        let text = std::str::from_utf8(body);
        match (start, text) {
            (None, _) if source.status == ACCEPTED => Ok(Self {
                objects: vec![Object::default()],
                task: Candidate {
                    index: 0,
                    is_listed: false,
                },
            }),
            (None, _) => Err(NotATask::Empty),
            (Some(b'<'), _) => Err(NotATask::Html),
            (Some(b'{'), Ok(text)) => {
                let (objects, task) = open(text).ok_or(NotATask::NotJson)?;
                let task = task.unwrap_or_else(|| candidate(&objects, source.asked_id));
                Ok(Self { objects, task })
            }
            (Some(_), Ok(text)) if Json::parse(text).is_some() => Err(NotATask::NotAnObject),
            _ => Err(NotATask::NotJson),
        }
    }

    /// The outermost object, if it is the task and wraps nothing.
    pub(super) fn bare(&self) -> Option<&Object<'a>> {
        (self.objects.len() == 1).then(|| &self.objects[0])
    }

    /// What the outermost object wraps, if that is the task.
    pub(super) fn wrapped(&self) -> Option<&Object<'a>> {
        (self.task.index == 1).then(|| &self.objects[1])
    }

    /// Whether the task stands inside a wrapper.
    pub(super) fn is_wrapped(&self) -> bool {
        self.task.index > 0
    }

    /// Why there is no task here, should it turn out so.
    fn reason(&self) -> NotATask {
        let outermost = &self.objects[0];
        if self.objects.len() == 1 && ["code", "data"].iter().all(|name| outermost.has(name)) {
            NotATask::NoData
        } else if has_status(outermost) {
            NotATask::NoId
        } else {
            NotATask::NoStatus
        }
    }

    pub(super) fn carries(&self, id: &str) -> bool {
        self.objects.iter().any(|object| carries(object, id))
    }
}

/// The outermost object of a text and what it wraps: wrappers, `{"code","message","data":{…}}`, are opened until there is
/// none. With them which is the task, where that has come out already.
fn open(text: &str) -> Option<(Vec<Object<'_>>, Option<Candidate>)> {
    let mut objects = match Object::parse_opening(text, "data") {
        Some((outermost, None)) => vec![outermost],
        // nearly every wrapper: nothing more is asked of it, so it need not have its `data`
        Some((wrapper, Some(task)))
            if wrapper.has("code") && !wrapper.has("status") && has_listed_status(&task) =>
        {
            let inner = Candidate {
                index: 1,
                is_listed: true,
            };
            return Some((vec![wrapper, task], Some(inner)));
        }
        _ => vec![Object::parse(text)?],
    };
    while objects.len() <= LAYERS
        && let Some(inner) = objects.last().and_then(wrapped)
    {
        objects.push(inner);
    }
    Some((objects, None))
}

/// The object that is the task: the outermost whose status is a listed word, or else the innermost that has
/// any status, or that carries the id: `code`, `data` and a number for a status may also stand beside a task.
fn candidate(objects: &[Object<'_>], asked_id: &str) -> Candidate {
    let listed = objects.iter().position(has_listed_status);
    let index = listed
        .or_else(|| objects.iter().rposition(has_status))
        .or_else(|| objects.iter().rposition(|object| carries(object, asked_id)))
        .unwrap_or(objects.len() - 1);
    Candidate {
        index,
        is_listed: listed.is_some(),
    }
}

/// A task object. Its parts and the vendor's document are opened when they are asked for.
pub(super) struct Document<'a> {
    task: Object<'a>,
    parts: [OnceCell<Option<Object<'a>>>; PARTS.len()],
    vendor: OnceCell<Option<Box<Document<'a>>>>,
    /// How many layers the vendor's document may have.
    layers: usize,
}

impl<'a> Document<'a> {
    /// The task of a body, and its status, if that is told.
    pub(super) fn find(
        mut layers: Layers<'a>,
        source: &Source<'_>,
    ) -> Result<(Self, Option<Json<'a>>), NotATask> {
        let reason = layers.reason();
        let asked_for = || source.status == ACCEPTED || layers.carries(source.asked_id);
        let Candidate { index, is_listed } = layers.task;
        let task = &layers.objects[index];
        let is_identified = is_identified(task);
        let is_task = if has_status(task) {
            (is_listed && reason != NotATask::NoData)
                || is_identified
                || layers.is_wrapped()
                || asked_for()
        } else {
            asked_for()
        };
        let document = Self::new(layers.objects.swap_remove(index), LAYERS);
        let status = document.status();
        // a status of the vendor's makes a task of what has any id
        if is_task || (is_identified && status.is_some()) {
            Ok((document, status))
        } else {
            Err(reason)
        }
    }

    fn new(task: Object<'a>, layers: usize) -> Self {
        Self {
            task,
            parts: Default::default(),
            vendor: OnceCell::new(),
            layers,
        }
    }

    /// The task's own status, or else the vendor's.
    fn status(&self) -> Option<Json<'a>> {
        let mut levels = self.levels();
        levels.find_map(|document| document.task.non_null("status"))
    }

    /// The members of the task itself.
    pub(super) const fn task(&self) -> &Object<'a> {
        &self.task
    }

    /// One of the objects inside the task, if it is there.
    pub(super) fn part(&self, name: &str) -> Option<&Object<'a>> {
        self.open_part(PARTS.iter().position(|part| *part == name)?)
    }

    fn open_part(&self, at: usize) -> Option<&Object<'a>> {
        let opened = || self.task.non_null(PARTS[at])?.object();
        self.parts[at].get_or_init(opened).as_ref()
    }

    fn vendor(&self) -> Option<&Self> {
        let opened = || {
            let data = self.task.non_null("data").filter(|_| self.layers > 0)?;
            let (mut objects, _) = open(data.as_str())?;
            let left = self.layers.saturating_sub(objects.len());
            Some(Box::new(Self::new(objects.pop()?, left)))
        };
        self.vendor.get_or_init(opened).as_deref()
    }

    /// The task, and then the vendor documents behind it, which only fill in what the task lacks.
    pub(super) fn levels(&self) -> impl Iterator<Item = &Self> {
        successors(Some(self), |document| document.vendor())
    }

    /// The first of `paths` whose value fits.
    pub(super) fn first<T>(
        &self,
        paths: &[Path],
        fits: impl Fn(Json<'a>) -> Option<T>,
    ) -> Option<T> {
        paths.iter().find_map(|path| {
            fits(match path.part {
                None => self.task.non_null(path.name)?,
                Some(part) => self.open_part(part)?.non_null(path.name)?,
            })
        })
    }
}

fn has_status(object: &Object<'_>) -> bool {
    object.non_null("status").is_some()
}

fn has_listed_status(object: &Object<'_>) -> bool {
    let word = object.non_null("status").and_then(Json::text);
    word.is_some_and(|word| State::listed(&word).is_some())
}

/// What a wrapper wraps.
fn wrapped<'a>(object: &Object<'a>) -> Option<Object<'a>> {
    object.get("code")?;
    object.get("data")?.object()
}

/// Whether an object carries this id, as a text or as a number.
pub(super) fn carries(object: &Object<'_>, id: &str) -> bool {
    let is_id = |value: Json<'_>| match value.text() {
        Some(text) => text == id,
        None => value.as_str() == id,
    };
    IDS.iter()
        .any(|name| object.non_null(name).is_some_and(is_id))
}

/// Whether an object says that it is a task, if perhaps another: `{"status":"ok"}` is any health page.
fn is_identified(object: &Object<'_>) -> bool {
    object
        .non_null("task_id")
        .or(object.non_null("id"))
        .is_some()
        || object.get("object").and_then(Json::text).as_deref() == Some("video")
}
