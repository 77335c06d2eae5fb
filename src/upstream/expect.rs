//! `Expect: 100-continue` from end to end (RFC 9110 §10.1.1): the body is asked for when upstream wants it, and never
//! where upstream refuses at once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::EXPECT;
use http::{HeaderMap, Request};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::message::body::Body;

/// How long upstream has to say that it wants the body, before the body is sent all the same: not every server knows
/// of the question. curl waits as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// What upstream has said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ContinueState {
    Nothing,
    Continue,
    Answer,
}

/// A request whose body waits for upstream's word. To be kept until the answer's body has ended.
#[derive(Clone)]
pub(super) struct Expectation(Arc<watch::Sender<ContinueState>>);

impl Expectation {
    /// Upstream wants the body.
    pub(super) fn continued(&self) {
        self.0.send_replace(ContinueState::Continue);
    }

    /// The head of the answer is here: a body that has not been asked for by now will not be.
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

/// Lets the body of a request that expects it wait for upstream's word. Nothing of it is read from the client before,
/// and so the client is not told to continue either.
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
        // The connection is of no use after a request that stays without its body. It ends with the answer, no sooner.
        Ok(Ok(_)) => {
            while word.changed().await.is_ok() {}
            false
        }
        Ok(Err(_)) => false,
    }
}
