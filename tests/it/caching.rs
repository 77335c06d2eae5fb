//! What is cached, for how long, and what removes it.

use http_body_util::Full;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::{Gateway, Reply, Upstream, eventually, row};

const FOREVER: (&str, &str) = ("cache.in_flight_ttl", "1h");
const NEVER: (&str, &str) = ("cache.in_flight_ttl", "0s");

fn succeeded(url: &str) -> String {
    format!(
        r#"{{"code":"success","message":"","data":{{"task_id":"t","status":"succeeded","url":"{url}"}}}}"#
    )
}

#[tokio::test]
async fn terminal_states_are_cached() {
    for status in ["SUCCESS", "FAILURE"] {
        let upstream = Upstream::saying(row(status)).await;
        let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
        let first = gateway.get("/v1/videos/t").await;
        let second = gateway.get("/v1/videos/t").await;
        assert_eq!(upstream.count(), 1, "{status}");
        assert_eq!(first.body, second.body);
        assert!(
            first
                .header("cache-status")
                .starts_with("pollgate; fwd=miss; stored; ttl="),
            "{first:?}"
        );
        assert!(
            second
                .header("cache-status")
                .starts_with("pollgate; hit; ttl="),
            "{second:?}"
        );
        assert_eq!((first.header("age"), second.header("age")), ("", "0"));
        assert_eq!(second.header("openai-poll-after-ms"), "");
    }
}

#[tokio::test]
async fn a_running_task_is_cached_for_in_flight_ttl_and_then_polled_again() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let kept = Gateway::start(&upstream.url(), &[FOREVER]).await;
    for _ in 0..3 {
        let answer = kept.get("/v1/videos/t").await;
        assert!(
            answer
                .header("openai-poll-after-ms")
                .parse::<u64>()
                .is_ok_and(|pause| pause > 0),
            "{answer:?}"
        );
    }
    assert_eq!(upstream.count(), 1);
    let asked = Gateway::start(&upstream.url(), &[NEVER]).await;
    for _ in 0..3 {
        asked.get("/v1/videos/t").await;
    }
    assert_eq!(upstream.count(), 4);
}

#[tokio::test]
async fn a_success_without_a_url_is_not_cached_longer_than_a_running_task() {
    let upstream = Upstream::saying(succeeded("")).await;
    let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
    gateway.get("/v1/videos/t").await;
    upstream.now(|_| Reply::json(succeeded("https://cdn.example.com/v.mp4")));
    assert_eq!(
        gateway.get("/v1/videos/t").await.json()["video_url"],
        "https://cdn.example.com/v.mp4"
    );
}

#[tokio::test]
async fn a_success_is_not_cached_past_the_expiry_of_its_signed_url() {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    // Expires within the margin of five minutes.
    let upstream = Upstream::saying(succeeded(&format!(
        "https://cdn.example.com/v.mp4?Expires={}",
        now + 200
    )))
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for _ in 0..2 {
        gateway.get("/v1/videos/t").await;
    }
    assert_eq!(upstream.count(), 2);
    upstream.now(move |_| {
        Reply::json(succeeded(&format!(
            "https://cdn.example.com/v.mp4?Expires={}",
            now + 400
        )))
    });
    for _ in 0..2 {
        let answer = gateway.get("/v1/videos/t").await;
        let (_, ttl) = answer
            .header("cache-status")
            .split_once("ttl=")
            .expect("has one");
        assert!(ttl.parse::<u64>().is_ok_and(|ttl| ttl <= 100), "{answer:?}");
    }
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn a_missing_task_is_cached_for_missing_ttl_and_no_other_error_ever() {
    let missing = r#"{"code":"task_not_exist","message":"task_not_exist","data":null}"#;
    for (status, body, asked) in [
        (400, missing, 1),
        (
            400,
            r#"{"code":"invalid_channel_id","message":"x","data":null}"#,
            2,
        ),
        (404, "{}", 2),
    ] {
        let upstream = Upstream::start(move |_| Reply::new(status, "application/json", body)).await;
        let gateway = Gateway::start(&upstream.url(), &[("cache.missing_ttl", "1h")]).await;
        for _ in 0..2 {
            gateway.get("/v1/video/generations/t").await;
        }
        assert_eq!(upstream.count(), asked, "{status} {body}");
    }
}

#[tokio::test]
async fn if_none_match_gives_304_while_the_document_is_the_same() {
    let upstream = Upstream::saying(row("QUEUED")).await;
    let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
    let first = gateway.get("/v1/videos/t").await;
    let tag = first.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.len() > 10, "{tag}");
    for known in [tag.clone(), format!("\"other\", W/{tag}"), "*".into()] {
        let answer = gateway
            .client
            .get("/v1/videos/t", "sk-test", &[("if-none-match", &known)])
            .await;
        assert_eq!(
            (answer.status.as_u16(), answer.body.len()),
            (304, 0),
            "{known}"
        );
        assert_eq!(answer.header("etag"), tag);
    }
    upstream.now(|_| Reply::json(row("IN_PROGRESS")));
    let changed = gateway
        .client
        .get("/v1/videos/t", "sk-test", &[("if-none-match", &tag)])
        .await;
    assert_eq!(changed.status, 200);
    assert_ne!(changed.header("etag"), tag);
}

