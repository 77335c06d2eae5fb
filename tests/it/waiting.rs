//! Waiting instead of polling: `Prefer: wait` and event streams, on the same URLs.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;

use crate::support::{Answer, Client, Gateway, PATIENCE, Reply, Upstream, eventually, row};

const QUICK: (&str, &str) = ("cache.in_flight_ttl", "50ms");

async fn wait(client: Client, headers: &[(&str, &str)]) -> Answer {
    client
        .get(
            "/v1/videos/t",
            "sk-test",
            &[&[("prefer", "wait=15")], headers].concat(),
        )
        .await
}

/// Sends one waiting poll in the background.
fn held(
    gateway: &Gateway,
    headers: &'static [(&'static str, &'static str)],
) -> tokio::task::JoinHandle<Answer> {
    let client = gateway.client.clone();
    tokio::spawn(async move { wait(client, headers).await })
}

#[tokio::test]
async fn a_wait_is_held_until_the_end_of_the_task() {
    let upstream = Upstream::saying(row("QUEUED")).await;
    let gateway = Gateway::start(&upstream.url(), &[QUICK]).await;
    let waiting = held(&gateway, &[]);
    upstream.was_asked(2).await;
    upstream.now(|_| Reply::json(row("IN_PROGRESS")));
    let seen = upstream.count();
    upstream.was_asked(seen + 2).await;
    assert!(
        !waiting.is_finished(),
        "without a validator only the end is news"
    );
    upstream.now(|_| Reply::json(row("SUCCESS")));
    let answer = waiting.await.unwrap();
    assert_eq!(answer.json()["status"], "completed");
    assert_eq!(answer.header("preference-applied"), "wait");
}

#[tokio::test]
async fn with_a_validator_a_change_ends_the_wait_and_its_end_is_304() {
    let upstream = Upstream::saying(row("QUEUED")).await;
    let gateway = Gateway::start(&upstream.url(), &[QUICK]).await;
    let known = gateway.get("/v1/videos/t").await.header("etag").to_owned();
    let short = [("prefer", "wait=1"), ("if-none-match", known.as_str())];
    let same = gateway.client.get("/v1/videos/t", "sk-test", &short).await;
    assert_eq!(
        (same.status.as_u16(), same.header("preference-applied")),
        (304, "wait")
    );
    let waiting = tokio::spawn({
        let client = gateway.client.clone();
        async move { wait(client, &[("if-none-match", &known)]).await }
    });
    let seen = upstream.count();
    upstream.was_asked(seen + 2).await;
    upstream.now(|_| Reply::json(row("IN_PROGRESS")));
    assert_eq!(waiting.await.unwrap().json()["status"], "in_progress");
}

#[tokio::test]
async fn a_wait_ends_with_the_current_state_after_its_time_or_the_limit() {
    let upstream = Upstream::saying(row("QUEUED")).await;
    let gateway = Gateway::start(&upstream.url(), &[QUICK, ("limits.max_wait", "1s")]).await;
    let started = Instant::now();
    let answer = wait(gateway.client.clone(), &[]).await;
    assert_eq!(
        (answer.status.as_u16(), answer.json()["status"].as_str()),
        (200, Some("queued"))
    );
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(upstream.count() >= 3);
}

#[tokio::test]
async fn a_missing_task_and_a_refused_credential_end_a_wait_at_once() {
    for (reply, status) in [
        (
            Reply::new(
                400,
                "application/json",
                r#"{"code":"task_not_exist","message":"","data":null}"#,
            ),
            404,
        ),
        (
            Reply::new(
                401,
                "application/json",
                r#"{"error":{"message":"no","code":""}}"#,
            ),
            401,
        ),
    ] {
        let upstream = Upstream::start(move |_| reply.clone()).await;
        let gateway = Gateway::start(&upstream.url(), &[QUICK]).await;
        assert_eq!(wait(gateway.client.clone(), &[]).await.status, status);
        assert_eq!(upstream.count(), 1);
    }
}

#[tokio::test]
async fn a_wait_outlasts_an_upstream_failure_and_sees_the_end() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[QUICK]).await;
    let waiting = held(&gateway, &[]);
    upstream.was_asked(2).await;
    upstream.now(|_| Reply::new(500, "application/json", "{}"));
    let seen = upstream.count();
    upstream.was_asked(seen + 2).await;
    assert!(!waiting.is_finished());
    upstream.now(|_| Reply::json(row("SUCCESS")));
    assert_eq!(waiting.await.unwrap().json()["status"], "completed");
}

