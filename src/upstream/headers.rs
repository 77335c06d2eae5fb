//! What a proxy owes both sides in headers (RFC 9110 §7.6).

use http::header::{
    CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, StatusCode, Uri, Version};

use crate::config::Forwarded;
use crate::message::fields::{HOP_BY_HOP, list};
use crate::request::inbound::Peer;

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Drops the fields of the connection, and those that `Connection` names.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = list(headers, &CONNECTION)
        .filter_map(|name| name.parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Drops what is for one connection from a request, but for the two things that the next one is told of its own
/// accord: that trailers are welcome (RFC 9110 §10.1.4), and the protocols that the client would rather speak
/// (RFC 9110 §7.8). Whether there are any of those.
pub(super) fn strip_request(headers: &mut HeaderMap, version: Version) -> bool {
    let trailers = list(headers, &TE).any(|coding| coding.eq_ignore_ascii_case("trailers"));
    let protocols = protocols(headers, version);
    strip_hop_by_hop(headers);
    headers.remove(HTTP2_SETTINGS);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    let connection = match (trailers, protocols.is_some()) {
        (true, true) => "te, upgrade",
        (true, false) => "te",
        (false, true) => "upgrade",
        (false, false) => return false,
    };
    headers.insert(CONNECTION, HeaderValue::from_static(connection));
    protocols.is_some_and(|protocols| headers.insert(UPGRADE, protocols).is_none())
}

/// Removes the fields of the connection from a response, except for the protocol that a 101 switches to, and leaves at
/// most one way to tell where its body ends.
pub(super) fn strip_response(headers: &mut HeaderMap, status: StatusCode) {
    keep_one_length(headers);
    let protocol = headers
        .get(UPGRADE)
        .filter(|_| status == StatusCode::SWITCHING_PROTOCOLS)
        .cloned();
    strip_hop_by_hop(headers);
    if let Some(protocol) = protocol {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Removes a length beside `Transfer-Encoding`, which overrides it (RFC 9112 §6.3), and writes one that is repeated only
/// once (RFC 9110 §8.6). The HTTP library has rejected lengths that differ.
fn keep_one_length(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
        return;
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return };
    if lengths.next().is_none() && first.as_bytes().iter().all(u8::is_ascii_digit) {
        return;
    }
    let once = list(headers, &CONTENT_LENGTH)
        .next()
        .and_then(|length| length.parse::<u64>().ok());
    match once {
        Some(length) => headers.insert(CONTENT_LENGTH, length.into()),
        None => headers.remove(CONTENT_LENGTH),
    };
}

/// The protocols in `Upgrade`, where `Connection` says that it is meant (only in HTTP/1.1, RFC 9110 §7.8). Never `h2c`:
/// in HTTP/2 requests would pass that no one here has looked at.
fn protocols(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    let is_meant = version == Version::HTTP_11
        && list(headers, &CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade"));
    let protocols: Vec<_> = list(headers, &UPGRADE)
        .filter(|protocol| !protocol.eq_ignore_ascii_case("h2c"))
        .collect();
    let text = (is_meant && !protocols.is_empty()).then(|| protocols.join(", "))?;
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).ok()
}

/// Tells upstream where the request came from, as the configuration wants it: behind what the client sent of the same
/// field, in one line, so that upstream can count from the end how many proxies it believes.
pub(super) fn append_forwarded(headers: &mut HeaderMap, peer: Peer, uri: &Uri, how: Forwarded) {
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| uri.authority().map(http::uri::Authority::as_str))
        .map(str::to_owned);

    let proto = if peer.tls { "https" } else { "http" };
    let address = peer.address.ip();
    match how {
        Forwarded::Off => {}
        Forwarded::XForwarded => {
            append(
                headers,
                HeaderName::from_static("x-forwarded-for"),
                &address.to_string(),
            );
            append(headers, HeaderName::from_static("x-forwarded-proto"), proto);
            if let Some(host) = host {
                append(headers, HeaderName::from_static("x-forwarded-host"), &host);
            }
        }
        Forwarded::Rfc7239 => {
            // An IPv6 address is quoted and bracketed (RFC 7239 §6).
            let by = if address.is_ipv6() {
                format!("\"[{address}]\"")
            } else {
                address.to_string()
            };
            let host = host.map_or(String::new(), |host| {
                format!(";host=\"{}\"", host.replace(['"', '\\'], ""))
            });
            append(headers, FORWARDED, &format!("for={by};proto={proto}{host}"));
        }
    }
}

fn append(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    let mut line = Vec::new();
    for before in headers.get_all(&name) {
        line.extend_from_slice(before.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(value.as_bytes());
    if let Ok(line) = HeaderValue::from_bytes(&line) {
        headers.insert(name, line);
    }
}

/// Headers of a status poll that upstream does not need: they are about the connection, about what the client takes, about
/// caches and proxies on the way, or about the client itself.
const HARMLESS: [&str; 34] = [
    "accept",
    "baggage",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "dnt",
    "expect",
    "forwarded",
    "host",
    "idempotency-key",
    "keep-alive",
    "last-event-id",
    "pragma",
    "prefer",
    "priority",
    "proxy-connection",
    "purpose",
    "range",
    "referer",
    "save-data",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "x-client-request-id",
    "x-real-ip",
    "x-request-id",
    "x-requested-with",
];

/// How the names of more of them begin.
const HARMLESS_PREFIXES: [&str; 8] = [
    "accept-",
    "if-",
    "sec-",
    "x-forwarded-",
    "x-stainless-",
    "x-b3-",
    "x-envoy-",
    "access-control-",
];

/// Whether upstream does not need this header of a status poll.
pub(super) fn is_harmless(name: &HeaderName) -> bool {
    let name = name.as_str();
    HARMLESS.contains(&name)
        || HARMLESS_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}
