//! Header fields whose values are lists.

use http::HeaderMap;
use http::header::HeaderName;

/// The members of a comma-separated field, over all its lines (RFC 9110 §5.6.1); empty ones are none.
pub fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|member| !member.is_empty())
}
