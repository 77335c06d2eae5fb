//! Finds what is remembered. Reading through moka takes some ten places in memory for each hit: its bucket, its two
//! records of the entry, the key, and what its list of uses touches. Those are in no processor's cache when there are
//! many tasks, and here there are two of them. moka alone decides what is kept; whatever it lets go is dropped here.

use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hashbrown::HashTable;

use super::Entry;
use crate::key::TaskKey;

/// Parts that are locked apart.
const SHARDS: u64 = 64;

/// See the module.
pub(super) struct Index(Box<[Shard]>);

#[derive(Default)]
struct Shard {
    entries: RwLock<HashTable<Arc<Entry>>>,
    /// Held by who changes an entry both here and in moka, so that both come to hold the same one.
    changes: Mutex<()>,
}

impl Index {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Shard::default()).collect())
    }

    pub(super) fn get(&self, digest: u64, key: &TaskKey) -> Option<Arc<Entry>> {
        let entries = self.shard(digest).read();
        entries.find(digest, |entry| entry.is_of(key)).cloned()
    }

    /// Puts the entry in the place of an earlier one of its key, and has it kept by `keep`, which may evict any entry
    /// meanwhile. `digest_of` is asked when there has to be more room.
    pub(super) fn set(
        &self,
        digest: u64,
        key: &TaskKey,
        entry: Arc<Entry>,
        digest_of: impl Fn(&Entry) -> u64,
        keep: impl FnOnce(Arc<Entry>),
    ) {
        let shard = self.shard(digest);
        let _one_at_a_time = shard.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = {
            let (mut entries, entry) = (shard.write(), Arc::clone(&entry));
            if let Some(held) = entries.find_mut(digest, |held| held.is_of(key)) {
                Some(std::mem::replace(held, entry))
            } else {
                entries.insert_unique(digest, entry, |held| digest_of(held));
                None
            }
        };
        drop(earlier);
        keep(entry);
    }

    /// Drops the entry, unless another one has taken its place.
    pub(super) fn remove(&self, digest: u64, entry: &Arc<Entry>) {
        let mut entries = self.shard(digest).write();
        if let Ok(held) = entries.find_entry(digest, |held| Arc::ptr_eq(held, entry)) {
            held.remove();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|shard| shard.read().len()).sum()
    }

    /// By bits that the part itself does not look at first.
    fn shard(&self, digest: u64) -> &Shard {
        &self.0[usize::try_from((digest >> 40) % SHARDS).unwrap_or(0)]
    }
}

impl Shard {
    fn read(&self) -> RwLockReadGuard<'_, HashTable<Arc<Entry>>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashTable<Arc<Entry>>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}
