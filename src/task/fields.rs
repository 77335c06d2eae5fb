//! The fields of a task: one table of where each is found, for every shape and every vendor.

use std::borrow::Cow;

use super::State;
use super::document::{Document, Layers, NotATask, layers};
use super::json::{Json, Object, Raw, quote};
use super::values::{self, Size};
use super::{url, url_expiry};

type Paths = &'static [&'static str];

// Where each field is read from: the first path whose value fits. See `Document::first` for how a
// path is spelled. The task's own value always comes before the vendor's.

const URL: Paths = &[
    "url",
    "result_url",
    "video_url",
    "metadata.url",
    "output.url",
    "output.video_url",
    "content.video_url",
    "data.url",
    "data.result_url",
    "data.video_url",
    "data.metadata.url",
    "data.output.url",
    "data.output.video_url",
    "data.content.video_url",
    // rows of older versions keep the URL of a success here
    "fail_reason",
    "data.fail_reason",
];
const FORMAT: Paths = &["format", "metadata.format"];
const PROGRESS: Paths = &["progress"];
const CREATED_AT: Paths = &["created_at", "submit_time"];
const COMPLETED_AT: Paths = &["completed_at", "finish_time", "finished_at"];
const EXPIRES_AT: Paths = &["expires_at"];
const MODEL: Paths = &["model", "properties.origin_model_name", "data.model"];
const SECONDS: Paths = &[
    "seconds",
    "metadata.duration",
    "duration",
    "data.seconds",
    "data.metadata.duration",
    "data.duration",
];
const SIZE: [(Paths, Paths, Paths); 2] = [
    (&["size"], &["metadata.width"], &["metadata.height"]),
    (
        &["data.size"],
        &["data.metadata.width"],
        &["data.metadata.height"],
    ),
];
const PROMPT: Paths = &["prompt", "properties.input"];
const REMIXED_FROM: Paths = &["remixed_from_video_id"];
/// Where a failure says why, and, beside it, where it gives a code.
const ERROR: [(Paths, Paths); 2] = [
    (&["error.message", "error", "fail_reason"], &["error.code"]),
    (
        &["data.error.message", "data.error", "data.fail_reason"],
        &["data.error.code"],
    ),
];

/// The fields of one task, each read when it is asked for.
pub(super) struct Fields<'a> {
    task: Document<'a>,
    pub(super) state: State,
}

/// Why a task failed.
pub(super) struct TaskError<'a> {
    pub(super) code: Raw<'a>,
    pub(super) message: Raw<'a>,
}

impl<'a> Fields<'a> {
    /// Of the task that a body tells of.
    pub(super) fn of(body: &'a [u8]) -> Result<Self, NotATask> {
        Self::find(layers(body)?)
    }

    pub(super) fn find(layers: Layers<'a>) -> Result<Self, NotATask> {
        let (task, status) = Document::find(layers)?;
        let word = status.text();
        let state = word.map_or(State::Processing, |word| State::read(&word));
        Ok(Self { task, state })
    }

    /// The result's, as it is spelled and as it is meant; only of a success.
    pub(super) fn url(&self) -> Option<(Json<'a>, Cow<'a, str>)> {
        let url = |value: Json<'a>| {
            let address = value.text()?;
            url::is_url(&address).then_some((value, address))
        };
        self.succeeded().then(|| self.task.first(URL, url))?
    }

    /// As it is told, or else as the URL tells it.
    pub(super) fn format(&self) -> Raw<'a> {
        let of_url = || Some(quote(&url::format(&self.url()?.1)?));
        let told = self.task.first(FORMAT, values::format).or_else(of_url);
        told.unwrap_or(Cow::Borrowed("\"mp4\""))
    }

    pub(super) fn progress(&self) -> u8 {
        if self.succeeded() {
            return 100;
        }
        self.task.first(PROGRESS, values::percent).unwrap_or(0)
    }

    pub(super) fn created_at(&self) -> Option<i64> {
        self.task.first(CREATED_AT, values::time)
    }

    /// Only of a task that came to its end.
    pub(super) fn completed_at(&self) -> Option<i64> {
        let is_over = self.state.is_terminal();
        is_over.then(|| self.task.first(COMPLETED_AT, values::time))?
    }

    /// Upstream's own word, or else the URL's; only of a success.
    pub(super) fn expires_at(&self) -> Option<i64> {
        let told = || self.task.first(EXPIRES_AT, values::time);
        let signed = || url_expiry(&self.url()?.1);
        self.succeeded().then(|| told().or_else(signed))?
    }

    pub(super) fn model(&self) -> Option<Json<'a>> {
        self.task.first(MODEL, Json::non_empty)
    }

    /// The length as a JSON number; it is also the text of `seconds`.
    pub(super) fn seconds(&self) -> Option<String> {
        self.task.first(SECONDS, values::seconds)
    }

    pub(super) fn size(&self) -> Option<Size> {
        SIZE.iter().find_map(|(size, width, height)| {
            self.task.first(size, values::size).or_else(|| {
                let width = self.task.first(width, values::pixels)?;
                Some((width, self.task.first(height, values::pixels)?))
            })
        })
    }

    pub(super) fn prompt(&self) -> Option<Json<'a>> {
        self.task.first(PROMPT, Json::non_empty)
    }

    pub(super) fn remixed_from(&self) -> Option<Json<'a>> {
        self.task.first(REMIXED_FROM, Json::non_empty)
    }

    /// Only of a failure.
    pub(super) fn error(&self) -> Option<TaskError<'a>> {
        if self.state != State::Failed {
            return None;
        }
        let told = ERROR.iter().find_map(|(message, code)| {
            let message = self.task.first(message, Json::non_empty)?;
            Some((Some(message), code))
        });
        let (message, code) = told.unwrap_or((None, &ERROR[0].1));
        let code = self.task.first(code, values::code);
        Some(TaskError {
            // {"code":0,"message":""} is no error but an empty one
            code: code
                .filter(|code| message.is_some() || code != "\"0\"")
                .unwrap_or_else(|| quote("task_failed")),
            message: message.map_or_else(
                || quote("the task failed; upstream gave no reason"),
                Json::raw,
            ),
        })
    }

    pub(super) fn metadata(&self) -> Option<&Object<'a>> {
        self.task.part("metadata")
    }

    fn succeeded(&self) -> bool {
        self.state == State::Succeeded
    }
}
