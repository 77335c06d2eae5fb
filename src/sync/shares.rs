//! A share of a limit for each key, so that no one key takes all of it.

use std::hash::Hash;
use std::sync::{Arc, Mutex};

use ahash::HashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lock;

/// The number of keys that are kept although they hold no permit: making one anew costs more than keeping it.
const IDLE: usize = 1024;

/// The permits of each key. Memory is bounded by the permits that are held.
#[derive(Debug)]
pub struct Shares<K: Hash + Eq + Copy> {
    keys: Arc<Mutex<HashMap<K, Arc<Semaphore>>>>,
    each: usize,
}

/// A permit of one key; released when dropped.
#[derive(Debug)]
pub struct Share<K: Hash + Eq + Copy> {
    permit: Option<OwnedSemaphorePermit>,
    shares: Shares<K>,
    key: K,
}

impl<K: Hash + Eq + Copy> Shares<K> {
    /// `each` permits for every key.
    #[must_use]
    pub fn new(each: usize) -> Self {
        Self {
            keys: Arc::default(),
            each: each.clamp(1, Semaphore::MAX_PERMITS),
        }
    }

    /// Takes a permit of `key`, if one is free.
    #[must_use]
    pub fn try_acquire(&self, key: K) -> Option<Share<K>> {
        let permit = self.semaphore(key).try_acquire_owned().ok()?;
        Some(self.share(key, Some(permit)))
    }

    /// Waits for a permit of `key`, in order.
    pub async fn acquire(&self, key: K) -> Share<K> {
        // Made first: should this be dropped while it waits, the key is cleaned up all the same.
        let mut share = self.share(key, None);
        let semaphore = self.semaphore(key);
        // It is never closed.
        share.permit = semaphore.acquire_owned().await.ok();
        share
    }

    fn share(&self, key: K, permit: Option<OwnedSemaphorePermit>) -> Share<K> {
        Share {
            permit,
            shares: self.clone(),
            key,
        }
    }

    fn semaphore(&self, key: K) -> Arc<Semaphore> {
        let keys = &mut *lock(&self.keys);
        let new = || Arc::new(Semaphore::new(self.each));
        Arc::clone(keys.entry(key).or_insert_with(new))
    }

    /// The number of keys that hold permits.
    #[must_use]
    pub fn len(&self) -> usize {
        let keys = lock(&self.keys);
        let holds = |semaphore: &&Arc<Semaphore>| semaphore.available_permits() < self.each;
        keys.values().filter(holds).count()
    }

    /// Whether no key holds a permit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Hash + Eq + Copy> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self {
            keys: Arc::clone(&self.keys),
            each: self.each,
        }
    }
}

impl<K: Hash + Eq + Copy> Drop for Share<K> {
    fn drop(&mut self) {
        let keys = &mut *lock(&self.shares.keys);
        self.permit = None;
        // Waiters and holders have a reference of their own.
        if keys.len() > IDLE
            && let Some(semaphore) = keys.get(&self.key)
            && Arc::strong_count(semaphore) == 1
        {
            keys.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_key_has_its_share_and_leaves_nothing_behind() {
        let shares = Shares::new(2);
        let held: Vec<_> = (0..2).filter_map(|_| shares.try_acquire("a")).collect();
        assert_eq!(held.len(), 2);
        assert!(shares.try_acquire("a").is_none());
        let other = shares.try_acquire("b").expect("has its own");
        assert_eq!(shares.len(), 2);
        drop((held, other));
        assert!(shares.is_empty());
    }

    #[test]
    fn keys_that_hold_nothing_take_bounded_memory() {
        let shares = Shares::new(1);
        for key in 0..10 * IDLE {
            drop(shares.try_acquire(key));
        }
        assert!(lock(&shares.keys).len() <= IDLE + 1);
        assert!(shares.is_empty());
    }

    #[tokio::test]
    async fn a_waiter_gets_the_permit_that_is_released_and_one_that_leaves_is_forgotten() {
        let shares = Shares::new(1);
        let first = shares.acquire("a").await;
        let waiting = tokio::spawn({
            let shares = shares.clone();
            async move { drop(shares.acquire("a").await) }
        });
        let leaving = tokio::spawn({
            let shares = shares.clone();
            async move { drop(shares.acquire("a").await) }
        });
        tokio::task::yield_now().await;
        leaving.abort();
        assert!(leaving.await.is_err());
        drop(first);
        waiting.await.expect("is served");
        assert!(shares.is_empty());
    }
}
