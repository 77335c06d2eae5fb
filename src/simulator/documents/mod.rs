//! Documents about a task, in the format of its channel.

mod native;
mod openai;
mod raw;
mod unified;
mod vendor;

use bytes::Bytes;
use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::channel::Channel;
use super::channel::ResultUrl;
use super::clock::Clock;
use super::json::go_json;
use super::life::Status;
use super::links::Links;
use super::reply::Reply;
use super::status_route::StatusRoute;
use super::tasks::Task;

/// A task at one moment: everything that a document can contain. Times are Unix seconds, 0 for "not yet".
pub(super) struct View<'a> {
    pub(super) task: &'a Task,
    pub(super) status: Status,
    /// Status in the vendor's stored document.
    pub(super) vendor: Status,
    pub(super) progress: u8,
    pub(super) created: u64,
    pub(super) started: u64,
    pub(super) finished: u64,
    pub(super) updated: u64,
    /// Empty unless there is a result.
    pub(super) url: String,
    /// When the URL expires; 0 if it does not.
    pub(super) expires: u64,
    now: Instant,
    clock: Clock,
    links: &'a Links,
}

impl<'a> View<'a> {
    pub(super) fn new(task: &'a Task, now: Instant, clock: Clock, links: &'a Links) -> Self {
        let truth = task.life.truth(now);
        let over = truth.status.is_final();
        let finished = if over { clock.unix(truth.since) } else { 0 };
        let (mut url, mut expires) = (String::new(), 0);
        if truth.status == Status::Success {
            url = match (&task.url, task.channel.result_url()) {
                (Some(url), _) => url.clone(),
                (None, ResultUrl::Proxy) => links.proxy(&task.id),
                (None, ResultUrl::Signed) => {
                    expires = finished + links.lifetime();
                    links.signed(&task.id, finished)
                }
            };
        }
        Self {
            task,
            status: truth.status,
            vendor: task.life.at(now).vendor,
            progress: truth.progress,
            created: clock.unix(task.created),
            started: task.life.started(now).map_or(0, |at| clock.unix(at)),
            finished,
            updated: clock.unix(task.life.updated(now)),
            url,
            expires,
            now,
            clock,
            links,
        }
    }

    /// Failure reason; empty if the task did not fail.
    pub(super) fn reason(&self) -> &str {
        match self.status {
            Status::Failure => &self.task.fail_reason,
            _ => "",
        }
    }

    /// new-api's `GetResultURL`: the URL, or else the failure reason.
    pub(super) fn result_url(&self) -> &str {
        if self.url.is_empty() {
            self.reason()
        } else {
            &self.url
        }
    }

    /// Width and height in pixels, if the size has this form.
    pub(super) fn pixels(&self) -> Option<(u32, u32)> {
        let (width, height) = self.task.size.split_once('x')?;
        Some((width.parse().ok()?, height.parse().ok()?))
    }

    /// The URL of the task's Midjourney image.
    pub(super) fn image(&self) -> String {
        self.links.image(&self.task.id)
    }

    /// A signed URL that is valid while the task runs.
    pub(super) fn preview(&self) -> String {
        self.links.signed(&self.task.id, self.created)
    }

    /// The current time in nanoseconds.
    pub(super) fn nanos(&self) -> u128 {
        self.clock.unix_nanos(self.now)
    }

    /// The documented `metadata`.
    pub(super) fn metadata(&self) -> Value {
        let (width, height) = self.pixels().unwrap_or((1280, 720));
        json!({"duration": self.task.seconds, "fps": 24, "height": height, "seed": self.task.number, "width": width})
    }
}

/// Answers a status poll.
pub(super) fn status(route: StatusRoute, view: &View<'_>) -> Bytes {
    match (route, view.task.channel) {
        (StatusRoute::Unified, Channel::OpenaiOnUnified) => openai::on_unified(view),
        (StatusRoute::Unified, _) => unified::document(view),
        (StatusRoute::Openai, Channel::WrapperOnOpenai) => unified::documented(view),
        (StatusRoute::Openai, _) => openai::document(view),
        (StatusRoute::Octopus, _) => native::octopus(view),
        (StatusRoute::Mj, _) => native::midjourney(view),
        (StatusRoute::Kling, _) => native::kling(view),
        (StatusRoute::Suno, _) => native::suno(view),
        (StatusRoute::Tasks, _) => native::tasks(view),
        (StatusRoute::Ark, _) => native::ark(view),
    }
}

/// Answers a create request.
pub(super) fn created(route: StatusRoute, view: &View<'_>) -> Bytes {
    match route {
        StatusRoute::Unified => go_json(&json!({
            "created_at": view.created,
            "model": view.task.model,
            "status": "queued",
            "task_id": view.task.id,
        })),
        StatusRoute::Openai => openai::created(view),
        StatusRoute::Octopus => native::octopus_created(view),
        StatusRoute::Mj => native::midjourney_created(view),
        StatusRoute::Kling => native::kling_created(view),
        StatusRoute::Suno => native::suno_created(view),
        StatusRoute::Tasks => native::tasks_created(view),
        StatusRoute::Ark => native::ark_created(view),
    }
}

