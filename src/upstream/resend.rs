//! Sends a request again that upstream has not processed.

use std::ops::ControlFlow;

/// The number of times that a request is sent while nobody has processed it.
pub const TRIES: usize = 5;

/// Sends a request over one connection after the other until one takes it, and returns what came of it. `send` breaks
/// with that, or continues with the request, and the reason why it was not processed: the connection was closed before it
/// was sent, or an HTTP/2 peer refused the stream or said goodbye before it (RFC 9113 §8.7).
///
/// Sending again takes no pause and no budget, and nobody is told of it: it is as if the request had never been sent.
///
/// # Errors
/// The last of these reasons, after [`TRIES`] of them.
pub async fn until_processed<R, T, E, S>(mut request: R, send: impl Fn(R) -> S) -> Result<T, E>
where
    S: Future<Output = ControlFlow<T, (R, E)>>,
{
    let mut tries = 0;
    loop {
        tries += 1;
        match send(request).await {
            ControlFlow::Break(outcome) => return Ok(outcome),
            ControlFlow::Continue((_, why)) if tries == TRIES => return Err(why),
            ControlFlow::Continue((again, _)) => request = again,
        }
    }
}
