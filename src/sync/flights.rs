//! Single flight: everyone who wants the same thing at the same time waits for one attempt to get it.
//!
//! A flight is a task of its own and belongs to nobody. Whoever leaves, the one who started it included, changes
//! nothing for the rest; when the last one leaves, it is cancelled. A panic inside becomes [`Crashed`] for those who
//! wait. The key is free again before anyone sees the result, so a flight is never joined after it has landed.

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
use crate::sync::permits::{Seat, Seats};

/// The flights under way, by key.
pub struct Flights<K, V: Clone> {
    table: Arc<Table<K, V>>,
}

type Table<K, V> = Mutex<HashMap<K, Departed<V>>>;

struct Departed<V: Clone> {
    flight: WeakShared<Landing<V>>,
    aboard: Arc<Seats>,
}

/// What one has in the flight that one boarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It took off for this one.
    Pilot,
    /// It was under way already.
    Passenger,
}

/// The flight has as many aboard as the limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// The flight panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crashed;

impl<K, V> Flights<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// None under way.
    #[must_use]
    pub fn new() -> Self {
        Self {
            table: Arc::default(),
        }
    }

    /// How many are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.table).len()
    }

    /// Those under way that are `wanted`, and how many are aboard of each.
    pub fn under_way(&self, wanted: impl Fn(&K) -> bool) -> Vec<(K, usize)> {
        lock(&self.table)
            .iter()
            .filter(|(key, _)| wanted(key))
            .map(|(key, departed)| (key.clone(), departed.aboard.taken()))
            .collect()
    }

    /// Whether none is under way.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Boards the flight under way for `key`, or lets the one that `depart` makes take off.
    ///
    /// # Errors
    /// [`Full`] if the flight under way has `seats` aboard already.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn board<F>(
        &self,
        key: K,
        seats: usize,
        depart: impl FnOnce() -> F,
    ) -> Result<Ticket<V>, Full>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut table = lock(&self.table);
        let entry = table.entry(key);
        if let Entry::Occupied(departed) = &entry
            && let departed = departed.get()
            && let Some(flight) = departed.flight.upgrade()
        {
            // A flight that cannot be reached any more was left by everyone: it is being cancelled, and replaced here.
            let seat = departed.aboard.take(seats).ok_or(Full)?;
            return Ok(Ticket {
                flight,
                role: Role::Passenger,
                _seat: seat,
            });
        }
        let aboard = Arc::new(Seats::default());
        let seat = aboard.take(seats.max(1)).ok_or(Full)?;
        let leave = Leave {
            table: Arc::clone(&self.table),
            key: entry.key().clone(),
            aboard: Arc::clone(&aboard),
        };
        let flight = depart();
        let handle = tokio::spawn(async move {
            // Dropped after the flight has landed and before its result is handed out, and as well when it is
            // cancelled or panics.
            let _leave = leave;
            flight.await
        });
        let flight = Landing(handle).shared();
        if let Some(weak) = flight.downgrade() {
            entry.insert_entry(Departed {
                flight: weak,
                aboard,
            });
        }
        Ok(Ticket {
            flight,
            role: Role::Pilot,
            _seat: seat,
        })
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

/// A place in a flight: resolves to what the flight brings. Dropping it is leaving.
#[must_use = "a ticket that is dropped has left the flight"]
pub struct Ticket<V: Clone> {
    flight: Shared<Landing<V>>,
    role: Role,
    _seat: Seat,
}

impl<V: Clone> Ticket<V> {
    /// Whether the flight took off for this one.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }
}

impl<V: Clone> Future for Ticket<V> {
    type Output = Result<V, Crashed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.flight.poll_unpin(cx)
    }
}

impl<V: Clone> fmt::Debug for Ticket<V> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Ticket")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// The flight's task; dropped, it cancels it.
struct Landing<V>(JoinHandle<V>);

impl<V> Future for Landing<V> {
    type Output = Result<V, Crashed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let landed = ready!(self.0.poll_unpin(cx));
        Poll::Ready(landed.map_err(|_| Crashed))
    }
}

impl<V> Drop for Landing<V> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Frees the key when dropped, unless another flight has taken it since.
struct Leave<K: Hash + Eq, V: Clone> {
    table: Arc<Table<K, V>>,
    key: K,
    aboard: Arc<Seats>,
}