/// Answers a request for a task that does not exist or belongs to another key.
pub(super) fn missing(route: StatusRoute) -> Reply {
    match route {
        // 400, not 404.
        StatusRoute::Unified | StatusRoute::Openai | StatusRoute::Octopus | StatusRoute::Suno => {
            Reply::task_error(StatusCode::BAD_REQUEST, "task_not_exist", "task_not_exist")
        }
        StatusRoute::Mj => native::midjourney_missing(),
        StatusRoute::Kling => native::kling_missing(),
        StatusRoute::Tasks => native::tasks_missing(),
        StatusRoute::Ark => native::ark_missing(),
    }
}

/// Answers a request that exceeds the rate limit.
pub(super) fn rate_limited(route: Option<StatusRoute>) -> Reply {
    const MESSAGE: &str = "当前分组上游负载已饱和，请稍后再试";
    match route {
        Some(StatusRoute::Mj) => {
            native::midjourney_error(StatusCode::TOO_MANY_REQUESTS, 30, MESSAGE)
        }
        _ => Reply::task_error(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_exceeded",
            MESSAGE,
        ),
    }
}

/// A failure's `error` member.
#[derive(Serialize)]
pub(super) struct Reason<'a> {
    pub(super) message: &'a str,
    pub(super) code: &'a str,
}

/// new-api's `mapTaskStatusToSimple`.
fn simple(status: Status) -> &'static str {
    match status {
        Status::Submitted | Status::Queued => "queued",
        Status::NotStart | Status::InProgress | Status::Unknown => "processing",
        Status::Success => "succeeded",
        Status::Failure => "failed",
    }
}

