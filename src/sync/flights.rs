//! Single flight: concurrent calls for one key share one execution.
//!
//! A flight runs on a task of its own and belongs to none of its waiters. A waiter that leaves, the leader included,
//! changes nothing for the others; when the last one leaves, the flight is aborted. A panic inside becomes [`Panicked`]
//! for every waiter. The key is free before any waiter sees the result, so a finished flight is never joined.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! use pollgate::sync::flights::{Flights, Role};
//!
//! let flights = Flights::new();
//! let leader = flights.join("key", 10, || async { 7 }).expect("is not full");
//! let follower = flights.join("key", 10, || async { 8 }).expect("is not full");
//! assert_eq!((leader.role(), follower.role()), (Role::Leader, Role::Follower));
//! assert_eq!((leader.await, follower.await), (Ok(7), Ok(7)));
//! # });
//! ```

use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use ahash::HashMap;
use futures_util::FutureExt as _;
use futures_util::future::{Shared, WeakShared};
use tokio::task::JoinHandle;

use crate::sync::lock;
use crate::sync::permits::{Permit, Permits};

/// The flights in progress, by key.
pub struct Flights<K, V: Clone> {
    table: Arc<Table<K, V>>,
}

type Table<K, V> = Mutex<HashMap<K, InFlight<V>>>;

struct InFlight<V: Clone> {
    flight: WeakShared<AbortOnDrop<V>>,
    waiters: Arc<Permits>,
    /// Keeps the flight in progress when its last waiter has left.
    detached: Option<Shared<AbortOnDrop<V>>>,
}

/// The part of a waiter in its flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It started the flight.
    Leader,
    /// It joined a flight in progress.
    Follower,
}

/// The flight has as many waiters as the limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The flight panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panicked;

impl<K, V> Flights<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self {
            table: Arc::default(),
        }
    }

    /// The number of flights in progress.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.table).len()
    }

    /// The flights whose keys are `wanted`, each with its number of waiters.
    pub fn in_flight(&self, wanted: impl Fn(&K) -> bool) -> Vec<(K, usize)> {
        lock(&self.table)
            .iter()
            .filter(|(key, _)| wanted(key))
            .map(|(key, in_flight)| (key.clone(), in_flight.waiters.in_use()))
            .collect()
    }

    /// Whether no flight is in progress.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Joins the flight in progress for `key`, or leads the one that `start` returns.
    ///
    /// # Errors
    /// [`Full`] if the flight in progress already has `limit` waiters.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn join<F>(
        &self,
        key: K,
        limit: usize,
        start: impl FnOnce() -> F,
    ) -> Result<Waiter<V>, Full>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut table = lock(&self.table);
        let entry = table.entry(key);
        if let Entry::Occupied(in_flight) = &entry
            && let in_flight = in_flight.get()
            && let Some(flight) = in_flight.flight.upgrade()
        {
            // Where the upgrade fails, all waiters have left: the flight is being aborted and is replaced below.
            let permit = in_flight.waiters.try_acquire(limit).ok_or(Full)?;
            return Ok(Waiter {
                flight,
                role: Role::Follower,
                waiters: Arc::clone(&in_flight.waiters),
                _permit: permit,
            });
        }
        let waiters = Arc::new(Permits::default());
        let permit = waiters.try_acquire(limit.max(1)).ok_or(Full)?;
        let remove = RemoveOnDrop {
            table: Arc::clone(&self.table),
            key: entry.key().clone(),
            waiters: Arc::clone(&waiters),
        };
        let flight = start();
        let handle = tokio::spawn(async move {
            // Dropped between the end of the flight and the delivery of its result, and also on abort and panic.
            let _remove = remove;
            flight.await
        });
        let flight = AbortOnDrop(handle).shared();
        if let Some(weak) = flight.downgrade() {
            entry.insert_entry(InFlight {
                flight: weak,
                waiters: Arc::clone(&waiters),
                detached: None,
            });
        }
        Ok(Waiter {
            flight,
            role: Role::Leader,
            waiters,
            _permit: permit,
        })
    }

    /// Leaves a flight that goes on without waiters, to its end.
    pub fn detach(&self, key: &K, waiter: Waiter<V>) {
        let earlier = {
            let mut table = lock(&self.table);
            table
                .get_mut(key)
                .filter(|in_flight| Arc::ptr_eq(&in_flight.waiters, &waiter.waiters))
                .and_then(|in_flight| in_flight.detached.replace(waiter.flight.clone()))
        };
        drop((earlier, waiter));
    }
}

