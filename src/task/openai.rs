//! The OpenAI dialect: the video object.

use bytes::Bytes;

use super::document::Layers;
use super::json::Json;
use super::metadata::PassedOn;
use super::writer::{Writer, object};
use super::{Dialect, TaskSnapshot};

/// The only words that the SDKs know: openai-python stops polling at any other, as if done.
const STATUSES: [&str; 4] = ["queued", "in_progress", "completed", "failed"];

/// Whether a body may be served as it is: a video object with the asked id, one of the four words,
/// and an error that is absent, null, or says something. An empty error object is truthy to clients.
pub(super) fn is_native(body: &Layers<'_>, asked_id: &str) -> bool {
    let video = body.outermost();
    let says = |name| video.get(name).and_then(Json::text);
    let error_is_well = match video.given("error").map(Json::object) {
        None => true,
        Some(Some(error)) => error.get("message").and_then(Json::said).is_some(),
        Some(None) => false,
    };
    says("object").as_deref() == Some("video")
        && says("id").as_deref() == Some(asked_id)
        && says("status").is_some_and(|word| STATUSES.contains(&word.as_ref()))
        && error_is_well
        && body.wrapped().is_none()
}

/// Writes the documented document. Members without a value are null, since clients' types have them.
pub(super) fn write(task: &TaskSnapshot) -> Bytes {
    let mut out = Vec::with_capacity(task.source.len() + 512);
    object(&mut out, |video| write_video(task, video));
    out.into()
}

fn write_video(task: &TaskSnapshot, video: &mut Writer<'_>) {
    video.text("id", &task.id);
    video.string("object", "video");
    match &task.model {
        Some(model) => video.text("model", model),
        None => video.string("model", ""),
    }
    video.string("status", task.state.in_dialect(Dialect::OpenAi));
    video.number("progress", task.progress);
    video.number("created_at", task.created_at);
    video.number_or_null("completed_at", task.completed_at);
    video.number_or_null("expires_at", task.expires_at);
    match &task.seconds {
        Some(seconds) => video.string("seconds", seconds),
        None => video.null("seconds"),
    }
    match task.size {
        Some((width, height)) => video.string("size", &format!("{width}x{height}")),
        None => video.null("size"),
    }
    video.text_or_null("prompt", task.prompt.as_ref());
    video.text_or_null("remixed_from_video_id", task.remixed_from.as_ref());
    match &task.error {
        Some(error) => video.object("error", |object| {
            object.text("code", &error.code);
            object.text("message", &error.message);
        }),
        None => video.null("error"),
    }
    if let Some(url) = &task.url {
        video.text("video_url", url);
    }
    write_metadata(task, video);
}

/// The source's metadata, with the URL, where OctopusX's clients look for it, and the format.
fn write_metadata(task: &TaskSnapshot, video: &mut Writer<'_>) {
    let passed_on = PassedOn::of(task);
    if passed_on.is_empty() && task.url.is_none() {
        return;
    }
    video.object("metadata", |metadata| {
        passed_on.write(metadata);
        if let Some(url) = &task.url {
            metadata.text("url", url);
        }
        match &task.format {
            Some(format) => metadata.text("format", format),
            None => metadata.string("format", "mp4"),
        }
    });
}