/// new-api's `ToVideoStatus`.
fn video(status: Status) -> &'static str {
    match status {
        Status::NotStart | Status::Unknown => "unknown",
        Status::Submitted | Status::Queued => "queued",
        Status::InProgress => "in_progress",
        Status::Success => "completed",
        Status::Failure => "failed",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::channel::Channel;
    use super::super::life::{Life, Rounds};
    use super::super::tasks::Polls;
    use super::*;

    /// Documents of a task of `channel` in `status` on both paths.
    fn documents(channel: Channel, status: Status) -> (Value, Value) {
        let clock = Clock::start();
        let now = clock.started();
        let rounds = Rounds {
            every: Duration::ZERO,
            clock,
        };
        let task = Task {
            id: "task_X".to_owned(),
            owner: "K".to_owned(),
            number: 6,
            vendor_id: "vendor-7".to_owned(),
            channel,
            model: "m".to_owned(),
            prompt: "a cat".to_owned(),
            seconds: 8,
            size: "1280x720".to_owned(),
            remixed_from: String::new(),
            fail_reason: "no & no".to_owned(),
            url: None,
            created: now,
            life: Life::frozen(now, status, rounds),
            polls: Polls::default(),
        };
        let links = Links::new("http://sim".to_owned(), Duration::from_mins(1));
        let view = View::new(&task, now, clock, &links);
        let read = |route| {
            let bytes = super::status(route, &view);
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains('&'), "{text}");
            serde_json::from_slice(&bytes).expect("json")
        };
        (read(StatusRoute::Unified), read(StatusRoute::Openai))
    }

    fn text(value: &Value) -> &str {
        value.as_str().unwrap_or_default()
    }

    #[test]
    fn the_documented_channel_follows_the_documentation() {
        let (unified, openai) = documents(Channel::Documented, Status::Success);
        assert!(text(&unified["data"]["url"]).starts_with("http://sim/files/task_X.mp4?X-Tos-"));
        assert_eq!(unified["data"]["status"], "succeeded");
        assert_eq!(unified["data"]["error"], Value::Null);
        assert_eq!(openai["status"], "completed");
        assert_eq!(openai["seconds"], "8");
        assert_eq!(openai["metadata"]["url"], unified["data"]["url"]);
        let (unified, openai) = documents(Channel::Documented, Status::Failure);
        assert_eq!(unified["data"]["error"]["message"], "no & no");
        assert_eq!(openai["error"]["message"], "no & no");
    }

    #[test]
    fn a_failed_row_repeats_its_reason_in_the_url() {
        for channel in [Channel::Row, Channel::Kling, Channel::DoubaoSeedance] {
            let (unified, _) = documents(channel, Status::Failure);
            assert_eq!(unified["data"]["fail_reason"], "no & no", "{channel:?}");
            assert_eq!(unified["data"]["result_url"], "no & no", "{channel:?}");
        }
        let (_, openai) = documents(Channel::Row, Status::Failure);
        assert_eq!(openai["metadata"]["url"], "no & no");
        assert_eq!(openai.get("error"), None);
    }

    #[test]
    fn a_plain_row_has_completed_at_while_queued() {
        let (unified, openai) = documents(Channel::Row, Status::Queued);
        assert_eq!(openai["status"], "queued");
        assert!(openai["completed_at"].as_u64() > Some(0));
        assert_eq!(unified["data"]["progress"], "0%");
        assert_eq!(unified["data"]["finish_time"], 0);
        assert_eq!(unified["data"].get("result_url"), None);
    }

    #[test]
    fn not_start_is_unknown_processing_or_queued() {
        assert_eq!(
            documents(Channel::Row, Status::NotStart).1["status"],
            "unknown"
        );
        assert_eq!(
            documents(Channel::Row, Status::NotStart).0["data"]["status"],
            "NOT_START"
        );
        assert_eq!(
            documents(Channel::Gemini, Status::NotStart).0["data"]["status"],
            "processing"
        );
        assert_eq!(
            documents(Channel::Fork, Status::NotStart).0["data"]["status"],
            "queued"
        );
    }

    #[test]
    fn sora_sends_zeroes_and_an_empty_error_while_queued() {
        let (_, openai) = documents(Channel::Sora2, Status::Queued);
        assert_eq!(openai["id"], "task_X");
        assert_eq!(openai["task_id"], "vendor-7");
        assert_eq!(openai["completed_at"], 0);
        assert_eq!(openai["error"], json!({"code": "", "message": ""}));
        assert_eq!(openai["video_url"], "");
        let (_, raw) = documents(Channel::SoraRaw, Status::InProgress);
        assert_eq!(raw["id"], "vendor-7");
        assert_eq!(raw.get("task_id"), None);
    }

    #[test]
    fn gemini_has_no_failure_reason_and_its_url_only_on_the_unified_path() {
        let (unified, openai) = documents(Channel::Gemini, Status::Failure);
        assert_eq!(unified["data"]["error"], Value::Null);
        assert_eq!(openai["status"], "failed");
        let (unified, openai) = documents(Channel::Gemini, Status::Success);
        assert_eq!(
            unified["data"]["url"],
            "http://sim/v1/videos/task_X/content"
        );
        assert_eq!(openai.get("metadata"), None);
        let (unified, openai) = documents(Channel::Vertex, Status::Success);
        assert_eq!(unified["data"]["format"], "video/mp4");
        assert!(text(&openai["metadata"]["url"]).starts_with("data:video/mp4;base64,"));
    }

    #[test]
    fn every_other_channel_has_its_peculiarities() {
        let (old, _) = documents(Channel::OldRow, Status::Success);
        assert!(text(&old["data"]["fail_reason"]).starts_with("http://sim/files/"));
        assert_eq!(old["data"].get("result_url"), None);
        let (bare, _) = documents(Channel::Bare, Status::Success);
        assert_eq!(
            (&bare["status"], &bare["error"]["code"]),
            (&json!("completed"), &json!(0))
        );
        let (object, _) = documents(Channel::OpenaiOnUnified, Status::Success);
        assert_eq!(object["object"], "video");
        assert!(text(&object["output"]["video_url"]).starts_with("http"));
        let (unified, openai) = documents(Channel::WrapperOnOpenai, Status::InProgress);
        assert_eq!(unified, openai);
        let (nested, openai) = documents(Channel::Nested, Status::Success);
        assert_eq!(nested["data"].get("result_url"), None);
        assert!(text(&nested["data"]["data"]["data"]["result_url"]).starts_with("http"));
        assert_eq!(openai["metadata"]["url"], "");
        let (short, openai) = documents(Channel::Seedance2, Status::Success);
        assert_eq!(short.get("message"), None);
        assert!(text(&short["data"]["data"]["content"]["video_url"]).starts_with("http"));
        assert!(text(&openai["video_url"]).starts_with("http"));
        let (_, rc30) = documents(Channel::V1Rc30, Status::Success);
        assert_eq!(
            (&rc30["status"], &rc30["progress"]),
            (&json!("SUCCESS"), &json!("100%"))
        );
        let (_, grok) = documents(Channel::Grok, Status::Success);
        assert_eq!(grok["status"], "done");
        let (_, cancelled) = documents(Channel::Cancelling, Status::Failure);
        assert_eq!(cancelled["status"], "cancelled");
        let (_, kling) = documents(Channel::Kling, Status::Success);
        assert!(kling["created_at"].as_u64() > Some(100_000_000_000));
        let (_, jimeng) = documents(Channel::Jimeng, Status::Failure);
        assert_eq!(jimeng["error"]["code"], "50411");
        let (_, hailuo) = documents(Channel::Hailuo, Status::Failure);
        assert_eq!(hailuo["error"]["code"], "1026");
    }

    #[test]
    fn ampersands_are_escaped_as_go_does() {
        let row = go_json(&json!({"a": "x&y"}));
        assert_eq!(row, r#"{"a":"x\u0026y"}"#);
    }
}
