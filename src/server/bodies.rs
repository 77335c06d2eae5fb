//! Bodies timed by their client's part: a client that sends a body must keep sending, and one that gets an answer must
//! keep reading.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::activity::Activity;
use crate::error::Error;
use crate::message::body::{Body, PollFrame, Wrapped};

/// The body of a request. Its errors say what the client did wrong.
pub(super) struct Upload {
    activity: Arc<Activity>,
    patience: Duration,
    /// Runs while more is awaited; kept from one wait to the next.
    overdue: Option<Pin<Box<Sleep>>>,
    /// Whether anything came since the timer was set.
    moved: bool,
}

impl Upload {
    /// Fails with [`Error::RequestTimeout`] once nothing has come for `patience`.
    pub(super) fn watch(body: Incoming, activity: &Arc<Activity>, patience: Duration) -> Body {
        if body.is_end_stream() {
            return Body::from(body);
        }
        activity.requests.body_begun();
        Body::boxed(Wrapped {
            body,
            frames: Self {
                activity: Arc::clone(activity),
                patience,
                overdue: None,
                moved: false,
            },
        })
    }

    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let patience = self.patience;
        let timer = self
            .overdue
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        if std::mem::take(&mut self.moved) {
            timer.as_mut().reset(Instant::now() + patience);
        }
        timer.as_mut().poll(cx)
    }
}

impl PollFrame<Incoming> for Upload {
    type Error = Error;

    fn poll_frame(
        &mut self,
        mut body: Pin<&mut Incoming>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match body.as_mut().poll_frame(cx) {
            Poll::Ready(Some(Err(_))) => {
                let why = self.activity.refusal.broken_body().cloned();
                Poll::Ready(Some(Err(why.unwrap_or(Error::BadRequest(
                    "the request's body broke off before its end",
                )))))
            }
            Poll::Ready(frame) => {
                self.moved = true;
                if frame.is_none() || body.is_end_stream() {
                    self.activity.requests.body_ended();
                }
                Poll::Ready(frame.and_then(Result::ok).map(Ok))
            }
            Poll::Pending => {
                ready!(self.poll_overdue(cx));
                Poll::Ready(Some(Err(Error::RequestTimeout)))
            }
        }
    }
}

/// The most bytes of an answer that are offered at once: what a client has to take in time, however much comes from
/// upstream together.
const PORTION: usize = 16 * 1024;

/// An answer streamed over HTTP/2, where a client that stops reading one answer leaves the socket free for others. It is
/// not [`Wrapped`], since the part that it holds back counts towards its length.
pub(super) struct Download {
    body: Body,
    /// The rest of the last frame.
    left: Bytes,
    activity: Arc<Activity>,
    offered: bool,
}

impl Download {
    pub(super) fn watch(body: Body, activity: &Arc<Activity>) -> Body {
        Body::boxed(Self {
            body,
            left: Bytes::new(),
            activity: Arc::clone(activity),
            offered: false,
        })
    }

    fn poll_portion(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tower::BoxError>>> {
        if self.left.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx))
                .map(|frame| frame.map(Frame::into_data))
            {
                Some(Ok(Ok(data))) => self.left = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let portion = self.left.split_to(self.left.len().min(PORTION));
        Poll::Ready(Some(Ok(Frame::data(portion))))
    }

    /// Notes that the client took the part before: only then is more asked for.
    fn note_taken(&mut self) {
        if std::mem::take(&mut self.offered) {
            self.activity.stall.taken();
        }
    }
}

impl http_body::Body for Download {
    type Data = Bytes;
    type Error = tower::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tower::BoxError>>> {
        self.note_taken();
        let frame = self.poll_portion(cx);
        if let Poll::Ready(Some(Ok(_))) = frame {
            self.offered = true;
            self.activity.stall.offered();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.left.len() as u64;
        let of_body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower().saturating_add(left));
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper.saturating_add(left));
        }
        hint
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.note_taken();
    }
}
