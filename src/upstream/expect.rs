//! End-to-end `Expect: 100-continue` (RFC 9110 §10.1.1): the client is asked for the body only when upstream asks for
//! it, and not at all if upstream answers without it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::EXPECT;
use http::{HeaderMap, Request};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::message::body::Body;

/// How long to wait for upstream's `100 Continue` before the body is sent anyway: not every server supports the
/// expectation. curl waits as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// What upstream has sent so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContinueState {
    Nothing,
    Continue,
    Answer,
}

/// A request whose body waits for `100 Continue`. Keep it until the response body has ended.
#[derive(Clone)]
pub(super) struct Expectation(Arc<watch::Sender<ContinueState>>);

impl Expectation {
    /// Upstream sent `100 Continue`.
    pub(super) fn continued(&self) {
        self.0.send_replace(ContinueState::Continue);
    }

    /// The response head arrived: a body that has not been asked for by now never will be.
    pub(super) fn answered(&self) {
        self.0.send_if_modified(|word| {
            let undecided = *word == ContinueState::Nothing;
            if undecided {
                *word = ContinueState::Answer;
            }
            undecided
        });
    }
}

impl fmt::Debug for Expectation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0.borrow(), to)
    }
}

/// Makes the body of a request with `Expect: 100-continue` wait for upstream. Until then nothing of it is read from the
/// client, so hyper does not send the client a `100 Continue` either.
#[must_use]
pub(super) fn expect_continue(request: Request<Body>) -> (Request<Body>, Option<Expectation>) {
    if !expects_continue(request.headers()) {
        return (request, None);
    }
    let (word, heard) = watch::channel(ContinueState::Nothing);
    let expectation = Expectation(Arc::new(word));
    let request = request.map(|body| body.once(permission(heard)));
    (request, Some(expectation))
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get_all(EXPECT)
        .iter()
        .any(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

async fn permission(mut word: watch::Receiver<ContinueState>) -> bool {
    let said = word.wait_for(|word| *word != ContinueState::Nothing);
    match timeout(PATIENCE, said)
        .await
        .map(|said| said.map(|word| *word))
    {
        Err(_) | Ok(Ok(ContinueState::Continue)) => true,
        // A connection cannot be reused after a request whose body was never sent. It is closed after the response, no
        // sooner.
        Ok(Ok(_)) => {
            while word.changed().await.is_ok() {}
            false
        }
        Ok(Err(_)) => false,
    }
}
