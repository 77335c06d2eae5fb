//! Concurrent polls of one task cost upstream one request, whichever clients connect or hang up.

use crate::support::{Client, Gateway, Reply, Upstream, eventually, row};
use http_body_util::Full;

#[tokio::test]
async fn a_thousand_polls_of_one_unfinished_task_on_both_paths_are_one_upstream_request() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("upstream.dialect", "unified")]).await;
    upstream.close_gate();
    let polls: Vec<_> = (0..1000)
        .map(|number| {
            let path = ["/v1/videos/t", "/v1/video/generations/t"][number % 2];
            let client = gateway.client.clone();
            tokio::spawn(async move { (number, client.get(path, "sk-1", &[]).await) })
        })
        .collect();
    eventually("all of them wait", async || {
        gateway.metric("pollgate_waiters").await >= 1000.0
    })
    .await;
    upstream.let_pass(1);
    for poll in polls {
        let (number, answer) = poll.await.unwrap();
        assert_eq!(answer.status, 200);
        let json = answer.json();
        if number % 2 == 0 {
            assert_eq!(
                (&json["id"], &json["status"]),
                (&"t".into(), &"in_progress".into())
            );
        } else {
            assert_eq!(
                json["data"]["status"], "IN_PROGRESS",
                "the bytes of upstream"
            );
        }
    }
    assert_eq!(upstream.count(), 1);
    assert_eq!(upstream.asked()[0].target, "/v1/video/generations/t");
    assert_eq!(gateway.metric("pollgate_waiters").await, 0.0);
    assert_eq!(gateway.metric("pollgate_flights").await, 0.0);
    assert_eq!(
        gateway
            .metric("pollgate_upstream_polls_avoided_total")
            .await,
        999.0
    );
}

#[tokio::test]
async fn a_leader_that_hangs_up_changes_nothing_for_its_followers() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    upstream.close_gate();
    let first = tokio::spawn({
        let client = Client::new(gateway.address);
        async move { client.get("/v1/videos/t", "sk-1", &[]).await }
    });
    upstream.was_asked(1).await;
    let second = tokio::spawn({
        let client = gateway.client.clone();
        async move { client.get("/v1/videos/t", "sk-1", &[]).await }
    });
    eventually("both wait", async || {
        gateway.metric("pollgate_waiters").await >= 2.0
    })
    .await;
    first.abort();
    eventually("one is gone", async || {
        gateway.metric("pollgate_waiters").await <= 1.0
    })
    .await;
    upstream.let_pass(1);
    let answer = second.await.unwrap();
    assert_eq!((answer.status.as_u16(), upstream.count()), (200, 1));
    assert!(
        answer.header("cache-status").contains("collapsed"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn when_every_client_hangs_up_the_flight_is_aborted_and_the_next_poll_starts_a_new_one() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    upstream.close_gate();
    let only = tokio::spawn({
        let client = Client::new(gateway.address);
        async move { client.get("/v1/videos/t", "sk-1", &[]).await }
    });
    upstream.was_asked(1).await;
    only.abort();
    eventually("no flight is left", async || {
        gateway.metric("pollgate_flights").await == 0.0
    })
    .await;
    upstream.let_pass(2);
    assert_eq!(gateway.get("/v1/videos/t").await.status, 200);
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn an_answer_that_is_not_stored_is_shared_with_its_followers_and_no_one_else() {
    let upstream =
        Upstream::start(|_| Reply::new(418, "application/json", r#"{"error":{"message":"no"}}"#))
            .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    upstream.close_gate();
    let polls: Vec<_> = (0..20)
        .map(|_| {
            let client = gateway.client.clone();
            tokio::spawn(async move { client.get("/v1/videos/t", "sk-1", &[]).await })
        })
        .collect();
    eventually("all of them wait", async || {
        gateway.metric("pollgate_waiters").await >= 20.0
    })
    .await;
    upstream.let_pass(2);
    for poll in polls {
        assert_eq!(poll.await.unwrap().status, 418);
    }
    assert_eq!(upstream.count(), 1);
    assert_eq!(gateway.get("/v1/videos/t").await.status, 418);
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn head_shares_with_get_and_has_its_headers_without_a_body() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.in_flight_ttl", "1h")]).await;
    let request = http::Request::head(gateway.client.url("/v1/videos/t"))
        .header("authorization", "Bearer sk-test");
    let head = gateway
        .client
        .send(request.body(Full::default()).unwrap())
        .await;
    let get = gateway.get("/v1/videos/t").await;
    assert_eq!(upstream.count(), 1);
    assert!(head.body.is_empty());
    assert_eq!(head.header("content-length"), get.body.len().to_string());
    assert_eq!(head.header("etag"), get.header("etag"));
    assert_eq!(upstream.asked()[0].method, "GET");
}
