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
