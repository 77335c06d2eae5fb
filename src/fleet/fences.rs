//! Under which fence the answers in the store are known to the fleet, and who asked upstream for them.

use std::sync::Mutex;

use ahash::HashMap;
use tokio::time::Instant;

use super::engine::{Digest, EntryKey, Fence, Member};
use crate::sync::lock;

/// How many are remembered; beyond it all are forgotten, which costs a known answer on the way for each.
const MOST: usize = 65_536;

/// What is known of an answer in the store.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Its fence.
    pub fence: Fence,
    /// Who asked upstream for it.
    pub leader: Member,
    /// When it was received there: one that this process has asked for without the fleet has another time.
    pub received: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Fences(Mutex<HashMap<EntryKey, Known>>);

impl Fences {
    pub(super) fn get(&self, key: &EntryKey) -> Option<Known> {
        lock(&self.0).get(key).copied()
    }

    /// Who asked for the answer to this caller on this task that was received then, on whatever route.
    pub(super) fn leader(&self, task: Digest, caller: Digest, received: Instant) -> Option<Member> {
        let fences = lock(&self.0);
        let mut all = fences.iter();
        all.find(|(key, known)| {
            key.task == task && key.caller == caller && known.received == received
        })
        .map(|(_, known)| known.leader)
    }

    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }

    pub(super) fn raise(&self, key: &EntryKey, known: Known) {
        let fences = &mut *lock(&self.0);
        if fences.len() >= MOST && !fences.contains_key(key) {
            fences.clear();
        }
        let latest = fences.entry(*key).or_insert(known);
        if known.fence >= latest.fence {
            *latest = known;
        }
    }
}
