//! A gateway without a free file descriptor says so, and does not leave clients waiting for an answer.

use std::process::Command;

use tokio::net::TcpStream;

use crate::support::{Gateway, Upstream, Wire, binary, eventually, row};

/// A gateway that may open this many files.
async fn with_descriptors(count: usize, upstream: &str) -> Gateway {
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("ulimit -n {count} && exec \"$@\""), "sh"])
        .arg(binary().get_program())
        .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .args(["--upstream", upstream]);
    Gateway::spawn(command).await
}

#[tokio::test]
async fn clients_and_probes_are_told_when_no_descriptor_is_left() {
    const DESCRIPTORS: usize = 60;
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = with_descriptors(DESCRIPTORS, &upstream.url()).await;
    let mut idle = Vec::new();
    for _ in 0..DESCRIPTORS {
        idle.push(TcpStream::connect(gateway.address).await.unwrap());
    }
    eventually("a failure to accept", async || {
        gateway
            .log()
            .iter()
            .any(|line| line.contains("cannot accept"))
    })
    .await;
    // A descriptor is free for a moment now and then, and whoever comes then is served.
    let mut refused = 0;
    for _ in 0..20 {
        for (address, path) in [
            (gateway.address, "/v1/videos/t"),
            (gateway.admin, "/healthz"),
        ] {
            let mut client = Wire::connect(address).await;
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            client.send(request).await;
            let answer = client.rest().await;
            let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
            if head.starts_with("HTTP/1.1 200 ") {
                continue;
            }
            refused += 1;
            assert!(head.starts_with("HTTP/1.1 503 "), "{path}: {answer}");
            assert!(head.contains("\r\nretry-after: 1"), "{path}: {answer}");
            if address == gateway.address {
                let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
                assert_eq!(body["error"]["code"], "overloaded");
            }
        }
    }
    assert!(refused >= 10, "{refused} of 40");
    let warned = gateway
        .log()
        .iter()
        .filter(|line| line.contains("cannot accept"))
        .count();
    assert!(warned <= 4, "{warned} warnings in a few seconds");
    drop(idle);
    eventually("descriptors are free again", async || {
        let mut client = Wire::connect(gateway.address).await;
        client
            .send("GET /v1/videos/t HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await;
        client.rest().await.starts_with("HTTP/1.1 200 ")
    })
    .await;
}

#[tokio::test]
async fn a_lack_of_descriptors_does_not_count_against_upstream() {
    const DESCRIPTORS: usize = 60;
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = with_descriptors(DESCRIPTORS, &upstream.url()).await;
    let mut client = Wire::connect(gateway.address).await;
    let mut idle = Vec::new();
    for _ in 0..DESCRIPTORS {
        idle.push(TcpStream::connect(gateway.address).await.unwrap());
    }
    eventually("a failure to accept", async || {
        gateway
            .log()
            .iter()
            .any(|line| line.contains("cannot accept"))
    })
    .await;
    let mut refused = 0;
    for number in 0..30 {
        let request = format!("GET /v1/videos/t{number} HTTP/1.1\r\nhost: x\r\n\r\n");
        client.send(request).await;
        let head = client.head().await;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let body = client.exactly(length.unwrap().parse().unwrap()).await;
        if head.starts_with("HTTP/1.1 200 ") {
            continue;
        }
        refused += 1;
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body["error"]["code"], "overloaded", "{number}: {body}");
    }
    assert!(refused >= 10, "{refused} of 30");
    drop(idle);
    eventually("the admin listener is served again", async || {
        gateway.metric("pollgate_upstream_up").await == 1.0
    })
    .await;
    assert!(
        !gateway
            .log()
            .iter()
            .any(|line| line.contains("upstream is down"))
    );
}
