//! A request over a limit is refused at once, and every other client goes on.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Gateway, Upstream, eventually, row};

async fn read(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let _ = tokio::time::timeout(crate::support::PATIENCE, stream.read_to_end(&mut text))
        .await
        .expect("is closed in time");
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn one_connection_too_many_gets_an_error_and_is_closed() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("limits.max_connections", "2")]).await;
    let open = [
        TcpStream::connect(gateway.address).await.unwrap(),
        TcpStream::connect(gateway.address).await.unwrap(),
    ];
    eventually("both are counted", async || {
        gateway.metric("pollgate_connections").await == 2.0
    })
    .await;
    let mut third = TcpStream::connect(gateway.address).await.unwrap();
    // What it sends meanwhile does not cost it the answer.
    third
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let answer = read(&mut third).await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: 1"),
        "{answer}"
    );
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    assert!(
        head.contains(&format!("content-length: {}\r\n", body.len()))
            || head.ends_with(&format!("content-length: {}", body.len())),
        "{answer}"
    );
    let json: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(json["error"]["code"], "overloaded");
    drop(open);
    eventually("there is room again", async || {
        gateway.metric("pollgate_connections").await == 0.0
    })
    .await;
    assert_eq!(gateway.get("/v1/videos/t").await.status, 200);
}

#[tokio::test]
async fn one_waiter_too_many_gets_an_error() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("limits.max_waiters", "2")]).await;
    upstream.close_gate();
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let client = gateway.client.clone();
            tokio::spawn(async move { client.get("/v1/videos/t", "sk-test", &[]).await })
        })
        .collect();
    eventually("both wait", async || {
        gateway.metric("pollgate_waiters").await == 2.0
    })
    .await;
    let third = gateway.get("/v1/videos/t").await;
    assert_eq!(
        (third.status.as_u16(), &third.json()["error"]["code"]),
        (503, &"overloaded".into())
    );
    assert_eq!(third.header("retry-after"), "1");
    assert_eq!(
        gateway
            .metric("pollgate_requests_total{code=\"503\",outcome=\"shed\",route=\"openai\"}")
            .await,
        1.0
    );
    upstream.let_pass(1);
    for waiter in waiting {
        assert_eq!(waiter.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn polls_beyond_max_upstream_wait_their_turn() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("limits.max_upstream", "2")]).await;
    upstream.close_gate();
    let polls: Vec<_> = (0..6)
        .map(|number| {
            let client = gateway.client.clone();
            tokio::spawn(async move {
                client
                    .get(&format!("/v1/videos/t{number}"), "sk-test", &[])
                    .await
            })
        })
        .collect();
    eventually("all of them wait", async || {
        gateway.metric("pollgate_waiters").await == 6.0
    })
    .await;
    upstream.was_asked(2).await;
    assert_eq!(upstream.count(), 2, "no more at once");
    // They do not delay forwarded requests.
    let forward = tokio::spawn({
        let client = gateway.client.clone();
        async move { client.get("/v1/models", "sk-test", &[]).await }
    });
    upstream.was_asked(3).await;
    upstream.let_pass(7);
    assert_eq!(forward.await.unwrap().status, 200);
    for poll in polls {
        assert_eq!(poll.await.unwrap().status, 200);
    }
    assert_eq!(upstream.count(), 7);
}

#[tokio::test]
async fn a_slow_head_is_cut_off_and_an_idle_connection_is_not() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(
        &upstream.url(),
        &[
            ("limits.header_timeout", "200ms"),
            ("limits.idle_timeout", "1h"),
        ],
    )
    .await;
    let mut idle = TcpStream::connect(gateway.address).await.unwrap();
    let mut slow = TcpStream::connect(gateway.address).await.unwrap();
    slow.write_all(b"GET /v1/videos/t HTTP/1.1\r\nhost: ")
        .await
        .unwrap();
    assert!(read(&mut slow).await.starts_with("HTTP/1.1 408"));
    // Long past `header_timeout`, the other connection still works.
    idle.write_all(b"GET /v1/videos/t HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(read(&mut idle).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_idle_timeout_and_never_during_a_request() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("limits.idle_timeout", "300ms")]).await;
    let mut idle = TcpStream::connect(gateway.address).await.unwrap();
    assert_eq!(read(&mut idle).await, "");
    upstream.close_gate();
    let mut busy = TcpStream::connect(gateway.address).await.unwrap();
    busy.write_all(b"GET /v1/videos/t HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    upstream.was_asked(1).await;
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(900), busy.read(&mut byte)).await;
    assert!(early.is_err(), "was closed while its request was under way");
    upstream.let_pass(1);
    assert!(read(&mut busy).await.starts_with("HTTP/1.1 200"));
}
