//! `GET /v1/videos/{id}`: OpenAI video objects, with the deviations of each channel.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::channel::Channel;
use super::super::json::go_json;
use super::super::life::Status;
use super::{Reason, View, raw, video};

/// A data: URI of the first sixteen bytes of an MP4 file.
const TINY_VIDEO: &str = "data:video/mp4;base64,AAAAEGZ0eXBpc29tAAACAA==";

/// `dto.OpenAIVideo`, with its members in order.
#[derive(Serialize)]
struct Video<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    task_id: &'a str,
    object: &'static str,
    model: &'a str,
    status: &'a str,
    progress: u8,
    created_at: u64,
    #[serde(skip_serializing_if = "is_zero")]
    completed_at: u64,
    #[serde(skip_serializing_if = "is_zero")]
    expires_at: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    seconds: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    size: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    remixed_from_video_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Reason<'a>>,
    #[serde(skip_serializing_if = "Value::is_null")]
    metadata: Value,
}

pub(super) fn document(view: &View<'_>) -> Bytes {
    match view.task.channel {
        Channel::Sora2 => raw::sora(view),
        Channel::SoraRaw => raw::sora_with_its_id(view),
        Channel::Seedance2 => raw::seedance(view),
        Channel::Grok => raw::grok(view),
        Channel::V1Rc30 => raw::rc30(view),
        _ => go_json(&object(view)),
    }
}

/// Answer to `POST /v1/videos`.
pub(super) fn created(view: &View<'_>) -> Bytes {
    go_json(&Video {
        task_id: &view.task.id,
        status: "queued",
        progress: 0,
        completed_at: 0,
        expires_at: 0,
        error: None,
        metadata: Value::Null,
        model: &view.task.model,
        ..full(view)
    })
}

/// The object on the unified path, with its URL in `output`.
pub(super) fn on_unified(view: &View<'_>) -> Bytes {
    let mut value = serde_json::to_value(Video {
        metadata: Value::Null,
        ..full(view)
    })
    .unwrap_or_default();
    if !view.url.is_empty() {
        value["output"] = json!({"video_url": view.url});
    }
    go_json(&value)
}

/// The object, as the channel's `ConvertToOpenAIVideo` writes it.
fn object<'a>(view: &'a View<'_>) -> Video<'a> {
    let default = Video {
        task_id: &view.task.id,
        status: video(view.status),
        completed_at: view.updated,
        expires_at: 0,
        seconds: String::new(),
        size: "",
        error: None,
        metadata: json!({"url": view.result_url()}),
        ..full(view)
    };
    let failed = view.status == Status::Failure;
    let error = |code| {
        failed.then_some(Reason {
            message: view.reason(),
            code,
        })
    };
    match view.task.channel {
        Channel::DoubaoSeedance => Video {
            metadata: json!({"url": view.url}),
            error: error("OutputVideoSensitiveContentDetected"),
            ..default
        },
        Channel::Kling => Video {
            model: "",
            // Kling's own times, in milliseconds.
            created_at: view.created * 1000,
            completed_at: view.updated * 1000,
            seconds: done(view, || view.task.seconds.to_string()),
            metadata: url_if_any(view),
            error: error("task_failed"),
            ..default
        },
        Channel::Jimeng => Video {
            model: "",
            metadata: url_if_any(view),
            error: error("50411"),
            ..default
        },
        Channel::Vidu => Video {
            model: "",
            metadata: url_if_any(view),
            error: error("task_failed"),
            ..default
        },
        Channel::Hailuo => Video {
            error: error("1026"),
            ..default
        },
        Channel::Ali => Video {
            // The stored vendor document takes precedence over the row.
            status: video(view.vendor),
            metadata: url_if_any(view),
            error: error("InvalidParameter.DataInspection").filter(|_| view.vendor == view.status),
            ..default
        },
        Channel::Gemini => Video {
            metadata: Value::Null,
            ..default
        },
        Channel::Vertex => Video {
            metadata: done(view, || json!({"url": TINY_VIDEO})),
            ..default
        },
        Channel::Nested => Video {
            metadata: json!({"url": view.reason()}),
            ..default
        },
        Channel::Cancelling => Video {
            status: match view.status {
                Status::InProgress => "processing",
                Status::Failure => "cancelled",
                other => video(other),
            },
            error: None,
            ..default
        },
        Channel::Row | Channel::OldRow | Channel::Bare => default,
        _ => full(view),
    }
}

/// A clean object: four statuses, and only known values.
fn full<'a>(view: &'a View<'_>) -> Video<'a> {
    Video {
        id: &view.task.id,
        task_id: "",
        object: "video",
        model: &view.task.model,
        status: match view.status {
            Status::NotStart => "queued",
            Status::Unknown => "in_progress",
            other => video(other),
        },
        progress: view.progress,
        created_at: view.created,
        completed_at: view.finished,
        expires_at: view.expires,
        seconds: view.task.seconds.to_string(),
        size: &view.task.size,
        remixed_from_video_id: &view.task.remixed_from,
        error: (view.status == Status::Failure).then_some(Reason {
            message: view.reason(),
            code: "task_failed",
        }),
        metadata: url_if_any(view),
    }
}

fn url_if_any(view: &View<'_>) -> Value {
    done(view, || json!({"url": view.url}))
}

fn done<T: Default>(view: &View<'_>, value: impl FnOnce() -> T) -> T {
    if view.status == Status::Success {
        value()
    } else {
        T::default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
