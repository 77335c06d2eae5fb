//! The bytes of one connection between the socket and hyper: guarded on their way in, timed on their way out, and closed
//! in an orderly way.
//!
//! A refused head never reaches hyper, which reads a stand-in instead. The service answers that with the refusal: in its
//! turn behind pipelined requests, and worded, signed and counted like every other answer.
//!
//! hyper's own `header_read_timeout` also runs while a connection waits for its next request, and so cannot tell a slow
//! client from an idle one.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::activity::Activity;
use super::guard::{Guard, Remainder, stand_in};
use super::{LINGER, MAX_DISCARDED};
use crate::error::Error;
use crate::message::flatten;

/// Bytes that are read at once where they may have to be held back.
const PIECE: usize = 4096;

/// The most bytes held back behind a request to switch protocols, until it is answered.
const MAX_EARLY: usize = 16 * 1024;

/// See the module.
pub(super) struct GuardedIo<T> {
    io: T,
    activity: Arc<Activity>,
    header_timeout: Duration,
    guard: Guard,
    /// Bytes that were read and not passed on: first those that may be, then those that the guard must see more of.
    held: BytesMut,
    /// How many bytes of `held` may be passed on.
    passable: usize,
    /// Runs while a head is not whole and no request is in progress.
    overdue: Option<Pin<Box<Sleep>>>,
    /// Whether the client has closed its half.
    ended: bool,
    /// Whether the socket refused what was written last.
    full: bool,
    /// Whether something was written since the last flush.
    unflushed: bool,
    /// Interim responses on their way out.
    interim: BytesMut,
    /// How many more bytes are read and thrown away.
    discardable: u64,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<T> GuardedIo<T> {
    pub(super) fn new(io: T, activity: Arc<Activity>, header_timeout: Duration) -> Self {
        Self {
            io,
            activity,
            header_timeout,
            guard: Guard::new(),
            held: BytesMut::new(),
            passable: 0,
            overdue: None,
            ended: false,
            full: false,
            unflushed: false,
            interim: BytesMut::new(),
            discardable: MAX_DISCARDED,
            linger: None,
        }
    }

    /// Whether the connection began with the HTTP/2 preface.
    pub(super) fn speaks_http_2(&self) -> bool {
        self.guard.is_opaque() && self.guard.heads() == 0
    }

    /// See [`Guard::expect_repetitions`].
    pub(super) fn expect_repetitions(&mut self, expected: bool) {
        self.guard.expect_repetitions(expected);
    }

    /// See [`Guard::keeps_a_head`].
    #[cfg(test)]
    pub(super) fn keeps_a_head(&self) -> bool {
        self.guard.keeps_a_head()
    }

    /// Whether the client has closed its half, and all that it sent was passed on.
    pub(super) fn has_ended(&self) -> bool {
        self.ended && self.passable == 0
    }

    /// Copies what may be passed on to the reader; `false` where that is nothing.
    fn pass(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let count = self.passable.min(buf.remaining());
        let Some(bytes) = self.held.get(..count).filter(|bytes| !bytes.is_empty()) else {
            return false;
        };
        buf.put_slice(bytes);
        self.held.advance(count);
        self.passable -= count;
        if self.held.is_empty() {
            // An idle connection holds no memory.
            self.held = BytesMut::new();
        }
        true
    }

    /// Shows the guard all that is held back.
    fn decide_held(&mut self) {
        let decision = self.guard.decide(&self.held);
        self.passable = decision.passed;
        self.apply(decision.remainder);
    }

    fn apply(&mut self, remainder: Remainder) {
        match remainder {
            Remainder::Awaited => {}
            Remainder::Refused(why) => self.refuse(why),
            Remainder::Broken(why) => {
                self.held.truncate(self.passable);
                self.activity.refusal.break_body(why);
            }
        }
    }

    /// Puts a stand-in in the place of the head that is held back.
    fn refuse(&mut self, why: Error) {
        self.guard.close();
        self.overdue = None;
        let head = stand_in(self.held.get(self.passable..).unwrap_or_default());
        self.held.truncate(self.passable);
        self.held.extend_from_slice(&head);
        self.passable = self.held.len();
        self.activity.refusal.refuse(self.guard.heads() + 1, why);
    }

    /// Notes whether the connection's bytes are at rest.
    fn note_settled(&self) {
        let is_settled = !self.unflushed
            && !self.ended
            && self.held.is_empty()
            && self.guard.is_between_requests();
        if is_settled {
            self.activity.requests.bytes_settled(self.guard.heads());
        } else {
            self.activity.requests.bytes_moving();
        }
    }

    fn note_write(&mut self) {
        if !self.unflushed {
            self.unflushed = true;
            // All that was written before is whole: what came with the answer that begins now goes before it.
            self.interim.unsplit(self.activity.take_last_interim());
            self.note_settled();
        }
    }

    /// Notes whether the socket took what was written last.
    fn note_taken(&mut self, full: bool) {
        if self.full == full {
            return;
        }
        self.full = full;
        if full {
            self.activity.stall.blocked();
        } else {
            self.activity.stall.unblocked();
        }
    }

    /// Ready once a head has taken longer than its timeout, and is refused.
    fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let begun = self.guard.awaits_head() && !self.held.is_empty();
        if !begun || self.activity.requests.idle_since().is_none() {
            self.overdue = None;
            return Poll::Pending;
        }
        let timeout = self.header_timeout;
        let timer = self.overdue.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(timer.as_mut().poll(cx));
        self.refuse(Error::RequestTimeout);
        Poll::Ready(())
    }
}

