//! A client's request id comes back, but the client does not choose how much memory that takes.

use std::net::SocketAddr;

use http::Request;
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Gateway, Upstream, eventually, row};

#[tokio::test]
async fn a_long_request_id_is_echoed_and_logged_up_to_128_bytes() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("log.requests", "all")]).await;
    for (length, echoed) in [(1, 1), (128, 128), (129, 128), (60_000, 128)] {
        let id = "i".repeat(length);
        for path in ["/v1/videos/t", "/v1/models"] {
            let named = [("x-request-id", id.as_str())];
            let answer = gateway.client.get(path, "sk-test", &named).await;
            assert_eq!(answer.header("x-request-id"), &id[..echoed], "{path}");
        }
    }
    let longest = gateway.log().iter().map(String::len).max();
    assert!(longest < Some(2000), "{longest:?}");
}

#[tokio::test]
async fn a_long_request_id_is_passed_on_whole() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let id = "i".repeat(1000);
    let request = Request::get(gateway.client.url("/v1/models")).header("x-request-id", &id);
    let request = request.body(Full::default()).unwrap();
    gateway.client.send(request).await;
    assert_eq!(upstream.asked()[0].header("x-request-id"), id);
}

/// One frame (RFC 9113 §4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// A poll with this request id, as a block of header fields (RFC 7541).
pub(crate) fn poll(id: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", "/v1/videos/t"),
        ("authorization", "Bearer sk-test"),
        ("x-request-id", id),
    ] {
        // A literal that is not indexed, with its lengths (§5.1).
        block.push(0);
        for text in [name, value] {
            if let Some(mut rest) = text.len().checked_sub(127) {
                block.push(127);
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128 + 128).unwrap());
                    rest /= 128;
                }
                block.push(u8::try_from(rest).unwrap());
            } else {
                block.push(u8::try_from(text.len()).unwrap());
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// Polls on one connection, and reads none of the answers.
async fn poll_and_read_nothing(address: SocketAddr, count: u32, id: &str) -> TcpStream {
    const CONTINUATION: u8 = 9;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    stream.write_all(preface).await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let block = poll(id);
    for number in 0..count {
        let mut frames = Vec::new();
        let mut pieces = block.chunks(16_384).peekable();
        let mut kind = 1;
        while let Some(piece) = pieces.next() {
            let last = if pieces.peek().is_none() {
                END_HEADERS
            } else {
                0
            };
            let flags = if kind == 1 { END_STREAM | last } else { last };
            frames.extend(frame(kind, flags, 2 * number + 1, piece));
            kind = CONTINUATION;
        }
        stream.write_all(&frames).await.unwrap();
    }
    stream
}

#[tokio::test]
async fn clients_that_read_nothing_cannot_fill_the_memory_with_their_request_ids() {
    const CLIENTS: u32 = 6;
    const REQUESTS: u32 = 200;
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("log.requests", "off")]).await;
    gateway.get("/v1/videos/t").await;
    let hits = async || {
        let series = "pollgate_requests_total{code=\"200\",outcome=\"hit\",route=\"openai\"}";
        gateway.metric(series).await
    };
    // What the process allocates once for a crowd is there before it is looked at.
    let mut kept = Vec::new();
    let mut sizes = Vec::new();
    for (id, expected) in [("i".to_owned(), 1), ("i".repeat(60_000), 2)] {
        for _ in 0..CLIENTS {
            kept.push(poll_and_read_nothing(gateway.address, REQUESTS, &id).await);
        }
        let expected = f64::from(expected * CLIENTS * REQUESTS);
        eventually("all are answered", async || hits().await >= expected).await;
        sizes.push(gateway.resident() >> 20);
    }
    let grown = sizes[1].saturating_sub(sizes[0]);
    println!("{CLIENTS} clients with {REQUESTS} long request ids each: {grown} MiB");
    assert!(grown < 24, "{sizes:?} MiB");
}
