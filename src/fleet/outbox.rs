//! Forgets that the engine has not acknowledged yet, and those of the last minute, which an engine that lost its memory is
//! told again.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::news::Forget;
use crate::sync::lock;

/// How many wait at most; beyond it everything is forgotten once.
const MOST: usize = 1000;

/// How long they are told again to an engine that is new.
const RECENT: Duration = Duration::from_mins(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox(Mutex<Boxes>);

#[derive(Debug, Default)]
struct Boxes {
    waiting: VecDeque<(Instant, Forget)>,
    told: VecDeque<(Instant, Forget)>,
}

impl Outbox {
    /// Puts in what is to be told; it was done at `at`.
    pub(super) fn put(&self, at: Instant, forget: Forget) {
        let boxes = &mut *lock(&self.0);
        if boxes.waiting.iter().any(|(_, waiting)| *waiting == forget) {
            boxes.waiting.retain(|(_, waiting)| *waiting != forget);
        } else if boxes.waiting.len() >= MOST {
            boxes.waiting.clear();
            boxes.waiting.push_back((at, Forget::All));
            return;
        }
        boxes.waiting.push_back((at, forget));
    }

    /// The one that has waited longest, left in its place.
    pub(super) fn first(&self) -> Option<(Instant, Forget)> {
        lock(&self.0).waiting.front().cloned()
    }

    /// It was acknowledged.
    pub(super) fn done(&self, at: Instant, forget: &Forget) {
        let boxes = &mut *lock(&self.0);
        boxes
            .waiting
            .retain(|(since, waiting)| *since > at || waiting != forget);
        if boxes.told.len() >= MOST {
            boxes.told.pop_front();
        }
        boxes.told.push_back((at, forget.clone()));
    }

    /// Puts those of the last minute in again.
    pub(super) fn again(&self) {
        let told = std::mem::take(&mut lock(&self.0).told);
        for (at, forget) in told {
            if at.elapsed() < RECENT {
                self.put(at, forget);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::TaskId;

    fn task(number: usize) -> Forget {
        Forget::Task(TaskId::new(&number.to_string()))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_to_tell_one_by_one_is_told_as_everything() {
        let outbox = Outbox::default();
        let now = Instant::now();
        for number in 0..MOST {
            outbox.put(now, task(number));
            outbox.put(now, task(number));
        }
        assert_eq!(outbox.first(), Some((now, task(0))));
        outbox.put(now, task(MOST));
        assert_eq!(outbox.first(), Some((now, Forget::All)));
        outbox.done(now, &Forget::All);
        assert_eq!(outbox.first(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_done_again_meanwhile_stays() {
        let outbox = Outbox::default();
        let first = Instant::now();
        outbox.put(first, task(1));
        tokio::time::advance(Duration::from_millis(1)).await;
        outbox.put(Instant::now(), task(1));
        outbox.done(first, &task(1));
        assert_eq!(outbox.first(), Some((Instant::now(), task(1))));
    }

    #[tokio::test(start_paused = true)]
    async fn those_of_the_last_minute_are_told_again() {
        let outbox = Outbox::default();
        outbox.done(Instant::now(), &task(1));
        tokio::time::advance(Duration::from_secs(50)).await;
        outbox.done(Instant::now(), &task(2));
        tokio::time::advance(Duration::from_secs(20)).await;
        outbox.again();
        assert_eq!(outbox.first().map(|(_, forget)| forget), Some(task(2)));
    }
}
