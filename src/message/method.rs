//! What a request's method says of it.

use http::Method;

/// Safe methods of `WebDAV` and its like, which `http` does not name: RFC 4918 §9.1, RFC 3253 §3.6, RFC 5323 §2.
const SAFE: [&str; 3] = ["PROPFIND", "REPORT", "SEARCH"];

/// Whether a request changes nothing (RFC 9110 §9.2.1), as a browser's preflight. A method that nobody knows may change
/// anything (RFC 9111 §4.4).
#[must_use]
pub fn is_safe(method: &Method) -> bool {
    method.is_safe() || SAFE.contains(&method.as_str())
}