#[tokio::test]
async fn waits_on_one_task_share_its_polls_and_leave_nothing_behind() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.in_flight_ttl", "1h")]).await;
    let waiting: Vec<_> = (0..200).map(|_| held(&gateway, &[])).collect();
    eventually("all of them wait", async || {
        gateway.metric("pollgate_waiters").await >= 200.0
    })
    .await;
    assert_eq!(upstream.count(), 1);
    for waiter in waiting {
        waiter.abort();
    }
    drop(gateway.client.clone());
    eventually("all are gone", async || {
        gateway.metric("pollgate_waiters").await == 0.0
    })
    .await;
    assert_eq!(upstream.count(), 1, "nobody waiting, no polling");
}

#[tokio::test]
async fn held_polls_get_the_latest_known_state_when_the_gateway_stops() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let mut gateway = Gateway::start(&upstream.url(), &[("cache.in_flight_ttl", "1h")]).await;
    let waiting = held(&gateway, &[]);
    let stream = Events::open(&gateway, "/v1/videos/t", &[]).await;
    eventually("both wait", async || {
        gateway.metric("pollgate_waiters").await >= 2.0
    })
    .await;
    gateway.signal("-TERM");
    assert_eq!(waiting.await.unwrap().json()["status"], "in_progress");
    assert!(stream.rest().await.is_empty());
    assert_eq!(gateway.ended().await.code(), Some(0));
}

/// An open event stream.
struct Events {
    head: http::response::Parts,
    body: Incoming,
    buffer: String,
}

impl Events {
    async fn open(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut request = Request::get(gateway.client.url(path))
            .header("authorization", "Bearer sk-test")
            .header("accept", "text/event-stream");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let pool = Pool::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
        let answer = pool
            .request(request.body(Full::default()).unwrap())
            .await
            .expect("an answer");
        let (head, body) = answer.into_parts();
        let mut events = Self {
            head,
            body,
            buffer: String::new(),
        };
        if events.head.status == 200 {
            assert_eq!(
                events
                    .next_block()
                    .await
                    .as_deref()
                    .map(|block| block.starts_with("retry: ")),
                Some(true)
            );
        }
        events
    }

    /// Returns the next block of lines; `None` at the end. The caller of `open` reads the first `retry` line.
    async fn next_block(&mut self) -> Option<String> {
        let reading = async {
            loop {
                if let Some((block, rest)) = self.buffer.split_once("\n\n") {
                    let (block, rest) = (block.to_owned(), rest.to_owned());
                    if let Some((retry, event)) = block
                        .split_once('\n')
                        .filter(|(line, _)| line.starts_with("retry: "))
                    {
                        self.buffer = format!("{event}\n\n{rest}");
                        return Some(retry.to_owned());
                    }
                    self.buffer = rest;
                    return Some(block);
                }
                let frame = self.body.frame().await?.expect("a whole stream");
                self.buffer
                    .push_str(std::str::from_utf8(frame.data_ref().expect("data")).expect("text"));
            }
        };
        tokio::time::timeout(PATIENCE, reading)
            .await
            .expect("in time")
    }

    /// Kind, id and document of the next event.
    async fn next(&mut self) -> (String, String, serde_json::Value) {
        let block = self.next_block().await.expect("an event");
        let field = |name: &str| {
            block
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .to_owned()
        };
        let data = serde_json::from_str(&field("data: "))
            .unwrap_or_else(|error| panic!("{error}: {block}"));
        (field("event: "), field("id: "), data)
    }

    /// Reads the stream to its end, and returns the blocks that are not comments.
    async fn rest(mut self) -> Vec<String> {
        let mut rest = Vec::new();
        while let Some(block) = self.next_block().await {
            rest.push(block);
        }
        rest.retain(|block| !block.starts_with(':') && !block.contains("in_progress"));
        rest
    }
}

#[tokio::test]
async fn a_stream_sends_every_change_in_the_dialect_of_its_path_and_ends_with_the_task() {
    for (path, words) in [
        ("/v1/videos/t", ["queued", "in_progress", "completed"]),
        (
            "/v1/video/generations/t",
            ["QUEUED", "IN_PROGRESS", "SUCCESS"],
        ),
    ] {
        let upstream = Upstream::saying(row("QUEUED")).await;
        let gateway = Gateway::start(&upstream.url(), &[QUICK]).await;
        let mut events = Events::open(&gateway, path, &[]).await;
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-cache"),
            ("x-accel-buffering", "no"),
            ("via", "1.1 pollgate"),
        ] {
            assert_eq!(events.head.headers[name], value);
        }
        for (word, next) in words.into_iter().zip(["IN_PROGRESS", "SUCCESS", ""]) {
            let (kind, id, document) = events.next().await;
            let status = if path.contains("generations") {
                &document["data"]["status"]
            } else {
                &document["status"]
            };
            assert_eq!((kind.as_str(), status.as_str()), ("status", Some(word)));
            assert!(id.starts_with('"') && id.ends_with('"'), "{id}");
            upstream.now(move |_| Reply::json(row(next)));
        }
        assert!(events.rest().await.is_empty());
    }
}

