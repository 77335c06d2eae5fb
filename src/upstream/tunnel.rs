//! Copies bytes in both directions after both sides have switched protocols (RFC 9110 §7.8), for example to WebSocket.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::time::{Instant, sleep_until};

/// The size of the read buffer, in bytes.
const BUFFER: usize = 16 << 10;

/// Copies bytes in both directions until both sides have closed, one of them fails, or no byte has moved for `idle`. A
/// side that has only closed its sending half still receives.
pub(super) async fn tunnel(client: OnUpgrade, upstream: OnUpgrade, idle: Duration) {
    let ended = match tokio::try_join!(client, upstream) {
        Ok((client, upstream)) => carry(TokioIo::new(client), TokioIo::new(upstream), idle).await,
        Err(error) => Err(io::Error::other(error)),
    };
    if let Err(error) = ended {
        tracing::debug!("an upgraded connection broke: {error}");
    }
}

async fn carry<A, B>(client: A, upstream: B, idle: Duration) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (from_client, to_client) = split(client);
    let (from_upstream, to_upstream) = split(upstream);
    let clock = Clock::new();
    tokio::select! {
        ended = async {
            tokio::try_join!(
                pump(from_client, to_upstream, &clock),
                pump(from_upstream, to_client, &clock),
            )
        } => ended.map(|_| ()),
        () = clock.stands_still_for(idle) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    clock: &Clock,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = from.read(&mut buffer).await?;
        clock.touch();
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..count).unwrap_or_default())
            .await?;
        to.flush().await?;
        clock.touch();
    }
}

/// When the last byte moved, in milliseconds since the start. Shared by both directions.
struct Clock {
    start: Instant,
    moved: AtomicU64,
}

impl Clock {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            moved: AtomicU64::new(0),
        }
    }

    fn touch(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved.store(now, Ordering::Relaxed);
    }

    async fn stands_still_for(&self, idle: Duration) {
        loop {
            let moved = Duration::from_millis(self.moved.load(Ordering::Relaxed));
            let due = self.start + moved + idle;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn an_end_that_has_finished_still_receives() {
        let ((mut client, near), (far, mut upstream)) =
            (tokio::io::duplex(64), tokio::io::duplex(64));
        let carried = tokio::spawn(carry(near, far, IDLE));
        client.write_all(b"ask").await.expect("is taken");
        client.shutdown().await.expect("is taken");
        let mut asked = String::new();
        upstream.read_to_string(&mut asked).await.expect("ends");
        upstream.write_all(b"answer").await.expect("is taken");
        upstream.shutdown().await.expect("is taken");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("ends");
        assert_eq!((asked.as_str(), answer.as_str()), ("ask", "answer"));
        assert!(carried.await.expect("no panic").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn it_lives_as_long_as_either_end_speaks_and_ends_when_both_are_silent() {
        let ((mut client, near), (far, mut upstream)) =
            (tokio::io::duplex(64), tokio::io::duplex(64));
        let started = Instant::now();
        let carried = tokio::spawn(carry(near, far, IDLE));
        let mut byte = [0];
        for _ in 0..4 {
            tokio::time::sleep(IDLE.mul_f64(0.9)).await;
            upstream.write_all(b"x").await.expect("is taken");
            client.read_exact(&mut byte).await.expect("arrives");
        }
        let error = carried.await.expect("no panic").expect_err("idle");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let lasted = started.elapsed();
        assert!(lasted > 4 * IDLE && lasted < 5 * IDLE, "{lasted:?}");
        assert_eq!(upstream.read(&mut byte).await.expect("an end"), 0);
    }
}
