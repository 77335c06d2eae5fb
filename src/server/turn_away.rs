//! The answer to a connection that is not served. hyper has no part in it: it takes one write.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use futures_util::FutureExt as _;
use http::Response;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{LINGER, MAX_DISCARDED};
use crate::message::body::Body;

/// Permits of clients that are given [`LINGER`] to read the answer.
static LINGERING: Semaphore = Semaphore::const_new(256);

/// Writes `refusal`, in the time that a write into an empty socket takes, and closes the connection.
pub(super) async fn turn_away(mut stream: TcpStream, refusal: Response<Body>) {
    let Some(bytes) = serialize(refusal) else {
        return;
    };
    if stream.writable().await.is_ok() {
        let _ = stream.try_write(&bytes);
    }
    let Ok(_permit) = LINGERING.try_acquire() else {
        return;
    };
    let _ = stream.shutdown().await;
    let (mut discarded, mut sink) = (stream.take(MAX_DISCARDED), tokio::io::sink());
    let _ = timeout(LINGER, tokio::io::copy(&mut discarded, &mut sink)).await;
}

/// The same within one call, whether the client has read the answer or not: the connection has the last descriptor.
pub(super) fn turn_away_at_once(stream: TcpStream, refusal: Response<Body>) {
    let (Some(bytes), Ok(mut stream)) = (serialize(refusal), stream.into_std()) else {
        return;
    };
    let _ = stream.write(&bytes);
    let _ = stream.shutdown(Shutdown::Write);
    // Bytes that are left unread when the socket closes would reset the connection, and take the answer away.
    let mut buffer = [0; 4096];
    let mut discarded = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        discarded += count as u64;
        if discarded >= MAX_DISCARDED {
            break;
        }
    }
}

/// The buffered response as HTTP/1.1, the last one of its connection.
fn serialize(response: Response<Body>) -> Option<Vec<u8>> {
    let (head, body) = response.into_parts();
    let body = body.collect().now_or_never()?.ok()?.to_bytes();
    let reason = head.status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", head.status.as_str()).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    let end = format!(
        "content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    bytes.extend_from_slice(end.as_bytes());
    bytes.extend_from_slice(&body);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::CONTENT_TYPE;

    use super::*;

    #[test]
    fn a_refusal_is_a_whole_http_1_1_response() {
        let response = Response::builder()
            .status(StatusCode::SERVICE_UNAVAILABLE)
            .header(CONTENT_TYPE, "text/plain")
            .body(Body::full("later"))
            .expect("is valid");
        let bytes = serialize(response).expect("is buffered");
        assert_eq!(
            String::from_utf8(bytes).expect("text"),
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\
             connection: close\r\n\r\nlater"
        );
    }
}