#[tokio::test]
async fn a_stream_resumes_after_the_last_event_id() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[QUICK]).await;
    let (_, seen, _) = Events::open(&gateway, "/v1/videos/t", &[])
        .await
        .next()
        .await;
    let mut again = Events::open(&gateway, "/v1/videos/t", &[("last-event-id", &seen)]).await;
    assert!(
        again
            .next_block()
            .await
            .is_some_and(|block| block.starts_with(':')),
        "what is known is not told again"
    );
    upstream.now(|_| Reply::json(row("SUCCESS")));
    let (_, last, document) = again.next().await;
    assert_eq!(document["status"], "completed");
    let over = Events::open(&gateway, "/v1/videos/t", &[("last-event-id", &last)]).await;
    assert_eq!(
        over.head.status, 204,
        "which stops an EventSource from coming back"
    );
}

#[tokio::test]
async fn a_stream_that_cannot_start_is_a_plain_error_and_one_that_cannot_continue_sends_one() {
    let upstream = Upstream::start(|_| {
        Reply::new(
            401,
            "application/json",
            r#"{"error":{"message":"no","code":""}}"#,
        )
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[QUICK]).await;
    let refused = Events::open(&gateway, "/v1/videos/t", &[]).await;
    assert_eq!(
        (
            refused.head.status.as_u16(),
            &refused.head.headers["content-type"]
        ),
        (401, &"application/json".parse().unwrap())
    );
    upstream.now(|_| Reply::json(row("IN_PROGRESS")));
    let mut events = Events::open(&gateway, "/v1/videos/t", &[]).await;
    events.next().await;
    upstream.now(|_| {
        Reply::new(
            401,
            "application/json",
            r#"{"error":{"message":"spent","code":""}}"#,
        )
    });
    let (kind, _, document) = events.next().await;
    assert_eq!(
        (kind.as_str(), document["error"]["message"].as_str()),
        ("error", Some("spent"))
    );
    assert!(events.rest().await.is_empty());
}

#[tokio::test]
async fn a_wait_keeps_its_time_when_upstream_stalls() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let settings = [
        ("cache.in_flight_ttl", "1s"),
        ("cache.stale_if_error", "0s"),
    ];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    let waiting = tokio::spawn({
        let client = gateway.client.clone();
        async move {
            client
                .get("/v1/videos/t", "sk-test", &[("prefer", "wait=3")])
                .await
        }
    });
    upstream.was_asked(1).await;
    upstream.close_gate();
    // The second poll hangs and nothing is stale-if-error, so the first answer is the latest known state.
    let answer = waiting.await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.json()["status"].as_str()),
        (200, Some("in_progress"))
    );
    assert!(
        answer.header("cache-status").contains("fwd=miss"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_wait_ends_with_the_newest_answer_of_any_poll() {
    let upstream = Upstream::saying(row("QUEUED")).await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.in_flight_ttl", "1h")]).await;
    // Cached before, so that the waiter sleeps and has no flight that others could join.
    gateway.get("/v1/videos/t").await;
    let waiting = tokio::spawn({
        let client = gateway.client.clone();
        async move {
            client
                .get("/v1/videos/t", "sk-test", &[("prefer", "wait=2")])
                .await
        }
    });
    eventually("it waits", async || {
        gateway.metric("pollgate_waiters").await >= 1.0
    })
    .await;
    upstream.now(|_| Reply::json(row("IN_PROGRESS")));
    gateway
        .client
        .get("/v1/videos/t", "sk-test", &[("cache-control", "no-cache")])
        .await;
    assert_eq!(waiting.await.unwrap().json()["status"], "in_progress");
}

#[tokio::test]
async fn only_if_cached_does_not_wait() {
    let upstream = Upstream::saying(row("QUEUED")).await;
    let gateway = Gateway::start(&upstream.url(), &[QUICK]).await;
    let headers = [("prefer", "wait=15"), ("cache-control", "only-if-cached")];
    let answer = gateway
        .client
        .get("/v1/videos/t", "sk-test", &headers)
        .await;
    assert_eq!((answer.status.as_u16(), upstream.count()), (504, 0));
}
