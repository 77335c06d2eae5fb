//! Entries on probation: those that were not used since they were stored, in the order in which they came. Most answers
//! never are, since a client that is told the end of its task does not ask again. When memory runs out the oldest of them go
//! first, and those that were used meanwhile move on to moka, which evicts the least recently used. (The small queue and the
//! main one of S3-FIFO, Yang et al., SOSP 2023, without its memory of what has gone.)

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use slab::Slab;

use super::entry::Entry;
use crate::sync::lock;

/// See the module.
#[derive(Default)]
pub(super) struct Probation {
    queue: Mutex<Queue>,
    /// What its entries weigh together: for readers that do not wait for the queue.
    bytes: AtomicU64,
}

/// A doubly linked list, so that an entry can leave from anywhere.
#[derive(Default)]
struct Queue {
    places: Slab<Place>,
    /// The places of the oldest entry and of the newest.
    ends: Option<(u32, u32)>,
}

struct Place {
    entry: Arc<Entry>,
    /// The digest of its key. Computed again, it would have to be read from memory that nobody has used for long.
    digest: u64,
    /// As it counts here, in bytes.
    weight: u32,
    /// The places of the next older entry and of the next newer one; [`Entry::NOWHERE`] at the ends.
    older: u32,
    newer: u32,
}

impl Probation {
    /// The bytes of all entries.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> u64 {
        lock(&self.queue).places.len() as u64
    }

    /// Takes in an entry as the newest.
    pub(super) fn push(&self, digest: u64, entry: Arc<Entry>, weight: u32) {
        let mut queue = lock(&self.queue);
        queue.push(digest, entry, weight);
        self.count(weight, 0);
    }

    /// The oldest entry with the digest of its key, and whether it is the only one.
    pub(super) fn oldest(&self) -> Option<(u64, Arc<Entry>, bool)> {
        let queue = lock(&self.queue);
        let (oldest, newest) = queue.ends?;
        let place = queue.places.get(oldest as usize)?;
        Some((place.digest, Arc::clone(&place.entry), oldest == newest))
    }

    /// Lets an entry go. Returns whether it was here.
    pub(super) fn remove(&self, entry: &Entry) -> bool {
        let mut queue = lock(&self.queue);
        let removed = queue.remove(entry);
        self.count(0, removed.as_ref().map_or(0, |place| place.weight));
        drop(queue);
        removed.is_some()
    }

    /// Counts an entry with this weight from now on. Returns whether it is here.
    pub(super) fn weigh_again(&self, entry: &Entry, weight: u32) -> bool {
        let mut queue = lock(&self.queue);
        let Some(place) = queue.places.get_mut(entry.place() as usize) else {
            return false;
        };
        let before = std::mem::replace(&mut place.weight, weight);
        self.count(weight, before);
        true
    }

    /// Only for whoever has locked the queue.
    fn count(&self, more: u32, less: u32) {
        let bytes = self.bytes() + u64::from(more) - u64::from(less);
        self.bytes.store(bytes, Ordering::Relaxed);
    }
}

impl Queue {
    fn push(&mut self, digest: u64, entry: Arc<Entry>, weight: u32) {
        let place = self.places.vacant_entry();
        // Four billion of the smallest entries take more memory than there is.
        let at = u32::try_from(place.key()).expect("is a place");
        let oldest = self.ends.map(|(oldest, _)| oldest);
        let newest = self.ends.map(|(_, newest)| newest);
        entry.put(at);
        place.insert(Place {
            entry,
            digest,
            weight,
            older: newest.unwrap_or(Entry::NOWHERE),
            newer: Entry::NOWHERE,
        });
        if let Some(place) = newest.and_then(|newest| self.at(newest)) {
            place.newer = at;
        }
        self.ends = Some((oldest.unwrap_or(at), at));
    }

    fn remove(&mut self, entry: &Entry) -> Option<Place> {
        let at = entry.place();
        let removed = self.places.try_remove(at as usize)?;
        entry.put(Entry::NOWHERE);
        let (older, newer) = (removed.older, removed.newer);
        if let Some(place) = self.at(older) {
            place.newer = newer;
        }
        if let Some(place) = self.at(newer) {
            place.older = older;
        }
        self.ends = self.ends.and_then(|(oldest, newest)| {
            let ends = (
                if oldest == at { newer } else { oldest },
                if newest == at { older } else { newest },
            );
            (!self.places.is_empty()).then_some(ends)
        });
        Some(removed)
    }

    fn at(&mut self, place: u32) -> Option<&mut Place> {
        self.places.get_mut(place as usize)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};
    use moka::notification::RemovalCause;
    use tokio::time::Instant;

