//! Bodies, with an eye on the client: one that sends its request's body must keep sending, one that gets an answer
//! must keep taking it.

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
use crate::message::body::Body;

/// A request's body, whose errors say what the client did wrong.
pub(super) struct Upload {
    body: Incoming,
    activity: Arc<Activity>,
    patience: Duration,
    /// Runs while more is awaited; kept from one wait to the next.
    overdue: Option<Pin<Box<Sleep>>>,
    /// Whether there was something since it was set.
    moved: bool,
}

impl Upload {
    /// Fails with [`Error::RequestTimeout`] once nothing has come for `patience`.
    pub(super) fn watch(body: Incoming, activity: &Arc<Activity>, patience: Duration) -> Body {
        if body.is_end_stream() {
            return Body::from(body);
        }
        activity.requests.body_begun();
        Body::boxed(Self {
            body,
            activity: Arc::clone(activity),
            patience,
            overdue: None,
            moved: false,
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

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(Some(Err(_))) => {
                let why = this.activity.refusal.broken_body().cloned();
                Poll::Ready(Some(Err(why.unwrap_or(Error::BadRequest(
                    "the request's body broke off before its end",
                )))))
            }
            Poll::Ready(frame) => {
                this.moved = true;
                if frame.is_none() || this.body.is_end_stream() {
                    this.activity.requests.body_ended();
                }
                Poll::Ready(frame.and_then(Result::ok).map(Ok))
            }
            Poll::Pending => {
                ready!(this.poll_overdue(cx));
                Poll::Ready(Some(Err(Error::RequestTimeout)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How much of an answer a client must have made room for before it is offered more: what it has to take in its
/// time, however much comes from upstream at once.
const PORTION: usize = 16 * 1024;

/// An answer streamed over HTTP/2, where a client that takes nothing still leaves the socket free for others.
pub(super) struct Download {
    body: Body,
    /// What is left of the last frame.
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

    /// Asked for more, the client's side has made room for what there was.
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
