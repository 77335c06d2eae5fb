//! Validators of documents.

use http::HeaderValue;

/// A strong validator (RFC 9110 §8.8.3): the same for the same bytes, whichever reply they came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tag([u8; 16]);

impl Tag {
    pub(super) fn of(body: &[u8]) -> Self {
        let digest = blake3::hash(body);
        let (halves, _) = digest.as_bytes().as_chunks();
        Self(halves[0])
    }

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
    known == b"*"
        || known
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .any(|tag| tag.strip_prefix(b"W/").unwrap_or(tag) == etag.as_bytes())
}
