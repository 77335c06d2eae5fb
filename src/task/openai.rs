//! The OpenAI dialect: the video object.

use super::document::{Layers, Source};
use super::fields::Fields;
use super::json::{Json, Object};
use super::passed_on::PassedOn;
use super::writer::Writer;
use super::{Dialect, Rendering};

/// The only words that the SDKs know: openai-python stops polling at any other, as if done.
const STATUSES: [&str; 4] = ["queued", "in_progress", "completed", "failed"];

/// Members that strict clients refuse unless they are whole numbers, null or absent.
const WHOLE_NUMBERS: [&str; 4] = ["progress", "created_at", "completed_at", "expires_at"];

/// Members that strict clients refuse unless they are texts, null or absent.
const TEXTS: [&str; 5] = [
    "model",
    "seconds",
    "size",
    "prompt",
    "remixed_from_video_id",
];

/// The members that are written here, and those that would make a wrapper of the object.
const WRITTEN: [&str; 18] = [
    "id",
    "object",
    "model",
    "status",
    "progress",
    "created_at",
    "completed_at",
    "expires_at",
    "seconds",
    "size",
    "prompt",
    "remixed_from_video_id",
    "error",
    "video_url",
    "metadata",
    "code",
    "message",
    "data",
];

/// Whether a body may be served as it is: a video object with the asked id, one of the four words, types that strict
/// clients take, and an error that is absent, null, or has a message. An empty error object is truthy to clients.
pub(super) fn is_native(body: &Layers<'_>, asked_id: &str) -> bool {
    let Some(video) = body.bare() else {
        return false;
    };
    let text = |name| video.get(name).and_then(Json::text);
    let error_is_well = match video.non_null("error").map(Json::object) {
        None => true,
        Some(Some(error)) => error.get("message").and_then(Json::non_empty).is_some(),
        Some(None) => false,
    };
    text("object").as_deref() == Some("video")
        && text("id").as_deref() == Some(asked_id)
        && text("status").is_some_and(|word| STATUSES.contains(&word.as_ref()))
        && error_is_well
        && types_are_well(video)
}

fn types_are_well(video: &Object<'_>) -> bool {
    video.members().iter().all(|member| {
        let (name, value) = (member.name.as_ref(), member.value);
        if WHOLE_NUMBERS.contains(&name) {
            value.is_whole_number() || value.is_null()
        } else if TEXTS.contains(&name) {
            value.is_string() || value.is_null()
        } else {
            true
        }
    })
}

/// Writes the video object. Members without a value are null, since clients' types have them.
pub(super) fn write(
    source: &Source<'_>,
    task: &Fields<'_>,
    rendering: Rendering,
    video: &mut Writer<'_>,
) {
    let url = task.url().map(|(url, _)| url.as_str());
    video.string("id", source.asked_id);
    video.string("object", "video");
    video.raw("model", task.model().map_or("\"\"", Json::as_str));
    video.string("status", task.state.in_dialect(Dialect::OpenAi));
    video.number("progress", task.progress());
    video.number("created_at", task.created_at().unwrap_or(source.first_seen));
    video.number_or_null("completed_at", task.completed_at());
    video.number_or_null("expires_at", task.expires_at());
    video.string_or_null("seconds", task.seconds());
    let size = task.size();
    video.string_or_null(
        "size",
        size.map(|(width, height)| format!("{width}x{height}")),
    );
    video.raw_or_null("prompt", task.prompt().map(Json::as_str));
    video.raw_or_null(
        "remixed_from_video_id",
        task.remixed_from().map(Json::as_str),
    );
    video.error(task.error());
    if let Some(url) = url {
        video.raw("video_url", url);
    }
    write_metadata(task, url, video);
    if rendering != Rendering::Documented {
        PassedOn::of_task(task, Dialect::OpenAi, &WRITTEN).write(video);
    }
}

/// The source's metadata, with the URL, where OctopusX's clients look for it, and the format.
fn write_metadata(task: &Fields<'_>, url: Option<&str>, video: &mut Writer<'_>) {
    let passed_on = PassedOn::of_metadata(task.metadata());
    if passed_on.is_empty() && url.is_none() {
        return;
    }
    video.object("metadata", |metadata| {
        passed_on.write(metadata);
        if let Some(url) = url {
            metadata.raw("url", url);
        }
        metadata.raw("format", &task.format());
    });
}
