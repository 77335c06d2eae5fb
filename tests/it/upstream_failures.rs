//! Upstream fails, seen from outside: what is retried and what never is, what clients get, and in which order.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Client, Gateway, Reply, Upstream, eventually, row};

const NEVER: (&str, &str) = ("cache.in_flight_ttl", "0s");

/// An upstream of bare connections. `script` maps the numbers of the connection and of the request on it to the bytes
/// written. Without an answer, or after one with `connection: close`, it closes.
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

    /// The request lines so far.
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
async fn a_poll_on_a_connection_closed_while_idle_is_resent_at_once() {
    // The first connection answers once, then reads a request and closes, as an idle timeout would.
    let upstream =
        Bare::start(|connection, request| (connection > 0 || request == 0).then_some(ANSWER)).await;
    let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
    for _ in 0..2 {
        assert_eq!(gateway.get("/v1/video/generations/t").await.status, 200);
    }
    assert_eq!(upstream.asked().len(), 3, "{:?}", upstream.asked());
    // At once: it took no retry and none of its pauses.
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
        // A live connection that dies with the next request.
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
async fn a_truncated_body_or_one_that_is_not_a_task_is_retried() {
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
async fn with_nothing_cached_a_429_passes_through_and_the_pause_has_a_retry_after() {
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
    // Another caller is not affected.
    let other = Client::new(gateway.address)
        .get("/v1/video/generations/a", "sk-other", &[])
        .await;
    assert_eq!((other.status.as_u16(), upstream.count()), (429, 2));
    assert_eq!(other.json()["message"], "slow down");
}

#[tokio::test]
async fn a_refused_connection_has_its_own_error_and_the_last_known_state_has_its_age() {
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
async fn polls_beyond_max_upstream_are_answered_in_order_and_within_their_timeout() {
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
    // The third times out upstream, the fourth in the queue.
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
    // Nothing waits any more, and the permit is free.
    upstream.let_pass(100);
    assert_eq!(gateway.get("/v1/videos/t9").await.status, 200);
    assert_eq!(gateway.metric("pollgate_waiters").await, 0.0);
    assert_eq!(gateway.metric("pollgate_flights").await, 0.0);
}

#[tokio::test]
async fn expired_answers_are_reclaimed_without_another_poll() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let settings = [
        ("cache.in_flight_ttl", "100ms"),
        ("cache.stale_if_error", "0s"),
    ];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    for number in 0..50 {
        gateway.get(&format!("/v1/videos/t{number}")).await;
    }
    // From here on only the metrics are read.
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
async fn a_hanging_upstream_opens_the_circuit_after_a_few_polls() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    // A flight times out a fiftieth of that before its waiters, which must be enough on a busy machine.
    let gateway = Gateway::start(&upstream.url(), &[("upstream.timeout", "5s")]).await;
    upstream.close_gate();
    let code = async |number: usize| {
        let answer = gateway.get(&format!("/v1/videos/t{number}")).await;
        answer.json()["error"]["code"].clone()
    };
    for told in join_all((0..8).map(&code)).await {
        assert_eq!(told, "upstream_timeout");
    }
    // One of the concurrent polls may be the probe; the others are not sent.
    let codes = tokio::join!(code(8), code(9), code(10), code(11));
    let codes = <[_; 4]>::from(codes);
    assert!(
        codes.iter().any(|code| code == "upstream_unavailable"),
        "{codes:?}"
    );
    assert!(upstream.count() < 12, "{}", upstream.count());
}

#[tokio::test]
async fn an_answer_in_flight_does_not_end_a_pause() {
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
    // Both pass; whichever finishes first, the pause holds.
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
