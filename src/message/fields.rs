//! Header fields that both sides of the gateway read and write.

use std::time::{Duration, SystemTime};

use http::header::{
    CONNECTION, CONTENT_TYPE, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, RETRY_AFTER, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderValue};

/// The type of every status answer. Some SDKs take JSON without it for text.
pub const JSON: (HeaderName, HeaderValue) =
    (CONTENT_TYPE, HeaderValue::from_static("application/json"));

/// `retry-after` in milliseconds, which OpenAI's SDKs read first.
pub const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Fields of one connection, never of the message (RFC 9110 §7.6.1). `Trailer` is none of them: it says what is to
/// come, and trailers are passed on.
pub const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The members of a comma-separated field over all its lines (RFC 9110 §5.6.1), without empty ones.
pub fn list<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|member| !member.is_empty())
}

/// Adds pollgate to the proxies that the message has passed (RFC 9110 §7.6.3).
pub fn append_via(headers: &mut HeaderMap) {
    headers.append(VIA, HeaderValue::from_static("1.1 pollgate"));
}

/// The pause that the sender asks for: `retry-after-ms`, or `retry-after` in seconds or as a date (RFC 9110 §10.2.3).
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok();
    if let Some(millis) = text(&RETRY_AFTER_MS).and_then(|millis| millis.parse().ok()) {
        return Some(Duration::from_millis(millis));
    }
    let when = text(&RETRY_AFTER)?;
    let seconds = when.parse().ok().map(Duration::from_secs);
    seconds.or_else(|| {
        let date = httpdate::parse_http_date(when).ok()?;
        Some(date.duration_since(SystemTime::now()).unwrap_or_default())
    })
}

/// The time in Unix seconds.
#[must_use]
pub fn unix_now() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
