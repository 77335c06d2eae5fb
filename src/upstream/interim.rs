//! What upstream says before it answers (1xx, RFC 9110 §15.2): the word that a body waits for, and hints for the client.

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Request, StatusCode};
use tokio::sync::mpsc;

use super::expect::Expectation;
use super::headers::strip_hop_by_hop;
use crate::message::body::Body;
use crate::message::fields::append_via;

/// How many interim answers may wait to be passed on; more are dropped, as any of them may be.
const WAITING: usize = 8;

/// An interim answer.
pub(super) type Hint = (StatusCode, HeaderMap);

/// Listens to what upstream says before its answer to `request`; what is for the client comes out of the receiver.
/// HTTP/2 upstreams are not heard: hyper keeps their interim answers to itself.
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
