//! Finds entries. A hit through moka touches some ten cache lines: its bucket, its two records of the entry, the key, and
//! the neighbours in its list of uses. With many tasks none of them is in a processor's cache; here there are two.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;
use tokio::time::Instant;

use super::entry::Entry;
use crate::request::key::TaskKey;
use crate::sync::{lock, read, write};

/// Parts that are locked separately.
const SHARDS: u64 = 64;

/// See the module.
pub(super) struct Index {
    shards: Box<[Shard]>,
    len: AtomicU64,
}

/// A part with its own lock.
#[derive(Default)]
pub(super) struct Shard {
    held: RwLock<Held>,
    /// Serialises writers, so that an entry is here and either on probation or in moka.
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
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            len: AtomicU64::new(0),
        }
    }

    pub(super) fn get(&self, digest: u64, key: &TaskKey) -> Option<Arc<Entry>> {
        let held = self.shard(digest).read();
        let found = held.entries.find(digest, |entry| entry.is_of(key));
        found.cloned()
    }

    /// Replaces the entry of a key and calls `settle` with the new one and the earlier one, if there was one. No other writer
    /// comes between, but moka may remove what it evicts. `digest_of` is called when the table grows.
    pub(super) fn set(
        &self,
        digest: u64,
        key: &TaskKey,
        entry: Arc<Entry>,
        digest_of: impl Fn(&Entry) -> u64,
        settle: impl FnOnce(Arc<Entry>, Option<Arc<Entry>>),
    ) {
        let _one_at_a_time = self.lock(digest);
        let shard = self.shard(digest);
        let earlier = {
            let (mut held, entry) = (shard.write(), Arc::clone(&entry));
            held.note_expiry(entry.usable_until());
            if let Some(earlier) = held.entries.find_mut(digest, |held| held.is_of(key)) {
                Some(std::mem::replace(earlier, entry))
            } else {
                let digest_of = |held: &Arc<Entry>| digest_of(held);
                held.entries.insert_unique(digest, entry, digest_of);
                self.len.fetch_add(1, Ordering::Relaxed);
                None
            }
        };
        settle(entry, earlier);
    }

    /// Removes the entry, unless it has been replaced. Returns whether it was here.
    pub(super) fn remove(&self, digest: u64, entry: &Arc<Entry>) -> bool {
        let mut held = self.shard(digest).write();
        let is_it = |held: &Arc<Entry>| Arc::ptr_eq(held, entry);
        match held.entries.find_entry(digest, is_it) {
            Ok(found) => {
                let (removed, _) = found.remove();
                self.len.fetch_sub(1, Ordering::Relaxed);
                drop(held);
                drop(removed);
                true
            }
            Err(_) => false,
        }
    }

    /// Keeps other writers away from the entries with this digest; moka may remove what it evicts.
    pub(super) fn lock(&self, digest: u64) -> MutexGuard<'_, ()> {
        lock(&self.shard(digest).changes)
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

    /// All entries, one part after the other: what comes or goes meanwhile may be missing.
    pub(super) fn all(&self) -> impl Iterator<Item = Arc<Entry>> {
        let all = |shard: &Shard| -> Vec<_> { shard.read().entries.iter().cloned().collect() };
        self.shards.iter().flat_map(all)
    }

    pub(super) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The number of entries.
    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// By bits that the part itself does not look at first.
    fn shard(&self, digest: u64) -> &Shard {
        &self.shards[usize::try_from((digest >> 40) % SHARDS).unwrap_or(0)]
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
