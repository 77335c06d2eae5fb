//! WebSocket and any other upgrade: passed on, then bytes both ways.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::support::{Gateway, Raw, Wire, eventually};

const ASK: &str = "GET /v1/realtime?model=x HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn switched(settings: &[(&str, &str)]) -> (Raw, Gateway, Wire, Wire) {
    let upstream = Raw::start().await;
    let gateway = Gateway::start(&upstream.url(), settings).await;
    let (client, served) = switch(&gateway, &upstream).await;
    (upstream, gateway, client, served)
}

async fn switch(gateway: &Gateway, upstream: &Raw) -> (Wire, Wire) {
    let mut client = Wire::connect(gateway.address).await;
    client.send(ASK).await;
    let mut served = upstream.accept().await;
    let asked = served.head().await;
    for line in [
        "GET /v1/realtime?model=x HTTP/1.1\r\n",
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        "sec-websocket-version: 13\r\n",
    ] {
        assert!(asked.contains(line), "{line} {asked}");
    }
    // Bytes right behind the head belong to the new protocol.
    served.send(format!("{SWITCH}hello")).await;
    let head = client.head().await;
    for line in [
        "HTTP/1.1 101 ",
        "connection: upgrade\r\n",
        "upgrade: websocket\r\n",
        "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
    ] {
        assert!(head.contains(line), "{line} {head}");
    }
    assert!(
        !head.contains("content-length") && !head.contains("transfer-encoding"),
        "{head}"
    );
    assert_eq!(client.exactly(5).await, "hello");
    (client, served)
}

async fn is_counted_out(gateway: &Gateway) {
    eventually("it is counted out", async || {
        gateway.metric("pollgate_connections").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_way_ends_by_itself() {
    let (_upstream, gateway, mut client, mut served) = switched(&[]).await;
    for number in 0..3 {
        client.send(format!("ping {number}")).await;
        assert_eq!(served.exactly(6).await, format!("ping {number}"));
        served.send(format!("pong {number}")).await;
        assert_eq!(client.exactly(6).await, format!("pong {number}"));
    }
    client.stream.shutdown().await.unwrap();
    assert_eq!(served.rest().await, "");
    served.send("goodbye").await;
    assert_eq!(client.exactly(7).await, "goodbye");
    assert_eq!(gateway.metric("pollgate_connections").await, 1.0);
    let told = "pollgate_requests_total{code=\"101\",outcome=\"forwarded\",route=\"forward\"}";
    assert_eq!(gateway.metric(told).await, 0.0, "it is not over yet");
    drop(served);
    assert_eq!(client.rest().await, "");
    is_counted_out(&gateway).await;
    assert_eq!(gateway.metric(told).await, 1.0);
}

#[tokio::test]
async fn a_broken_end_ends_the_other() {
    let (_upstream, gateway, client, mut served) = switched(&[]).await;
    client.reset();
    assert_eq!(served.rest().await, "");
    is_counted_out(&gateway).await;
    let (_upstream, gateway, mut client, served) = switched(&[]).await;
    served.reset();
    assert_eq!(client.rest().await, "");
    is_counted_out(&gateway).await;
}

#[tokio::test]
async fn a_tunnel_ends_when_both_ends_are_silent_for_idle_timeout_and_no_sooner() {
    let (_upstream, _gateway, mut client, mut served) =
        switched(&[("limits.idle_timeout", "2s")]).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(800)).await;
        served.send("x").await;
        assert_eq!(client.exactly(1).await, "x");
    }
    assert_eq!(client.rest().await, "");
    assert_eq!(served.rest().await, "");
}

#[tokio::test]
async fn a_tunnel_holds_its_permit_until_its_end() {
    let (upstream, gateway, client, served) = switched(&[("limits.max_connections", "1")]).await;
    let mut second = Wire::connect(gateway.address).await;
    assert!(second.head().await.starts_with("HTTP/1.1 503 "));
    drop((client, served));
    is_counted_out(&gateway).await;
    switch(&gateway, &upstream).await;
}

#[tokio::test]
async fn a_refused_upgrade_is_a_plain_answer() {
    let upstream = Raw::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let mut client = Wire::connect(gateway.address).await;
    client.send(ASK).await;
    let mut served = upstream.accept().await;
    served.head().await;
    served
        .send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\nupgrade: websocket\r\n\r\nno")
        .await;
    let head = client.head().await;
    assert!(
        head.starts_with("HTTP/1.1 403 ") && !head.contains("upgrade"),
        "{head}"
    );
    assert_eq!(client.exactly(2).await, "no");
    // The client's connection goes on in HTTP.
    client
        .send("GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let mut served = upstream.accept().await;
    served.head().await;
    served.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn h2c_and_incomplete_upgrades_are_never_passed_on() {
    let upstream = Raw::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for (version, headers) in [
        (
            "1.1",
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n",
        ),
        (
            "1.1",
            "connection: upgrade\r\nupgrade: H2C\r\nhttp2-settings: AAMAAABk\r\n",
        ),
        ("1.1", "upgrade: websocket\r\n"),
        ("1.0", "connection: upgrade\r\nupgrade: websocket\r\n"),
    ] {
        let mut client = Wire::connect(gateway.address).await;
        client
            .send(format!(
                "GET /v1/models HTTP/{version}\r\nhost: x\r\n{headers}\r\n"
            ))
            .await;
        let mut served = upstream.accept().await;
        let asked = served.head().await.to_lowercase();
        for gone in ["upgrade", "h2c", "http2-settings"] {
            assert!(!asked.contains(gone), "{gone}: {asked}");
        }
        // An upstream that switches anyway gets a 502.
        served.send(SWITCH).await;
        let head = client.head().await;
        assert!(head.contains(" 502 "), "{head}");
        assert_eq!(served.rest().await, "");
    }
    let mut client = Wire::connect(gateway.address).await;
    client
        .send(ASK.replace("upgrade: websocket", "upgrade: h2c, websocket"))
        .await;
    let asked = upstream.accept().await.head().await;
    assert!(asked.contains("upgrade: websocket\r\n"), "{asked}");
}
