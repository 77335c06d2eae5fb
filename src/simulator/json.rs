//! JSON as upstream writes it.

use bytes::Bytes;
use serde::Serialize;

/// JSON as Go's `encoding/json` writes it: `&`, `<` and `>` are escaped.
pub(super) fn go_json(value: &impl Serialize) -> Bytes {
    let plain = serde_json::to_vec(value).unwrap_or_default();
    let mut escaped = Vec::with_capacity(plain.len() + 64);
    for byte in plain {
        // Outside of strings JSON has none of these.
        match byte {
            b'&' => escaped.extend_from_slice(br"\u0026"),
            b'<' => escaped.extend_from_slice(br"\u003c"),
            b'>' => escaped.extend_from_slice(br"\u003e"),
            other => escaped.push(other),
        }
    }
    escaped.into()
}