impl<K: Hash + Eq, V: Clone> Drop for Leave<K, V> {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        if let Some(departed) = table.get(&self.key)
            && Arc::ptr_eq(&departed.aboard, &self.aboard)
        {
            table.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use tokio::sync::{Semaphore, oneshot};

    use super::*;

    const SEATS: usize = 100;

    /// Lets every task run until it waits for something.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn all_who_board_share_one_flight() {
        let flights = Flights::new();
        let (land, landing) = oneshot::channel::<u32>();
        let first = flights
            .board("k", SEATS, || async { landing.await.expect("is sent") })
            .expect("seats");
        let rest: Vec<_> = (0..10)
            .map(|_| {
                flights
                    .board("k", SEATS, || async { unreachable!("one is under way") })
                    .expect("seats")
            })
            .collect();
        assert_eq!(first.role(), Role::Pilot);
        assert!(rest.iter().all(|ticket| ticket.role() == Role::Passenger));
        land.send(7).expect("is awaited");
        assert_eq!(first.await, Ok(7));
        for ticket in rest {
            assert_eq!(ticket.await, Ok(7));
        }
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn the_first_one_leaving_changes_nothing_for_the_rest() {
        let flights = Flights::new();
        let (land, landing) = oneshot::channel::<u32>();
        let first = flights
            .board("k", SEATS, || async { landing.await.expect("is sent") })
            .expect("seats");
        let second = flights.board("k", SEATS, || ready(0)).expect("seats");
        drop(first);
        settle().await;
        land.send(7).expect("is still awaited");
        assert_eq!(second.await, Ok(7));
    }

    #[tokio::test]
    async fn a_flight_that_everyone_left_is_cancelled_and_its_key_is_free() {
        let flights = Flights::new();
        let (sender, receiver) = oneshot::channel::<()>();
        let ticket = flights
            .board("k", SEATS, || async move {
                let _held = receiver;
                pending::<u32>().await
            })
            .expect("seats");
        settle().await;
        drop(ticket);
        let next = flights.board("k", SEATS, || ready(2)).expect("seats");
        assert_eq!(
            next.role(),
            Role::Pilot,
            "the cancelled flight is not joined"
        );
        settle().await;
        assert!(sender.is_closed(), "its future was dropped");
        assert_eq!(next.await, Ok(2));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_cancelled_flight_does_not_free_the_key_of_the_next() {
        let flights = Flights::new();
        drop(flights.board("k", SEATS, pending::<u32>).expect("seats"));
        let (land, landing) = oneshot::channel::<u32>();
        let next = flights
            .board("k", SEATS, || async { landing.await.expect("is sent") })
            .expect("seats");
        settle().await;
        assert_eq!(flights.len(), 1);
        let joined = flights.board("k", SEATS, || ready(0)).expect("seats");
        assert_eq!(joined.role(), Role::Passenger);
        land.send(3).expect("is awaited");
        assert_eq!((next.await, joined.await), (Ok(3), Ok(3)));
    }

    #[tokio::test]
    async fn a_panic_is_told_to_everyone_and_frees_the_key() {
        let flights = Flights::<_, u32>::new();
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let first = flights
            .board("k", SEATS, || async move {
                let _ = held.acquire().await;
                panic!("on purpose")
            })
            .expect("seats");
        let second = flights.board("k", SEATS, || ready(0)).expect("seats");
        gate.add_permits(1);
        assert_eq!((first.await, second.await), (Err(Crashed), Err(Crashed)));
        assert_eq!(
            flights.board("k", SEATS, || ready(1)).expect("seats").await,
            Ok(1)
        );
    }

    #[tokio::test]
    async fn a_landed_flight_is_not_joined_even_while_its_tickets_are_held() {
        let flights = Flights::new();
        let mut first = flights.board("k", SEATS, || ready(1)).expect("seats");
        assert_eq!((&mut first).await, Ok(1));
        let next = flights.board("k", SEATS, || ready(2)).expect("seats");
        assert_eq!(next.await, Ok(2));
    }

    #[tokio::test]
    async fn a_full_flight_refuses_and_takes_again_when_one_leaves() {
        let flights = Flights::new();
        let first = flights.board("k", 2, pending::<u32>).expect("seats");
        let second = flights.board("k", 2, pending).expect("seats");
        assert_eq!(flights.board("k", 2, pending).map(|_| ()), Err(Full));
        drop(second);
        assert!(flights.board("k", 2, pending).is_ok());
        drop(first);
    }

    #[tokio::test(start_paused = true)]
    async fn each_one_who_waits_has_its_own_deadline() {
        let flights = Flights::new();
        let first = flights
            .board("k", SEATS, || async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                1
            })
            .expect("seats");
        let hasty = flights.board("k", SEATS, || ready(0)).expect("seats");
        assert!(
            tokio::time::timeout(Duration::from_secs(1), hasty)
                .await
                .is_err()
        );
        assert_eq!(first.await, Ok(1));
    }
}
