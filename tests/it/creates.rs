//! What the answer to a create tells: a poll that comes before upstream knows its own task is early, not lost.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{Method, Request};
use http_body_util::Full;

use crate::support::{Answer, Gateway, Reply, Upstream};

const MISSING: &str = r#"{"code":"task_not_exist","message":"task_not_exist","data":null}"#;

/// The path that creates, its answer, the path of polls, and where in the answer to an early poll a state is.
const ROUTES: [(&str, &str, &str, &str, &str); 8] = [
    (
        "/v1/videos",
        r#"{"id":"t-1","task_id":"t-1","object":"video","model":"m","status":"queued","progress":0,"created_at":1775908082}"#,
        "/v1/videos/t-1",
        "/status",
        "queued",
    ),
    (
        "/v1/video/generations",
        r#"{"task_id":"t-1"}"#,
        "/v1/video/generations/t-1",
        "/data/status",
        "SUBMITTED",
    ),
    (
        "/kling/v1/videos/text2video",
        r#"{"code":0,"message":"SUCCEED","data":{"task_id":"t-1","task_status":"submitted"}}"#,
        "/kling/v1/videos/text2video/t-1",
        "/data/task_status",
        "submitted",
    ),
    (
        "/kling/v1/videos/image2video",
        r#"{"id":"t-1","task_id":"t-1","object":"video","status":"queued"}"#,
        "/kling/v1/videos/image2video/t-1",
        "/data/status",
        "SUBMITTED",
    ),
    (
        "/mj/submit/imagine",
        r#"{"code":1,"description":"Submit success","result":"t-1"}"#,
        "/mj/task/t-1/fetch",
        "/status",
        "SUBMITTED",
    ),
    (
        "/suno/submit/MUSIC",
        r#"{"code":"success","message":"","data":"t-1"}"#,
        "/suno/fetch/t-1",
        "/data/status",
        "SUBMITTED",
    ),
    (
        "/v1/video/create",
        r#"{"id":"t-1","status":"pending","status_update_time":1762181811}"#,
        "/v1/video/query?id=t-1",
        "/status",
        "queued",
    ),
    (
        "/api/v3/contents/generations/tasks",
        r#"{"id":"t-1"}"#,
        "/api/v3/contents/generations/tasks/t-1",
        "/status",
        "queued",
    ),
];

async fn post(gateway: &Gateway, path: &str, key: &str, body: &str) -> Answer {
    let request = Request::builder()
        .method(Method::POST)
        .uri(gateway.client.url(path))
        .header("authorization", format!("Bearer {key}"))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_owned())));
    gateway.client.send(request.expect("a request")).await
}

