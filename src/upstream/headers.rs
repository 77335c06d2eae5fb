//! What a proxy owes both sides in headers (RFC 9110 §7.6).

use http::header::{
    CONNECTION, FORWARDED, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{HeaderMap, HeaderValue, Uri};

use crate::config::Forwarded;
use crate::exchange::Peer;

/// Fields of one connection, never of the message (RFC 9110 §7.6.1). `Trailer` is none of them: it says what is to
/// come, and trailers are passed on.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Drops the fields of the connection, and those that `Connection` names.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Adds pollgate to the list of those that passed the message on (RFC 9110 §7.6.3).
pub fn append_via(headers: &mut HeaderMap) {
    headers.append(VIA, HeaderValue::from_static("1.1 pollgate"));
}

/// Tells upstream where the request came from, as the configuration wants it.
pub fn append_forwarded(headers: &mut HeaderMap, peer: Peer, uri: &Uri, how: Forwarded) {
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
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.append(name, value);
    }
}
