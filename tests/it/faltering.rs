//! Upstream falters, seen from outside: what is sent again and what never is, what clients are told, who waits his turn.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Client, Gateway, Reply, Upstream, eventually, row};

const NEVER: (&str, &str) = ("cache.in_flight_ttl", "0s");

/// An upstream made of bare connections: `script` says, by the number of the connection and of the request on it, what
/// is written; without an answer, or after one that says so, it closes.
struct Bare {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Bare {
    async fn start(script: fn(connection: usize, request: usize) -> Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                tokio::spawn(serve(stream, connection, script, Arc::clone(&log)));
            }
        });
        Self { address, asked }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The first lines of all requests.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    script: fn(usize, usize) -> Option<&'static str>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    for request in 0.. {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        let head = String::from_utf8_lossy(&head);
        asked
            .lock()
            .unwrap()
            .push(head.lines().next().unwrap_or_default().into());
        let Some(answer) = script(connection, request) else {
            return;
        };
        let written = stream.write_all(answer.as_bytes()).await;
        if written.is_err() || answer.contains("connection: close") {
            return;
        }
    }
}

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 72\r\n\r\n{\"code\":\"success\",\"message\":\"\",\"data\":{\"task_id\":\"t\",\"status\":\"QUEUED\"}}";

#[tokio::test]
async fn a_poll_on_a_connection_that_died_idle_is_sent_again_at_once() {
    // The first connection answers once; then it takes a request and closes, as one does that had timed out.
    let upstream =
        Bare::start(|connection, request| (connection > 0 || request == 0).then_some(ANSWER)).await;
    let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
    for _ in 0..2 {
        assert_eq!(gateway.get("/v1/video/generations/t").await.status, 200);
    }
    assert_eq!(upstream.asked().len(), 3, "{:?}", upstream.asked());
    // At once: no further try, with its pause, was spent on it.
    assert_eq!(
        gateway
            .metric("pollgate_upstream_requests_total{code=\"error\",kind=\"poll\"}")
            .await,
        1.0
    );
}

#[tokio::test]
async fn nothing_but_a_poll_is_ever_sent_twice() {
    let upstream = Bare::start(|_, request| (request == 0).then_some(ANSWER)).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for (method, path) in [
        ("POST", "/v1/videos"),
        ("POST", "/v1/video/generations"),
        ("POST", "/v1/videos/t/remix"),
        ("DELETE", "/v1/videos/t"),
        ("GET", "/v1/models"),
    ] {
        // A connection that is alive, and dies with the next request.
        assert_eq!(gateway.get(&format!("/warm{path}")).await.status, 200);
        let before = upstream.asked().len();
        let request = http::Request::builder()
            .method(method)
            .uri(gateway.client.url(path))
            .body(Full::<Bytes>::default())
            .unwrap();
        let answer = gateway.client.send(request).await;
        assert_eq!(answer.status, 503, "{method} {path}: {answer:?}");
        assert_eq!(upstream.asked().len(), before + 1, "{:?}", upstream.asked());
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_or_is_no_task_is_asked_for_again() {
    const BROKEN: &str =
        "HTTP/1.1 200 OK\r\ncontent-length: 72\r\nconnection: close\r\n\r\n{\"code\":";
    let upstream =
        Bare::start(|connection, _| Some(if connection == 0 { BROKEN } else { ANSWER })).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    assert_eq!(gateway.get("/v1/video/generations/t").await.status, 200);
    assert_eq!(upstream.asked().len(), 2);

    let upstream = Upstream::start(|_| Reply::json("{\"code\":\"succ")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let broken = gateway.get("/v1/video/generations/t").await;
    assert_eq!(
        (broken.status.as_u16(), &broken.json()["code"]),
        (502, &"upstream_invalid".into())
    );
    assert_eq!(upstream.count(), 3);
}

#[tokio::test]
async fn with_nothing_known_a_429_passes_through_and_the_pause_says_when_to_come_back() {
    let upstream = Upstream::start(|_| {
        Reply::new(
            429,
            "application/json",
            r#"{"code":"rate_limit","message":"slow down","data":null}"#,
        )
        .with("retry-after", "30")
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let first = gateway.get("/v1/video/generations/a").await;
    assert_eq!(
        (first.status.as_u16(), first.header("retry-after")),
        (429, "30")
    );
    assert_eq!(first.json()["message"], "slow down", "upstream's own words");
    let second = gateway.get("/v1/video/generations/b").await;
    assert_eq!(
        (second.status.as_u16(), &second.json()["code"]),
        (429, &"rate_limited".into())
    );
    let pause: u64 = second.header("retry-after").parse().expect("seconds");
    assert!((20..=30).contains(&pause), "{pause}");
    assert_eq!(upstream.count(), 1);
    // Another caller is not concerned.
    let other = Client::new(gateway.address)
        .get("/v1/video/generations/a", "sk-other", &[])
        .await;
    assert_eq!((other.status.as_u16(), upstream.count()), (429, 2));
    assert_eq!(other.json()["message"], "slow down");
}

#[tokio::test]
async fn an_upstream_that_refuses_connections_is_told_apart_and_the_last_known_state_says_its_age()
{
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
    let known = gateway.get("/v1/video/generations/t").await;
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let alone = Gateway::start(&format!("http://{nobody}"), &[]).await;
    let refused = alone.get("/v1/video/generations/t").await;
    assert_eq!(
        (refused.status.as_u16(), &refused.json()["code"]),
        (503, &"upstream_unavailable".into())
    );
    assert_ne!(refused.header("retry-after"), "");
    upstream.now(|_| Reply::new(503, "text/html", "<html>"));
    eventually("it is a second old", async || {
        let stale = gateway.get("/v1/video/generations/t").await;
        assert_eq!((stale.status.as_u16(), &stale.body), (200, &known.body));
        let cache_status = stale.header("cache-status");
        assert!(
            ["pollgate; fwd=stale; ttl=", "pollgate; hit; ttl="]
                .iter()
                .any(|way| cache_status.starts_with(way))
                && cache_status.ends_with("detail=stale_if_error"),
            "{cache_status}"
        );
        stale.header("age").parse::<u64>().is_ok_and(|age| age >= 1)
    })
    .await;
}

#[tokio::test]
async fn polls_beyond_max_upstream_are_answered_in_the_order_they_came_and_not_after_their_time() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let settings = [("limits.max_upstream", "1"), ("upstream.timeout", "5s")];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    upstream.close_gate();
    let mut polls = Vec::new();
    for number in 0..4 {
        let client = gateway.client.clone();
        polls.push(tokio::spawn(async move {
            client
                .get(&format!("/v1/videos/t{number}"), "sk-test", &[])
                .await
        }));
        eventually("it waits", async || {
            gateway.metric("pollgate_waiters").await == f64::from(number + 1)
        })
        .await;
    }
    for passed in 1..=2 {
        upstream.was_asked(passed).await;
        upstream.let_pass(1);
    }
    let mut statuses = Vec::new();
    for poll in polls {
        statuses.push(poll.await.unwrap().status.as_u16());
    }
    // The third one is with upstream when its time is over, the fourth still waits for its turn.
    assert_eq!(statuses[..2], [200, 200]);
    assert_eq!(statuses[2], 504);
    assert!(matches!(statuses[3], 503 | 504), "{statuses:?}");
    let order: Vec<_> = upstream
        .asked()
        .into_iter()
        .map(|asked| asked.target)
        .collect();
    assert_eq!(
        order[..3],
        ["/v1/videos/t0", "/v1/videos/t1", "/v1/videos/t2"]
    );
    // Nobody waits any more, and the place is free.
    upstream.let_pass(100);
    assert_eq!(gateway.get("/v1/videos/t9").await.status, 200);
    assert_eq!(gateway.metric("pollgate_waiters").await, 0.0);
    assert_eq!(gateway.metric("pollgate_flights").await, 0.0);
}

#[tokio::test]
async fn expired_answers_are_gone_without_another_poll() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let settings = [
        ("cache.in_flight_ttl", "100ms"),
        ("cache.stale_if_error", "0s"),
    ];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    for number in 0..50 {
        gateway.get(&format!("/v1/videos/t{number}")).await;
    }
    // Nothing but looking at the figures from here on.
    eventually("all of them are gone", async || {
        gateway.metric("pollgate_cache_entries").await == 0.0
            && gateway.metric("pollgate_cache_bytes").await == 0.0
    })
    .await;
    let gone = async |cause: &str| {
        let evictions = format!(r#"pollgate_cache_evictions_total{{cause="{cause}"}}"#);
        gateway.metric(&evictions).await
    };
    assert_eq!(gone("expired").await, 50.0);
    assert_eq!(gone("forgotten").await, 0.0);
}

#[tokio::test]
async fn an_upstream_that_hangs_is_known_by_the_first_few_polls() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    // A flight ends a fiftieth of that before those who wait for it do: on a busy machine that must be long enough.
    let gateway = Gateway::start(&upstream.url(), &[("upstream.timeout", "5s")]).await;
    upstream.close_gate();
    let code = async |number: usize| {
        let answer = gateway.get(&format!("/v1/videos/t{number}")).await;
        answer.json()["error"]["code"].clone()
    };
    for told in join_all((0..8).map(&code)).await {
        assert_eq!(told, "upstream_timeout");
    }
    // One of those that come together may be the probe; the others are not sent.
    let codes = tokio::join!(code(8), code(9), code(10), code(11));
    let codes = <[_; 4]>::from(codes);
    assert!(
        codes.iter().any(|code| code == "upstream_unavailable"),
        "{codes:?}"
    );
    assert!(upstream.count() < 12, "{}", upstream.count());
}

#[tokio::test]
async fn an_answer_that_was_under_way_does_not_end_a_pause() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
    upstream.close_gate();
    let slow = tokio::spawn({
        let client = gateway.client.clone();
        async move { client.get("/v1/videos/slow", "sk-test", &[]).await }
    });
    upstream.was_asked(1).await;
    upstream.now(|asked| {
        if asked.target.ends_with("slow") {
            return Reply::json(row("IN_PROGRESS"));
        }
        Reply::new(
            429,
            "application/json",
            r#"{"code":"x","message":"y","data":null}"#,
        )
        .with("retry-after", "30")
    });
    let paused = tokio::spawn({
        let client = gateway.client.clone();
        async move { client.get("/v1/videos/quick", "sk-test", &[]).await }
    });
    upstream.was_asked(2).await;
    // Both are let through; whichever lands first, the pause holds.
    upstream.let_pass(2);
    assert_eq!(slow.await.unwrap().status, 200);
    assert_eq!(paused.await.unwrap().status, 429);
    let next = gateway.get("/v1/videos/next").await;
    assert_eq!(
        (next.status.as_u16(), &next.json()["error"]["code"]),
        (429, &"rate_limited".into())
    );
    assert_eq!(upstream.count(), 2);
}
