//! A request's body that can be sent again from its start, as long as little of it has been read.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tower::BoxError;

use super::body::Body;

/// The most bytes that are kept of a body. A request for a video is smaller, an upload larger.
const MOST: usize = 64 << 10;

/// See the module.
pub struct Replay(Arc<Mutex<Source>>);

/// The body, and what was read of it.
struct Source {
    body: Body,
    has_ended: bool,
    /// All that was read; `None` once that was too much.
    read: Option<Vec<Bytes>>,
    kept: usize,
    /// The number of the one attempt that may read.
    attempt: usize,
    /// Whether a connection has taken this attempt's request: it has asked about the body.
    is_taken: bool,
    /// Whether it has read of this attempt's body.
    is_begun: bool,
}

/// The body for one attempt.
struct Attempt {
    source: Arc<Mutex<Source>>,
    number: usize,
    /// How much of [`Source::read`] it has sent.
    next: usize,
    /// What is left to send.
    left: SizeHint,
}

impl Replay {
    /// Takes a body; reads nothing of it.
    #[must_use]
    pub fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(Source {
            has_ended: body.is_end_stream(),
            body,
            read: Some(Vec::new()),
            kept: 0,
            attempt: 0,
            is_taken: false,
            is_begun: false,
        })))
    }

    /// The body from its start, if it is still there. An earlier one then reads no more.
    #[must_use]
    pub fn body(&self) -> Option<Body> {
        self.next(&mut lock(&self.0))
    }

    /// As [`Replay::body`], unless a connection has taken the latest one: asked about it, or read of it. The latest one
    /// then never makes a whole request, whoever takes it later.
    #[must_use]
    pub fn withdraw(&self) -> Option<Body> {
        let mut source = lock(&self.0);
        (!source.is_taken).then(|| self.next(&mut source))?
    }

    fn next(&self, source: &mut Source) -> Option<Body> {
        source.read.as_ref()?;
        source.attempt += 1;
        source.is_taken = false;
        source.is_begun = false;
        let left = match source.body.size_hint().exact() {
            Some(unread) => SizeHint::with_exact(unread + source.kept as u64),
            None => SizeHint::new(),
        };
        Some(Body::boxed(Attempt {
            source: Arc::clone(&self.0),
            number: source.attempt,
            next: 0,
            left,
        }))
    }

    /// Whether there is a body and the latest attempt has read nothing of it, so that it has sent no whole request.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        let source = lock(&self.0);
        !(source.is_begun || source.has_ended && source.kept == 0)
    }
}

fn lock(source: &Mutex<Source>) -> MutexGuard<'_, Source> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Source {
    /// Keeps what was read, if there is room.
    fn keep(&mut self, frame: Option<&Result<Frame<Bytes>, BoxError>>) {
        let data = match frame {
            None => {
                self.has_ended = true;
                return;
            }
            Some(Ok(frame)) => frame.data_ref(),
            Some(Err(_)) => None,
        };
        match (data, &mut self.read) {
            (Some(data), Some(read)) if self.kept + data.len() <= MOST => {
                self.kept += data.len();
                read.push(data.clone());
            }
            _ => self.read = None,
        }
    }
}

