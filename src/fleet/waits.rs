//! Flights of this process that wait for another member. They are told of what is pushed for their entry; each has timers of
//! its own all the same, since a push may be lost.

use std::sync::{Arc, Mutex};

use ahash::HashMap;
use tokio::sync::{mpsc, watch};

use super::engine::{EngineTime, EntryKey, Fence, Push, Sealed};
use crate::sync::lock;

/// How many pushes a waiter may be behind. One that is further behind misses some, and its timer wakes it.
const BEHIND: usize = 8;

/// The waiters, by entry.
#[derive(Debug)]
pub(super) struct Waits {
    table: Mutex<HashMap<EntryKey, Vec<mpsc::Sender<Heard>>>>,
    /// Counts lost connections.
    cuts: watch::Sender<u64>,
}

/// What a waiter hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// An answer has landed; `sealed` is `None` where it is too large to push.
    Landed {
        /// When.
        at: EngineTime,
        /// Its fence.
        fence: Fence,
        /// The answer.
        sealed: Option<Sealed>,
    },
    /// The lease of this fence is over without an answer.
    Vacant(Fence),
    /// The answer of this fence has landed on an engine that has lost its memory.
    Stray {
        /// Its fence.
        fence: Fence,
        /// The answer.
        sealed: Option<Sealed>,
    },
    /// The connection was lost, and with it whatever would have been pushed.
    Cut,
}

/// A flight that waits, or may have to. It hears everything from its registration on.
#[derive(Debug)]
pub struct Waiter {
    waits: Arc<Waits>,
    key: EntryKey,
    from: mpsc::Receiver<Heard>,
    cuts: watch::Receiver<u64>,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            table: Mutex::default(),
            cuts: watch::Sender::new(0),
        }
    }
}

impl Waits {
    /// Registers a waiter; to be done before the engine is asked, since a push may overtake the answer.
    pub(super) fn register(self: &Arc<Self>, key: EntryKey) -> Waiter {
        let (to, from) = mpsc::channel(BEHIND);
        let cuts = self.cuts.subscribe();
        lock(&self.table).entry(key).or_default().push(to);
        Waiter {
            waits: Arc::clone(self),
            key,
            from,
            cuts,
        }
    }

    /// Passes a push on; says whether it was one for waiters.
    pub(super) fn hear(&self, push: Push) {
        let (key, heard) = match push {
            Push::Landed {
                key,
                at,
                fence,
                sealed,
            } => (key, Heard::Landed { at, fence, sealed }),
            Push::Vacant { key, fence } => (key, Heard::Vacant(fence)),
            Push::Stray { key, fence, sealed } => (key, Heard::Stray { fence, sealed }),
            Push::Cut => {
                self.cuts.send_modify(|cuts| *cuts += 1);
                return;
            }
            Push::Bell => return,
        };
        if let Some(waiters) = lock(&self.table).get(&key) {
            for waiter in waiters {
                // One that is too far behind has its timer.
                let _ = waiter.try_send(heard.clone());
            }
        }
    }

    /// How many entries are waited for.
    pub(super) fn len(&self) -> usize {
        lock(&self.table).len()
    }
}

impl Waiter {
    /// The next thing that it hears.
    pub async fn next(&mut self) -> Heard {
        tokio::select! {
            biased;
            heard = self.from.recv() => heard.unwrap_or(Heard::Cut),
            _ = self.cuts.changed() => Heard::Cut,
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.from.close();
        let table = &mut *lock(&self.waits.table);
        if let Some(waiters) = table.get_mut(&self.key) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                table.remove(&self.key);
            }
        }
    }
}
