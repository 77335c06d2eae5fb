//! Finds what is remembered. Reading through moka takes some ten places in memory for each hit: its bucket, its two
//! records of the entry, the key, and what its list of uses touches. Those are in no processor's cache when there are
//! many tasks, and here there are two of them. moka alone decides what is kept; whatever it lets go is dropped here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ahash::RandomState;

use super::Entry;

/// Parts that are locked apart.
const SHARDS: u64 = 64;

/// See the module.
pub(super) struct Index(Box<[Shard]>);

#[derive(Default)]
struct Shard {
    entries: RwLock<HashMap<u64, Arc<Entry>, RandomState>>,
    /// Held by who changes an entry both here and in moka, so that both come to hold the same one.
    changes: Mutex<()>,
}

impl Index {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Shard::default()).collect())
    }

    pub(super) fn get(&self, digest: u64) -> Option<Arc<Entry>> {
        let entries = &self.shard(digest).entries;
        let entries = entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.get(&digest).cloned()
    }

    /// Puts the entry in the place of an earlier one, and has it kept by `keep`, which may evict any entry meanwhile.
    pub(super) fn set(&self, digest: u64, entry: Arc<Entry>, keep: impl FnOnce(Arc<Entry>)) {
        let shard = self.shard(digest);
        let _one_at_a_time = shard.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let earlier = {
            let mut entries = shard
                .entries
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            entries.insert(digest, Arc::clone(&entry))
        };
        drop(earlier);
        keep(entry);
    }

    /// Drops the entry, unless another one has taken its place.
    pub(super) fn remove(&self, digest: u64, entry: &Arc<Entry>) {
        let entries = &self.shard(digest).entries;
        let mut entries = entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries
            .get(&digest)
            .is_some_and(|held| Arc::ptr_eq(held, entry))
        {
            entries.remove(&digest);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let entries = self.0.iter().map(|shard| shard.entries.read());
        entries
            .map(|entries| entries.expect("no one panicked").len())
            .sum()
    }

    fn shard(&self, digest: u64) -> &Shard {
        &self.0[usize::try_from(digest % SHARDS).unwrap_or(0)]
    }
}
