//! Bodies, trailers, interim responses and responses without a body, byte by byte.

use std::time::Duration;

use crate::support::{Gateway, Raw, Wire};

/// A gateway between an upstream and a client that the test plays byte by byte.
async fn by_hand(settings: &[(&str, &str)]) -> (Raw, Gateway, Wire) {
    let upstream = Raw::start().await;
    let gateway = Gateway::start(&upstream.url(), settings).await;
    let client = Wire::connect(gateway.address).await;
    (upstream, gateway, client)
}

const DOWNLOAD: &str = "GET /v1/videos/t/content HTTP/1.1\r\nhost: x\r\n\r\n";
const SUBMIT: &str = "POST /v1/videos HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (upstream, _gateway, mut client) = by_hand(&[]).await;
    client.send("POST /v1/files HTTP/1.1\r\nhost: x\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n").await;
    client.send("3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n").await;
    let mut served = upstream.accept().await;
    let head = served.head().await;
    assert!(
        head.contains("te: trailers") && head.contains("trailer: x-sum"),
        "{head}"
    );
    assert_eq!(served.head().await, "3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n");
    served
        .send("HTTP/1.1 200 OK\r\ntrailer: x-took\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    served.send("2\r\nok\r\n0\r\nx-took: 7ms\r\n\r\n").await;
    let head = client.head().await;
    assert!(head.contains("trailer: x-took"), "{head}");
    assert_eq!(client.head().await, "2\r\nok\r\n0\r\nx-took: 7ms\r\n\r\n");
}

const EXPECTING: &str =
    "POST /v1/files HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";

#[tokio::test]
async fn a_body_is_sent_once_upstream_says_continue() {
    let (upstream, _gateway, mut client) = by_hand(&[]).await;
    client.send(EXPECTING).await;
    let mut served = upstream.accept().await;
    assert!(served.head().await.contains("expect: 100-continue"));
    served.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    client.send("video").await;
    assert_eq!(served.exactly(5).await, "video");
    served.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(client.exactly(2).await, "ok");
}

#[tokio::test]
async fn an_upstream_that_refuses_at_once_never_gets_the_body() {
    let (upstream, gateway, mut client) = by_hand(&[]).await;
    client.send(EXPECTING).await;
    let mut served = upstream.accept().await;
    served.head().await;
    served
        .send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 8\r\n\r\ntoo much")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 413 "), "no 100 before: {head}");
    assert_eq!(client.exactly(8).await, "too much");
    // A connection with half a request on it cannot be reused, on either side.
    assert_eq!(served.rest().await, "");
    assert_eq!(client.rest().await, "");
    let answer = tokio::spawn(async move { gateway.get("/v1/models").await });
    let mut next = upstream.accept().await;
    next.head().await;
    next.send(OK).await;
    assert_eq!(answer.await.unwrap().text(), "ok");
}

#[tokio::test]
async fn an_upstream_that_ignores_expectations_gets_the_body_after_a_moment() {
    let (upstream, _gateway, mut client) = by_hand(&[]).await;
    client.send(EXPECTING).await;
    let mut served = upstream.accept().await;
    served.head().await;
    assert!(client.head().await.starts_with("HTTP/1.1 100 "));
    client.send("video").await;
    assert_eq!(served.exactly(5).await, "video");
}

#[tokio::test]
async fn early_hints_arrive_before_the_answer() {
    let (upstream, _gateway, mut client) = by_hand(&[]).await;
    let mut served = None;
    for hint in ["103 Early Hints", "102 Processing", "103 Early Hints"] {
        client.send(DOWNLOAD).await;
        let served = match &mut served {
            Some(served) => served,
            none => none.insert(upstream.accept().await),
        };
        served.head().await;
        let link = "link: </a.css>; rel=preload\r\nconnection: x-hop\r\nx-hop: 1\r\n";
        served.send(format!("HTTP/1.1 {hint}\r\n{link}\r\n")).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {hint}\r\n")), "{head}");
        assert!(head.contains("link: </a.css>; rel=preload\r\n"), "{head}");
        assert!(
            head.contains("via: 1.1 pollgate\r\n") && !head.contains("hop"),
            "{head}"
        );
        served.send(OK).await;
        let head = client.head().await;
        assert!(
            head.starts_with("HTTP/1.1 200 ") && !head.contains("link:"),
            "{head}"
        );
        assert_eq!(client.exactly(2).await, "ok");
    }
}