impl http_body::Body for Attempt {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let source = &mut *lock(&this.source);
        if source.attempt != this.number {
            return Poll::Ready(Some(Err("the request is being sent again".into())));
        }
        source.is_taken = true;
        let again = source.read.as_ref().and_then(|read| read.get(this.next));
        let frame = match again {
            Some(data) => Some(Ok(Frame::data(data.clone()))),
            None if source.has_ended => None,
            None => {
                let frame = ready!(Pin::new(&mut source.body).poll_frame(cx));
                source.keep(frame.as_ref());
                frame
            }
        };
        source.is_begun = true;
        this.next += 1;
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Some(left) = this.left.exact()
        {
            this.left = SizeHint::with_exact(left.saturating_sub(data.len() as u64));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let mut source = lock(&self.source);
        if source.attempt != self.number {
            return false;
        }
        source.is_taken = true;
        let read = source.read.as_ref().map_or(0, Vec::len);
        self.next >= read && (source.has_ended || source.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::stream::iter;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    fn body(parts: &'static [&'static [u8]]) -> Body {
        let frames = parts.iter().map(|part| Bytes::from_static(part));
        Body::boxed(StreamBody::new(iter(
            frames.map(|part| Ok::<_, BoxError>(Frame::data(part))),
        )))
    }

    fn next(body: &mut Body) -> Option<Bytes> {
        let frame = body.frame().now_or_never().expect("is there")?;
        Some(frame.expect("no error").into_data().expect("data"))
    }

    fn whole(body: Body) -> Bytes {
        let whole = body.collect().now_or_never().expect("is there");
        whole.expect("no error").to_bytes()
    }

    #[test]
    fn every_attempt_sends_the_whole_body_and_an_earlier_one_takes_nothing_from_a_later_one() {
        let replay = Replay::new(body(&[b"one ", b"two ", b"three"]));
        let mut first = replay.body().expect("is there");
        assert_eq!(next(&mut first).as_deref(), Some(&b"one "[..]));
        let mut second = replay.body().expect("is there");
        let refused = first.frame().now_or_never().expect("is told");
        assert!(refused.is_some_and(|frame| frame.is_err()));
        for part in [&b"one "[..], b"two "] {
            assert_eq!(next(&mut second).as_deref(), Some(part));
        }
        for _ in 0..2 {
            // The second time, after its end.
            assert_eq!(whole(replay.body().expect("is there")), "one two three");
        }
    }

    #[test]
    fn what_no_connection_has_taken_is_withdrawn_and_never_whole() {
        for whole_body in [Body::empty(), body(&[b"one"])] {
            let is_empty = whole_body.is_end_stream();
            let replay = Replay::new(whole_body);
            let mut withdrawn = replay.body().expect("is there");
            let taken = replay.withdraw().expect("is there");
            assert_eq!(taken.is_end_stream(), is_empty);
            assert!(replay.withdraw().is_none(), "a connection has it");
            assert!(!withdrawn.is_end_stream());
            let refused = withdrawn.frame().now_or_never().expect("is told");
            assert!(refused.is_some_and(|frame| frame.is_err()));
            assert_eq!(replay.is_unread(), !is_empty);
            assert_eq!(whole(taken), if is_empty { "" } else { "one" });
            assert!(!replay.is_unread());
            let _again = replay.body().expect("is there");
            assert_eq!(replay.is_unread(), !is_empty);
        }
    }

    #[test]
    fn a_length_that_is_known_is_known_to_every_attempt() {
        let replay = Replay::new(Body::full("twelve bytes"));
        for _ in 0..2 {
            let mut body = replay.body().expect("is there");
            assert_eq!(body.size_hint().exact(), Some(12));
            assert_eq!(next(&mut body).as_deref(), Some(&b"twelve bytes"[..]));
            assert_eq!(body.size_hint().exact(), Some(0));
            assert!(body.is_end_stream());
        }
        let nothing = Replay::new(Body::empty());
        assert!(nothing.body().is_some_and(|body| body.is_end_stream()));
    }

    #[test]
    fn what_is_too_large_goes_out_whole_and_once() {
        static LARGE: [u8; MOST] = [b'x'; MOST];
        static PARTS: [&[u8]; 2] = [&LARGE, b"y"];
        let replay = Replay::new(body(&PARTS));
        let mut first = replay.body().expect("is there");
        assert_eq!(next(&mut first).map(|data| data.len()), Some(MOST));
        let mut first = replay.body().expect("is still there");
        assert_eq!(next(&mut first).map(|data| data.len()), Some(MOST));
        assert_eq!(next(&mut first).as_deref(), Some(&b"y"[..]));
        assert!(replay.body().is_none());
        assert_eq!(next(&mut first), None);
    }
}
