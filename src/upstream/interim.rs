//! Interim responses from upstream (1xx, RFC 9110 §15.2): `100 Continue`, and hints that are passed on to the client.

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request, StatusCode};
use tokio::sync::mpsc;

use super::expect::Expectation;
use super::headers::strip_hop_by_hop;
use crate::message::body::Body;
use crate::message::fields::append_via;

/// How many interim responses may be queued for the client. More are dropped, which HTTP allows.
const WAITING: usize = 8;

/// An interim response.
pub(super) type Hint = (StatusCode, HeaderMap);

/// Subscribes to the interim responses to `request`; those meant for the client come out of the receiver. Nothing
/// comes from HTTP/2 upstreams: hyper does not expose their interim responses.
pub(super) fn listen(
    request: &mut Request<Body>,
    expectation: Option<Expectation>,
) -> mpsc::Receiver<Hint> {
    let (sender, receiver) = mpsc::channel(WAITING);
    hyper::ext::on_informational(request, move |response| match response.status() {
        StatusCode::CONTINUE => {
            if let Some(expectation) = &expectation {
                expectation.continued();
            }
        }
        status => {
            let mut headers = response.headers().clone();
            strip_hop_by_hop(&mut headers);
            headers.remove(CONTENT_LENGTH);
            append_via(&mut headers);
            let _ = sender.try_send((status, headers));
        }
    });
    receiver
}
