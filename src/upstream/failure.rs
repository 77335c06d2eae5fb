//! Why upstream gave no answer, in words for people: what failed, not how a library spells it.
//!
//! `docs/operations.md` lists the reasons, and `tests/it/upstream_reasons.rs` makes each of them happen. Clients are not
//! told names or addresses; operators are told the name that could not be resolved.

use std::error::Error as StdError;
use std::io;
use std::iter::successors;

use rustls::{AlertDescription, CertificateError};

use super::connect::{ProxyFailed, Unresolved};
use crate::error::{Error, OPEN_FILES, Unreachable};

/// Classifies an error of the client library.
pub(super) fn failure(error: &(dyn StdError + 'static)) -> Error {
    // The client's own doing: its request's body broke off.
    let causes = || successors(Some(error), |error| (*error).source());
    if let Some(own) = causes().find_map(|cause| cause.downcast_ref::<Error>()) {
        return own.clone();
    }
    let mut of_http = causes().filter_map(|cause| cause.downcast_ref::<hyper::Error>());
    if of_http.any(hyper::Error::is_incomplete_message) {
        return Error::UpstreamClosed;
    }
    if causes().any(is_out_of_files) {
        return Error::Overloaded(OPEN_FILES);
    }
    let why = reason(error).unwrap_or_else(|| "the connection broke".into());
    tracing::debug!(cause = ?error, "upstream request failed: {}", why.in_full());
    Error::UpstreamUnavailable(why)
}

/// Whether this process, or the whole system, has no file descriptor left: that is not upstream's fault.
fn is_out_of_files(cause: &(dyn StdError + 'static)) -> bool {
    let io = match cause.downcast_ref() {
        Some(Unresolved { error, .. }) => Some(error),
        None => cause.downcast_ref::<io::Error>(),
    };
    // ENFILE and EMFILE, on every system.
    matches!(io.and_then(io::Error::raw_os_error), Some(23 | 24))
}

/// The innermost cause that can be put into words.
fn reason(error: &(dyn StdError + 'static)) -> Option<Unreachable> {
    if error.is::<tower::timeout::error::Elapsed>() {
        return Some("connecting took longer than upstream.connect_timeout".into());
    }
    if let Some(ProxyFailed(why)) = error.downcast_ref() {
        let why = reason(&**why).unwrap_or_else(|| of_tunnel(&why.to_string()).into());
        return Some(why.map(|why| format!("the proxy on the way there failed: {why}")));
    }
    if let Some(Unresolved { name, error }) = error.downcast_ref() {
        let why = resolving(error);
        return Some(Unreachable::with_detail(
            format!("its name could not be resolved: {why}"),
            format!("the name {name} could not be resolved: {why}"),
        ));
    }
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(format!("TLS failed: {}", of_tls(tls)).into());
    }
    if let Some(io) = error.downcast_ref::<io::Error>() {
        // What an I/O error wraps is not among its sources.
        let wrapped = io.get_ref().and_then(|wrapped| reason(wrapped));
        return wrapped.or_else(|| of_io(io).map(Into::into));
    }
    if error
        .downcast_ref::<hyper::Error>()
        .is_some_and(hyper::Error::is_parse)
    {
        return Some("what came back is not HTTP".into());
    }
    error.source().and_then(reason)
}

/// hyper-util's words for what a proxy did.
fn of_tunnel(text: &str) -> &str {
    match without_prefix(text) {
        "unsuccessful" => "it refused to connect to the upstream",
        "unexpected end of file" => "it closed the connection",
        words => words,
    }
}

/// `tunnel error: proxy authorization required` without its first part.
fn without_prefix(text: &str) -> &str {
    text.rsplit_once(": ").map_or(text, |(_, rest)| rest)
}

/// `failed to lookup address information: Name or service not known` without its first part.
fn resolving(error: &io::Error) -> String {
    without_prefix(&error.to_string()).to_owned()
}

fn of_io(error: &io::Error) -> Option<String> {
    if let Some(number) = error.raw_os_error() {
        // The system's own words, which Rust's are not for every number; without the number.
        let text = io::Error::from_raw_os_error(number).to_string();
        let (text, _) = text.split_once(" (os error").unwrap_or((&text, ""));
        return Some(text.to_lowercase());
    }
    if error.kind() == io::ErrorKind::UnexpectedEof {
        // The one place where tokio-rustls says it itself.
        let in_handshake = error.to_string().contains("handshake");
        return in_handshake
            .then(|| "TLS failed: the upstream closed the connection during the handshake".into());
    }
    if error.kind() == io::ErrorKind::ConnectionReset {
        // Where h2 has dropped the number.
        return Some("connection reset by peer".into());
    }
    match error.kind().to_string().as_str() {
        "uncategorized error" | "other error" => None,
        kind => Some(kind.to_owned()),
    }
}

fn of_tls(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(why) => {
            format!("certificate is not trusted: {}", of_certificate(why))
        }
        rustls::Error::InvalidMessage(_) => {
            "the upstream does not speak TLS on this port".to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(_) => {
            "the upstream offers no version or cipher of TLS that is accepted here".to_owned()
        }
        rustls::Error::AlertReceived(alert) => {
            format!("the upstream refused it: {}", words(&format!("{alert:?}")))
        }
        rustls::Error::NoApplicationProtocol => {
            "the upstream speaks neither HTTP/1.1 nor HTTP/2".to_owned()
        }
        _ => "the handshake went wrong".to_owned(),
    }
}

fn of_certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => {
            "its issuer is unknown, and upstream.ca_file does not name it"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name"
        }
        CertificateError::Revoked => "it has been revoked",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not for servers"
        }
        CertificateError::BadEncoding => "it cannot be read",
        CertificateError::BadSignature => "its signature is wrong",
        // webpki's own errors are spelled as it names them.
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "it is a CA certificate"
        }
        CertificateError::Other(other) => return words(&other.to_string()),
        _ => "it cannot be checked",
    }
    .to_owned()
}

/// `HandshakeFailure` as `handshake failure`.
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars().filter(char::is_ascii_alphanumeric) {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_are_told_in_its_words() {
        for (number, told) in [
            (13, "permission denied"),
            (24, "too many open files"),
            (104, "connection reset by peer"),
            (111, "connection refused"),
            (113, "no route to host"),
        ] {
            let error = io::Error::from_raw_os_error(number);
            assert_eq!(of_io(&error).as_deref(), Some(told));
        }
        let unknown = io::Error::other("Box<dyn Whatever>");
        assert_eq!(reason(&unknown), None);
    }

    #[test]
    fn names_of_types_become_words() {
        assert_eq!(words("HandshakeFailure"), "handshake failure");
        assert_eq!(words("Unknown(0x5d)"), "unknown0x5d");
    }
}
