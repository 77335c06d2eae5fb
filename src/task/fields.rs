//! The fields of a task: one table of where each is found, for every shape and every vendor.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::HashSet;
use std::sync::LazyLock;

use super::document::{Document, Layers, NotATask, Path, Source, paths};
use super::json::{Json, Object, Raw, quote};
use super::status::{Reason, State};
use super::values::{self, Size};
use super::{Dialect, url, url_expiry};

type Paths = &'static [Path];

// Where each field is read from: the first path whose value fits. See `Document::first` for how a path is spelled.

const URL: Paths = &paths([
    "url",
    "result_url",
    "video_url",
    "metadata.url",
    "output.url",
    "output.video_url",
    "content.video_url",
    "content.result_url",
    "video.url",
    "output",
    "unsigned_urls",
    "videos",
    "creations",
    "task_result.videos",
    "remixed_from_video_id",
]);
/// Rows of older versions keep the URL of a success here.
const URL_OF_OLD_ROWS: Paths = &paths(["fail_reason"]);
const FORMAT: Paths = &paths(["format", "metadata.format"]);
const PROGRESS: Paths = &paths(["progress"]);
const CREATED_AT: Paths = &paths(["created_at", "submit_time"]);
const UPDATED_AT: Paths = &paths(["updated_at", "status_update_time"]);
const COMPLETED_AT: Paths = &paths(["completed_at", "finish_time", "finished_at"]);
const EXPIRES_AT: Paths = &paths(["expires_at"]);
const MODEL: Paths = &paths(["model", "properties.origin_model_name"]);
const SECONDS: Paths = &paths(["seconds", "metadata.duration", "duration", "video.duration"]);
const SIZE: Paths = &paths(["size"]);
const WIDTH: Paths = &paths(["metadata.width"]);
const HEIGHT: Paths = &paths(["metadata.height"]);
const PROMPT: Paths = &paths(["prompt", "properties.input"]);
const REMIXED_FROM: Paths = &paths(["remixed_from_video_id"]);
const ERROR_CODE: Paths = &paths(["error.code"]);
const ERROR_MESSAGE: Paths = &paths([
    "error.message",
    "error",
    "fail_reason",
    "failure_reason",
    "failure",
    "task_status_msg",
    "base_resp.status_msg",
]);

/// The members of a task that are no field, but that a dialect has a meaning for.
const WITH_A_MEANING: [&str; 7] = [
    "task_id", "id", "object", "status", "code", "message", "data",
];

/// The members of a task that some field is read from, or that a dialect has a meaning for.
static KNOWN: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    let read = [
        URL,
        URL_OF_OLD_ROWS,
        FORMAT,
        PROGRESS,
        CREATED_AT,
        COMPLETED_AT,
        EXPIRES_AT,
        MODEL,
        SECONDS,
        SIZE,
        WIDTH,
        HEIGHT,
        PROMPT,
        REMIXED_FROM,
        ERROR_CODE,
        ERROR_MESSAGE,
    ];
    let members = read.into_iter().flatten().map(Path::member);
    members.chain(WITH_A_MEANING).collect()
});

/// Whether some field is read from this member of a task, or a dialect has a meaning for it.
pub(super) fn is_known(member: &str) -> bool {
    KNOWN.contains(member)
}

/// The fields of one task, each read when it is asked for.
pub(super) struct Fields<'a> {
    task: Document<'a>,
    /// The status, as upstream tells it.
    pub(super) status: Option<Json<'a>>,
    pub(super) state: State,
    /// Why the task failed, as far as the status word alone tells.
    reason: Option<Reason>,
    /// Whether the task stands inside a wrapper.
    is_wrapped: bool,
    url: OnceCell<Option<Url<'a>>>,
}

/// A URL in its raw spelling, and decoded.
type Url<'a> = (Json<'a>, Cow<'a, str>);

/// Why a task failed.
pub(super) struct TaskError<'a> {
    pub(super) code: Raw<'a>,
    pub(super) message: Raw<'a>,
}

impl<'a> Fields<'a> {
    /// Of the task that an answer tells of.
    pub(super) fn of(source: &Source<'a>) -> Result<Self, NotATask> {
        Self::find(Layers::of(source)?, source)
    }

    pub(super) fn find(layers: Layers<'a>, source: &Source<'_>) -> Result<Self, NotATask> {
        let is_wrapped = layers.is_wrapped();
        let (task, status) = Document::find(layers, source)?;
        let word = status.and_then(Json::text);
        let state = word.as_deref().map_or(State::Processing, State::read);
        let failed = word.filter(|_| state == State::Failed);
        Ok(Self {
            task,
            status,
            state,
            reason: failed.and_then(|word| Reason::read(&word)),
            is_wrapped,
            url: OnceCell::new(),
        })
    }

