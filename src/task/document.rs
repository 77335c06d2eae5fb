//! Which part of a body is the task, and which is only the vendor's word on it.
//!
//! The shape is told by content, never by path: every shape turns up on both paths.

use super::json::{Json, Object};
use super::snapshot::NotATask;

/// Wrappers opened one inside the other, and vendor documents one behind the other: a channel that
/// is itself a new-api stores its upstream's whole envelope.
const LAYERS: usize = 4;

/// The objects inside a task that fields are read from.
const PARTS: [&str; 5] = ["metadata", "properties", "output", "content", "error"];

/// A body's outermost object and, one inside the other, what it wraps; never empty.
pub(super) struct Layers<'a>(Vec<Object<'a>>);

impl<'a> Layers<'a> {
    /// Opens wrappers, `{"code","message","data":{…}}`, until there is none.
    pub(super) fn open(outermost: Object<'a>) -> Self {
        let mut layers = vec![outermost];
        while layers.len() <= LAYERS
            && let Some(inner) = layers.last().and_then(wrapped)
        {
            layers.push(inner);
        }
        Self(layers)
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
        } else if outermost.given("status").is_some() {
            NotATask::NoId
        } else {
            NotATask::NoStatus
        }
    }
}

/// A task object, with those of its parts that matter already open.
pub(super) struct Document<'a> {
    task: Object<'a>,
    parts: Vec<(&'static str, Object<'a>)>,
    vendor: Option<Box<Document<'a>>>,
}

impl<'a> Document<'a> {
    /// Finds the task in a body.
    pub(super) fn find(mut body: Layers<'a>) -> Result<Self, NotATask> {
        let missing = body.reason();
        let layers = &mut body.0;
        // the innermost that has a status: `code` and `data` may also stand beside one
        let told = layers
            .iter()
            .rposition(|layer| layer.given("status").is_some());
        let inner = told.unwrap_or(layers.len() - 1);
        // without a wrapper, or without a status of its own, only an id makes it a task
        let is_task = (inner > 0 && told.is_some()) || is_identified(&layers[inner]);
        let document = Self::open(layers.swap_remove(inner), LAYERS);
        if is_task && document.status().is_some() {
            Ok(document)
        } else {
            Err(missing)
        }
    }

    fn open(task: Object<'a>, layers: usize) -> Self {
        let opened = |part| Some((part, task.given(part)?.object()?));
        let parts = PARTS.into_iter().filter_map(opened).collect();
        let vendor = task.given("data").filter(|_| layers > 0);
        let vendor = vendor.and_then(Json::object).map(|data| {
            let data = Layers::open(data);
            let left = layers.saturating_sub(data.0.len());
            Box::new(Self::open(data.into_innermost(), left))
        });
        Self {
            task,
            parts,
            vendor,
        }
    }

    /// The task's own status, or else the vendor's.
    pub(super) fn status(&self) -> Option<Json<'a>> {
        let vendor = || self.vendor.as_ref()?.status();
        self.task.given("status").or_else(vendor)
    }

    /// The first of `places` whose value fits.
    ///
    /// A place is a member's name, `part.name`, or either after `data.` for the vendor's document,
    /// which only fills in what the task lacks.
    pub(super) fn first<T>(
        &self,
        places: &[&str],
        fits: impl Fn(Json<'a>) -> Option<T>,
    ) -> Option<T> {
        places.iter().find_map(|place| self.at(place, &fits))
    }

    fn at<T>(&self, place: &str, fits: &impl Fn(Json<'a>) -> Option<T>) -> Option<T> {
        match place.split_once('.') {
            None => fits(self.task.given(place)?),
            Some(("data", inner)) => {
                let vendor = self.vendor.as_ref()?;
                vendor.at(inner, fits).or_else(|| vendor.at(place, fits))
            }
            Some((part, name)) => {
                let (_, part) = self.parts.iter().find(|(known, _)| *known == part)?;
                fits(part.given(name)?)
            }
        }
    }
}

/// What a wrapper wraps.
fn wrapped<'a>(object: &Object<'a>) -> Option<Object<'a>> {
    object.get("code")?;
    object.get("data")?.object()
}

/// Whether an object says that it is a task: `{"status":"ok"}` is any health page.
fn is_identified(object: &Object<'_>) -> bool {
    object.given("task_id").or(object.given("id")).is_some()
        || object.get("object").and_then(Json::text).as_deref() == Some("video")
}
