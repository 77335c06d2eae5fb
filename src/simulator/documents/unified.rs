//! `GET /v1/video/generations/{id}`: wrappers, task rows and other formats.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::channel::Channel;
use super::super::json::go_json;
use super::super::life::Status;
use super::{View, simple, vendor};

/// `dto.TaskResponse`.
#[derive(Serialize)]
struct Envelope<T> {
    code: &'static str,
    message: &'static str,
    data: T,
}

/// `dto.TaskDto`, with its members in order.
#[derive(Serialize)]
struct Row<'a> {
    id: u64,
    created_at: u64,
    updated_at: u64,
    task_id: &'a str,
    platform: &'static str,
    user_id: u64,
    group: &'static str,
    channel_id: u64,
    quota: u64,
    action: &'static str,
    status: &'static str,
    fail_reason: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    result_url: &'a str,
    submit_time: u64,
    start_time: u64,
    finish_time: u64,
    progress: String,
    properties: Properties<'a>,
    data: Value,
}

#[derive(Serialize)]
struct Properties<'a> {
    input: &'a str,
    upstream_model_name: String,
    origin_model_name: &'a str,
}

/// The row of old versions.
#[derive(Serialize)]
struct OldRow<'a> {
    task_id: &'a str,
    action: &'static str,
    status: &'static str,
    fail_reason: &'a str,
    submit_time: u64,
    start_time: u64,
    finish_time: u64,
    progress: String,
    data: Value,
}

pub(super) fn document(view: &View<'_>) -> Bytes {
    match view.task.channel {
        Channel::Documented | Channel::WrapperOnOpenai => documented(view),
        Channel::Fork => fork(view),
        Channel::Gemini => live(view, "mp4"),
        Channel::Vertex => live(view, "video/mp4"),
        Channel::Seedance2 => seedance(view),
        Channel::OldRow => old_row(view),
        Channel::Bare => bare(view),
        Channel::Nested => nested(view),
        _ => success(row(view, view.result_url(), vendor::document(view))),
    }
}

/// The documented wrapper.
pub(super) fn documented(view: &View<'_>) -> Bytes {
    let done = view.status == Status::Success;
    let metadata = if done { view.metadata() } else { Value::Null };
    success(json!({
        "error": error(view),
        "format": "mp4",
        "metadata": metadata,
        "status": simple(view.status),
        "task_id": view.task.id,
        "url": view.url,
    }))
}

/// A fork's wrapper: `NOT_START` is queued, and a success has extra members.
fn fork(view: &View<'_>) -> Bytes {
    let status = match view.status {
        Status::NotStart => "queued",
        other => simple(other),
    };
    let mut data = json!({
        "error": error(view),
        "format": "mp4",
        "metadata": null,
        "status": status,
        "task_id": view.task.id,
        "url": view.url,
    });
    if view.status == Status::Success {
        data["actual_time"] = view.finished.saturating_sub(view.started).into();
        data["last_frame_url"] = "".into();
        data["metadata"] = view.metadata();
        data["usage"] = json!({"completion_tokens": 108_900});
    }
    success(data)
}

/// Gemini and Vertex: `error` and `metadata` are always null.
fn live(view: &View<'_>, format: &str) -> Bytes {
    success(json!({
        "error": null,
        "format": format,
        "metadata": null,
        "status": simple(view.status),
        "task_id": view.task.id,
        "url": view.result_url(),
    }))
}

/// OctopusX's Seedance: no `message`, no `result_url`, `fail_reason` only on a failure.
fn seedance(view: &View<'_>) -> Bytes {
    #[derive(Serialize)]
    struct Short<'a> {
        code: &'static str,
        data: ShortRow<'a>,
    }
    #[derive(Serialize)]
    struct ShortRow<'a> {
        task_id: &'a str,
        status: &'static str,
        progress: String,
        submit_time: u64,
        start_time: u64,
        finish_time: u64,
        #[serde(skip_serializing_if = "str::is_empty")]
        fail_reason: &'a str,
        data: Value,
    }
    go_json(&Short {
        code: "success",
        data: ShortRow {
            task_id: &view.task.id,
            status: view.status.name(),
            progress: percent(view),
            submit_time: view.created,
            start_time: view.started,
            finish_time: view.finished,
            fail_reason: view.reason(),
            data: vendor::document(view),
        },
    })
}

/// Old versions put the URL into `fail_reason`.
fn old_row(view: &View<'_>) -> Bytes {
    success(OldRow {
        task_id: &view.task.id,
        action: "generate",
        status: view.status.name(),
        fail_reason: view.result_url(),
        submit_time: view.created,
        start_time: view.started,
        finish_time: view.finished,
        progress: percent(view),
        data: vendor::document(view),
    })
}

/// `dto.VideoTaskResponse` without a wrapper; the error's code is a number, 0 on success.
fn bare(view: &View<'_>) -> Bytes {
    let mut data = json!({
        "status": super::video(view.status),
        "task_id": view.task.id,
    });
    match view.status {
        Status::Success => {
            data["error"] = json!({"code": 0, "message": ""});
            data["format"] = "mp4".into();
            data["metadata"] = view.metadata();
            data["url"] = view.url.as_str().into();
        }
        Status::Failure => data["error"] = json!({"code": 1001, "message": view.reason()}),
        _ => {}
    }
    go_json(&data)
}

/// The vendor is a new-api: its whole answer, with its own id, is this row's data.
fn nested(view: &View<'_>) -> Bytes {
    let mut inner = row(view, view.result_url(), vendor::document(view));
    inner.task_id = &view.task.vendor_id;
    inner.id += 40_000;
    let inner = serde_json::to_value(Envelope {
        code: "success",
        message: "",
        data: inner,
    });
    success(row(view, view.reason(), inner.unwrap_or_default()))
}

fn row<'a>(view: &'a View<'_>, result_url: &'a str, data: Value) -> Row<'a> {
    Row {
        id: view.task.number,
        created_at: view.created,
        updated_at: view.updated,
        task_id: &view.task.id,
        platform: vendor::platform(view.task.channel),
        user_id: 1,
        group: "default",
        channel_id: 8,
        quota: 5_750_000,
        action: "generate",
        status: view.status.name(),
        fail_reason: view.reason(),
        result_url,
        submit_time: view.created,
        start_time: view.started,
        finish_time: view.finished,
        progress: percent(view),
        properties: Properties {
            input: &view.task.prompt,
            upstream_model_name: format!("ep-{}", view.task.number),
            origin_model_name: &view.task.model,
        },
        data,
    }
}

fn error(view: &View<'_>) -> Value {
    match view.status {
        Status::Failure => json!({"code": "task_failed", "message": view.reason()}),
        _ => Value::Null,
    }
}

fn percent(view: &View<'_>) -> String {
    format!("{}%", view.progress)
}

fn success(data: impl Serialize) -> Bytes {
    go_json(&Envelope {
        code: "success",
        message: "",
        data,
    })
}
