//! Videos: the content endpoint, byte ranges and signed URLs.

use std::time::Duration;

use http_body_util::Full;
use hyper::StatusCode;
use pollgate::simulator::{Settings, Status, content_bytes};
use tokio::time::advance;

use crate::world::{OPENAI, UNIFIED, World, text};

#[tokio::test(start_paused = true)]
async fn content_comes_whole_in_ranges_or_not_at_all() {
    let size = 200_000;
    let world = World::with(Settings {
        video_size: size,
        ..Settings::default()
    })
    .await;
    let id = world.held("kling", Status::InProgress);
    let path = format!("{OPENAI}/{id}/content");
    let early = world.get(&path).await;
    assert_eq!(early.status, 400);
    let told = "Task is not completed yet, current status: IN_PROGRESS";
    assert_eq!(early.json()["error"]["message"], told);
    assert!(world.simulator.force(&id, Status::Success));
    let whole = world.get(&path).await;
    assert_eq!(whole.status, 200);
    assert_eq!(whole.header("content-type"), "video/mp4");
    assert_eq!(whole.body, content_bytes(&id, 0..size));
    let ranged = async |method, range: &str| {
        let request = world.request(method, &path).header("range", range);
        world
            .send(request.body(Full::default()).expect("valid"))
            .await
    };
    let part = ranged("GET", "bytes=65530-131080").await;
    assert_eq!(part.status, 206);
    assert_eq!(part.header("content-range"), "bytes 65530-131080/200000");
    assert_eq!(part.body, whole.body.slice(65_530..131_081));
    let beyond = ranged("GET", "bytes=200000-").await;
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.header("content-range"), "bytes */200000");
    let head = ranged("HEAD", "bytes=0-").await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (StatusCode::PARTIAL_CONTENT, "200000")
    );
    assert!(head.body.is_empty());
    let foreign = world.as_key("Bearer sk-L", &path).await;
    assert_eq!(foreign.status, 404);
    assert_eq!(foreign.json()["error"]["message"], "Task not found");
}

#[tokio::test(start_paused = true)]
async fn a_signed_url_needs_no_key_and_expires_and_content_with_it() {
    let world = World::with(Settings {
        url_lifetime: Duration::from_mins(1),
        ..Settings::default()
    })
    .await;
    let id = world.held("doubao-seedance", Status::Success);
    let row = world.get(&format!("{UNIFIED}/{id}")).await.json();
    let url = text(&row["data"]["result_url"]).to_owned();
    assert!(url.starts_with(&format!("http://{}/files/", world.address)));
    assert_eq!(row["data"]["data"]["content"]["video_url"], url);
    let content = format!("{OPENAI}/{id}/content");
    assert_eq!(world.as_key("", &url).await.status, 200);
    assert_eq!(world.get(&content).await.status, 200);
    advance(Duration::from_secs(61)).await;
    assert_eq!(world.get(&url).await.status, 403);
    assert_eq!(world.get(&content).await.status, 502);
    let again = world.get(&format!("{UNIFIED}/{id}")).await.json();
    assert_eq!(again["data"]["result_url"], url);
    let platform = world.held("gemini", Status::Success);
    advance(Duration::from_secs(61)).await;
    let path = format!("{OPENAI}/{platform}/content");
    assert_eq!(world.get(&path).await.status, 200);
}