#[tokio::test]
async fn a_task_that_upstream_does_not_know_yet_is_queued_for_who_created_it() {
    for (create, answer, poll, place, word) in ROUTES {
        let upstream = Upstream::start(move |asked| {
            if asked.method == Method::POST {
                Reply::json(answer)
            } else {
                Reply::new(400, "application/json", MISSING)
            }
        })
        .await;
        let gateway = Gateway::start(&upstream.url(), &[]).await;
        let missing = gateway.get(poll).await;
        assert!(
            missing.status.is_client_error(),
            "{poll}: before the create"
        );
        gateway.forget_all().await;

        let created = post(&gateway, create, "sk-test", r#"{"prompt":"x"}"#).await;
        assert_eq!(created.body, answer, "{create}: bytes unchanged");
        let early = gateway.get(poll).await;
        assert_eq!(early.status, 200, "{poll}: {:?}", early.body);
        let state = early.json().pointer(place).cloned();
        assert_eq!(state, Some(word.into()), "{poll}: {:?}", early.body);
        assert!(early.text().contains("t-1"), "{poll}");

        let stranger = gateway.client.get(poll, "sk-other", &[]).await;
        assert!(stranger.status.is_client_error(), "{poll}: another caller");

        // What upstream says of the task counts as soon as it says something.
        gateway.forget_all().await;
        upstream.now(|_| Reply::json(r#"{"id":"t-1","status":"failed"}"#));
        let told = gateway.get(poll).await.text().to_owned();
        assert!(told.contains("fail"), "{poll}: {told}");
    }
}

#[tokio::test]
async fn an_answer_that_is_compressed_tells_the_same() {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed
        .write_all(br#"{"task_id":"t-1","status":"queued"}"#)
        .expect("memory");
    let packed = Bytes::from(packed.finish().expect("memory"));
    let answer = packed.clone();
    let upstream = Upstream::start(move |asked| {
        if asked.method == Method::POST {
            Reply::json(answer.clone()).with("content-encoding", "gzip")
        } else {
            Reply::new(400, "application/json", MISSING)
        }
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let created = post(&gateway, "/v1/videos", "sk-test", "{}").await;
    assert_eq!(created.body, packed);
    assert_eq!(gateway.get("/v1/videos/t-1").await.status, 200);
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_changes_nothing() {
    let large = format!(r#"{{"task_id":"t-1","pad":"{}"}}"#, "x".repeat(70_000));
    let broken = Bytes::from_static(b"\x1f\x8b no gzip");
    for (status, kind, coding, answer) in [
        (200, "text/html", "", Bytes::from(r#"{"task_id":"t-1"}"#)),
        (200, "application/json", "", Bytes::from(large)),
        (200, "application/json", "gzip", broken.clone()),
        (200, "application/json", "br", broken),
        (
            200,
            "application/json",
            "",
            Bytes::from("{\"task_id\":\"t-"),
        ),
        (
            400,
            "application/json",
            "",
            Bytes::from(r#"{"task_id":"t-1"}"#),
        ),
    ] {
        let body = answer.clone();
        let upstream = Upstream::start(move |asked| {
            if asked.method != Method::POST {
                return Reply::new(400, "application/json", MISSING);
            }
            let reply = Reply::new(status, kind, answer.clone());
            if coding.is_empty() {
                reply
            } else {
                reply.with("content-encoding", coding)
            }
        })
        .await;
        let gateway = Gateway::start(&upstream.url(), &[]).await;
        let created = post(&gateway, "/v1/videos", "sk-test", "{}").await;
        assert_eq!((created.status.as_u16(), created.body), (status, body));
        assert_eq!(
            gateway.get("/v1/videos/t-1").await.status,
            404,
            "{status} {kind} {coding}"
        );
        assert_eq!(upstream.count(), 2, "the create is never tried again");
    }
}

#[tokio::test]
async fn a_remix_that_names_its_task_in_its_body_forgets_it() {
    let upstream = Upstream::start(|asked| {
        if asked.method == Method::POST {
            return Reply::json(r#"{"id":"t-2","status":"queued"}"#);
        }
        Reply::json(r#"{"id":"t-1","object":"video","status":"completed","progress":100,"created_at":1,"metadata":{"url":"https://h/v.mp4"}}"#)
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let is_hit = async |key: &str| {
        let answer = gateway.client.get("/v1/videos/t-1", key, &[]).await;
        assert_eq!(answer.status, 200);
        answer.header("cache-status").contains("hit")
    };
    for (path, body, forgets) in [
        ("/v1/video/remix", r#"{"task_id":"t-1"}"#, true),
        (
            "/v1/videos/edits",
            r#"{"video_id":"t-1","prompt":"x"}"#,
            true,
        ),
        ("/v1/videos/extensions", r#"{"video":{"id":"t-1"}}"#, true),
        ("/v1/video/remix", r#"{"task_id":"t-9"}"#, false),
        ("/v1/video/remix", r#"{"task_id":"t-1""#, false),
        ("/v1/video/create", r#"{"task_id":"t-1"}"#, false),
    ] {
        for key in ["sk-test", "sk-other"] {
            is_hit(key).await;
            assert!(is_hit(key).await, "{path} {body}");
        }
        assert_eq!(post(&gateway, path, "sk-test", body).await.status, 200);
        for key in ["sk-test", "sk-other"] {
            assert_eq!(is_hit(key).await, !forgets, "{path} {body}: {key}");
        }
    }
}

#[tokio::test]
async fn a_task_of_which_more_is_known_never_goes_back_to_its_create() {
    let running = r#"{"id":"t-1","object":"video","status":"in_progress","progress":25}"#;
    let upstream = Upstream::start(move |asked| {
        Reply::json(if asked.method == Method::POST {
            ROUTES[0].1
        } else {
            running
        })
    })
    .await;
    let settings = [("cache.in_flight_ttl", "1ms")];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    post(&gateway, "/v1/videos", "sk-test", "{}").await;
    assert_eq!(gateway.get("/v1/videos/t-1").await.json()["progress"], 25);
    upstream.now(|_| Reply::new(400, "application/json", MISSING));
    let after = gateway.get("/v1/videos/t-1").await;
    assert_eq!(
        (after.status.as_u16(), &after.json()["progress"]),
        (200, &25.into())
    );
}
