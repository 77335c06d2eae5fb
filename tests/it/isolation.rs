//! Callers never share an answer or a flight, and nothing of one client reaches another.

use crate::support::{Gateway, Reply, Upstream, eventually, row};
use http_body_util::Full;

/// An upstream whose answer depends on the key.
async fn upstream_by_key() -> Upstream {
    Upstream::start(|asked| {
        let key = asked.header("authorization").trim_start_matches("Bearer ").to_owned();
        Reply::json(format!(
            r#"{{"code":"success","message":"","data":{{"task_id":"t","status":"SUCCESS","url":"https://cdn.example.com/{key}.mp4"}}}}"#
        ))
    })
    .await
}

#[tokio::test]
async fn two_keys_polling_the_same_id_are_two_upstream_requests() {
    let upstream = upstream_by_key().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    upstream.close_gate();
    let polls: Vec<_> = (0..20)
        .map(|number| {
            let (client, key) = (gateway.client.clone(), format!("sk-{}", number % 2));
            tokio::spawn(async move { (key.clone(), client.get("/v1/videos/t", &key, &[]).await) })
        })
        .collect();
    eventually("all of them wait", async || {
        gateway.metric("pollgate_waiters").await >= 20.0
    })
    .await;
    upstream.let_pass(2);
    for poll in polls {
        let (key, answer) = poll.await.unwrap();
        assert_eq!(
            answer.json()["video_url"],
            format!("https://cdn.example.com/{key}.mp4")
        );
    }
    assert_eq!(upstream.count(), 2);
    // Cached answers are separate as well.
    for key in ["sk-0", "sk-1"] {
        let answer = gateway.client.get("/v1/videos/t", key, &[]).await;
        assert_eq!(
            answer.json()["video_url"],
            format!("https://cdn.example.com/{key}.mp4")
        );
        assert!(answer.header("cache-status").starts_with("pollgate; hit"));
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn the_query_string_and_every_credential_header_make_a_caller() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let client = &gateway.client;
    client.get("/v1/videos/t", "sk-1", &[]).await;
    client.get("/v1/videos/t?user=1", "sk-1", &[]).await;
    client.get("/v1/videos/t?user=2", "sk-1", &[]).await;
    for name in [
        "x-api-key",
        "api-key",
        "x-goog-api-key",
        "mj-api-secret",
        "openai-organization",
        "openai-project",
    ] {
        client.get("/v1/videos/t", "sk-1", &[(name, "1")]).await;
    }
    assert_eq!(upstream.count(), 9);
    assert_eq!(upstream.asked()[1].target, "/v1/videos/t?user=1");
    client.get("/v1/videos/t?user=2", "sk-1", &[]).await;
    assert_eq!(upstream.count(), 9);
}

#[tokio::test]
async fn cookies_of_a_cdn_neither_split_a_key_nor_reach_upstream() {
    let upstream =
        Upstream::start(|_| Reply::json(row("SUCCESS")).with("set-cookie", "__cf_bm=secret")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let first = gateway
        .client
        .get("/v1/videos/t", "sk-1", &[("cookie", "__cf_bm=1")])
        .await;
    gateway
        .client
        .get(
            "/v1/videos/t",
            "sk-1",
            &[("cookie", "__cf_bm=2"), ("user-agent", "x")],
        )
        .await;
    assert_eq!(upstream.count(), 1);
    assert_eq!(upstream.asked()[0].header("cookie"), "");
    assert_eq!(first.header("set-cookie"), "");
    assert_eq!(first.header("vary"), "authorization");
}

#[tokio::test]
async fn cookies_are_the_credential_where_there_is_no_other() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for session in ["a", "b", "a"] {
        let request =
            http::Request::get(gateway.client.url("/v1/videos/t")).header("cookie", session);
        let answer = gateway
            .client
            .send(request.body(Full::default()).unwrap())
            .await;
        assert_eq!(answer.header("vary"), "cookie");
    }
    assert_eq!(upstream.count(), 2);
    assert_eq!(upstream.asked()[0].header("cookie"), "a");
}

#[tokio::test]
async fn a_refused_credential_purges_all_that_the_caller_had() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let client = &gateway.client;
    for (path, key) in [
        ("/v1/videos/a", "sk-1"),
        ("/v1/videos/b", "sk-1"),
        ("/v1/videos/a", "sk-2"),
    ] {
        client.get(path, key, &[]).await;
    }
    upstream.now(|_| {
        Reply::new(
            401,
            "application/json",
            r#"{"error":{"code":"","message":"spent","type":"new_api_error"}}"#,
        )
    });
    assert_eq!(client.get("/v1/videos/c", "sk-1", &[]).await.status, 401);
    assert_eq!(client.get("/v1/videos/a", "sk-1", &[]).await.status, 401);
    assert_eq!(client.get("/v1/videos/b", "sk-1", &[]).await.status, 401);
    assert_eq!(
        client.get("/v1/videos/a", "sk-2", &[]).await.status,
        200,
        "another caller keeps its own"
    );
}

#[tokio::test]
async fn a_cached_answer_needs_a_credential_that_upstream_accepted_recently() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.credential_ttl", "0s")]).await;
    gateway.get("/v1/videos/t").await;
    upstream.now(|_| Reply::new(401, "application/json", "{}"));
    assert_eq!(gateway.get("/v1/videos/t").await.status, 401);
}
