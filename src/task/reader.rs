//! Reads a snapshot: one table of where each field is found, for every shape and every vendor.

use std::borrow::Cow;

use bytes::Bytes;

use super::document::{Document, Layers};
use super::json::{Json, Object, Text};
use super::snapshot::{NotATask, TaskError, TaskSnapshot};
use super::values::{self, Size};
use super::{Dialect, State, link, openai, unified, url_expiry};

type Places = &'static [&'static str];

// Where each field is read from: the first place whose value fits. See `Document::first` for how a
// place is named. The task's own word always comes before the vendor's.

const URL: Places = &[
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
const FORMAT: Places = &["format", "metadata.format"];
const PROGRESS: Places = &["progress"];
const CREATED_AT: Places = &["created_at", "submit_time"];
const COMPLETED_AT: Places = &["completed_at", "finish_time", "finished_at"];
const EXPIRES_AT: Places = &["expires_at"];
const MODEL: Places = &["model", "properties.origin_model_name", "data.model"];
const SECONDS: Places = &[
    "seconds",
    "metadata.duration",
    "duration",
    "data.seconds",
    "data.metadata.duration",
    "data.duration",
];
const SIZE: [(Places, Places, Places); 2] = [
    (&["size"], &["metadata.width"], &["metadata.height"]),
    (
        &["data.size"],
        &["data.metadata.width"],
        &["data.metadata.height"],
    ),
];
const PROMPT: Places = &["prompt", "properties.input"];
const REMIXED_FROM: Places = &["remixed_from_video_id"];
/// Where a failure says why, and, beside it, where it gives a code.
const ERROR: [(Places, Places); 2] = [
    (&["error.message", "error", "fail_reason"], &["error.code"]),
    (
        &["data.error.message", "data.error", "data.fail_reason"],
        &["data.error.code"],
    ),
];
const METADATA: Places = &["metadata"];

/// Reads the task that `body` tells of; see [`TaskSnapshot::read`].
pub(super) fn read(
    asked_id: &str,
    body: &Bytes,
    first_seen: i64,
) -> Result<TaskSnapshot, NotATask> {
    let layers = Layers::open(outermost(body)?);
    let native = native(&layers, asked_id);
    let task = Document::find(layers)?;
    let keep = |string: Json<'_>| Text::keep(string, body);
    let text = |places| task.first(places, |value| value.said().map(keep));

    let status = task.status().ok_or(NotATask::NoStatus)?;
    let state = status
        .text()
        .map_or(State::Processing, |word| State::read(&word));
    let (succeeded, failed) = (state == State::Succeeded, state == State::Failed);

    let (mut url, mut url_expires_at, mut url_format) = (None, None, None);
    if succeeded && let Some((string, address)) = task.first(URL, url_of) {
        url = Some(keep(string));
        url_expires_at = url_expiry(&address);
        url_format = link::format(&address);
    }

    Ok(TaskSnapshot {
        source: body.clone(),
        native,
        id: Text::new(asked_id),
        state,
        url,
        url_expires_at,
        format: task
            .first(FORMAT, |value| values::format(value, body))
            .or_else(|| url_format.map(|format| Text::new(&format))),
        progress: match task.first(PROGRESS, values::percent) {
            _ if succeeded => 100,
            told => told.unwrap_or(0),
        },
        created_at: task.first(CREATED_AT, values::time).unwrap_or(first_seen),
        completed_at: task
            .first(COMPLETED_AT, values::time)
            .filter(|_| state.is_terminal()),
        expires_at: task
            .first(EXPIRES_AT, values::time)
            .filter(|_| succeeded)
            .or(url_expires_at),
        model: text(MODEL),
        seconds: task.first(SECONDS, values::seconds),
        size: SIZE.iter().find_map(|places| size(&task, places)),
        prompt: text(PROMPT),
        remixed_from: text(REMIXED_FROM),
        error: failed.then(|| error(&task, body)),
        metadata: task.first(METADATA, |value| {
            let is_object = value.as_str().starts_with('{');
            is_object.then(|| body.slice_ref(value.as_str().as_bytes()))
        }),
    })
}

fn outermost(body: &Bytes) -> Result<Object<'_>, NotATask> {
    let start = body.trim_ascii_start().first();
    let text = std::str::from_utf8(body);
    match (start, text) {
        (None, _) => Err(NotATask::Empty),
        (Some(b'<'), _) => Err(NotATask::Html),
        (Some(b'{'), Ok(text)) => Object::parse(text).ok_or(NotATask::NotJson),
        (Some(_), Ok(text)) if Json::parse(text).is_some() => Err(NotATask::NotAnObject),
        _ => Err(NotATask::NotJson),
    }
}

/// The dialect in which the body already is what could be asked for.
fn native(body: &Layers<'_>, asked_id: &str) -> Option<Dialect> {
    if unified::is_native(body) {
        Some(Dialect::Unified)
    } else if openai::is_native(body, asked_id) {
        Some(Dialect::OpenAi)
    } else {
        None
    }
}

fn url_of(value: Json<'_>) -> Option<(Json<'_>, Cow<'_, str>)> {
    let address = value.text()?;
    link::is_url(&address).then_some((value, address))
}

fn size(task: &Document<'_>, (size, width, height): &(Places, Places, Places)) -> Option<Size> {
    task.first(size, values::size).or_else(|| {
        let width = task.first(width, values::pixels)?;
        Some((width, task.first(height, values::pixels)?))
    })
}

fn error(task: &Document<'_>, body: &Bytes) -> TaskError {
    let told = ERROR.iter().find_map(|(message, code)| {
        let message = task.first(message, Json::said)?;
        Some((Some(message), code))
    });
    let (message, code) = told.unwrap_or((None, &ERROR[0].1));
    let code = task.first(code, |code| values::code(code, body));
    TaskError {
        // {"code":0,"message":""} is no error but an empty one
        code: code
            .filter(|code| message.is_some() || code.as_json() != b"\"0\"")
            .unwrap_or_else(|| Text::new("task_failed")),
        message: message.map_or_else(
            || Text::new("the task failed; upstream gave no reason"),
            |message| Text::keep(message, body),
        ),
    }
}
