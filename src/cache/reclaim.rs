//! Reclaims expired entries. moka could do so itself, on its own clock and for some 60 bytes more per entry.

use tokio::time::Instant;

use super::store::Store;

/// The number of entries removed before other tasks run.
const AT_ONCE: usize = 256;

impl Store {
    /// Removes every expired entry; call it periodically. Yields to other tasks in between. Run it to its end: entries
    /// that it has found are not found again.
    pub async fn reclaim(&self) {
        for shard in self.entries.index.shards() {
            for some in shard.expired(Instant::now()).chunks(AT_ONCE) {
                for entry in some {
                    self.entries.remove(entry);
                }
                tokio::task::yield_now().await;
            }
            tokio::task::yield_now().await;
        }
        self.flush();
    }

    /// Evicts what there is no room for, and brings moka's counts up to date.
    pub fn flush(&self) {
        self.entries.flush();
        self.callers.run_pending_tasks();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use moka::notification::RemovalCause;
    use tokio::time::advance;

    use super::super::freshness::{Decision, Lifetime};
    use super::super::store::tests::{HOUR, circumstances, reply};
    use super::*;
    use crate::request::key::TaskKey;

    /// Remembers something for so long.
    fn remember(store: &Store, key: &TaskKey, decision: &Decision, fresh: Duration) {
        let lifetime = decision.lifetime.map(|lifetime| Lifetime {
            fresh,
            stale_if_error: Duration::ZERO,
            ..lifetime
        });
        let decision = Decision {
            lifetime,
            ..decision.clone()
        };
        let kept = store.keep(key, reply(), &decision, 0, &store.lease(key));
        assert!(kept.stored);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_goes_as_expired_and_nothing_goes_before() {
        let (tell, told) = mpsc::channel();
        let (key, decision) = circumstances();
        let store = Store::new(1 << 30, move |cause| tell.send(cause).expect("is heard"));
        for number in 0..1000 {
            let seconds = if number % 10 == 0 { 20 } else { 10 };
            let lifetime = Duration::from_secs(seconds);
            remember(&store, &key(&number.to_string()), &decision, lifetime);
        }
        let left = async |after: Duration| {
            advance(after).await;
            store.reclaim().await;
            assert!(store.entries.agree());
            store.len()
        };
        assert_eq!(left(Duration::from_millis(9_999)).await, 1000);
        assert_eq!(left(Duration::from_millis(1)).await, 100);
        assert_eq!(left(Duration::from_millis(9_999)).await, 100);
        assert_eq!(left(Duration::from_millis(1)).await, 0);
        assert_eq!(store.bytes(), 0);
        let causes: Vec<_> = told.try_iter().collect();
        assert_eq!(causes, [RemovalCause::Expired; 1000]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_not_counted_as_forgotten() {
        let (tell, told) = mpsc::channel();
        let (key, decision) = circumstances();
        let store = Store::new(1 << 30, move |cause| tell.send(cause).expect("is heard"));
        remember(&store, &key("short"), &decision, Duration::from_secs(1));
        remember(&store, &key("long"), &decision, HOUR);
        advance(Duration::from_secs(1)).await;
        assert_eq!(store.purge_all(), 1);
        let causes: Vec<_> = told.try_iter().collect();
        assert_eq!(causes.len(), 2);
        for cause in [RemovalCause::Expired, RemovalCause::Explicit] {
            assert!(causes.contains(&cause), "{causes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_is_not_counted_as_gone_for_room() {
        let (tell, told) = mpsc::channel();
        let (key, decision) = circumstances();
        let store = Store::new(20_000, move |cause| tell.send(cause).expect("is heard"));
        for number in 0..10 {
            let second = Duration::from_secs(1);
            remember(&store, &key(&number.to_string()), &decision, second);
        }
        advance(Duration::from_secs(1)).await;
        for number in 10..100 {
            remember(&store, &key(&number.to_string()), &decision, HOUR);
            store.flush();
        }
        let causes: Vec<_> = told.try_iter().collect();
        let (over, rest) = causes.split_at(10);
        assert_eq!(over, [RemovalCause::Expired; 10]);
        assert!(!rest.is_empty() && rest.iter().all(|cause| *cause == RemovalCause::Size));
    }

    #[test]
    fn what_takes_the_place_of_what_is_over_stays() {
        let (key, decision) = circumstances();
        let (store, key) = (Store::new(1 << 30, |_| {}), key("t"));
        let (over, done) = (Duration::from_micros(1), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for shard in store.entries.index.shards() {
                        for entry in shard.expired(Instant::now()) {
                            store.entries.remove(&entry);
                        }
                    }
                }
            });
            let lost = (0..20_000).filter(|_| {
                remember(&store, &key, &decision, over);
                remember(&store, &key, &decision, HOUR);
                store.peek(&key).is_none()
            });
            let lost = lost.count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(lost, 0);
        });
        store.flush();
        assert!(store.entries.agree());
        assert_eq!(store.len(), 1);
    }
}
