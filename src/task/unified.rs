//! The unified dialect: the wrapper `{"code","message","data"}` around a task.

use super::Dialect;
use super::document::Layers;
use super::fields::Fields;
use super::metadata::PassedOn;
use super::writer::Writer;

/// Whether a body may be served as it is: a wrapper whose `data` has a status.
pub(super) fn is_native(body: &Layers<'_>) -> bool {
    body.wrapped()
        .is_some_and(|task| task.non_null("status").is_some())
}

/// Writes the documented document.
pub(super) fn write(asked_id: &str, task: &Fields<'_>, wrapper: &mut Writer<'_>) {
    wrapper.string("code", "success");
    wrapper.string("message", "");
    wrapper.object("data", |data| write_task(asked_id, task, data));
}

fn write_task(asked_id: &str, task: &Fields<'_>, data: &mut Writer<'_>) {
    data.string("task_id", asked_id);
    data.string("status", task.state.in_dialect(Dialect::Unified));
    data.raw("url", task.url().map_or("\"\"", |(url, _)| url.as_str()));
    data.raw("format", &task.format());
    write_metadata(task, data);
    data.error(task.error());
}

/// The source's metadata, and what the dialect has no other place for.
fn write_metadata(task: &Fields<'_>, data: &mut Writer<'_>) {
    let mut passed_on = PassedOn::of(task.metadata());
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
            metadata.number_or_null(name, value);
        }
    });
}
