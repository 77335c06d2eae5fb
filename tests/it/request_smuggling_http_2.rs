//! Request smuggling over HTTP/2: what its framing leaves ambiguous is refused; what it forbids does not get that far.

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::raw::RawUpstream;
use crate::support::{Gateway, PATIENCE};

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// An answer with this status.
    Status(u16),
    /// A stream or connection error.
    Error,
}

/// One frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [
        length[1], length[2], length[3], kind, flags, 0, 0, 0, stream,
    ];
    [&head[..], payload].concat()
}

/// Sends a `POST` with these raw header fields and a body.
async fn send(gateway: &Gateway, fields: &[(&str, &str)], body: &str) -> End {
    let mut block = Vec::new();
    for (name, value) in [(":method", "POST"), (":scheme", "http")]
        .iter()
        .chain(fields)
    {
        // A literal without indexing (RFC 7541 §6.2.2), with lengths below 127.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let request = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &block),
        frame(0, 1, 1, body.as_bytes()),
    ];
    stream.write_all(&request.concat()).await.unwrap();
    let end = async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return End::Error;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            stream.read_exact(&mut payload).await.unwrap();
            match (head[3], payload.first()) {
                // `:status` from the static table (RFC 7541, appendix A).
                (1, Some(0x88)) => return End::Status(200),
                (1, Some(0x8c)) => return End::Status(400),
                (1, first) => panic!("another status: {first:?}"),
                // RST_STREAM, GOAWAY.
                (3 | 7, _) => return End::Error,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, end).await.expect("an end")
}

#[tokio::test]
async fn ambiguous_http_2_requests_are_refused() {
    const PATH: (&str, &str) = (":path", "/a");
    const X: (&str, &str) = (":authority", "x");
    let upstream = RawUpstream::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for (fields, body, end) in [
        (&[PATH, X, ("host", "y")][..], "", End::Status(400)),
        (
            &[PATH, X, ("host", "x"), ("host", "x")],
            "",
            End::Status(400),
        ),
        (&[PATH, ("host", "x"), ("host", "y")], "", End::Status(400)),
        (&[PATH], "", End::Status(400)),
        (&[PATH, (":authority", "user@x")], "", End::Status(400)),
        (
            &[PATH, X, ("content-length", "5"), ("content-length", "5")],
            "hello",
            End::Status(400),
        ),
        (
            &[PATH, X, ("content_length", "3")],
            "hello",
            End::Status(400),
        ),
        (&[PATH, X, ("content-length", "4")], "hello", End::Error),
        (&[PATH, X, ("content-length", "6")], "hello", End::Error),
        (&[PATH, X, ("content-length", "x")], "hello", End::Error),
        (&[PATH, X, ("content-length", "5, 5")], "hello", End::Error),
        (
            &[PATH, X, ("transfer-encoding", "chunked")],
            "hello",
            End::Error,
        ),
        (&[PATH, X, ("connection", "close")], "", End::Error),
        (&[PATH, X, ("upgrade", "websocket")], "", End::Error),
        (&[PATH, X, ("te", "gzip")], "", End::Error),
        (&[PATH, X, ("Host", "x")], "", End::Error),
        (&[PATH, X, ("x", "a\r\nb: c")], "", End::Error),
        (&[PATH, X, ("x", "a\0")], "", End::Error),
        (&[PATH, X, ("x y", "a")], "", End::Error),
        (&[PATH, PATH, X], "", End::Error),
        (&[(":path", "/a b"), X], "", End::Error),
        (&[(":path", "/a\r\nb"), X], "", End::Error),
        (&[(":path", "a"), X], "", End::Error),
        (&[(":path", ""), X], "", End::Error),
        (&[X], "", End::Error),
        (&[(":path", "#y"), X], "", End::Status(400)),
        (&[(":path", "?a"), X], "", End::Status(400)),
        (&[(":path", "*"), X], "", End::Status(400)),
    ] {
        assert_eq!(send(&gateway, fields, body).await, end, "{fields:?}");
        assert_eq!(upstream.requests(), Vec::<Vec<u8>>::new(), "{fields:?}");
    }
    let good = [PATH, X, ("host", "X"), ("content-length", "5")];
    assert_eq!(send(&gateway, &good, "hello").await, End::Status(200));
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn an_http_2_request_with_too_large_headers_is_refused() {
    let upstream = RawUpstream::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (mut client, connection) =
        http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://x/a").header("x", "a".repeat(80_000));
    let answer = client
        .send_request(request.body(Empty::new()).unwrap())
        .await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status() == 431));
    assert_eq!(upstream.requests(), Vec::<Vec<u8>>::new());
}
