//! Vendors' documents, which new-api stores in a row's `data`.

use serde_json::{Value, json};

use super::super::channel::Channel;
use super::super::life::{State, Status};
use super::View;

/// The stored document; null before the first answer of the vendor.
pub(super) fn document(view: &View<'_>) -> Value {
    if matches!(view.vendor, Status::NotStart | Status::Submitted) {
        return Value::Null;
    }
    let id = view.task.vendor_id.as_str();
    let url = view.url.as_str();
    let reason = match view.vendor {
        Status::Failure => view.task.fail_reason.as_str(),
        _ => "",
    };
    let failed = view.vendor == Status::Failure;
    let done = view.vendor == Status::Success;
    let [queued, running, succeeded, failure] = statuses(view.task.channel);
    let status = match view.vendor.state() {
        State::Queued => queued,
        State::Processing => running,
        State::Succeeded => succeeded,
        State::Failed => failure,
    };
    match view.task.channel {
        Channel::DoubaoSeedance | Channel::Nested | Channel::Cancelling => {
            doubao(view, status, reason)
        }
        // The inner status lags behind the outer one.
        Channel::Seedance2 => json!({
            "content": content(url),
            "duration": view.task.seconds,
            "ratio": "16:9",
            "resolution": "720p",
            "status": if failed { failure } else { running },
            "usage": {},
        }),
        Channel::Sora2 | Channel::SoraRaw => json!({
            "created_at": view.created,
            "id": id,
            "model": view.task.model,
            "object": "video",
            "progress": view.progress,
            "seconds": view.task.seconds.to_string(),
            "size": view.task.size,
            "status": status,
            "video_url": url,
        }),
        Channel::Kling => {
            let videos = json!([{"duration": view.task.seconds.to_string(), "id": id, "url": url}]);
            json!({
                "code": 0,
                "data": {
                    "created_at": view.created * 1000,
                    "task_id": id,
                    "task_result": if done { json!({"videos": videos}) } else { json!({}) },
                    "task_status": status,
                    "task_status_msg": reason,
                    "updated_at": view.updated * 1000,
                },
                "message": "SUCCEED",
                "request_id": id,
            })
        }
        Channel::Jimeng => json!({
            "code": if failed { 50411 } else { 10000 },
            "data": {"status": status, "video_url": url},
            "message": if failed { reason } else { "Success" },
            "request_id": id,
        }),
        Channel::Ali => json!({
            "output": {"message": reason, "task_id": id, "task_status": status, "video_url": url},
            "request_id": id,
        }),
        Channel::Hailuo => json!({
            "base_resp": {
                "status_code": if failed { 1026 } else { 0 },
                "status_msg": if failed { reason } else { "success" },
            },
            "file_id": if done { id } else { "" },
            "status": status,
            "task_id": id,
        }),
        Channel::Vidu => json!({
            "creations": if done { json!([{"id": id, "url": url}]) } else { json!([]) },
            "err_code": reason,
            "state": status,
        }),
        Channel::Grok => json!({
            "request_id": id,
            "status": grok_status(view.vendor),
            "video": if done { json!({"url": url}) } else { Value::Null },
        }),
        _ => Value::Null,
    }
}

/// Volcengine's document, the only one with a failure code and usage.
fn doubao(view: &View<'_>, status: &str, reason: &str) -> Value {
    let mut document = json!({
        "content": content(&view.url),
        "created_at": view.created,
        "duration": view.task.seconds,
        "framespersecond": 24,
        "id": view.task.vendor_id,
        "model": "doubao-seedance-2-0-260128",
        "ratio": "16:9",
        "resolution": "720p",
        "seed": view.task.number,
        "status": status,
        "updated_at": view.updated,
    });
    match view.vendor {
        Status::Failure => {
            document["error"] =
                json!({"code": "OutputVideoSensitiveContentDetected", "message": reason});
        }
        Status::Success => {
            document["usage"] = json!({"completion_tokens": 108_900, "total_tokens": 108_900});
        }
        _ => {}
    }
    document
}

/// new-api's number of the vendor.
pub(super) const fn platform(channel: Channel) -> &'static str {
    match channel {
        Channel::DoubaoSeedance => "54",
        Channel::Sora2 | Channel::SoraRaw => "55",
        Channel::Kling => "50",
        Channel::Jimeng => "51",
        Channel::Vidu => "52",
        Channel::Hailuo => "35",
        Channel::Ali => "17",
        Channel::Grok => "48",
        _ => "1",
    }
}

/// xAI's name of a status.
pub(super) const fn grok_status(status: Status) -> &'static str {
    match status.state() {
        State::Queued => "pending",
        State::Processing => "processing",
        State::Succeeded => "done",
        State::Failed => "failed",
    }
}

/// The vendor's names for queued, running, succeeded and failed.
const fn statuses(channel: Channel) -> [&'static str; 4] {
    match channel {
        Channel::Seedance2 => ["queued", "processing", "succeeded", "failed"],
        Channel::Sora2 | Channel::SoraRaw => ["queued", "in_progress", "completed", "failed"],
        Channel::Kling => ["submitted", "processing", "succeed", "failed"],
        Channel::Jimeng => ["in_queue", "generating", "done", "done"],
        Channel::Ali => ["PENDING", "RUNNING", "SUCCEEDED", "FAILED"],
        Channel::Hailuo => ["Queueing", "Processing", "Success", "Fail"],
        Channel::Vidu => ["queueing", "processing", "success", "failed"],
        Channel::Cancelling => ["queued", "running", "succeeded", "cancelled"],
        _ => ["queued", "running", "succeeded", "failed"],
    }
}

/// Seedance's `content`, empty before success.
fn content(url: &str) -> Value {
    if url.is_empty() {
        json!({})
    } else {
        json!({"video_url": url})
    }
}
