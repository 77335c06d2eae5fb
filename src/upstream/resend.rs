//! Sends a request again that upstream has not processed.

use std::ops::ControlFlow;

/// The number of times that a request is sent while nobody has processed it.
pub const TRIES: usize = 5;

/// A request that was sent, and not processed: the connection was closed before it was sent, or an HTTP/2 peer refused the
/// stream or said goodbye before it (RFC 9113 §8.7).
#[derive(Debug)]
pub struct Unprocessed<R, E> {
    /// The request.
    pub request: R,
    /// The reason.
    pub why: E,
    /// Whether this is one of its [`TRIES`]. It is none where the connection took others before it ended.
    pub counts: bool,
}

/// Sends a request over one connection after the other until one takes it, and returns what came of it. `send` breaks
/// with that, or continues where the request was not processed.
///
/// Sending again takes no pause and no budget, and nobody is told of it: it is as if the request had never been sent.
///
/// # Errors
/// The last reason why it was not processed, after [`TRIES`] of them.
pub async fn until_processed<R, T, E, S>(mut request: R, send: impl Fn(R) -> S) -> Result<T, E>
where
    S: Future<Output = ControlFlow<T, Unprocessed<R, E>>>,
{
    let mut tries = 0;
    loop {
        match send(request).await {
            ControlFlow::Break(outcome) => return Ok(outcome),
            ControlFlow::Continue(unprocessed) => {
                tries += usize::from(unprocessed.counts);
                if tries == TRIES {
                    return Err(unprocessed.why);
                }
                request = unprocessed.request;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::ops::ControlFlow::{Break, Continue};

    use super::*;

    #[tokio::test]
    async fn a_request_that_was_overtaken_goes_out_again_however_often() {
        for overtaken in [0, 1, 20] {
            let count = Cell::new(0);
            let send = async |()| {
                count.set(count.get() + 1);
                Continue::<(), _>(Unprocessed {
                    request: (),
                    why: "refused",
                    counts: count.get() > overtaken,
                })
            };
            assert_eq!(until_processed((), send).await, Err("refused"));
            assert_eq!(count.get(), overtaken + TRIES);
        }
        let taken = async |()| Break::<_, Unprocessed<(), ()>>("taken");
        assert_eq!(until_processed((), taken).await, Ok("taken"));
    }
}
