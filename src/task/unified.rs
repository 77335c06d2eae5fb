//! The unified dialect: the wrapper `{"code","message","data"}` around a task.

use bytes::Bytes;

use super::document::Layers;
use super::metadata::PassedOn;
use super::writer::{Writer, object};
use super::{Dialect, TaskSnapshot};

/// Whether a body may be served as it is: a wrapper whose `data` has a status.
pub(super) fn is_native(body: &Layers<'_>) -> bool {
    body.wrapped()
        .is_some_and(|task| task.given("status").is_some())
}

/// Writes the documented document.
pub(super) fn write(task: &TaskSnapshot) -> Bytes {
    let mut out = Vec::with_capacity(task.source.len() + 256);
    object(&mut out, |wrapper| {
        wrapper.string("code", "success");
        wrapper.string("message", "");
        wrapper.object("data", |data| write_task(task, data));
    });
    out.into()
}

fn write_task(task: &TaskSnapshot, data: &mut Writer<'_>) {
    data.text("task_id", &task.id);
    data.string("status", task.state.in_dialect(Dialect::Unified));
    match &task.url {
        Some(url) => data.text("url", url),
        None => data.string("url", ""),
    }
    match &task.format {
        Some(format) => data.text("format", format),
        None => data.string("format", "mp4"),
    }
    write_metadata(task, data);
    match &task.error {
        Some(error) => data.object("error", |object| {
            object.text("code", &error.code);
            object.text("message", &error.message);
        }),
        None => data.null("error"),
    }
}

/// The source's metadata, and what the dialect has no other place for.
fn write_metadata(task: &TaskSnapshot, data: &mut Writer<'_>) {
    let mut passed_on = PassedOn::of(task);
    let side = |side: u32| side.to_string();
    let mut known = vec![
        ("duration", task.seconds.clone()),
        ("width", task.size.map(|(width, _)| side(width))),
        ("height", task.size.map(|(_, height)| side(height))),
    ];
    known.retain(|(name, value)| value.is_some() && !passed_on.tells(name));
    if known.is_empty() && passed_on.is_empty() {
        return data.null("metadata");
    }
    for (name, _) in &known {
        passed_on.drop(name);
    }
    data.object("metadata", |metadata| {
        passed_on.write(metadata);
        for (name, value) in known {
            metadata.number_or_null(name, value);
        }
    });
}
