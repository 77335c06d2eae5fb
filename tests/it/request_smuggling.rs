//! Request smuggling: a request that two servers may read differently is refused. Nothing of it reaches upstream, its
//! client gets the reason, and nothing behind it is read. `http_desync_guardian` checks every case, and every request
//! that reaches upstream.

use std::collections::BTreeSet;

use http_desync_guardian::RequestSafetyTier;
use http_desync_guardian::request_analyzer::HttpRequestData;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::raw::{RawUpstream, Received, receive, send};
use crate::support::{Gateway, eventually};

/// A valid request.
const GOOD: &[u8] = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n";

/// Status and request. The body holds a request of its own for a server that reads the framing differently.
pub(crate) const REFUSED: &[(u16, &str)] = &[
    // Host (RFC 9112 §3.2).
    (400, "GET /a HTTP/1.1\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n"),
    (400, "GET /a HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: a, b\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: a b\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: a@b\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: a/b\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost : a\r\n\r\n"),
    // Length and transfer-encoding (RFC 9112 §6.1, §6.3).
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nhost: x\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: identity\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: ,chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding:\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: \u{b}chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5, 5\r\n\r\nhello",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5 5\r\n\r\nhello",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: +5\r\n\r\nhello",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\nhello",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 0x5\r\n\r\nhello",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5.0\r\n\r\nhello",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length:\r\n\r\nhello",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\nhello",
    ),
    (
        400,
        "GET /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    // Names that only some servers read as those two.
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding\t: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\n transfer-encoding: chunked\r\nhost: x\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer_encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer--encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent_length: 5\r\n\r\nhello",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\nContent-Length.: 5\r\n\r\nhello",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length : 5\r\n\r\nhello",
    ),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntran\u{17f}fer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    // Folded lines, bare line ends and forbidden bytes (RFC 9112 §2.2, §5; RFC 9110 §5.5).
    (400, "GET /a HTTP/1.1\r\nhost: x\r\nx: a\r\n b\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: x\r\nx: a\r\n\tb\r\n\r\n"),
    (
        400,
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    ),
    (400, "GET /a HTTP/1.1\nhost: x\n\n"),
    (400, "GET /a HTTP/1.1\r\nhost: x\nx: a\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: x\r\n\n"),
    (400, "\nGET /a HTTP/1.1\r\nhost: x\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: x\r\nx: a\rb\r\n\r\n"),
    (400, "GET /a HTTP/1.1\rhost: x\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: x\r\nx\0y: a\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: x\r\nx y: a\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: x\r\n: a\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n"),
    (400, "GET /a HTTP/1.1\r\nhost: x\r\nx(y): a\r\n\r\n"),
    // Targets (RFC 9112 §3.2).
    (400, "GET http://b/a HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET http://a:81/a HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET http://user@a/a HTTP/1.1\r\nhost: a\r\n\r\n"),
    (
        400,
        "GET http://user:secret@a/a HTTP/1.1\r\nhost: user:secret@a\r\n\r\n",
    ),
    (400, "GET ftp://a/a HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET http:///a HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET a HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n"),
    (400, "GET * HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET ?a HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET /a?b#c HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET /a<b> HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET  /a HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET /a  HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET\t/a\tHTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET /a\u{1} HTTP/1.1\r\nhost: a\r\n\r\n"),
    // Methods, versions, and bytes that are not HTTP.
    (400, "GET\0 /a HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "G(T /a HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "\r\n\r\n\r\nGET /a HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, " GET /a HTTP/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET /a HTTP/1.2\r\nhost: a\r\n\r\n"),
    (400, "GET /a HTTP/2.0\r\nhost: a\r\n\r\n"),
    (400, "GET /a HTTP/0.9\r\nhost: a\r\n\r\n"),
    (400, "GET /a http/1.1\r\nhost: a\r\n\r\n"),
    (400, "GET /a HTTP/1.1 \r\nhost: a\r\n\r\n"),
    (400, "GET /a\r\n\r\n"),
    (400, "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"),
    (400, "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}"),
    (400, "\0\0\0\0\0\0\0\0"),
];

/// Status, head and body: the head is valid, and the body does not match it.
pub(crate) const BROKEN_CHUNKS: &[&str] = &[
    "\r\n",
    "g\r\n",
    "-1\r\n",
    "+5\r\n",
    "0x5\r\n",
    " 5\r\n",
    "5 \r\n",
    "5\nhello",
    "5\r\nhello0\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5;\0\r\nhello",
    "5;a\nb\r\nhello",
    "fffffffffffffffffff\r\n",
    "5\r\nhello\r\n0\r\n\n",
    "5\r\nhello\r\n0\r\nx: y\n\r\n",
    "5\r\nhello\r\n0\r\n x: y\r\n\r\n",
    "0\r\nGET /b HTTP/1.1\nhost: x\r\n\r\n",
    "5\rhello",
];

/// Requests that pass unchanged.
pub(crate) const PASSED: &[&str] = &[
    "GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "\r\nGET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "GET /a HTTP/1.0\r\n\r\n",
    "GET http://x:8080/a?b HTTP/1.1\r\nhost: X:8080\r\nconnection: close\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    "GET /a HTTP/1.1\r\nhost: [::1]:8080\r\nconnection: close\r\n\r\n",
    "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
    "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length:\t 005 \r\nconnection: close\r\n\r\nhello",
    "POST /a HTTP/1.1\r\nhost: x\r\nTransfer-Encoding:  Chunked \r\nconnection: close\r\n\r\n5;a=b\r\nhello\r\n00\r\nx: y\r\n\r\n",
    "POST /a HTTP/1.1\r\nhost: x\r\nconnection: close, content-length\r\ncontent-length: 5\r\n\r\nhello",
    "POST /a HTTP/1.0\r\ncontent-length: 5\r\n\r\nhello",
    "PURGE /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
];

fn tier(request: &[u8]) -> RequestSafetyTier {
    HttpRequestData::analyze_raw_request(request).tier
}

/// Checks a refusal as the client sees it.
fn check(refusal: &Received, status: u16, request: &str) {
    assert_eq!(refusal.status, status, "{request:?}: {refusal:?}");
    for line in [
        "content-type: application/json\r\n",
        "via: 1.1 pollgate\r\n",
        "connection: close\r\n",
        "x-request-id: pg-",
        &format!("content-length: {}\r\n", refusal.body.len()),
    ] {
        assert!(refusal.has(line), "{request:?}: {line} in {refusal:?}");
    }
    let json = refusal.json();
    let error = if request.contains("/v1/video/generations") {
        &json
    } else {
        &json["error"]
    };
    assert_eq!(error["code"], "bad_request", "{request:?}: {json}");
    let message = error["message"].as_str().expect("a text");
    assert!(message.len() > 20, "{json}");
}

/// Checks that upstream got this many requests, all unambiguous, and not a byte besides.
fn check_upstream(upstream: &RawUpstream, count: usize) {
    for request in upstream.requests() {
        let text = String::from_utf8_lossy(&request).into_owned();
        assert_eq!(tier(&request), RequestSafetyTier::Compliant, "{text:?}");
    }
    assert_eq!(upstream.requests().len(), count);
    assert_eq!(upstream.fragments(), Vec::<Vec<u8>>::new());
    assert_eq!(upstream.malformed(), Vec::<String>::new());
}

#[tokio::test]
async fn ambiguous_heads_are_refused_and_nothing_of_them_reaches_upstream() {
    let upstream = RawUpstream::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let count = REFUSED.len();
    for (status, request) in REFUSED {
        let answers = send(gateway.address, request.as_bytes()).await;
        assert_eq!(answers.len(), 1, "{request:?}: {answers:?}");
        check(&answers[0], *status, request);
    }
    let refused = "pollgate_requests_total{code=\"400\",outcome=\"shed\",route=\"forward\"}";
    assert_eq!(
        gateway.metric(refused).await,
        f64::from(u32::try_from(count).unwrap())
    );
    send(
        gateway.address,
        b"GET /last HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    )
    .await;
    check_upstream(&upstream, 1);
    eventually("all connections are over", async || {
        gateway.metric("pollgate_connections").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn an_oversized_head_gets_431_or_414() {
    let upstream = RawUpstream::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let long = |count| "a".repeat(count);
    for (status, request) in [
        (
            414,
            format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", long(17_000)),
        ),
        (414, format!("GET /{}", long(400_000))),
        (
            431,
            format!("GET /a HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", long(70_000)),
        ),
        (
            431,
            format!("GET /a HTTP/1.1\r\nhost: x\r\nx: {}", long(400_000)),
        ),
        (
            431,
            format!(
                "GET /a HTTP/1.1\r\nhost: x\r\n{}\r\n",
                "x: y\r\n".repeat(100)
            ),
        ),
    ] {
        let answers = send(gateway.address, request.as_bytes()).await;
        assert_eq!(answers.len(), 1, "{answers:?}");
        check(&answers[0], status, &request);
    }
    check_upstream(&upstream, 0);
    // A long but permitted request passes.
    let long = format!(
        "GET /v1/files/{}?signature={} HTTP/1.1\r\nhost: x\r\nx: {}\r\nconnection: close\r\n\r\n",
        long(600),
        long(8000),
        long(20_000)
    );
    assert_eq!(send(gateway.address, long.as_bytes()).await[0].status, 200);
    check_upstream(&upstream, 1);
}

#[tokio::test]
async fn a_refusal_is_in_the_dialect_of_the_path_and_has_no_body_for_head() {
    let upstream = RawUpstream::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let request = "GET /v1/video/generations/t HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n";
    let answers = send(gateway.address, request.as_bytes()).await;
    check(&answers[0], 400, request);
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"HEAD /a HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_broken_chunked_body_never_ends_upstream_as_if_it_were_whole() {
    let upstream = RawUpstream::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for body in BROKEN_CHUNKS {
        let head = "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        let answers = send(gateway.address, format!("{head}{body}").as_bytes()).await;
        assert_eq!(answers.len(), 1, "{body:?}: {answers:?}");
        check(&answers[0], 400, body);
    }
    assert_eq!(upstream.requests(), Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn unambiguous_requests_pass_unchanged() {
    let upstream = RawUpstream::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for (number, request) in PASSED.iter().enumerate() {
        assert!(
            tier(request.trim_start().as_bytes()) <= RequestSafetyTier::Acceptable,
            "{request:?}"
        );
        let answers = send(gateway.address, request.as_bytes()).await;
        let last = answers.last().unwrap_or_else(|| panic!("{request:?}"));
        assert_eq!(last.status, 200, "{request:?}: {answers:?}");
        check_upstream(&upstream, number + 1);
        let body = request.contains("hello");
        let got = upstream.requests().pop().expect("is there");
        assert_eq!(
            body,
            String::from_utf8_lossy(&got).contains("hello"),
            "{request:?}"
        );
    }
}

#[tokio::test]
async fn requests_before_a_refused_one_are_answered_first() {
    let upstream = RawUpstream::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let body = "POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello";
    let stream = [
        GOOD,
        body.as_bytes(),
        GOOD,
        b"GET /a HTTP/1.1\r\n\r\n",
        GOOD,
    ]
    .concat();
    for piece in [1, 7, 50, stream.len()] {
        let before = upstream.requests().len();
        let mut client = TcpStream::connect(gateway.address).await.unwrap();
        client.set_nodelay(true).unwrap();
        for piece in stream.chunks(piece) {
            client.write_all(piece).await.unwrap();
        }
        let answers = receive(&mut client).await;
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [200, 200, 200, 400], "{piece}");
        assert!(
            answers[..3]
                .iter()
                .all(|answer| !answer.has("connection: close")),
            "{answers:?}"
        );
        check(&answers[3], 400, "");
        check_upstream(&upstream, before + 3);
    }
}

/// Combines every spelling of each framing header with every other.
#[tokio::test]
async fn no_two_framings_pass_together_in_any_spelling() {
    let lengths = [
        "",
        "content-length: 4\r\n",
        "Content-Length:4\r\n",
        "content-length: 04\r\n",
        "content-length: 4\r\ncontent-length: 4\r\n",
        "content-length: 4,4\r\n",
        "content-length: +4\r\n",
        "content-length:\r\n",
        "content-length : 4\r\n",
        "content_length: 4\r\n",
        "x: y\r\n content-length: 4\r\n",
        "content-length: 4\n",
        "content-length: 4\0\r\n",
        "content-length: 4\u{c}\r\n",
        "content-length: \"4\"\r\n",
    ];
    let codings = [
        "",
        "transfer-encoding: chunked\r\n",
        "Transfer-Encoding:CHUNKED\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: x\r\n",
        "transfer-encoding: x\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked,\r\n",
        "transfer-encoding: 'chunked'\r\n",
        "transfer-encoding: chunked\0\r\n",
        "transfer-encoding\u{b}: chunked\r\n",
        "transfer-encoding:\u{c}chunked\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer_encoding: chunked\r\n",
        "transfer-encoding:\r\n chunked\r\n",
        "x: y\ntransfer-encoding: chunked\r\n",
        "x: y\rtransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\n\tx\r\n",
        "transfer-encoding: chunkedx\r\n",
        "te: chunked\r\n",
    ];
    let upstream = RawUpstream::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let mut passed = BTreeSet::new();
    for version in ["1.1", "1.0"] {
        for (length, coding) in lengths
            .iter()
            .flat_map(|length| codings.iter().map(move |coding| (length, coding)))
        {
            for headers in [format!("{length}{coding}"), format!("{coding}{length}")] {
                let head = format!(
                    "POST /a HTTP/{version}\r\nhost: x\r\n{headers}connection: close\r\n\r\n"
                );
                // Both readings find a whole body.
                let body = if coding.is_empty() || *coding == "te: chunked\r\n" {
                    "abcd"
                } else {
                    "0\r\n\r\n"
                };
                let body = if headers.is_empty() || headers == "te: chunked\r\n" {
                    ""
                } else {
                    body
                };
                let answers = send(gateway.address, format!("{head}{body}").as_bytes()).await;
                let [answer] = &answers[..] else {
                    panic!("{headers:?}: {answers:?}")
                };
                let judged = tier(head.as_bytes());
                if answer.status == 200 {
                    assert!(
                        judged <= RequestSafetyTier::Acceptable,
                        "{head:?} {judged:?}"
                    );
                    passed.insert(headers);
                } else {
                    check(answer, 400, &headers);
                }
            }
        }
    }
    let lengths = [
        "content-length: 4\r\n",
        "Content-Length:4\r\n",
        "content-length: 04\r\n",
    ];
    let mut good: BTreeSet<String> = lengths.iter().map(ToString::to_string).collect();
    good.extend(lengths.iter().flat_map(|length| {
        [
            format!("te: chunked\r\n{length}"),
            format!("{length}te: chunked\r\n"),
        ]
    }));
    good.extend(["", "te: chunked\r\n", codings[1], codings[2]].map(str::to_owned));
    assert_eq!(passed, good);
    check_upstream(&upstream, upstream.requests().len());
}

#[tokio::test]
async fn a_refused_client_that_keeps_sending_still_reads_its_answer() {
    let upstream = RawUpstream::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    let upload = [
        "POST /a HTTP/1.1\r\ncontent-length: 500000\r\n\r\n",
        &"x".repeat(500_000),
    ]
    .concat();
    client.write_all(upload.as_bytes()).await.unwrap();
    let answers = receive(&mut client).await;
    check(&answers[0], 400, "");
    drop(client);
    eventually("the connection is over", async || {
        gateway.metric("pollgate_connections").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn the_admin_listener_is_as_strict() {
    let upstream = RawUpstream::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let answers = send(
        gateway.admin,
        b"GET /metrics HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
    )
    .await;
    assert_eq!((answers.len(), answers[0].status), (1, 400));
}
