//! The entries, bounded in bytes. The index finds them; each is also either on probation, or in moka because it was in use
//! when its time on probation was over. Both decide what goes when memory runs out.

use std::sync::{Arc, Weak};

use ahash::RandomState;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use super::entry::{Entry, Scales};
use super::index::Index;
use super::probation::Probation;
use crate::answer::reply::Reply;
use crate::request::key::TaskKey;

/// What part of the capacity moka leaves for those on probation.
const FOR_PROBATION: u64 = 10;

/// The overhead of an entry in bytes, apart from itself and its documents, if it is in moka. Measured: moka's six records of
/// it take 290, the tables of moka and the index 35; the rest is allocator rounding. On probation it takes some 250 less, but
/// counts the same: it may come to be in moka.
const OVERHEAD: usize = 400;

/// When an entry of more bytes than this comes to moka or leaves it, moka counts it at once. Else it does so only after some
/// 64 changes: smaller ones exceed the capacity by 1 MiB at most until then.
const LARGE: u32 = 16 << 10;

/// See the module.
pub(super) struct Entries {
    /// All of them.
    pub(super) index: Index,
    probation: Probation,
    /// By a digest of their key. The digest only finds an entry; its own key is compared as well.
    moka: Cache<u64, Arc<Entry>, RandomState>,
    /// For entries, which call it when they have grown.
    pub(super) scales: Arc<Scales>,
    pub(super) capacity: u64,
    /// How much of that moka may have.
    most_in_moka: u64,
    digests: RandomState,
    evicted: Box<dyn Fn(RemovalCause) + Send + Sync>,
}

impl Entries {
    /// None yet; at most `capacity` bytes. Calls `evicted` for every entry that leaves.
    pub(super) fn new(
        capacity: u64,
        digests: RandomState,
        evicted: impl Fn(RemovalCause) + Send + Sync + 'static,
    ) -> Arc<Self> {
        let most_in_moka = capacity - capacity / FOR_PROBATION;
        Arc::new_cyclic(|entries: &Weak<Self>| {
            let (entries, growing) = (Weak::clone(entries), Weak::clone(entries));
            let scales = Scales(Box::new(move |entry| {
                if let Some(entries) = growing.upgrade() {
                    entries.weigh_again(entry);
                }
            }));
            let moka = Cache::builder()
                .max_capacity(most_in_moka)
                .weigher(|_, entry: &Arc<Entry>| weight(entry))
                .eviction_policy(EvictionPolicy::lru())
                .eviction_listener(move |digest: Arc<u64>, entry: Arc<Entry>, cause| {
                    if cause == RemovalCause::Replaced {
                        // The index was told before moka; or it is the same entry, weighed again.
                        return;
                    }
                    if let Some(entries) = entries.upgrade()
                        && entries.index.remove(*digest, &entry)
                    {
                        entries.tell(&entry, cause, Instant::now());
                    }
                })
                .build_with_hasher(RandomState::new());
            Self {
                index: Index::new(),
                probation: Probation::default(),
                moka,
                scales: Arc::new(scales),
                capacity,
                most_in_moka,
                digests,
                evicted: Box::new(evicted),
            }
        })
    }

    /// Records a use. The order of uses in moka does not matter while there is plenty of room.
    pub(super) fn record_use(&self, digest: u64, entry: &Entry) {
        entry.note_use();
        if self.moka.weighted_size() >= self.capacity / 2 && !entry.is_on_probation() {
            self.moka.get(&digest);
        }
    }

    /// Keeps the entry of a key, in place of an earlier one. Returns whether there is room for it; else neither is kept.
    pub(super) fn set(&self, digest: u64, key: &TaskKey, entry: Arc<Entry>) -> bool {
        let weight = weight(&entry);
        if u64::from(weight) > self.most_in_moka {
            self.forget(digest, key);
            self.tell(&entry, RemovalCause::Size, Instant::now());
            return false;
        }
        // It is polled again. Who is told the end of a task does not ask again.
        let is_in_use = entry
            .reply
            .state()
            .is_some_and(|state| !state.is_terminal());
        if is_in_use {
            entry.note_use();
        }
        let digest_of = |entry: &Entry| self.digest(entry);
        let settle = |entry: Arc<Entry>, earlier: Option<Arc<Entry>>| {
            let was_in_moka = earlier.is_some_and(|earlier| !self.probation.remove(&earlier));
            if was_in_moka && is_in_use {
                self.moka.insert(digest, entry);
                return;
            }
            if was_in_moka {
                self.moka.invalidate(&digest);
            }
            self.probation.push(digest, entry, weight);
        };
        self.index.set(digest, key, entry, digest_of, settle);
        self.count(weight);
        self.make_room();
        true
    }

