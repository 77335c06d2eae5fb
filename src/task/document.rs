//! Which part of a body is the task, and which is only the vendor's word on it.
//!
//! The shape is told by content, never by path: every shape turns up on both paths.

use std::cell::OnceCell;
use std::fmt;

use super::json::{Json, Object};

/// Wrappers opened one inside the other, and vendor documents one behind the other: a channel that
/// is itself a new-api stores its upstream's whole envelope.
const LAYERS: usize = 4;

/// The objects inside a task that fields are read from.
const PARTS: [&str; 5] = ["metadata", "properties", "output", "content", "error"];

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
    /// An object without any status.
    NoStatus,
    /// A status, but of no task: there is neither a wrapper nor an id.
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
            Self::NoStatus => "the body tells no status",
            Self::NoId => "the body tells a status, but of no task",
        })
    }
}

impl std::error::Error for NotATask {}

/// Opens a body, or says why it holds no JSON object.
pub(super) fn layers(body: &[u8]) -> Result<Layers<'_>, NotATask> {
    let start = body.trim_ascii_start().first();
    let text = std::str::from_utf8(body);
    match (start, text) {
        (None, _) => Err(NotATask::Empty),
        (Some(b'<'), _) => Err(NotATask::Html),
        (Some(b'{'), Ok(text)) => Layers::open(text).ok_or(NotATask::NotJson),
        (Some(_), Ok(text)) if Json::parse(text).is_some() => Err(NotATask::NotAnObject),
        _ => Err(NotATask::NotJson),
    }
}

/// A body's outermost object and, one inside the other, what it wraps; never empty.
pub(super) struct Layers<'a>(Vec<Object<'a>>);

impl<'a> Layers<'a> {
    /// Opens wrappers, `{"code","message","data":{…}}`, until there is none.
    pub(super) fn open(text: &'a str) -> Option<Self> {
        let mut layers = match Object::parse_opening(text, "data") {
            Some((outermost, None)) => vec![outermost],
            // nearly every wrapper: nothing more is asked of it, so it need not have its `data`
            Some((wrapper, Some(task))) if wrapper.has("code") && has_status(&task) => {
                vec![wrapper, task]
            }
            _ => vec![Object::parse(text)?],
        };
        while layers.len() <= LAYERS
            && let Some(inner) = layers.last().and_then(wrapped)
        {
            layers.push(inner);
        }
        Some(Self(layers))
    }

    /// The outermost object.
    pub(super) fn outermost(&self) -> &Object<'a> {
        &self.0[0]
    }

    /// What the outermost object wraps, if it is a wrapper.
    pub(super) fn wrapped(&self) -> Option<&Object<'a>> {
        self.0.get(1)
    }

    fn into_innermost(mut self) -> Object<'a> {
        self.0.swap_remove(self.0.len() - 1)
    }

    /// Why there is no task here, should it turn out so.
    fn reason(&self) -> NotATask {
        let outermost = self.outermost();
        if self.wrapped().is_none() && ["code", "data"].iter().all(|name| outermost.has(name)) {
            NotATask::NoData
        } else if has_status(outermost) {
            NotATask::NoId
        } else {
            NotATask::NoStatus
        }
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
    /// Finds the task in a body, and its status.
    pub(super) fn find(mut body: Layers<'a>) -> Result<(Self, Json<'a>), NotATask> {
        let missing = body.reason();
        let layers = &mut body.0;
        // the innermost that has a status: `code` and `data` may also stand beside one
        let told = layers.iter().rposition(has_status);
        let inner = told.unwrap_or(layers.len() - 1);
        // without a wrapper, or without a status of its own, only an id makes it a task
        let is_task = (inner > 0 && told.is_some()) || is_identified(&layers[inner]);
        let document = Self::new(layers.swap_remove(inner), LAYERS);
        let status = document.status().filter(|_| is_task).ok_or(missing)?;
        Ok((document, status))
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
        let vendor = || self.vendor()?.status();
        self.task.non_null("status").or_else(vendor)
    }

    /// One of the objects inside the task, if it is there.
    pub(super) fn part(&self, name: &str) -> Option<&Object<'a>> {
        let at = PARTS.iter().position(|part| *part == name)?;
        let opened = || self.task.non_null(PARTS[at])?.object();
        self.parts[at].get_or_init(opened).as_ref()
    }

    fn vendor(&self) -> Option<&Self> {
        let opened = || {
            let data = self.task.non_null("data").filter(|_| self.layers > 0)?;
            let data = Layers::open(data.as_str())?;
            let left = self.layers.saturating_sub(data.0.len());
            Some(Box::new(Self::new(data.into_innermost(), left)))
        };
        self.vendor.get_or_init(opened).as_deref()
    }

    /// The first of `paths` whose value fits.
    ///
    /// A path is a member's name, `part.name`, or either after `data.` for the vendor's document,
    /// which only fills in what the task lacks.
    pub(super) fn first<T>(
        &self,
        paths: &[&str],
        fits: impl Fn(Json<'a>) -> Option<T>,
    ) -> Option<T> {
        paths.iter().find_map(|path| self.at(path, &fits))
    }

    fn at<T>(&self, path: &str, fits: &impl Fn(Json<'a>) -> Option<T>) -> Option<T> {
        match path.split_once('.') {
            None => fits(self.task.non_null(path)?),
            Some(("data", inner)) => {
                let vendor = self.vendor()?;
                vendor.at(inner, fits).or_else(|| vendor.at(path, fits))
            }
            Some((part, name)) => fits(self.part(part)?.non_null(name)?),
        }
    }
}

fn has_status(object: &Object<'_>) -> bool {
    object.non_null("status").is_some()
}

/// What a wrapper wraps.
fn wrapped<'a>(object: &Object<'a>) -> Option<Object<'a>> {
    object.get("code")?;
    object.get("data")?.object()
}

/// Whether an object says that it is a task: `{"status":"ok"}` is any health page.
fn is_identified(object: &Object<'_>) -> bool {
    object
        .non_null("task_id")
        .or(object.non_null("id"))
        .is_some()
        || object.get("object").and_then(Json::text).as_deref() == Some("video")
}