#[tokio::test]
async fn early_hints_that_arrive_with_the_answer_do_not_harm_it() {
    let (upstream, _gateway, mut client) = by_hand(&[]).await;
    client.send(DOWNLOAD).await;
    let mut served = upstream.accept().await;
    served.head().await;
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n".repeat(20);
    served.send(format!("{hints}{OK}")).await;
    let mut head = client.head().await;
    let mut passed = 0;
    while head.starts_with("HTTP/1.1 103 ") {
        passed += 1;
        head = client.head().await;
    }
    // As many as are queued.
    assert!((8..=20).contains(&passed), "{passed}");
    assert!(
        head.starts_with("HTTP/1.1 200 ") && !head.contains("link:"),
        "{head}"
    );
    assert_eq!(client.exactly(2).await, "ok");
    // The next answer has none.
    client.send(DOWNLOAD).await;
    served.head().await;
    served.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!(client.exactly(2).await, "ok");
}

#[tokio::test]
async fn an_http_1_0_client_gets_no_early_hints() {
    let (upstream, _gateway, mut client) = by_hand(&[]).await;
    client
        .send("GET /v1/files/a HTTP/1.0\r\nhost: x\r\n\r\n")
        .await;
    let mut served = upstream.accept().await;
    served.head().await;
    served
        .send(format!("HTTP/1.1 103 Early Hints\r\n\r\n{OK}"))
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.0 200 "), "{head}");
}

