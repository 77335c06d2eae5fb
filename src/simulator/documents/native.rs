//! The other status routes, in the format of each vendor's own API.

use bytes::Bytes;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::super::channel::Channel;
use super::super::json::go_json;
use super::super::life::{State, Status};
use super::super::reply::Reply;
use super::{View, raw};

/// OctopusX's own. Sora has a format of its own; all other models share Veo's.
pub(super) fn octopus(view: &View<'_>) -> Bytes {
    if view.task.model.starts_with("sora") {
        octopus_sora(view)
    } else {
        octopus_veo(view)
    }
}

fn octopus_sora(view: &View<'_>) -> Bytes {
    let status = match view.status.state() {
        State::Queued => "queued",
        State::Processing => "processing",
        State::Succeeded => "completed",
        State::Failed => "failed",
    };
    let mut value = json!({
        "id": view.task.id,
        "object": "video",
        "status": status,
        // A string.
        "progress": view.progress.to_string(),
    });
    if view.status == Status::Failure {
        value["progress"] = "0".into();
        value["error"] = json!({"code": "moderation_blocked", "message": view.reason()});
        return go_json(&value);
    }
    value["model"] = view.task.model.as_str().into();
    value["created_at"] = view.created.into();
    if view.status == Status::Success {
        value["video_url"] = view.url.as_str().into();
        value["detail"] = json!({"status": status, "url": view.url});
    } else {
        value["seconds"] = view.task.seconds.to_string().into();
        value["size"] = "large".into();
        value["detail"] = json!({"id": view.task.id, "status": status});
    }
    go_json(&value)
}

fn octopus_veo(view: &View<'_>) -> Bytes {
    let mut value = json!({
        "id": view.task.id,
        "status": match view.status.state() {
            State::Queued => "pending",
            State::Processing => "processing",
            State::Succeeded => "completed",
            State::Failed => "failed",
        },
        "video_url": non_empty(&view.url),
        "status_update_time": view.updated * 1000,
    });
    match view.status {
        Status::Failure => value["error"] = view.reason().into(),
        Status::Success => value["enhanced_prompt"] = view.task.prompt.as_str().into(),
        _ => value["enhanced_prompt"] = "".into(),
    }
    go_json(&value)
}

/// Midjourney. While the task runs, the URL of its preview is different in every answer, though nothing has changed.
pub(super) fn midjourney(view: &View<'_>) -> Bytes {
    let done = view.status == Status::Success;
    let image = match view.status {
        Status::InProgress => format!("{}?rand={}", view.image(), view.nanos()),
        Status::Success if view.task.url.is_some() => view.url.clone(),
        Status::Success => view.image(),
        _ => String::new(),
    };
    let button = json!({
        "customId": format!("MJ::JOB::upsample::1::{}", view.task.vendor_id),
        "emoji": "",
        "label": "U1",
        "style": 2,
        "type": 2,
    });
    go_json(&json!({
        "action": "IMAGINE",
        "botType": "",
        "buttons": if done { json!([button]) } else { Value::Null },
        "customId": "",
        "description": "Submit success",
        "failReason": view.reason(),
        "finishTime": view.finished * 1000,
        "id": view.task.id,
        "imageUrl": image,
        "maskBase64": "",
        "progress": format!("{}%", view.progress),
        "prompt": view.task.prompt,
        "promptEn": view.task.prompt,
        "properties": if done { json!({"finalPrompt": format!("{} --v 6", view.task.prompt)}) } else { Value::Null },
        "startTime": view.started * 1000,
        "state": "",
        "status": match view.status {
            Status::Queued => "SUBMITTED",
            Status::Unknown => "IN_PROGRESS",
            Status::Failure if view.task.channel == Channel::Cancelling => "CANCEL",
            other => other.name(),
        },
        "submitTime": view.created * 1000,
        "videoUrl": "",
        "videoUrls": null,
    }))
}

/// Kling. It shows the vendor's document, which a timeout of the row does not change.
pub(super) fn kling(view: &View<'_>) -> Bytes {
    let failed = view.vendor == Status::Failure;
    let mut data = json!({
        "created_at": view.created * 1000,
        "task_id": view.task.id,
        "task_info": {"external_task_id": ""},
        "task_status": match view.vendor.state() {
            State::Queued => "submitted",
            State::Processing => "processing",
            State::Succeeded => "succeed",
            State::Failed => "failed",
        },
        "task_status_msg": if failed { view.reason() } else { "" },
        "updated_at": view.updated * 1000,
    });
    if view.vendor == Status::Success {
        let video = json!({
            "duration": view.task.seconds.to_string(),
            "id": view.task.vendor_id,
            "url": view.url,
        });
        data["task_result"] = json!({"videos": [video]});
    }
    kling_envelope(view, &data)
}

fn kling_envelope(view: &View<'_>, data: &Value) -> Bytes {
    go_json(&json!({
        "code": 0,
        "data": data,
        "message": "SUCCEED",
        "request_id": view.task.vendor_id,
    }))
}

