//! Polls that upstream seems to have lost: it was silent for a while, and what it was asked then it never answers, even
//! where it answers others again. They are sent again instead of waiting for their timeouts.
//!
//! That upstream answers again is known when it answers a poll that was sent later. Where all wait for one answer or
//! another, nobody sends such a poll: so one of them at a time is sent again on trial.

use std::future::pending;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, sleep_until};

use super::response_time::ResponseTime;
use crate::request::query::TaskFetch;

/// The time without an answer after which a poll may be lost, or, if it is abandoned, counts as a failure.
pub const SILENT: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct LostPolls {
    begun: Instant,
    /// When the latest of the polls that were answered had been sent, in microseconds since `begun`.
    latest: AtomicU64,
    /// How many polls wait for a later one to be answered, and how they are told.
    waiting: AtomicUsize,
    answered: Notify,
    trial: Semaphore,
}

/// How often one poll may still be sent again: once because a later one was answered, and once before that, on trial.
struct Resends<'a> {
    polls: &'a LostPolls,
    as_overtaken: bool,
    on_trial: bool,
    /// Held while it is on trial.
    trial: Option<SemaphorePermit<'a>>,
}

impl LostPolls {
    /// Nothing was answered yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            latest: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            answered: Notify::new(),
            trial: Semaphore::new(1),
        }
    }

    /// A poll that was sent at this time was answered.
    pub fn answered(&self, sent: Instant) {
        self.latest.fetch_max(self.micros(sent), Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.answered.notify_waiters();
        }
    }

    /// Sends a poll, and sends it again where upstream seems to have lost it. `send` notes in
    /// [`AskedAt`](crate::request::query::AskedAt) when it does.
    pub async fn until_answered<S: Future>(
        &self,
        poll: &TaskFetch,
        usual: &ResponseTime,
        send: impl Fn() -> S,
    ) -> S::Output {
        // A probe is a trial itself.
        let mut resends = self.resends(!poll.is_probe);
        loop {
            let answer = pin!(send());
            let lost = pin!(lost(poll, usual, &mut resends));
            if let Either::Left((answer, _)) = select(answer, lost).await {
                return answer;
            }
        }
    }

    fn resends(&self, on_trial: bool) -> Resends<'_> {
        Resends {
            polls: self,
            as_overtaken: true,
            on_trial,
            trial: None,
        }
    }

    /// Resolves when a poll that was sent after this time has been answered.
    async fn overtaken(&self, sent: Instant) {
        let sent = self.micros(sent);
        let _waiting = Waiting::begin(&self.waiting);
        loop {
            let answered = self.answered.notified();
            if self.latest.load(Ordering::SeqCst) > sent {
                return;
            }
            answered.await;
        }
    }

    fn micros(&self, time: Instant) -> u64 {
        let since = time.saturating_duration_since(self.begun);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}

/// Resolves when a poll is to be sent again.
async fn lost(poll: &TaskFetch, usual: &ResponseTime, resends: &mut Resends<'_>) {
    loop {
        let Some(sent) = poll.query.asked_at.last() else {
            sleep(SILENT).await;
            continue;
        };
        sleep_until(sent + SILENT).await;
        if poll.query.asked_at.last() == Some(sent) {
            let usual = || Some(usual.expected()?.max(SILENT));
            return resends.due(sent, poll.deadline, usual).await;
        }
    }
}

impl Default for LostPolls {
    fn default() -> Self {
        Self::new()
    }
}

impl Resends<'_> {
    /// Resolves when a poll that was `sent` is to be sent again. `usual` is the time within which an answer can be
    /// expected; until it is known, which is when something was answered, none is sent again. None is on trial that has less
    /// than this left until its `deadline`.
    async fn due(
        &mut self,
        sent: Instant,
        deadline: Instant,
        usual: impl Fn() -> Option<Duration>,
    ) {
        if usual().is_none() {
            self.polls.overtaken(sent).await;
        }
        let usual = usual().unwrap_or_default();
        sleep_until(sent + usual).await;
        self.trial = None;
        let (as_overtaken, on_trial) = (self.as_overtaken, self.on_trial && self.as_overtaken);
        let trial = async {
            let trial = self.polls.trial.acquire().await.ok();
            trial.filter(|_| Instant::now() + usual <= deadline)
        };
        tokio::select! {
            biased;
            () = self.polls.overtaken(sent), if as_overtaken => self.as_overtaken = false,
            Some(trial) = trial, if on_trial => {
                self.on_trial = false;
                self.trial = Some(trial);
            }
            else => pending().await,
        }
    }
}

/// Counts itself.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::SeqCst);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const USUAL: Duration = Duration::from_secs(1);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Whether a poll is to be sent again within a minute, and after how long.
    async fn due(resends: &mut Resends<'_>, sent: Instant) -> Option<Duration> {
        let begun = Instant::now();
        let deadline = begun + seconds(60);
        let due = timeout(seconds(60), resends.due(sent, deadline, || Some(USUAL))).await;
        due.is_ok().then(|| begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_is_sent_again_once_a_later_one_is_answered_and_not_before_its_time() {
        let polls = LostPolls::new();
        let _trial = polls.trial.acquire().await.expect("is open");
        let sent = Instant::now();
        sleep(Duration::from_millis(1)).await;
        let later = Instant::now();
        let mut resends = polls.resends(true);
        polls.answered(sent);
        assert_eq!(due(&mut resends, sent).await, None, "an earlier one");
        let mut waiting = polls.resends(true);
        let (due_after, ()) = tokio::join!(due(&mut waiting, Instant::now()), async {
            sleep(seconds(5)).await;
            polls.answered(Instant::now());
        });
        assert_eq!(due_after, Some(seconds(5)));
        polls.answered(later);
        let sent = Instant::now() - USUAL / 2;
        polls.answered(Instant::now());
        assert_eq!(due(&mut resends, sent).await, Some(USUAL / 2));
        assert_eq!(due(&mut resends, sent).await, None, "only once");
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_is_answered_one_at_a_time_is_on_trial() {
        let polls = LostPolls::new();
        let sent = Instant::now();
        let mut all = [
            polls.resends(true),
            polls.resends(true),
            polls.resends(true),
        ];
        assert_eq!(due(&mut all[0], sent).await, Some(USUAL));
        assert_eq!(due(&mut all[1], sent).await, None, "the first is on trial");
        // It has had its time: the next one's turn.
        assert_eq!(due(&mut all[0], Instant::now()).await, None, "only once");
        assert!(due(&mut all[1], sent).await.is_some());
        // The second was answered. Both others have been overtaken.
        polls.answered(Instant::now());
        assert!(due(&mut all[0], sent).await.is_some());
        assert!(due(&mut all[2], sent).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_again_before_anything_was_answered() {
        let polls = LostPolls::new();
        let mut resends = polls.resends(true);
        let (sent, deadline) = (Instant::now(), Instant::now() + seconds(60));
        let due = timeout(seconds(60), resends.due(sent, deadline, || None)).await;
        assert!(due.is_err());
        assert_eq!(polls.waiting.load(Ordering::SeqCst), 0);
    }
}