impl<T: AsyncRead + Unpin> GuardedIo<T> {
    /// Ready once hyper has something to do: there is a head, or the end.
    pub(super) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.passable == 0 && !self.ended {
            match self.poll_hold(cx) {
                Poll::Ready(read) => {
                    read?;
                    self.decide_held();
                }
                Poll::Pending => ready!(self.poll_overdue(cx)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and throws away, until the client has closed its half.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::uninit(); PIECE];
        while !self.ended && self.discardable > 0 {
            let mut buf = ReadBuf::uninit(&mut space);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
            self.ended = buf.filled().is_empty();
            self.discardable = self.discardable.saturating_sub(buf.filled().len() as u64);
        }
        if self.ended {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    /// Reads, and holds back what comes.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut space = [MaybeUninit::uninit(); PIECE];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
        self.ended = buf.filled().is_empty();
        self.held.extend_from_slice(buf.filled());
        Poll::Ready(Ok(()))
    }

    /// Reads into the reader's own buffer: bytes that may be passed on are not copied.
    fn poll_direct(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        let bytes = buf.filled().get(before..).unwrap_or_default();
        self.ended = bytes.is_empty();
        let decision = self.guard.decide(bytes);
        if let Some(rest) = bytes.get(decision.passed..).filter(|rest| !rest.is_empty()) {
            self.held.extend_from_slice(rest);
            self.apply(decision.remainder);
            buf.set_filled(before + decision.passed);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what may be passed on.
    fn poll_pass(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self;
        let before = buf.filled().len();
        loop {
            if this.pass(buf) || buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if this.guard.is_closed() {
                if let Some(why) = this.activity.refusal.broken_body() {
                    let why = io::Error::new(io::ErrorKind::InvalidData, why.clone());
                    return Poll::Ready(Err(why));
                }
                // Requests before the refused one are given up when their client goes away, which takes reading to notice;
                // the refusal itself is written at once.
                return if this.activity.is_refusing() {
                    Poll::Pending
                } else {
                    this.poll_discard(cx)
                };
            }
            if this.guard.awaits_switch() {
                if let Poll::Ready(switch) = this.activity.poll_switch(this.guard.heads(), cx) {
                    this.guard.resolve_switch(switch);
                    this.decide_held();
                    continue;
                }
                if this.held.len() >= MAX_EARLY {
                    return Poll::Pending;
                }
            }
            if this.ended {
                return Poll::Ready(Ok(()));
            }
            let read =
                if this.held.is_empty() && (this.guard.is_opaque() || buf.remaining() >= PIECE) {
                    this.poll_direct(cx, buf)
                } else {
                    this.poll_hold(cx).map_ok(|()| {
                        if !this.guard.awaits_switch() {
                            this.decide_held();
                        }
                    })
                };
            match read {
                Poll::Ready(read) => read?,
                Poll::Pending => ready!(this.poll_overdue(cx)),
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for GuardedIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.poll_pass(cx, buf);
        self.note_settled();
        read
    }
}

impl<T: AsyncWrite + Unpin> GuardedIo<T> {
    /// Writes what is left of interim responses.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.interim))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.interim.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GuardedIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.note_write();
        ready!(self.poll_interim(cx))?;
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.note_taken(written.is_pending());
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has written all it has: only here an interim response cannot land inside an answer.
        if self.interim.is_empty() {
            self.interim = self.activity.take_interim();
        }
        ready!(self.poll_interim(cx))?;
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        if self.unflushed {
            self.unflushed = false;
            self.note_settled();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.activity.requests.bytes_moving();
        let linger = match &mut this.linger {
            Some(linger) => linger,
            linger => {
                ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
                let is_sending = this.guard.is_within_request() || !this.held.is_empty();
                if this.ended || !is_sending {
                    return Poll::Ready(Ok(()));
                }
                this.discardable = MAX_DISCARDED;
                linger.insert(Box::pin(sleep(LINGER)))
            }
        };
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        // The connection is over either way.
        this.poll_discard(cx).map(|_| Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.note_write();
        ready!(self.poll_interim(cx))?;
        let written = flatten::poll_write(Pin::new(&mut self.io), cx, bufs);
        self.note_taken(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::{Instant, timeout};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn connect() -> (DuplexStream, GuardedIo<DuplexStream>, Arc<Activity>) {
        let (client, server) = duplex(4096);
        let activity = Activity::new();
        let io = GuardedIo::new(server, Arc::clone(&activity), TIMEOUT);
        (client, io, activity)
    }

    /// What is read next, if anything comes within three times the timeout.
    async fn read(io: &mut GuardedIo<DuplexStream>) -> Option<String> {
        let mut bytes = vec![0; 8192];
        let read = timeout(3 * TIMEOUT, io.read(&mut bytes)).await.ok()?;
        bytes.truncate(read.expect("reads"));
        Some(String::from_utf8(bytes).expect("text"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_stops_half_way_is_refused_after_its_time() {
        for (begun, kept) in [
            ("GET / HT", "GET / HTTP/1.1\r\n"),
            ("GET /v1/vi", "GET /v1/vi HTTP/1.1\r\n"),
            ("PRI * HT", "PRI / HTTP/1.1\r\n"),
            ("PRIVET / HTTP/1.1\r\n", "PRIVET / HTTP/1.1\r\n"),
        ] {
            let (mut client, mut io, activity) = connect();
            client.write_all(begun.as_bytes()).await.expect("is taken");
            let started = Instant::now();
            let head = read(&mut io).await.expect("a stand-in");
            assert!(head.starts_with(kept), "{head}");
            assert_eq!(started.elapsed(), TIMEOUT);
            let (_busy, refused) = activity.begin_request();
            assert_eq!(refused, Some(Error::RequestTimeout));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_before_and_between_requests_is_not_a_slow_head() {
        let (mut client, mut io, activity) = connect();
        assert_eq!(read(&mut io).await, None, "before");
        let request = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        client
            .write_all(request.as_bytes())
            .await
            .expect("is taken");
        assert_eq!(read(&mut io).await.as_deref(), Some(request));
        drop(activity.begin_request());
        assert_eq!(read(&mut io).await, None, "between");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_longer_than_a_head() {
        let (mut client, mut io, activity) = connect();
        let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n";
        client.write_all(head.as_bytes()).await.expect("is taken");
        assert_eq!(read(&mut io).await.as_deref(), Some(head));
        let _busy = activity.begin_request();
        for _ in 0..9 {
            client.write_all(b"x").await.expect("is taken");
            assert_eq!(read(&mut io).await.as_deref(), Some("x"));
            assert_eq!(read(&mut io).await, None, "is no slow head");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_has_no_header_timeout() {
        let (mut client, mut io, _) = connect();
        let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0";
        client
            .write_all(preface.as_bytes())
            .await
            .expect("is taken");
        assert_eq!(read(&mut io).await.as_deref(), Some(preface));
        assert_eq!(read(&mut io).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_follows_a_request_to_switch_protocols_waits_for_its_answer() {
        let ask = "GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n\r\n";
        let next = "GET /next HTTP/1.1\r\nhost: x\r\n\r\n";
        for (switched, more) in [(false, next), (true, "\0\r\n any bytes")] {
            let (mut client, mut io, activity) = connect();
            let both = format!("{ask}{more}");
            client.write_all(both.as_bytes()).await.expect("is taken");
            assert_eq!(read(&mut io).await.as_deref(), Some(ask));
            let _busy = activity.begin_request();
            assert_eq!(read(&mut io).await, None, "is not answered yet");
            let reader = tokio::spawn(async move { read(&mut io).await });
            tokio::task::yield_now().await;
            if switched {
                activity.answered_with_switch();
            } else {
                activity.answered();
            }
            let read = timeout(TIMEOUT, reader).await.expect("is woken");
            assert_eq!(read.expect("reads").as_deref(), Some(more));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_answer_has_time_to_be_read_and_no_more() {
        let (mut client, mut io, _) = connect();
        client
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .await
            .expect("is taken");
        assert!(read(&mut io).await.is_some());
        io.write_all(b"refused").await.expect("is taken");
        let started = Instant::now();
        let closing = tokio::spawn(async move { io.shutdown().await });
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("ends");
        assert_eq!(answer, "refused");
        client
            .write_all(b"still sending")
            .await
            .expect("is no reset");
        closing.await.expect("is over").expect("closes");
        assert_eq!(started.elapsed(), LINGER);
    }
}
