//! The OpenAI dialect: the video object.

use super::Dialect;
use super::document::Layers;
use super::fields::Fields;
use super::json::Json;
use super::metadata::PassedOn;
use super::writer::Writer;

/// The only words that the SDKs know: openai-python stops polling at any other, as if done.
const STATUSES: [&str; 4] = ["queued", "in_progress", "completed", "failed"];

/// Whether a body may be served as it is: a video object with the asked id, one of the four words,
/// and an error that is absent, null, or says something. An empty error object is truthy to clients.
pub(super) fn is_native(body: &Layers<'_>, asked_id: &str) -> bool {
    let video = body.outermost();
    let says = |name| video.get(name).and_then(Json::text);
    let error_is_well = match video.non_null("error").map(Json::object) {
        None => true,
        Some(Some(error)) => error.get("message").and_then(Json::non_empty).is_some(),
        Some(None) => false,
    };
    says("object").as_deref() == Some("video")
        && says("id").as_deref() == Some(asked_id)
        && says("status").is_some_and(|word| STATUSES.contains(&word.as_ref()))
        && error_is_well
        && body.wrapped().is_none()
}

/// Writes the documented document. Members without a value are null, since clients' types have them.
pub(super) fn write(asked_id: &str, first_seen: i64, task: &Fields<'_>, video: &mut Writer<'_>) {
    let url = task.url().map(|(url, _)| url.as_str());
    video.string("id", asked_id);
    video.string("object", "video");
    video.raw("model", task.model().map_or("\"\"", Json::as_str));
    video.string("status", task.state.in_dialect(Dialect::OpenAi));
    video.number("progress", task.progress());
    video.number("created_at", task.created_at().unwrap_or(first_seen));
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
}

/// The source's metadata, with the URL, where OctopusX's clients look for it, and the format.
fn write_metadata(task: &Fields<'_>, url: Option<&str>, video: &mut Writer<'_>) {
    let passed_on = PassedOn::of(task.metadata());
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
