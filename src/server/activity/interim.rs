//! Interim responses (1xx, RFC 9110 §15.2) that wait to be written to an HTTP/1.1 client.

use std::mem;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};

use crate::sync::lock;

/// Bytes beyond which further interim responses are dropped.
const MAX_QUEUED: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct InterimQueue {
    bytes: Mutex<BytesMut>,
    /// Whether there are any: looked at on every flush.
    is_filled: AtomicBool,
}

impl InterimQueue {
    pub(super) fn new() -> Self {
        Self {
            bytes: Mutex::new(BytesMut::new()),
            is_filled: AtomicBool::new(false),
        }
    }

    /// Queues one as it is written. It is dropped where the queue is full: no interim response has to arrive.
    pub(super) fn push(&self, status: StatusCode, headers: &HeaderMap) {
        let mut bytes = lock(&self.bytes);
        if bytes.len() > MAX_QUEUED {
            return;
        }
        let reason = status.canonical_reason().unwrap_or_default();
        let line = format!("HTTP/1.1 {} {reason}\r\n", status.as_str());
        bytes.extend_from_slice(line.as_bytes());
        for (name, value) in headers {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        self.is_filled.store(true, Ordering::Release);
    }

    pub(super) fn take(&self) -> BytesMut {
        if self.is_filled.load(Ordering::Acquire) {
            self.is_filled.store(false, Ordering::Relaxed);
            mem::take(&mut lock(&self.bytes))
        } else {
            BytesMut::new()
        }
    }

    pub(super) fn clear(&self) {
        drop(self.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interim_responses_are_written_as_http_1_1_and_bounded() {
        let queue = InterimQueue::new();
        assert!(queue.take().is_empty());
        let mut headers = HeaderMap::new();
        headers.insert("link", http::HeaderValue::from_static("</a>"));
        queue.push(StatusCode::EARLY_HINTS, &headers);
        let written = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        assert_eq!(&queue.take()[..], written);
        assert!(queue.take().is_empty(), "was taken");
        for _ in 0..100_000 {
            queue.push(StatusCode::EARLY_HINTS, &headers);
        }
        assert!(queue.take().len() < 2 * MAX_QUEUED);
    }
}
