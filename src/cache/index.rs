//! Finds entries. A hit through moka touches some ten cache lines: its bucket, its two records of the entry, the key, and
//! the neighbours in its list of uses. With many tasks none of them is in a processor's cache; here there are two. The
//! index holds what moka holds: an entry that moka evicts is removed here.

use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;
use tokio::time::Instant;

use super::entry::Entry;
use crate::request::key::TaskKey;
use crate::sync::{lock, read, write};

/// Parts that are locked separately.
const SHARDS: u64 = 64;

/// See the module.
pub(super) struct Index(Box<[Shard]>);

/// A part with its own lock.
#[derive(Default)]
pub(super) struct Shard {
    held: RwLock<Held>,
    /// Serialises writers, so that the index and moka agree.
    changes: Mutex<()>,
}

#[derive(Default)]
struct Held {
    entries: HashTable<Arc<Entry>>,
    /// No entry expires before this.
    soonest: Option<Instant>,
}

impl Index {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Shard::default()).collect())
    }

    pub(super) fn get(&self, digest: u64, key: &TaskKey) -> Option<Arc<Entry>> {
        let held = self.shard(digest).read();
        let found = held.entries.find(digest, |entry| entry.is_of(key));
        found.cloned()
    }

    /// Replaces the entry of a key and calls `keep`, which stores it in moka and may evict any entry. `digest_of` is
    /// called when the table grows.
    pub(super) fn set(
        &self,
        digest: u64,
        key: &TaskKey,
        entry: Arc<Entry>,
        digest_of: impl Fn(&Entry) -> u64,
        keep: impl FnOnce(Arc<Entry>),
    ) {
        let shard = self.shard(digest);
        let _one_at_a_time = lock(&shard.changes);
        let earlier = {
            let (mut held, entry) = (shard.write(), Arc::clone(&entry));
            held.note_expiry(entry.usable_until());
            if let Some(earlier) = held.entries.find_mut(digest, |held| held.is_of(key)) {
                Some(std::mem::replace(earlier, entry))
            } else {
                let digest_of = |held: &Arc<Entry>| digest_of(held);
                held.entries.insert_unique(digest, entry, digest_of);
                None
            }
        };
        drop(earlier);
        keep(entry);
    }

    /// Removes the entry, unless it has been replaced.
    pub(super) fn remove(&self, digest: u64, entry: &Arc<Entry>) {
        let mut held = self.shard(digest).write();
        let is_it = |held: &Arc<Entry>| Arc::ptr_eq(held, entry);
        if let Ok(found) = held.entries.find_entry(digest, is_it) {
            found.remove();
        }
    }

    /// Calls `change`, unless the entry has been replaced; it is not replaced meanwhile.
    pub(super) fn while_held(&self, digest: u64, entry: &Arc<Entry>, change: impl FnOnce()) {
        let shard = self.shard(digest);
        let _one_at_a_time = lock(&shard.changes);
        if self.holds(digest, entry) {
            change();
        }
    }

    /// Whether it holds this very entry.
    pub(super) fn holds(&self, digest: u64, entry: &Arc<Entry>) -> bool {
        let is_it = |held: &Arc<Entry>| Arc::ptr_eq(held, entry);
        self.shard(digest)
            .read()
            .entries
            .find(digest, is_it)
            .is_some()
    }

    pub(super) fn shards(&self) -> &[Shard] {
        &self.0
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.read().entries.len()).sum()
    }

    /// By bits that the part itself does not look at first.
    fn shard(&self, digest: u64) -> &Shard {
        &self.0[usize::try_from((digest >> 40) % SHARDS).unwrap_or(0)]
    }
}

impl Shard {
    /// The entries whose time is over. Looks at all where there may be one, and does not ask about that one again.
    pub(super) fn expired(&self, now: Instant) -> Vec<Arc<Entry>> {
        let mut expired = Vec::new();
        if self
            .write()
            .soonest
            .take_if(|soonest| *soonest <= now)
            .is_none()
        {
            return expired;
        }
        let mut soonest = None;
        for entry in &self.read().entries {
            if entry.is_expired(now) {
                expired.push(Arc::clone(entry));
            } else {
                soonest = soonest.into_iter().chain([entry.usable_until()]).min();
            }
        }
        if let Some(soonest) = soonest {
            self.write().note_expiry(soonest);
        }
        expired
    }

    fn read(&self) -> RwLockReadGuard<'_, Held> {
        read(&self.held)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        write(&self.held)
    }
}

impl Held {
    /// Notes that an entry's time is over then.
    fn note_expiry(&mut self, end: Instant) {
        self.soonest = Some(self.soonest.map_or(end, |soonest| soonest.min(end)));
    }
}