#[tokio::test]
async fn answers_without_a_body_keep_their_content_headers() {
    let (upstream, _gateway, mut client) = by_hand(&[]).await;
    let mut served = None;
    for (method, status, line) in [
        ("HEAD", "200", "content-length: 1234"),
        ("GET", "204", "x-a: b"),
        ("GET", "304", "etag: \"a\""),
        ("DELETE", "202", "content-length: 0"),
    ] {
        let path = "/v1/videos/t/content";
        client
            .send(format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
            .await;
        let served = match &mut served {
            Some(served) => served,
            none => none.insert(upstream.accept().await),
        };
        assert!(served.head().await.starts_with(method));
        served
            .send(format!("HTTP/1.1 {status} Fine\r\n{line}\r\n\r\n"))
            .await;
        let head = client.head().await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")) && head.contains(line),
            "{head}"
        );
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
    // Nothing followed any of these heads, or it would precede this one.
    client.send(DOWNLOAD).await;
    let served = served.as_mut().unwrap();
    served.head().await;
    served.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK"));
    assert_eq!(client.exactly(2).await, "ok");
}

#[tokio::test]
async fn ranges_and_compressed_bodies_pass_untouched() {
    let (upstream, _gateway, mut client) = by_hand(&[]).await;
    let asked = [
        "range: bytes=2-5,-1\r\n",
        "if-range: \"v1\"\r\n",
        "accept-encoding: br;q=1, gzip\r\n",
    ];
    client
        .send(DOWNLOAD.replace("\r\n\r\n", &format!("\r\n{}\r\n", asked.concat())))
        .await;
    let mut served = upstream.accept().await;
    let head = served.head().await;
    for line in asked {
        assert!(head.contains(line), "{line} {head}");
    }
    let answered = [
        "HTTP/1.1 206 Partial Content\r\n",
        "content-range: bytes 2-257/900\r\n",
        "content-encoding: gzip\r\n",
        "content-length: 256\r\n",
        "accept-ranges: bytes\r\n",
    ];
    let body: Vec<u8> = (0..=255).collect();
    served.send(answered.concat() + "\r\n").await;
    served.send(&body).await;
    let head = client.head().await;
    for line in answered {
        assert!(head.contains(line), "{line} {head}");
    }
    assert_eq!(client.bytes(256).await, body);
}

#[tokio::test]
async fn any_method_passes_and_a_post_whose_connection_dies_is_not_sent_again() {
    let (upstream, _gateway, mut client) = by_hand(&[]).await;
    client
        .send("PROPFIND /v1/anything HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let mut served = upstream.accept().await;
    let head = served.head().await;
    assert!(
        head.starts_with("PROPFIND /v1/anything HTTP/1.1\r\n"),
        "{head}"
    );
    served.send(OK).await;
    client.head().await;
    client.exactly(2).await;
    // The upstream connection is reused, and breaks during the request.
    client.send(SUBMIT).await;
    assert!(served.head().await.starts_with("POST "));
    served.reset();
    assert!(client.head().await.starts_with("HTTP/1.1 503 "));
    assert!(upstream.is_left_alone().await, "it was sent again");
}

#[tokio::test]
async fn a_post_that_finds_its_idle_connection_closed_is_sent_once_on_another() {
    let (upstream, gateway, mut client) = by_hand(&[]).await;
    let mut passed = 0;
    for _ in 0..20 {
        client.send(SUBMIT).await;
        tokio::select! {
            mut served = upstream.accept() => {
                assert!(served.head().await.starts_with("POST "));
                assert_eq!(served.exactly(2).await, "{}");
                // Closed with the answer, so the next request meets a closed connection.
                served.send(OK).await;
                drop(served);
                let head = client.head().await;
                assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                client.exactly(2).await;
                passed += 1;
            }
            // Sent before the close was seen, it may have arrived.
            head = client.head() => {
                assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
                client = Wire::connect(gateway.address).await;
            }
        }
    }
    assert!(passed > 1, "the first one finds no connection to be closed");
    assert!(upstream.is_left_alone().await, "one was sent twice");
}

#[tokio::test]
async fn an_upstream_that_stalls_mid_body_ends_the_answer_visibly() {
    let settings = [("limits.idle_timeout", "400ms")];
    for framing in ["content-length: 100", "transfer-encoding: chunked"] {
        let (upstream, _gateway, mut client) = by_hand(&settings).await;
        client.send(DOWNLOAD).await;
        let mut served = upstream.accept().await;
        served.head().await;
        // The head may take any time, since making a video takes minutes.
        tokio::time::sleep(Duration::from_millis(900)).await;
        served
            .send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n4\r\nhalf\r\n"))
            .await;
        client.head().await;
        let rest = client.rest().await;
        assert!(
            rest.contains("half") && !rest.contains("0\r\n\r\n"),
            "{rest}"
        );
        assert_eq!(served.rest().await, "", "upstream is let go");
    }
}

#[tokio::test]
async fn a_slow_reader_is_not_mistaken_for_a_stalled_upstream() {
    const SIZE: usize = 160 << 20;
    // More than the socket buffers hold, or reading would not show.
    const BITE: usize = 8 << 20;
    let (upstream, _gateway, mut client) = by_hand(&[("limits.idle_timeout", "5s")]).await;
    client.send(DOWNLOAD).await;
    let mut served = upstream.accept().await;
    served.head().await;
    let sending = tokio::spawn(async move {
        served
            .send(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n"))
            .await;
        served.send(vec![b'x'; SIZE]).await;
        served
    });
    client.head().await;
    for _ in 0..14 {
        // The client reads some and leaves the rest. Only time can show that nothing happens meanwhile.
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(client.bytes(BITE).await.len(), BITE);
    }
    assert!(!sending.is_finished(), "all of it was taken from upstream");
    let rest = SIZE - 14 * BITE;
    assert_eq!(client.bytes(rest).await.len(), rest);
    sending.await.unwrap();
}
