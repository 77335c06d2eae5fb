//! Why upstream gave no answer, in this program's own terms.

use std::error::Error as StdError;
use std::io;
use std::iter::successors;

use super::connect::ProxyFailed;
use crate::error::Error;

/// What an error of the client library comes to.
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
    let why = reason(error).unwrap_or_else(|| "the connection broke".into());
    tracing::debug!("upstream request failed: {why}: {error:?}");
    Error::UpstreamUnavailable(why.into())
}

/// What went wrong, in words that name no address: the innermost cause that says something.
fn reason(error: &(dyn StdError + 'static)) -> Option<String> {
    if error.is::<tower::timeout::error::Elapsed>() {
        return Some("connecting took longer than upstream.connect_timeout".into());
    }
    if let Some(proxy) = error.downcast_ref::<ProxyFailed>() {
        return Some(proxy.to_string());
    }
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(format!("TLS failed: {tls}"));
    }
    if let Some(io) = error.downcast_ref::<io::Error>() {
        // What an I/O error wraps is not among its sources.
        let wrapped = io.get_ref().and_then(|wrapped| reason(wrapped));
        return wrapped.or_else(|| Some(io.kind().to_string()));
    }
    error.source().and_then(reason)
}
