//! Two routes without tasks: a sink for uploads, and a stream of events.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::counts::Counter;
use super::create;
use super::dice::{FNV_START, checksum};
use super::reply::Reply;

const WORDS: [&str; 5] = ["This", " video", " does", " not", " exist."];

/// Reads a body to its end, keeps none of it, and returns its length and checksum (FNV-1a, 64 bits).
pub(super) async fn upload(counter: &Counter, mut body: Incoming) -> Reply {
    let (mut bytes, mut sum) = (0, FNV_START);
    while let Some(frame) = body.frame().await {
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                let message = format!("the body is incomplete after {bytes} bytes: {error}");
                return Reply::content_error(StatusCode::BAD_REQUEST, &message);
            }
        };
        if let Some(data) = frame.data_ref() {
            bytes += data.len() as u64;
            sum = checksum(sum, data);
            counter.uploaded(data.len() as u64);
        }
    }
    let receipt =
        json!({"bytes": bytes, "checksum": format!("fnv1a:{sum:016x}"), "object": "file"});
    Reply::json(StatusCode::OK, &receipt)
}

/// A chat completion of five words; streamed on request, with a gap between events.
pub(super) async fn chat(gap: Duration, body: Incoming) -> Reply {
    let asked = match create::json(body).await {
        Ok(asked) => asked,
        Err(error) => {
            let (status, message) = error.describe();
            return Reply::content_error(status, &message);
        }
    };
    let model = asked["model"].clone();
    if asked["stream"] != Value::Bool(true) {
        let message = json!({"content": WORDS.concat(), "role": "assistant"});
        let choice = json!({"finish_reason": "stop", "index": 0, "message": message});
        let answer = json!({"choices": [choice], "id": "chatcmpl-simulated", "model": model,
                            "object": "chat.completion"});
        return Reply::json(StatusCode::OK, &answer);
    }
    let chunk = move |word: &str| {
        let choice = json!({"delta": {"content": word}, "index": 0});
        let chunk = json!({"choices": [choice], "id": "chatcmpl-simulated", "model": model,
                           "object": "chat.completion.chunk"});
        format!("data: {chunk}\n\n")
    };
    let events: Vec<_> = WORDS
        .iter()
        .map(|word| chunk(word))
        .chain(["data: [DONE]\n\n".to_owned()])
        .enumerate()
        .collect();
    let events = stream::iter(events).then(move |(at, event)| async move {
        if at > 0 {
            tokio::time::sleep(gap).await;
        }
        Bytes::from(event)
    });
    Reply::stream(StatusCode::OK, "text/event-stream", None, events)
}
