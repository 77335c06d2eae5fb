//! Validators of documents.

use std::ops::Range;

use http::HeaderValue;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// A validator (RFC 9110 §8.8.3): the same for the same bytes, whichever reply they came from, and in every process. It is
/// a digest of 128 bits that keeps accidents apart, not attackers: whoever could write two documents with one validator
/// writes both of them anyway.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tag([u8; 16]);

impl Tag {
    pub(super) fn of(body: &[u8]) -> Self {
        Self(xxh3_128(body).to_be_bytes())
    }

    /// Of a body of which some parts do not count.
    pub(super) fn without(body: &[u8], parts: &[Range<usize>]) -> Self {
        let mut counted = Xxh3::new();
        let mut from = 0;
        for part in parts {
            counted.update(&body[from..part.start]);
            from = part.end;
        }
        counted.update(&body[from..]);
        Self(counted.digest128().to_be_bytes())
    }

    /// As a weak validator: bytes that differ may have it.
    pub(super) fn written_weak(self) -> HeaderValue {
        let strong = self.written();
        let weak = [b"W/", strong.as_bytes()].concat();
        HeaderValue::from_maybe_shared(bytes::Bytes::from(weak)).unwrap_or(strong)
    }

    /// As a strong validator.
    pub(super) fn written(self) -> HeaderValue {
        let mut written = [b'"'; 34];
        let _ = const_hex::encode_to_slice(self.0, &mut written[1..33]);
        HeaderValue::from_bytes(&written).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
    }
}

/// Whether the validators of an `If-None-Match` include this one, by weak comparison (RFC 9110 §13.1.2).
#[must_use]
pub fn names(known: &HeaderValue, etag: &HeaderValue) -> bool {
    let known = known.as_bytes();
    let etag = etag.as_bytes();
    let etag = etag.strip_prefix(b"W/").unwrap_or(etag);
    known == b"*"
        || known
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|tag| tag.strip_prefix(b"W/").unwrap_or(tag) == etag)
}
