//! Everything beside tasks: request ids, unknown paths, uploads, chat streams and shutdown.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use pollgate::simulator::{Fault, Status};
use serde_json::json;
use tokio::time::Instant;

use crate::world::{OPENAI, World, text};

#[tokio::test(start_paused = true)]
async fn a_response_has_a_request_id_unless_the_request_had_one() {
    let world = World::new().await;
    let id = world.held("kling", Status::InProgress);
    let answer = world.get(&format!("{OPENAI}/{id}")).await;
    assert!(answer.header("x-oneapi-request-id").len() > 14);
    assert!(!answer.header("x-new-api-version").is_empty());
    assert_eq!(answer.header("cache-control"), "");
    let request = world
        .request("GET", &format!("{OPENAI}/{id}"))
        .header("x-oneapi-request-id", "mine")
        .header("origin", "http://page")
        .body(Full::default());
    let answer = world.send(request.expect("valid")).await;
    assert_eq!(answer.header("x-oneapi-request-id"), "");
    assert_eq!(answer.header("access-control-allow-origin"), "*");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_path_is_a_404_below_v1_and_a_page_elsewhere() {
    let world = World::new().await;
    let request = world
        .request("DELETE", "/v1/videos/x")
        .body(Full::default());
    let answer = world.send(request.expect("valid")).await;
    assert_eq!(answer.status, 404);
    assert_eq!(
        answer.body,
        r#"{"error":{"message":"Invalid URL (DELETE /v1/videos/x)","type":"invalid_request_error","param":"","code":""}}"#
    );
    assert_eq!(answer.header("cache-control"), "max-age=604800");
    let head = world.request("HEAD", "/v1/videos/x").body(Full::default());
    assert_eq!(world.send(head.expect("valid")).await.status, 404);
    let page = world.get("/pricing").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
}

#[tokio::test(start_paused = true)]
async fn uploads_are_counted_and_chats_are_streamed() {
    let world = World::new().await;
    let body = Bytes::from(vec![7; 3 << 20]);
    let request = world.request("POST", "/v1/files").body(body.clone().into());
    let answer = world.send(request.expect("valid")).await.json();
    assert_eq!(answer["bytes"], 3 << 20);
    assert!(text(&answer["checksum"]).starts_with("fnv1a:"));
    assert_eq!(world.simulator.counts().uploaded_bytes, 3 << 20);
    let request = world
        .request("POST", "/v1/chat/completions")
        .body(json!({"model": "m", "stream": true}).to_string().into());
    let begin = Instant::now();
    let stream = world.send(request.expect("valid")).await;
    assert_eq!(stream.header("content-type"), "text/event-stream");
    let events = String::from_utf8_lossy(&stream.body);
    assert_eq!(events.matches("data: ").count(), 6);
    assert!(events.ends_with("data: [DONE]\n\n"));
    assert!(begin.elapsed() >= Duration::from_millis(500));
    let plain = world
        .post("/v1/chat/completions", &json!({"model": "m"}))
        .await;
    assert_eq!(plain.json()["object"], "chat.completion");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_stalled_answer() {
    let world = World::new().await;
    let id = world.held("documented", Status::InProgress);
    world.simulator.faults().set([Fault::Stall]);
    let request = world.request("GET", &format!("{OPENAI}/{id}"));
    let stalled = tokio::spawn(
        world
            .client
            .request(request.body(Full::default()).expect("valid")),
    );
    world.simulator.await_polls(1).await;
    world.stop.send(()).expect("still running");
    world.served.await.expect("no panic").expect("served");
    assert!(stalled.await.expect("no panic").is_err());
}