#[tokio::test]
async fn clients_choose_no_cache_or_only_if_cached() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let ask = async |directive| {
        gateway
            .client
            .get("/v1/videos/t", "sk-test", &[("cache-control", directive)])
            .await
    };
    let nothing = ask("only-if-cached").await;
    assert_eq!((nothing.status.as_u16(), upstream.count()), (504, 0));
    ask("max-age=60").await;
    assert_eq!(ask("only-if-cached").await.status, 200);
    assert_eq!(upstream.count(), 1);
    for (times, directive) in ["no-cache", "max-age=0"].into_iter().enumerate() {
        let answer = ask(directive).await;
        assert!(
            answer
                .header("cache-status")
                .starts_with("pollgate; fwd=request; stored"),
            "{answer:?}"
        );
        assert_eq!(upstream.count(), times + 2);
    }
}

#[tokio::test]
async fn a_write_to_a_task_invalidates_it_on_both_paths() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let polls = async || {
        gateway.get("/v1/videos/t").await;
        gateway.get("/v1/video/generations/t").await;
        upstream
            .asked()
            .iter()
            .filter(|asked| asked.method == "GET")
            .count()
    };
    assert_eq!(polls().await, 2);
    assert_eq!(polls().await, 2);
    for (times, (method, path)) in [("DELETE", "/v1/videos/t"), ("POST", "/v1/videos/t/remix")]
        .into_iter()
        .enumerate()
    {
        let request = http::Request::builder()
            .method(method)
            .uri(gateway.client.url(path));
        gateway
            .client
            .send(request.body(Full::default()).unwrap())
            .await;
        assert_eq!(polls().await, 4 + 2 * times, "{method} {path}");
    }
}

#[tokio::test]
async fn a_poll_sent_before_a_delete_does_not_bring_the_task_back() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    upstream.close_gate();
    let early = tokio::spawn({
        let client = gateway.client.clone();
        async move { client.get("/v1/videos/t", "sk-test", &[]).await }
    });
    upstream.was_asked(1).await;
    let delete = tokio::spawn({
        let client = gateway.client.clone();
        let request = http::Request::delete(client.url("/v1/videos/t"))
            .body(Full::default())
            .unwrap();
        async move { client.send(request).await }
    });
    upstream.was_asked(2).await;
    upstream.let_pass(2);
    early.await.unwrap();
    delete.await.unwrap();
    upstream.let_pass(1);
    upstream.now(|_| {
        Reply::new(
            400,
            "application/json",
            r#"{"code":"task_not_exist","message":"","data":null}"#,
        )
    });
    assert_eq!(gateway.get("/v1/videos/t").await.status, 404);
}

#[tokio::test]
async fn memory_for_answers_stays_within_capacity() {
    let upstream = Upstream::start(|asked| {
        let padding = "x".repeat(2000);
        let id = asked.target.rsplit('/').next().unwrap_or_default();
        Reply::json(format!(r#"{{"code":"success","data":{{"task_id":"{id}","status":"IN_PROGRESS","padding":"{padding}"}}}}"#))
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[FOREVER, ("cache.capacity", "64KiB")]).await;
    for number in 0..200 {
        gateway
            .get(&format!("/v1/video/generations/t{number}"))
            .await;
    }
    eventually("the oldest have gone", async || {
        gateway.metric("pollgate_cache_bytes").await <= 65_536.0
    })
    .await;
    assert!(gateway.metric("pollgate_cache_entries").await >= 5.0);
    assert!(
        gateway
            .metric("pollgate_cache_evictions_total{cause=\"size\"}")
            .await
            >= 100.0
    );
}

#[tokio::test]
async fn the_last_known_state_is_served_while_upstream_fails() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
    let known = gateway.get("/v1/videos/t").await;
    for failing in [
        Reply::new(429, "text/plain", ""),
        Reply::new(
            500,
            "application/json",
            r#"{"code":"get_task_failed","message":"x","data":null}"#,
        ),
        Reply::new(502, "text/html", "<html>"),
        Reply::new(200, "text/html", "<html>"),
        Reply::json("{\"code\":\"succ"),
    ] {
        upstream.now(move |_| failing.clone());
        let before = upstream.count();
        let answer = gateway.get("/v1/videos/t").await;
        assert_eq!((answer.status.as_u16(), &answer.body), (200, &known.body));
        // Forwarded only where upstream was asked; it is left alone for a while after each failure.
        let asked = upstream.count() > before;
        let way = if asked { "fwd=stale" } else { "hit" };
        let cache_status = answer.header("cache-status");
        assert!(
            cache_status.starts_with(&format!("pollgate; {way}; ttl="))
                && cache_status.ends_with("; detail=stale_if_error"),
            "{answer:?}"
        );
        assert_eq!(answer.header("cache-control"), "private, no-cache");
        assert_ne!(answer.header("age"), "");
        // Only the task that was cached.
        assert!(gateway.get("/v1/videos/other").await.status.as_u16() >= 400);
    }
}