impl<K, V: Clone> Clone for Flights<K, V> {
    fn clone(&self) -> Self {
        Self {
            table: Arc::clone(&self.table),
        }
    }
}

impl<K, V> Default for Flights<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V: Clone> fmt::Debug for Flights<K, V> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Flights")
    }
}

/// A waiter on a flight: resolves to the result of the flight. Dropping it leaves the flight.
#[must_use = "a waiter that is dropped has left the flight"]
pub struct Waiter<V: Clone> {
    flight: Shared<AbortOnDrop<V>>,
    role: Role,
    waiters: Arc<Permits>,
    _permit: Permit,
}

impl<V: Clone> Waiter<V> {
    /// Whether it leads the flight or follows.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }
}

impl<V: Clone> Future for Waiter<V> {
    type Output = Result<V, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.flight.poll_unpin(cx)
    }
}

impl<V: Clone> fmt::Debug for Waiter<V> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Waiter")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// The task of a flight; aborts it when dropped.
struct AbortOnDrop<V>(JoinHandle<V>);

impl<V> Future for AbortOnDrop<V> {
    type Output = Result<V, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let landed = ready!(self.0.poll_unpin(cx));
        Poll::Ready(landed.map_err(|_| Panicked))
    }
}

impl<V> Drop for AbortOnDrop<V> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Removes the flight from the table when dropped, unless a later flight has its key.
struct RemoveOnDrop<K: Hash + Eq, V: Clone> {
    table: Arc<Table<K, V>>,
    key: K,
    waiters: Arc<Permits>,
}

