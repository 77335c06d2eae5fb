//! Refuses requests that other sites' pages send: any page that a browser on this machine opens can request loopback
//! addresses.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, StatusCode};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its host is a foreign name that resolves to this listener (DNS rebinding).
    ForeignHost,
    /// A page of another site sent it.
    ForeignPage,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            // RFC 9110 §15.5.20.
            Self::ForeignHost => StatusCode::MISDIRECTED_REQUEST,
            Self::ForeignPage => StatusCode::FORBIDDEN,
        }
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::ForeignHost => {
                "the admin listener is bound to a loopback address and accepts localhost and loopback addresses as host only\n"
            }
            Self::ForeignPage => "pages of other sites are refused\n",
        }
    }
}

/// Checks a request to a listener that is bound to `bound`.
pub(super) fn examine(head: &Parts, bound: SocketAddr) -> Result<(), Refusal> {
    let host = host(head);
    // Only on loopback: the names of a public listener are unknown.
    if bound.ip().to_canonical().is_loopback()
        && let Some(host) = host
        && !is_local(host, bound.ip())
    {
        return Err(Refusal::ForeignHost);
    }
    let is_read = head.method == Method::GET || head.method == Method::HEAD;
    let is_stream = head.uri.path() == super::live::PATH;
    if (!is_read || is_stream) && is_from_foreign_page(&head.headers, host) {
        return Err(Refusal::ForeignPage);
    }
    Ok(())
}

/// Returns the host with its port, or `None` for an HTTP/1.0 request without one, which no browser sends.
fn host(head: &Parts) -> Option<&str> {
    match head.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => Some(head.headers.get(HOST)?.to_str().unwrap_or("")),
    }
}

/// Whether a host names this machine. Any port will do, since a tunnel may lead here from another one.
fn is_local(host: &str, bound: IpAddr) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback() || address == bound,
        Err(_) => name == "localhost" || name.ends_with(".localhost"),
    }
}

/// Whether a page of another site sent the request. Browsers send Fetch Metadata, and those that do not send an origin
/// with every write; other tools send neither.
fn is_from_foreign_page(headers: &HeaderMap, host: Option<&str>) -> bool {
    let foreign_site = headers
        .get(SEC_FETCH_SITE)
        .is_some_and(|site| site != "same-origin" && site != "none");
    let foreign_origin = headers.get(ORIGIN).is_some_and(|origin| {
        let origin = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"));
        origin.map(|(_, origin)| origin) != host
    });
    foreign_site || foreign_origin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        head
    }

    #[test]
    fn a_loopback_listener_answers_to_loopback_names_only() {
        let examined = |host: &str, bound: &str| {
            let request = request(Method::GET, "/metrics", &[("host", host)]);
            examine(&request, bound.parse().expect("an address"))
        };
        for host in [
            "localhost",
            "LocalHost.:9090",
            "127.0.0.1:9090",
            "127.8.8.8",
            "[::1]:1",
            "[::ffff:127.0.0.1]",
            "a.localhost:80",
        ] {
            assert_eq!(examined(host, "127.0.0.1:9090"), Ok(()), "{host}");
        }
        for host in [
            "evil.example:9090",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "192.0.2.1",
            "",
            "[::2]",
        ] {
            assert_eq!(
                examined(host, "127.0.0.1:9090"),
                Err(Refusal::ForeignHost),
                "{host}"
            );
            assert_eq!(
                examined(host, "[::1]:9090"),
                Err(Refusal::ForeignHost),
                "{host}"
            );
            assert_eq!(examined(host, "0.0.0.0:9090"), Ok(()), "{host}");
        }
        let old = request(Method::GET, "/metrics", &[]);
        assert_eq!(
            examine(&old, "127.0.0.1:9090".parse().expect("an address")),
            Ok(())
        );
    }

    #[test]
    fn pages_of_other_sites_neither_purge_nor_watch() {
        let here = ("host", "localhost:9090");
        let examined = |method, path, header| {
            examine(
                &request(method, path, &[here, header]),
                "127.0.0.1:9090".parse().expect("an address"),
            )
        };
        for header in [
            ("origin", "http://evil.example"),
            ("origin", "http://localhost:3000"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert_eq!(
                examined(Method::DELETE, "/cache", header),
                Err(Refusal::ForeignPage),
                "{header:?}"
            );
            assert_eq!(
                examined(Method::GET, "/live", header),
                Err(Refusal::ForeignPage),
                "{header:?}"
            );
            assert_eq!(examined(Method::GET, "/", header), Ok(()), "a link is fine");
        }
        for header in [
            ("origin", "http://localhost:9090"),
            ("sec-fetch-site", "same-origin"),
            ("sec-fetch-site", "none"),
            ("x", "y"),
        ] {
            assert_eq!(
                examined(Method::DELETE, "/cache", header),
                Ok(()),
                "{header:?}"
            );
        }
    }
}
