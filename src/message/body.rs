//! The one body type of the stack: buffered, passed through, or watched until it ends.

use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{self, Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::once;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};
use tower::BoxError;

/// A request's or a response's body.
pub struct Body(Kind);

enum Kind {
    Full(Full<Bytes>),
    Incoming(Incoming),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

impl Body {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self::full(Bytes::new())
    }

    /// These bytes.
    #[must_use]
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Full(Full::new(bytes.into())))
    }

    /// Any other body.
    #[must_use]
    pub fn boxed<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self(Kind::Boxed(body.map_err(Into::into).boxed_unsync()))
    }

    /// Whether all of it is here already, so that there is nothing to wait for.
    #[must_use]
    pub fn is_buffered(&self) -> bool {
        matches!(self.0, Kind::Full(_))
    }

    /// The same body, which breaks off with an error when it has been waited for, and nothing of it came, for `idle`. A
    /// reader that takes its time does not count as waiting.
    #[must_use]
    pub fn never_silent_for(self, idle: Duration) -> Self {
        Self::boxed(Awaited {
            body: self,
            idle,
            timer: Box::pin(sleep(idle)),
            waiting: false,
        })
    }

    /// The same body, once it is permitted; an error where it is not.
    #[must_use]
    pub fn once(self, permitted: impl Future<Output = bool> + Send + 'static) -> Self {
        Self::boxed(Permitted {
            body: self,
            permitted: Some(Box::pin(permitted)),
        })
    }

    /// A body of no bytes that ends when the future is done.
    #[must_use]
    pub fn lasting(future: impl Future<Output = ()> + Send + 'static) -> Self {
        let nothing = once(future).filter_map(|()| ready(None::<Result<Frame<Bytes>, BoxError>>));
        Self::boxed(StreamBody::new(nothing))
    }

    /// The same body, with `guard` dropped when it has ended or was given up.
    #[must_use]
    pub fn guarded(self, guard: impl Send + Unpin + 'static) -> Self {
        Self::boxed(Guarded {
            body: self,
            guard: Some(guard),
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

struct Guarded<G> {
    body: Body,
    guard: Option<G>,
}

impl<G: Unpin> http_body::Body for Guarded<G> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(None | Some(Err(_))) = frame {
            self.guard = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// See [`Body::never_silent_for`].
struct Awaited {
    body: Body,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl http_body::Body for Awaited {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            this.waiting = false;
            return Poll::Ready(frame);
        }
        if !this.waiting {
            this.waiting = true;
            this.timer.as_mut().reset(Instant::now() + this.idle);
        }
        task::ready!(this.timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(
            "the other end has been silent for limits.idle_timeout".into(),
        )))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// See [`Body::once`].
struct Permitted {
    body: Body,
    permitted: Option<BoxFuture<'static, bool>>,
}

impl http_body::Body for Permitted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(permitted) = &mut self.permitted {
            if !task::ready!(permitted.as_mut().poll(cx)) {
                return Poll::Ready(Some(Err("the body was not wanted".into())));
            }
            self.permitted = None;
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
            // The reader looks, finds nothing, and is then busy for long; meanwhile something comes.
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
