//! The unified dialect: the wrapper `{"code","message","data"}` around a task.

use super::document::{Layers, Source};
use super::fields::Fields;
use super::passed_on::PassedOn;
use super::writer::Writer;
use super::{Dialect, Rendering};

/// The members of `data` that are written here, and those that would make a wrapper of it.
const WRITTEN: [&str; 8] = [
    "task_id", "status", "url", "format", "metadata", "error", "code", "message",
];

/// Whether a body may be served as it is: a wrapper whose `data` is the task and has a status.
pub(super) fn is_native(body: &Layers<'_>) -> bool {
    body.wrapped()
        .is_some_and(|task| task.non_null("status").is_some())
}

/// Writes the wrapper.
pub(super) fn write(
    source: &Source<'_>,
    task: &Fields<'_>,
    rendering: Rendering,
    wrapper: &mut Writer<'_>,
) {
    wrapper.string("code", "success");
    wrapper.string("message", "");
    wrapper.object("data", |data| {
        data.string("task_id", source.asked_id);
        data.string("status", task.state.in_dialect(Dialect::Unified));
        data.raw("url", task.url().map_or("\"\"", |(url, _)| url.as_str()));
        data.raw("format", &task.format());
        write_metadata(task, data);
        data.error(task.error());
        if rendering != Rendering::Documented {
            PassedOn::of_task(task, Dialect::Unified, &WRITTEN).write(data);
        }
    });
}

/// The source's metadata, and what the dialect has no other member for.
fn write_metadata(task: &Fields<'_>, data: &mut Writer<'_>) {
    let mut passed_on = PassedOn::of_metadata(task.metadata());
    let (width, height) = task.size().unzip();
    let mut known = vec![
        ("duration", task.seconds()),
        ("width", width.map(|side| side.to_string())),
        ("height", height.map(|side| side.to_string())),
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
            metadata.raw_or_null(name, value.as_deref());
        }
    });
}