    /// Removes the entry of a key.
    pub(super) fn forget(&self, digest: u64, key: &TaskKey) {
        while let Some(entry) = self.index.get(digest, key) {
            if self.remove(&entry) {
                return;
            }
        }
    }

    /// Removes the entry, but not one that has replaced it. Returns whether it was there.
    pub(super) fn remove(&self, entry: &Arc<Entry>) -> bool {
        self.remove_as(entry, RemovalCause::Explicit)
    }

    fn remove_as(&self, entry: &Arc<Entry>, cause: RemovalCause) -> bool {
        let digest = self.digest(entry);
        let one_at_a_time = self.index.lock(digest);
        if !self.index.remove(digest, entry) {
            return false;
        }
        self.tell(entry, cause, Instant::now());
        if !self.probation.remove(entry) {
            self.moka.invalidate(&digest);
            drop(one_at_a_time);
            self.count(weight(entry));
        }
        true
    }

    /// The bytes of all entries, as moka last counted its own.
    pub(super) fn bytes(&self) -> u64 {
        self.probation.bytes() + self.moka.weighted_size()
    }

    /// Evicts what there is no room for, and brings moka's counts up to date.
    pub(super) fn flush(&self) {
        self.moka.run_pending_tasks();
        self.make_room();
    }

    /// Lets the oldest on probation go while there is too much: those that are in use to moka.
    fn make_room(&self) {
        while self.bytes() > self.capacity
            && let Some((digest, entry, is_last)) = self.probation.oldest()
        {
            let one_at_a_time = self.index.lock(digest);
            if !self.probation.remove(&entry) {
                continue;
            }
            let now = Instant::now();
            // moka may find room for one that is alone.
            if (entry.is_used() || is_last) && !entry.is_expired(now) {
                self.moka.insert(digest, Arc::clone(&entry));
                drop(one_at_a_time);
                self.count(weight(&entry));
            } else {
                self.index.remove(digest, &entry);
                self.tell(&entry, RemovalCause::Size, now);
            }
        }
    }

    /// Has moka count its entries now, of which a large one came or went.
    fn count(&self, weight: u32) {
        if weight > LARGE {
            self.moka.run_pending_tasks();
        }
    }

    /// Whether each entry is in the index, and either on probation or in moka.
    #[cfg(test)]
    pub(super) fn agree(&self) -> bool {
        self.flush();
        let all: Vec<_> = self.index.all().collect();
        let on_probation = || all.iter().filter(|entry| entry.is_on_probation());
        let bytes: u64 = on_probation().map(|entry| u64::from(weight(entry))).sum();
        let in_moka: Vec<_> = self.moka.iter().collect();
        let is_right = |(digest, entry): &(Arc<u64>, Arc<Entry>)| {
            self.index.holds(**digest, entry) && !entry.is_on_probation()
        };
        in_moka.iter().all(is_right)
            && on_probation().count() + in_moka.len() == all.len()
            && on_probation().count() as u64 == self.probation.len()
            && bytes == self.probation.bytes()
            && all.len() as u64 == self.index.len()
    }

    /// Weighs an entry again that takes more memory than before, unless it has left.
    fn weigh_again(&self, entry: &Arc<Entry>) {
        let digest = self.digest(entry);
        let one_at_a_time = self.index.lock(digest);
        let weight = weight(entry);
        if u64::from(weight) > self.most_in_moka {
            drop(one_at_a_time);
            self.remove_as(entry, RemovalCause::Size);
            return;
        }
        if !self.probation.weigh_again(entry, weight) && self.index.holds(digest, entry) {
            self.moka.insert(digest, Arc::clone(entry));
            if !self.index.holds(digest, entry) {
                // moka evicted it just before, so that the index would not find it.
                self.moka.invalidate(&digest);
            }
        }
        drop(one_at_a_time);
        self.count(weight);
        self.make_room();
    }

    fn digest(&self, entry: &Entry) -> u64 {
        self.digests.hash_one(entry.parts())
    }

    /// Tells of an entry that has left.
    fn tell(&self, entry: &Entry, cause: RemovalCause, now: Instant) {
        let cause = if entry.is_expired(now) {
            RemovalCause::Expired
        } else {
            cause
        };
        (self.evicted)(cause);
    }
}

/// The memory that an entry takes now, in bytes.
fn weight(entry: &Entry) -> u32 {
    let around = size_of::<Entry>() - size_of::<Reply>();
    u32::try_from(OVERHEAD + around + entry.reply.weight()).unwrap_or(u32::MAX)
}
