//! The body type of requests and responses: buffered, streamed, or wrapped to be watched.

use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{self, Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{iter, once};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};
use tower::BoxError;

/// The body of a request or a response.
pub struct Body(Kind);

enum Kind {
    Full(Full<Bytes>),
    Incoming(Incoming),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    /// An empty body.
    #[must_use]
    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// A buffered body.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Full(Full::new(bytes.into())))
    }

    /// A streamed body.
    #[must_use]
    pub fn boxed<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self(Kind::Boxed(body.map_err(Into::into).boxed_unsync()))
    }

    /// Whether it is buffered, so that reading it never waits.
    #[must_use]
    pub fn is_buffered(&self) -> bool {
        matches!(self.0, Kind::Full(_))
    }

    /// Breaks the body off with an error when nothing of it has come for `idle` while it was polled. A slow reader does not
    /// count as waiting.
    #[must_use]
    pub fn never_silent_for(self, idle: Duration) -> Self {
        Self::boxed(Wrapped {
            body: self,
            frames: Awaited {
                idle,
                timer: Box::pin(sleep(idle)),
                is_waiting: false,
            },
        })
    }

    /// Holds the body back until `permitted` resolves; an error where it resolves with `false`.
    #[must_use]
    pub fn once(self, permitted: impl Future<Output = bool> + Send + 'static) -> Self {
        Self::boxed(Wrapped {
            body: self,
            frames: Permitted(Some(Box::pin(permitted))),
        })
    }

    /// An empty body that ends with the future.
    #[must_use]
    pub fn lasting(future: impl Future<Output = ()> + Send + 'static) -> Self {
        let nothing = once(future).filter_map(|()| ready(None::<Result<Frame<Bytes>, BoxError>>));
        Self::boxed(StreamBody::new(nothing))
    }

    /// The body with a frame before it.
    #[must_use]
    pub fn after(self, frame: Frame<Bytes>) -> Self {
        let first = once(ready(Ok::<_, BoxError>(frame)));
        Self::boxed(StreamBody::new(first.chain(BodyStream::new(self))))
    }

    /// A body that breaks off with an error after these bytes.
    #[must_use]
    pub fn broken(bytes: Bytes, error: BoxError) -> Self {
        let frames = [Ok(Frame::data(bytes)), Err(error)];
        Self::boxed(StreamBody::new(iter(frames)))
    }

    /// Calls `whole` with a copy of all bytes when the body has ended, if they are at most `limit`.
    #[must_use]
    pub fn copied(self, limit: usize, whole: impl FnOnce(&[u8]) + Send + Unpin + 'static) -> Self {
        Self::boxed(Wrapped {
            body: self,
            frames: Copied {
                limit,
                bytes: Some((Vec::new(), whole)),
            },
        })
    }

    /// Drops `guard` when the body has ended, failed or been given up.
    #[must_use]
    pub fn guarded(self, guard: impl Send + Unpin + 'static) -> Self {
        Self::boxed(Wrapped {
            body: self,
            frames: Guarded(Some(guard)),
        })
    }
}

impl From<Incoming> for Body {
    fn from(body: Incoming) -> Self {
        Self(Kind::Incoming(body))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Kind::Full(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
            Kind::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(body) => body.is_end_stream(),
            Kind::Incoming(body) => body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(body) => body.size_hint(),
            Kind::Incoming(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
        }
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("Body")
    }
}

/// A body whose frames are polled in another way. Its length stays what it is.
pub(crate) struct Wrapped<B, F> {
    pub(crate) body: B,
    pub(crate) frames: F,
}

/// How the frames of a [`Wrapped`] body are polled.
pub(crate) trait PollFrame<B> {
    type Error;

    fn poll_frame(
        &mut self,
        body: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>>;
}

impl<B, F> http_body::Body for Wrapped<B, F>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    F: PollFrame<B> + Unpin,
{
    type Data = Bytes;
    type Error = F::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, F::Error>>> {
        let this = &mut *self;
        this.frames.poll_frame(Pin::new(&mut this.body), cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// See [`Body::guarded`].
struct Guarded<G>(Option<G>);

impl<G> PollFrame<Body> for Guarded<G> {
    type Error = BoxError;

    fn poll_frame(
        &mut self,
        body: Pin<&mut Body>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = body.poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = frame {
            self.0 = None;
        }
        frame
    }
}

/// See [`Body::copied`].
struct Copied<F> {
    limit: usize,
    bytes: Option<(Vec<u8>, F)>,
}

impl<F: FnOnce(&[u8])> PollFrame<Body> for Copied<F> {
    type Error = BoxError;

    fn poll_frame(
        &mut self,
        mut body: Pin<&mut Body>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = task::ready!(body.as_mut().poll_frame(cx));
        let mut is_over = frame.is_none() || body.is_end_stream();
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some((bytes, _))) = (frame.data_ref(), &mut self.bytes) {
                    if bytes.len() + data.len() > self.limit {
                        self.bytes = None;
                    } else {
                        bytes.extend_from_slice(data);
                    }
                }
            }
            Some(Err(_)) => {
                self.bytes = None;
                is_over = false;
            }
            None => {}
        }
        if is_over && let Some((bytes, whole)) = self.bytes.take() {
            whole(&bytes);
        }
        Poll::Ready(frame)
    }
}

/// See [`Body::never_silent_for`].
struct Awaited {
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl PollFrame<Body> for Awaited {
    type Error = BoxError;

    fn poll_frame(
        &mut self,
        body: Pin<&mut Body>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = body.poll_frame(cx) {
            self.is_waiting = false;
            return Poll::Ready(frame);
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.idle);
        }
        task::ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(
            "the other end has been silent for limits.idle_timeout".into(),
        )))
    }
}

/// See [`Body::once`].
struct Permitted(Option<BoxFuture<'static, bool>>);

impl PollFrame<Body> for Permitted {
    type Error = BoxError;

    fn poll_frame(
        &mut self,
        body: Pin<&mut Body>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(permitted) = &mut self.0 {
            if !task::ready!(permitted.as_mut().poll(cx)) {
                return Poll::Ready(Some(Err("the body was not wanted".into())));
            }
            self.0 = None;
        }
        body.poll_frame(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use tokio::sync::mpsc;

    const IDLE: Duration = Duration::from_secs(5);

    fn fed() -> (mpsc::Sender<&'static str>, Body) {
        let (feed, source) = mpsc::channel(4);
        let frames = futures_util::stream::unfold(source, async |mut source| {
            let text: &'static str = source.recv().await?;
            Some((
                Ok::<_, BoxError>(Frame::data(Bytes::from_static(text.as_bytes()))),
                source,
            ))
        });
        let body = Body::boxed(StreamBody::new(Box::pin(frames)));
        (feed, body.never_silent_for(IDLE))
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_source_is_given_up() {
        let (feed, mut body) = fed();
        feed.send("a").await.expect("is taken");
        assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
        let started = Instant::now();
        assert!(body.frame().await.is_some_and(|frame| frame.is_err()));
        assert_eq!(started.elapsed().as_secs(), IDLE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_not_taken_for_a_silent_source() {
        let (feed, mut body) = fed();
        for _ in 0..3 {
            // The reader polls in vain and is then busy for a long time, in which something comes.
            assert!(body.frame().now_or_never().is_none());
            feed.send("a").await.expect("is taken");
            sleep(3 * IDLE).await;
            assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
            sleep(3 * IDLE).await;
        }
        drop(feed);
        assert!(body.frame().await.is_none());
    }
}