impl<K: Hash + Eq, V: Clone> Drop for RemoveOnDrop<K, V> {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        if let Some(in_flight) = table.get(&self.key)
            && Arc::ptr_eq(&in_flight.waiters, &self.waiters)
        {
            let removed = table.remove(&self.key);
            // What it holds may be the flight itself, which is dropped without the lock.
            drop(table);
            drop(removed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use tokio::sync::{Semaphore, oneshot};

    use super::*;

    const LIMIT: usize = 100;

    /// Lets every task run until it waits for something.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn concurrent_calls_share_one_flight() {
        let flights = Flights::new();
        let (land, landing) = oneshot::channel::<u32>();
        let first = flights
            .join("k", LIMIT, || async { landing.await.expect("is sent") })
            .expect("limit");
        let rest: Vec<_> = (0..10)
            .map(|_| {
                flights
                    .join("k", LIMIT, || async { unreachable!("one is under way") })
                    .expect("limit")
            })
            .collect();
        assert_eq!(first.role(), Role::Leader);
        assert!(rest.iter().all(|waiter| waiter.role() == Role::Follower));
        land.send(7).expect("is awaited");
        assert_eq!(first.await, Ok(7));
        for waiter in rest {
            assert_eq!(waiter.await, Ok(7));
        }
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_leader_that_leaves_changes_nothing_for_its_followers() {
        let flights = Flights::new();
        let (land, landing) = oneshot::channel::<u32>();
        let first = flights
            .join("k", LIMIT, || async { landing.await.expect("is sent") })
            .expect("limit");
        let second = flights.join("k", LIMIT, || ready(0)).expect("limit");
        drop(first);
        settle().await;
        land.send(7).expect("is still awaited");
        assert_eq!(second.await, Ok(7));
    }

    #[tokio::test]
    async fn a_detached_flight_goes_on_without_waiters_and_can_be_joined_until_its_end() {
        let flights = Flights::new();
        let gate = Arc::new(Semaphore::new(0));
        let start = || {
            let gate = Arc::clone(&gate);
            async move { gate.acquire().await.map(|_| 7).expect("is open") }
        };
        let leader = flights.join("key", LIMIT, start).expect("is not full");
        let follower = flights.join("key", LIMIT, start).expect("is not full");
        flights.detach(&"key", leader);
        flights.detach(&"key", follower);
        settle().await;
        assert_eq!(flights.len(), 1);
        let late = flights.join("key", LIMIT, start).expect("is not full");
        assert_eq!(late.role(), Role::Follower);
        gate.add_permits(1);
        assert_eq!(late.await, Ok(7));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_detached_flight_that_nobody_joins_again_ends_and_frees_its_key() {
        let flights = Flights::new();
        let (tell, told) = oneshot::channel::<()>();
        let gate = Arc::new(Semaphore::new(0));
        let open = Arc::clone(&gate);
        let leader = flights.join("key", LIMIT, || async move {
            let _ = open.acquire().await;
            let _ = tell.send(());
        });
        flights.detach(&"key", leader.expect("is not full"));
        settle().await;
        gate.add_permits(1);
        told.await.expect("goes on to its end");
        settle().await;
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_flight_without_waiters_is_aborted_and_its_key_is_free() {
        let flights = Flights::new();
        let (sender, receiver) = oneshot::channel::<()>();
        let waiter = flights
            .join("k", LIMIT, || async move {
                let _held = receiver;
                pending::<u32>().await
            })
            .expect("limit");
        settle().await;
        drop(waiter);
        let next = flights.join("k", LIMIT, || ready(2)).expect("limit");
        assert_eq!(
            next.role(),
            Role::Leader,
            "the cancelled flight is not joined"
        );
        settle().await;
        assert!(sender.is_closed(), "its future was dropped");
        assert_eq!(next.await, Ok(2));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn an_aborted_flight_does_not_free_the_key_of_the_next() {
        let flights = Flights::new();
        drop(flights.join("k", LIMIT, pending::<u32>).expect("limit"));
        let (land, landing) = oneshot::channel::<u32>();
        let next = flights
            .join("k", LIMIT, || async { landing.await.expect("is sent") })
            .expect("limit");
        settle().await;
        assert_eq!(flights.len(), 1);
        let joined = flights.join("k", LIMIT, || ready(0)).expect("limit");
        assert_eq!(joined.role(), Role::Follower);
        land.send(3).expect("is awaited");
        assert_eq!((next.await, joined.await), (Ok(3), Ok(3)));
    }

    #[tokio::test]
    async fn a_panic_reaches_every_waiter_and_frees_the_key() {
        let flights = Flights::<_, u32>::new();
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let first = flights
            .join("k", LIMIT, || async move {
                let _ = held.acquire().await;
                panic!("on purpose")
            })
            .expect("limit");
        let second = flights.join("k", LIMIT, || ready(0)).expect("limit");
        gate.add_permits(1);
        assert_eq!((first.await, second.await), (Err(Panicked), Err(Panicked)));
        assert_eq!(
            flights.join("k", LIMIT, || ready(1)).expect("limit").await,
            Ok(1)
        );
    }

    #[tokio::test]
    async fn a_finished_flight_is_not_joined_even_while_its_waiters_are_held() {
        let flights = Flights::new();
        let mut first = flights.join("k", LIMIT, || ready(1)).expect("limit");
        assert_eq!((&mut first).await, Ok(1));
        let next = flights.join("k", LIMIT, || ready(2)).expect("limit");
        assert_eq!(next.await, Ok(2));
    }

    #[tokio::test]
    async fn a_full_flight_refuses_until_a_waiter_leaves() {
        let flights = Flights::new();
        let first = flights.join("k", 2, pending::<u32>).expect("limit");
        let second = flights.join("k", 2, pending).expect("limit");
        assert_eq!(flights.join("k", 2, pending).map(|_| ()), Err(Full));
        drop(second);
        assert!(flights.join("k", 2, pending).is_ok());
        drop(first);
    }

    #[tokio::test(start_paused = true)]
    async fn each_waiter_has_a_deadline_of_its_own() {
        let flights = Flights::new();
        let first = flights
            .join("k", LIMIT, || async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                1
            })
            .expect("limit");
        let hasty = flights.join("k", LIMIT, || ready(0)).expect("limit");
        assert!(
            tokio::time::timeout(Duration::from_secs(1), hasty)
                .await
                .is_err()
        );
        assert_eq!(first.await, Ok(1));
    }
}
