//! `GET /v1/videos/{id}` without conversion: the vendor's body, or the row itself.

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

use super::super::json::go_json;
use super::super::life::Status;
use super::{Reason, View, vendor, video};

/// The vendor's own body, zero values included.
#[derive(Serialize)]
struct Raw<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    task_id: &'a str,
    object: &'static str,
    model: &'a str,
    status: &'a str,
    progress: u8,
    created_at: u64,
    completed_at: u64,
    expires_at: u64,
    seconds: String,
    size: &'a str,
    remixed_from_video_id: &'a str,
    error: Reason<'a>,
    video_url: &'a str,
}

/// Sora's own body with the platform's id.
pub(super) fn sora(view: &View<'_>) -> Bytes {
    go_json(&raw(view, &view.task.id, &view.task.vendor_id))
}

/// Sora's own body with the vendor's id.
pub(super) fn sora_with_its_id(view: &View<'_>) -> Bytes {
    go_json(&raw(view, &view.task.vendor_id, ""))
}

/// Sora's own body, which a timeout of the row does not change.
fn raw<'a>(view: &'a View<'_>, id: &'a str, task_id: &'a str) -> Raw<'a> {
    let current = view.vendor == view.status;
    let failed = current && view.status == Status::Failure;
    Raw {
        id,
        task_id,
        object: "video",
        model: &view.task.model,
        status: match view.vendor {
            Status::NotStart => "queued",
            Status::Unknown => "in_progress",
            other => video(other),
        },
        progress: if current { view.progress } else { 99 },
        created_at: view.created,
        completed_at: if current { view.finished } else { 0 },
        expires_at: view.created + 86_400,
        seconds: view.task.seconds.to_string(),
        size: &view.task.size,
        remixed_from_video_id: &view.task.remixed_from,
        error: Reason {
            message: if failed { view.reason() } else { "" },
            code: if failed {
                "video_generation_failed"
            } else {
                ""
            },
        },
        video_url: &view.url,
    }
}

/// OctopusX's format: `processing` for OpenAI's `in_progress`, the URL in `video_url`.
pub(super) fn seedance(view: &View<'_>) -> Bytes {
    go_json(&Raw {
        status: match view.status {
            Status::InProgress | Status::Unknown => "processing",
            Status::NotStart => "queued",
            other => video(other),
        },
        progress: view.progress,
        completed_at: view.finished,
        error: Reason {
            message: view.reason(),
            code: if view.reason().is_empty() {
                ""
            } else {
                "task_failed"
            },
        },
        ..raw(view, &view.task.id, "")
    })
}

/// xAI's statuses, and the URL in `output`.
pub(super) fn grok(view: &View<'_>) -> Bytes {
    let mut value = json!({
        "created_at": view.created,
        "id": view.task.id,
        "model": view.task.model,
        "object": "video",
        "progress": view.progress,
        "status": vendor::grok_status(view.status),
    });
    match view.status {
        Status::Success => value["output"] = json!({"url": view.url}),
        Status::Failure => value["error"] = view.reason().into(),
        _ => {}
    }
    go_json(&value)
}

/// Format of v1.0.0-rc.30: a row without a URL.
pub(super) fn rc30(view: &View<'_>) -> Bytes {
    go_json(&json!({
        "created_at": view.created,
        "fail_reason": view.reason(),
        "finished_at": view.finished,
        "platform": "1",
        "progress": format!("{}%", view.progress),
        "status": view.status.name(),
        "task_id": view.task.id,
    }))
}