    use super::super::freshness::{CredentialVerdict, Decision};
    use super::super::store::Store;
    use super::super::store::tests::{HOUR, circumstances, reply};
    use crate::answer::reply::Reply;
    use crate::request::key::TaskKey;
    use crate::task::{Dialect, Form, Rendering, Source, TaskSnapshot};

    /// Room for some sixty small answers.
    const CAPACITY: u64 = 30_000;

    /// What is to be said of tasks of one caller, whose credential upstream accepts.
    fn scene() -> (impl Fn(&str) -> TaskKey, Decision) {
        let (key, decision) = circumstances();
        let decision = Decision {
            credential: Some(CredentialVerdict::Accepted),
            ..decision
        };
        (key, decision)
    }

    fn task(status: &str) -> Reply {
        let body = Bytes::from(format!(
            r#"{{"id":"known","object":"video","status":"{status}"}}"#
        ));
        let source = Source {
            asked_id: "known",
            status: 200,
            body: &body,
            first_seen: 0,
        };
        let snapshot = TaskSnapshot::read(&source).expect("is a task");
        Reply::new(StatusCode::OK, &HeaderMap::new(), body, Some(snapshot))
    }

    fn keep(store: &Store, key: &TaskKey, reply: Reply, decision: &Decision) -> bool {
        let lease = store.lease(key);
        store.keep(key, reply, decision, 0, &lease).stored
    }

    fn poll(store: &Store, key: &TaskKey) {
        drop(store.look(key, Instant::now(), HOUR));
    }

    fn is_there(store: &Store, key: &TaskKey) -> bool {
        store.peek(key).is_some()
    }