/// Suno. A clip can be played while the task still runs.
pub(super) fn suno(view: &View<'_>) -> Bytes {
    let clip = |status: &str, state: &str, url: &str| {
        json!({
            "audio_url": url,
            "clip_id": view.task.vendor_id,
            "id": view.task.vendor_id,
            "image_url": "",
            "metadata": {"duration": 142.2, "prompt": view.task.prompt, "tags": "pop"},
            "model_name": view.task.model,
            "state": state,
            "status": status,
            "title": "Song",
            "video_url": "",
        })
    };
    let clips = match view.status {
        Status::InProgress => json!([clip("streaming", "running", &view.preview())]),
        Status::Success => {
            let clip = clip("complete", "succeeded", &view.url);
            json!([clip, clip])
        }
        _ => Value::Null,
    };
    go_json(&json!({
        "code": "success",
        "data": {
            "action": "MUSIC",
            "data": clips,
            "fail_reason": view.reason(),
            "finish_time": view.finished,
            "progress": format!("{}%", view.progress),
            "start_time": view.started,
            "status": view.status.name(),
            "submit_time": view.created,
            "task_id": view.task.id,
        },
        "message": "",
    }))
}

/// new-api's own, which never has a URL.
pub(super) fn tasks(view: &View<'_>) -> Bytes {
    raw::rc30(view)
}

/// Volcengine Ark. It shows the vendor's document, which a timeout of the row does not change.
pub(super) fn ark(view: &View<'_>) -> Bytes {
    let mut value = json!({
        "created_at": view.created,
        "id": view.task.id,
        "model": view.task.model,
        "status": match view.vendor.state() {
            State::Queued => "queued",
            State::Processing => "running",
            State::Succeeded => "succeeded",
            State::Failed if view.task.channel == Channel::Cancelling => "cancelled",
            State::Failed => "failed",
        },
        "updated_at": view.updated,
    });
    match view.vendor {
        Status::Success => {
            value["content"] = json!({"video_url": view.url});
            value["usage"] = json!({"completion_tokens": 246_840, "total_tokens": 246_840});
            value["resolution"] = "1080p".into();
            value["ratio"] = "16:9".into();
            value["duration"] = view.task.seconds.into();
            value["framespersecond"] = 24.into();
            value["seed"] = view.task.number.into();
        }
        Status::Failure if view.task.channel != Channel::Cancelling => {
            value["error"] = json!({
                "code": "OutputVideoSensitiveContentDetected",
                "message": view.reason(),
            });
        }
        _ => {}
    }
    go_json(&value)
}

/// Answers OctopusX's own create request.
pub(super) fn octopus_created(view: &View<'_>) -> Bytes {
    go_json(&json!({
        "id": view.task.id,
        "status": "pending",
        "status_update_time": view.created,
    }))
}

/// Answers Midjourney's submit request; code 1 means that the task was submitted.
pub(super) fn midjourney_created(view: &View<'_>) -> Bytes {
    go_json(&json!({
        "code": 1,
        "description": "Submit success",
        "properties": {},
        "result": view.task.id,
    }))
}

/// Answers Kling's create request.
pub(super) fn kling_created(view: &View<'_>) -> Bytes {
    let data = json!({
        "created_at": view.created * 1000,
        "task_id": view.task.id,
        "task_status": "submitted",
        "updated_at": view.created * 1000,
    });
    kling_envelope(view, &data)
}

/// Answers Suno's submit request, with the id alone.
pub(super) fn suno_created(view: &View<'_>) -> Bytes {
    go_json(&json!({"code": "success", "data": view.task.id, "message": ""}))
}

/// Answers new-api's `POST /v1/tasks/{plugin}`.
pub(super) fn tasks_created(view: &View<'_>) -> Bytes {
    go_json(&json!({
        "created_at": view.created,
        "id": view.task.id,
        "model": view.task.model,
        "status": "queued",
        "task_id": view.task.id,
    }))
}

/// Answers Ark's create request, with the id alone.
pub(super) fn ark_created(view: &View<'_>) -> Bytes {
    go_json(&json!({"id": view.task.id}))
}

/// Midjourney's answer for an unknown task.
pub(super) fn midjourney_missing() -> Reply {
    midjourney_error(StatusCode::BAD_REQUEST, 4, "task_no_found ")
}

/// An error in Midjourney's format.
pub(super) fn midjourney_error(status: StatusCode, code: u8, description: &str) -> Reply {
    let error = json!({"code": code, "description": description, "type": "upstream_error"});
    Reply::json(status, &error)
}

/// Kling's answer for an unknown task.
pub(super) fn kling_missing() -> Reply {
    let error = json!({"code": "task_not_found", "message": "Task not found"});
    Reply::json(StatusCode::NOT_FOUND, &error)
}

/// new-api's answer for an unknown task on `/v1/tasks/{id}`.
pub(super) fn tasks_missing() -> Reply {
    let error = json!({"message": "Task not found", "type": "invalid_request_error"});
    Reply::json(StatusCode::NOT_FOUND, &json!({"error": error}))
}

/// Ark's answer for an unknown task.
pub(super) fn ark_missing() -> Reply {
    let error = json!({"code": "task_not_found", "message": "Task not found"});
    Reply::json(StatusCode::NOT_FOUND, &json!({"error": error}))
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}