    /// The URL of the result; only of a success.
    pub(super) fn url(&self) -> Option<&Url<'a>> {
        let find = || {
            let found = self.first_of_all(URL, url::of);
            found.or_else(|| self.first_of_all(URL_OF_OLD_ROWS, url::of))
        };
        let url = self.url.get_or_init(|| self.succeeded().then(find)?);
        url.as_ref()
    }

    /// The task's own format, or else the one that the URL tells.
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

    /// When upstream last changed the task.
    pub(super) fn updated_at(&self) -> Option<i64> {
        self.task.first(UPDATED_AT, values::time)
    }

    /// Only of a task that has ended.
    pub(super) fn completed_at(&self) -> Option<i64> {
        let is_over = self.state.is_terminal();
        is_over.then(|| self.task.first(COMPLETED_AT, values::time))?
    }

    /// Upstream's own word, or else the URL's; only of a success.
    pub(super) fn expires_at(&self) -> Option<i64> {
        self.own_expiry().or_else(|| url_expiry(&self.url()?.1))
    }

    /// Upstream's own word; only of a success.
    pub(super) fn own_expiry(&self) -> Option<i64> {
        self.succeeded()
            .then(|| self.task.first(EXPIRES_AT, values::time))?
    }

    pub(super) fn model(&self) -> Option<Json<'a>> {
        self.first_of_all(MODEL, Json::non_empty)
    }

    /// The length as a JSON number; it is also the text of `seconds`.
    pub(super) fn seconds(&self) -> Option<String> {
        self.first_of_all(SECONDS, values::seconds)
    }

    pub(super) fn size(&self) -> Option<Size> {
        self.task.levels().find_map(|document| {
            document.first(SIZE, values::size).or_else(|| {
                let width = document.first(WIDTH, values::pixels)?;
                Some((width, document.first(HEIGHT, values::pixels)?))
            })
        })
    }

    pub(super) fn prompt(&self) -> Option<Json<'a>> {
        self.task.first(PROMPT, Json::non_empty)
    }

    /// The id of the video that this one was made from. Some vendors keep the URL of the result in its place.
    pub(super) fn remixed_from(&self) -> Option<Json<'a>> {
        let id = self.task.first(REMIXED_FROM, Json::non_empty)?;
        url::of(id).is_none().then_some(id)
    }

    /// Only of a failure.
    pub(super) fn error(&self) -> Option<TaskError<'a>> {
        if self.state != State::Failed {
            return None;
        }
        let told = self.task.levels().find_map(|document| {
            let message = document.first(ERROR_MESSAGE, Json::non_empty)?;
            Some((Some(message), document))
        });
        let (message, document) = told.unwrap_or((None, &self.task));
        let code = document.first(ERROR_CODE, values::code);
        let (reason_code, reason) = match self.reason {
            Some(reason) => (reason.code(), reason.message()),
            None => ("task_failed", "the task failed; upstream gave no reason"),
        };
        Some(TaskError {
            // {"code":0,"message":""} is no error but an empty one
            code: code
                .filter(|code| message.is_some() || code != "\"0\"")
                .unwrap_or_else(|| quote(reason_code)),
            message: message.map_or_else(|| quote(reason), Json::raw),
        })
    }

    /// The reason that upstream gave for a failure.
    pub(super) fn message(&self) -> Option<Cow<'a, str>> {
        if self.state != State::Failed {
            return None;
        }
        let mut levels = self.task.levels();
        levels
            .find_map(|document| document.first(ERROR_MESSAGE, Json::non_empty))
            .map(Json::text_or_escapes)
    }

    pub(super) fn metadata(&self) -> Option<&Object<'a>> {
        self.task.part("metadata")
    }

    /// The dialect that the task came in, as far as its members tell: a bare task is of the unified one, without its
    /// wrapper.
    pub(super) fn dialect(&self) -> Dialect {
        let is_video =
            || self.members().get("object").and_then(Json::text).as_deref() == Some("video");
        if self.is_wrapped || (self.members().has("task_id") && !is_video()) {
            Dialect::Unified
        } else {
            Dialect::OpenAi
        }
    }

    /// All members of the task.
    pub(super) const fn members(&self) -> &Object<'a> {
        self.task.task()
    }

    /// The first of `paths` whose value fits, in the task or else in the vendor documents behind it.
    fn first_of_all<T>(&self, paths: Paths, fits: impl Fn(Json<'a>) -> Option<T>) -> Option<T> {
        let mut levels = self.task.levels();
        levels.find_map(|document| document.first(paths, &fits))
    }

    fn succeeded(&self) -> bool {
        self.state == State::Succeeded
    }
}
