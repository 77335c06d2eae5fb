//! A client's preferences for a status answer, from its request's headers.

use std::time::Duration;

use http::header::{ACCEPT, CACHE_CONTROL, HeaderName};
use http::{HeaderMap, HeaderValue};

use crate::message::fields::list;

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Headers in which SDKs of OpenAI say how long they wait for an answer, in seconds: those of Python, then of Node.
static TIMEOUTS: [HeaderName; 2] = [
    HeaderName::from_static("x-stainless-read-timeout"),
    HeaderName::from_static("x-stainless-timeout"),
];

/// What the way back to the client may take.
const WAY_BACK: Duration = Duration::from_millis(500);

/// Which answers a client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheMode {
    /// Any that is fresh.
    Default,
    /// One from upstream (`no-cache`, `max-age=0`), also of a poll that is already under way.
    NoCache,
    /// One from memory (`only-if-cached`).
    OnlyIfCached,
}

/// Which answers the client accepts, from `cache-control` (RFC 9111 §5.2.1). Other directives change nothing here.
#[must_use]
pub fn cache_mode(headers: &HeaderMap) -> CacheMode {
    let mut cache_mode = CacheMode::Default;
    for directive in list(headers, &CACHE_CONTROL) {
        match directive.to_ascii_lowercase().as_str() {
            "only-if-cached" => return CacheMode::OnlyIfCached,
            "no-cache" | "max-age=0" => cache_mode = CacheMode::NoCache,
            _ => {}
        }
    }
    cache_mode
}

/// How long the client waits for an answer at all, as far as it says so, less what the way back takes.
#[must_use]
pub fn client_timeout(headers: &HeaderMap) -> Option<Duration> {
    let told = headers.iter().filter(|(name, _)| TIMEOUTS.contains(name));
    let timeout = told
        .filter_map(|(_, value)| value.to_str().ok()?.parse().ok())
        .filter_map(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|timeout| !timeout.is_zero())
        .min()?;
    let usable = timeout.mul_f64(0.9).saturating_sub(WAY_BACK);
    Some(usable.max(timeout / 2))
}

/// How long the client is willing to wait for news, from `Prefer: wait=N` (RFC 7240 §4.3): at most `limit`, and less than
/// it waits for an answer at all.
#[must_use]
pub fn wait(headers: &HeaderMap, limit: Duration) -> Option<Duration> {
    let seconds = list(headers, &PREFER).find_map(|preference| {
        let (name, value) = preference.split(';').next()?.split_once('=')?;
        let is_wait = name.trim().eq_ignore_ascii_case("wait");
        is_wait
            .then(|| value.trim().trim_matches('"').parse::<u64>().ok())
            .flatten()
    })?;
    let patience = client_timeout(headers).unwrap_or(limit);
    Some(Duration::from_secs(seconds).min(limit).min(patience))
}

/// Whether the client wants a stream of events more than a document (RFC 9110 §12.5.1). One that takes both equally gets
/// a document: it may not know how long a stream stays open.
#[must_use]
pub fn wants_events(headers: &HeaderMap) -> bool {
    const EVENTS: &str = "text/event-stream";
    let accepts = headers.get_all(ACCEPT).iter();
    // Most accept something shorter, which need not be read.
    if accepts.map(HeaderValue::len).all(|len| len < EVENTS.len()) {
        return false;
    }
    let json = ["application/json", "application/*", "*/*"]
        .into_iter()
        .find_map(|range| weight_of(headers, range));
    weight(headers, EVENTS) > json.unwrap_or(0.0)
}

/// How much a media type is wanted where it is named itself, from 0 to 1; of several mentions the highest.
#[must_use]
pub fn weight(headers: &HeaderMap, media_type: &str) -> f32 {
    weight_of(headers, media_type).unwrap_or(0.0)
}

/// The weight of a media range, if it is named.
fn weight_of(headers: &HeaderMap, range: &str) -> Option<f32> {
    list(headers, &ACCEPT)
        .filter_map(|named| {
            let mut parts = named.split(';').map(str::trim);
            let is_range = parts.next()?.eq_ignore_ascii_case(range);
            let weight =
                parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
            is_range.then(|| weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)))
        })
        .reduce(f32::max)
}

/// The validators of what the client knows, from all lines of `name`, as one list (RFC 9110 §5.3).
#[must_use]
pub fn validators(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?.clone();
    lines.try_fold(first, |all, line| {
        let all = [all.as_bytes(), b", ", line.as_bytes()].concat();
        HeaderValue::from_maybe_shared(bytes::Bytes::from(all)).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn cache_control_is_read_in_any_case_and_order() {
        for (value, demanded) in [
            ("no-cache", CacheMode::NoCache),
            ("Max-Age=0", CacheMode::NoCache),
            ("no-transform, NO-CACHE", CacheMode::NoCache),
            ("only-if-cached, no-cache", CacheMode::OnlyIfCached),
            ("no-cache, only-if-cached", CacheMode::OnlyIfCached),
            ("max-age=60, no-store", CacheMode::Default),
            ("", CacheMode::Default),
        ] {
            assert_eq!(
                cache_mode(&headers(&[("cache-control", value)])),
                demanded,
                "{value}"
            );
        }
    }

    #[test]
    fn a_wait_is_bounded_by_the_limit_and_by_what_the_client_allows() {
        let limit = Duration::from_mins(1);
        for (pairs, seconds) in [
            (&[("prefer", "wait=20")][..], Some(20.0)),
            (&[("prefer", "respond-async, Wait = \"7\"; x=y")], Some(7.0)),
            (&[("prefer", "wait=600")], Some(60.0)),
            (&[("prefer", "wait=0")], Some(0.0)),
            (
                &[("prefer", "wait=30"), ("x-stainless-read-timeout", "10")],
                Some(8.5),
            ),
            (
                &[("prefer", "wait=30"), ("x-stainless-read-timeout", "600")],
                Some(30.0),
            ),
            (
                &[("prefer", "wait=30"), ("x-stainless-read-timeout", "-1")],
                Some(30.0),
            ),
            (&[("prefer", "wait")], None),
            (&[("prefer", "wait=soon")], None),
            (&[("prefer", "return=minimal")], None),
            (&[], None),
        ] {
            assert_eq!(
                wait(&headers(pairs), limit).map(|wait| wait.as_secs_f64()),
                seconds,
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn events_are_sent_only_to_clients_that_want_them_more_than_a_document() {
        for accept in [
            "text/event-stream",
            "application/json;q=0.1, Text/Event-Stream;q=1",
            "text/event-stream, */*;q=0.5",
            "text/event-stream;q=0.9, application/json;q=0.2, */*",
            "text/html, text/event-stream;q=0.1",
            "application/json;q=0, text/event-stream, */*",
        ] {
            assert!(wants_events(&headers(&[("accept", accept)])), "{accept}");
        }
        for accept in [
            "*/*",
            "text/event-stream;q=0",
            "text/event-stream;q=0, text/html",
            "application/json, text/event-stream;q=0.5",
            "application/json, text/event-stream",
            "text/event-stream, application/json",
            "text/event-stream;q=0.5, application/json;q=0.5",
            "text/event-stream, */*",
            "text/event-stream;q=0.5, application/*",
        ] {
            assert!(!wants_events(&headers(&[("accept", accept)])), "{accept}");
        }
        assert!(!wants_events(&headers(&[])));
    }
}