    /// A store in which one task is known, which `poll` has used, and into which others came until it was full many times.
    fn flooded(poll: impl Fn(&Store, &TaskKey)) -> (Store, TaskKey, Vec<TaskKey>) {
        let (key, decision) = scene();
        let store = Store::new(CAPACITY, |_| {});
        keep(&store, &key("known"), reply(), &decision);
        poll(&store, &key("known"));
        let others: Vec<_> = (0..1000).map(|number| key(&number.to_string())).collect();
        for other in &others {
            keep(&store, other, reply(), &decision);
            assert!(store.bytes() <= CAPACITY, "{}", store.bytes());
        }
        store.flush();
        assert!(store.entries.agree());
        (store, key("known"), others)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_used_once_outlasts_any_number_that_were_not() {
        let (store, known, others) = flooded(|_, _| {});
        assert!(!is_there(&store, &known), "it was not used");
        let left = others.iter().filter(|key| is_there(&store, key)).count();
        assert!(left >= 20, "{left}");
        assert!(
            others
                .iter()
                .rev()
                .take(left)
                .all(|key| is_there(&store, key))
        );

        let (store, known, _) = flooded(poll);
        assert!(is_there(&store, &known));
    }

    #[tokio::test(start_paused = true)]
    async fn among_those_that_were_used_the_least_recently_used_goes() {
        let (key, decision) = scene();
        let store = Store::new(CAPACITY, |_| {});
        let often = key("often");
        keep(&store, &often, reply(), &decision);
        let others: Vec<_> = (0..1000).map(|number| key(&number.to_string())).collect();
        for other in &others {
            keep(&store, other, reply(), &decision);
            for key in [other, &often] {
                poll(&store, key);
            }
            store.flush();
            assert!(store.bytes() <= CAPACITY, "{}", store.bytes());
            assert!(is_there(&store, &often));
        }
        let left = others.iter().filter(|key| is_there(&store, key)).count();
        assert!((20..60).contains(&left), "{left}");
        assert!(others[..900].iter().all(|key| !is_there(&store, key)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_task_is_in_use_and_its_end_is_not_before_it_is_asked_for() {
        let (key, decision) = scene();
        let known = key("known");
        let flood = |store: &Store, from: u32| {
            for number in from..from + 1000 {
                keep(store, &key(&number.to_string()), reply(), &decision);
            }
            assert!(store.entries.agree());
        };
        for is_asked_for in [false, true] {
            let (tell, told) = std::sync::mpsc::channel();
            let store = Store::new(CAPACITY, move |cause| tell.send(cause).expect("is heard"));
            keep(&store, &known, task("processing"), &decision);
            flood(&store, 0);
            assert!(is_there(&store, &known));
            keep(&store, &known, task("completed"), &decision);
            let left_for_room = |cause| cause == RemovalCause::Size;
            assert!(told.try_iter().all(left_for_room), "it was replaced");
            if is_asked_for {
                poll(&store, &known);
            }
            flood(&store, 1000);
            assert_eq!(is_there(&store, &known), is_asked_for);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_purged_from_among_those_in_use_is_told_once() {
        let (key, decision) = scene();
        let known = key("known");
        let (tell, told) = std::sync::mpsc::channel();
        let store = Store::new(CAPACITY, move |cause| tell.send(cause).expect("is heard"));
        keep(&store, &known, task("processing"), &decision);
        for number in 0..100 {
            keep(&store, &key(&number.to_string()), reply(), &decision);
        }
        store.purge_for(&known);
        assert!(store.entries.agree() && !is_there(&store, &known));
        let is_purged = |cause: &RemovalCause| *cause == RemovalCause::Explicit;
        assert_eq!(told.try_iter().filter(is_purged).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn to_be_looked_at_in_vain_is_no_use() {
        // Upstream has not accepted the caller.
        let (key, decision) = circumstances();
        let store = Store::new(CAPACITY, |_| {});
        keep(&store, &key("known"), reply(), &decision);
        poll(&store, &key("known"));
        for number in 0..100 {
            keep(&store, &key(&number.to_string()), reply(), &decision);
        }
        assert!(!is_there(&store, &key("known")));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_takes_no_place_among_those_in_use() {
        let (key, decision) = scene();
        let store = Store::new(CAPACITY, |_| {});
        for number in 0..20 {
            let key = key(&number.to_string());
            keep(&store, &key, reply(), &decision);
            poll(&store, &key);
        }
        tokio::time::advance(HOUR * 2).await;
        for number in 20..60 {
            keep(&store, &key(&number.to_string()), reply(), &decision);
        }
        assert!(store.entries.agree());
        assert!((0..20).all(|number| !is_there(&store, &key(&number.to_string()))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_document_is_kept_if_there_is_room_for_it_alone_and_else_leaves_others_alone() {
        let (key, decision) = scene();
        for (size, fits) in [
            (5_000, true),
            (12_000, true),
            (14_000, false),
            (40_000, false),
        ] {
            let (tell, told) = std::sync::mpsc::channel();
            let store = Store::new(CAPACITY, move |cause| tell.send(cause).expect("is heard"));
            let others: Vec<_> = (0..5).map(|number| key(&number.to_string())).collect();
            for other in &others {
                keep(&store, other, reply(), &decision);
            }
            let body = Bytes::from(vec![b'x'; size]);
            let large = Reply::new(StatusCode::BAD_REQUEST, &HeaderMap::new(), body, None);
            assert_eq!(
                keep(&store, &key("large"), large, &decision),
                fits,
                "{size}"
            );
            assert!(store.entries.agree());
            assert!(store.bytes() <= CAPACITY, "{}", store.bytes());
            assert_eq!(is_there(&store, &key("large")), fits, "{size}");
            if !fits {
                assert!(others.iter().all(|key| is_there(&store, key)));
                assert_eq!(told.try_iter().count(), 1);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_cache_too_small_for_anything_holds_nothing() {
        let (key, decision) = scene();
        for capacity in [1, 9, 10, 99, 100, 600] {
            let store = Store::new(capacity, |_| {});
            for number in 0..10 {
                let key = key(&number.to_string());
                keep(&store, &key, reply(), &decision);
                poll(&store, &key);
            }
            assert!(store.entries.agree());
            assert!(store.is_empty(), "{capacity}");
        }
    }

    /// Threads that store, use and remove the same few tasks leave the same in the index as on probation and in moka.
    #[test]
    fn whatever_many_threads_do_nothing_is_lost_or_left_behind() {
        let (key, decision) = scene();
        let form = Form::Written(Dialect::OpenAi, Rendering::Documented);
        let store = Store::new(CAPACITY, |_| {});
        let keys: Vec<_> = (0..200).map(|number| key(&number.to_string())).collect();
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let (store, keys, decision) = (&store, &keys, &decision);
                scope.spawn(move || {
                    let mut dice = fastrand::Rng::with_seed(seed);
                    for _ in 0..20_000 {
                        let key = &keys[dice.usize(..keys.len())];
                        let answer = match dice.u8(..8) {
                            0 => {
                                store.purge_for(key);
                                continue;
                            }
                            1..4 => {
                                poll(store, key);
                                continue;
                            }
                            4 => task("processing"),
                            5 => task("completed"),
                            _ => reply(),
                        };
                        let kept = store.keep(key, answer, decision, 0, &store.lease(key));
                        if dice.bool() {
                            drop(kept.reply.rendition(form));
                        }
                    }
                });
            }
        });
        store.flush();
        assert!(store.entries.agree());
        assert!((1..=CAPACITY).contains(&store.bytes()), "{}", store.bytes());
        store.purge_all();
        assert!(store.entries.agree() && store.is_empty());
    }
}
