//! The entries: moka bounds them in bytes, and the index finds them. Both hold the same.

use std::sync::{Arc, Weak};

use ahash::RandomState;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use super::entry::{Entry, Scales};
use super::index::Index;
use crate::answer::reply::Reply;
use crate::request::key::TaskKey;

/// The overhead of an entry in bytes, apart from itself and its documents. Measured: moka's six records of it take 290, the
/// tables of moka and the index 35; the rest is allocator rounding.
const OVERHEAD: usize = 400;

/// An entry of more bytes than this makes room for itself at once. moka does that only after some 64 changes: smaller ones
/// exceed the capacity by 1 MiB at most until then.
const LARGE: usize = 16 << 10;

/// See the module.
pub(super) struct Entries {
    /// By a digest of their key. The digest only finds an entry; its own key is compared as well.
    pub(super) moka: Cache<u64, Arc<Entry>, RandomState>,
    /// For look-ups.
    pub(super) index: Index,
    /// For entries, which call it when they have grown.
    pub(super) scales: Arc<Scales>,
    digests: RandomState,
}

impl Entries {
    /// None yet; at most `capacity` bytes. Calls `evicted` for every entry that leaves.
    pub(super) fn new(
        capacity: u64,
        digests: RandomState,
        evicted: impl Fn(RemovalCause) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new_cyclic(|entries: &Weak<Self>| {
            let (entries, growing) = (Weak::clone(entries), Weak::clone(entries));
            let scales = Scales(Box::new(move |entry| {
                if let Some(entries) = growing.upgrade() {
                    entries.weigh_again(entry);
                }
            }));
            let moka = Cache::builder()
                .max_capacity(capacity)
                .weigher(|_, entry: &Arc<Entry>| u32::try_from(weight(entry)).unwrap_or(u32::MAX))
                .eviction_policy(EvictionPolicy::lru())
                .eviction_listener(move |digest: Arc<u64>, entry: Arc<Entry>, cause| {
                    if cause == RemovalCause::Replaced {
                        // The index was told before moka; or it is the same entry, weighed again.
                        return;
                    }
                    if let Some(entries) = entries.upgrade() {
                        entries.index.remove(*digest, &entry);
                    }
                    let is_expired = entry.is_expired(Instant::now());
                    evicted(if is_expired {
                        RemovalCause::Expired
                    } else {
                        cause
                    });
                })
                .build_with_hasher(RandomState::new());
            Self {
                moka,
                index: Index::new(),
                scales: Arc::new(scales),
                digests,
            }
        })
    }

    pub(super) fn digest(&self, entry: &Entry) -> u64 {
        self.digests.hash_one(entry.parts())
    }

    /// Keeps the entry of a key, in place of an earlier one.
    pub(super) fn set(&self, digest: u64, key: &TaskKey, entry: Arc<Entry>) {
        let is_large = weight(&entry) > LARGE;
        self.index.set(
            digest,
            key,
            entry,
            |entry| self.digest(entry),
            |entry| self.moka.insert(digest, entry),
        );
        if is_large {
            self.moka.run_pending_tasks();
        }
    }

    /// Removes the entry, but not one that has replaced it.
    pub(super) fn remove(&self, entry: &Arc<Entry>) {
        let digest = self.digest(entry);
        self.index
            .while_held(digest, entry, || self.moka.invalidate(&digest));
    }

    /// Weighs an entry again that takes more memory than before, unless it has left.
    fn weigh_again(&self, entry: &Arc<Entry>) {
        let digest = self.digest(entry);
        self.index.while_held(digest, entry, || {
            self.moka.insert(digest, Arc::clone(entry));
            if !self.index.holds(digest, entry) {
                // moka evicted it just before, so that the index would not find it.
                self.moka.invalidate(&digest);
            }
        });
        if weight(entry) > LARGE {
            self.moka.run_pending_tasks();
        }
    }
}

/// The memory that an entry takes now, in bytes.
fn weight(entry: &Entry) -> usize {
    let around = size_of::<Entry>() - size_of::<Reply>();
    OVERHEAD + around + entry.reply.weight()
}
