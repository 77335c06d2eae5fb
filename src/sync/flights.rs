//! Single flight: concurrent calls for one key share one execution.
//!
//! A flight belongs to none of its waiters. As long as it has only one, that waiter's own task drives it, which costs no
//! second task and no wake-up; as soon as another joins, or the only one leaves it to itself, it becomes a task of its
//! own. A waiter that leaves, the leader included, changes nothing for the others; when the last one leaves, the flight is
//! aborted. A panic inside becomes [`Panicked`] for every waiter. The key is free before any waiter sees the result, so a
//! finished flight is never joined.
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
use std::future::poll_fn;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use ahash::HashMap;
use futures_util::future::BoxFuture;
use slab::Slab;
use tokio::task::AbortHandle;

use crate::sync::lock;

/// The flights in progress, by key.
pub struct Flights<K, V> {
    table: Arc<Table<K, V>>,
}

/// Locked before the state of a flight, where both are.
type Table<K, V> = Mutex<HashMap<K, Arc<Flight<K, V>>>>;

struct Flight<K, V> {
    table: Arc<Table<K, V>>,
    key: K,
    state: Mutex<State<V>>,
}

struct State<V> {
    stage: Stage<V>,
    /// Whether a task of its own drives it, instead of its only waiter; with its handle, once there is one.
    is_task: bool,
    task: Option<AbortHandle>,
    /// How many waiters it has.
    waiters: usize,
    /// Whether it goes on without any.
    is_detached: bool,
    /// Who is woken when it lands: the leader, and the followers.
    leader: Option<Waker>,
    followers: Slab<Waker>,
}

/// How far a flight is.
enum Stage<V> {
    /// It waits for something.
    Waiting(BoxFuture<'static, V>),
    /// It is polled at this moment, by whoever drives it.
    Polled,
    Landed(Result<V, Panicked>),
    /// Its last waiter has left.
    Abandoned,
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
    K: Hash + Eq + Clone + Send + Sync + 'static,
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
            .map(|(key, flight)| (key.clone(), lock(&flight.state).waiters))
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
    /// Outside a tokio runtime, where the flight is not its first waiter's alone any more.
    pub fn join<F>(
        &self,
        key: K,
        limit: usize,
        start: impl FnOnce() -> F,
    ) -> Result<Waiter<K, V>, Full>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut table = lock(&self.table);
        let entry = table.entry(key);
        if let Entry::Occupied(known) = &entry {
            let flight = Arc::clone(known.get());
            let mut state = lock(&flight.state);
            // One that was abandoned, and leaves the table just now, is replaced.
            if !state.stage.is_over() {
                if state.waiters >= limit {
                    return Err(Full);
                }
                state.waiters += 1;
                let spawns = state.becomes_task();
                drop(state);
                drop(table);
                if spawns {
                    flight.spawn();
                }
                return Ok(Waiter {
                    flight,
                    role: Role::Follower,
                    waker: None,
                });
            }
        }
        let flight = Arc::new(Flight {
            table: Arc::clone(&self.table),
            key: entry.key().clone(),
            state: Mutex::new(State {
                stage: Stage::Waiting(Box::pin(start())),
                is_task: false,
                task: None,
                waiters: 1,
                is_detached: false,
                leader: None,
                followers: Slab::new(),
            }),
        });
        entry.insert_entry(Arc::clone(&flight));
        Ok(Waiter {
            flight,
            role: Role::Leader,
            waker: None,
        })
    }
}

impl<V> Stage<V> {
    fn is_over(&self) -> bool {
        matches!(self, Self::Landed(_) | Self::Abandoned)
    }
}

impl<V> State<V> {
    /// From now on a task drives it: tells whether it is to be spawned now. Else it is one already, or will be when its
    /// waiter has polled it.
    fn becomes_task(&mut self) -> bool {
        !std::mem::replace(&mut self.is_task, true) && matches!(self.stage, Stage::Waiting(_))
    }

    /// Has a waiter woken when the flight lands.
    fn register(&mut self, role: Role, at: &mut Option<usize>, cx: &Context<'_>) {
        let known = match role {
            Role::Leader => self.leader.as_mut(),
            Role::Follower => at.and_then(|at| self.followers.get_mut(at)),
        };
        match (known, role) {
            (Some(waker), _) => waker.clone_from(cx.waker()),
            (None, Role::Leader) => self.leader = Some(cx.waker().clone()),
            (None, Role::Follower) => *at = Some(self.followers.insert(cx.waker().clone())),
        }
    }
}

impl<K, V> Flight<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Polls it for whoever drives it: its only waiter, or its task.
    fn drive(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State<V>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<V, Panicked>> {
        let by_waiter = !state.is_task;
        let Stage::Waiting(mut future) = std::mem::replace(&mut state.stage, Stage::Polled) else {
            unreachable!("only its driver polls it, and not once it is over");
        };
        drop(state);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx)));
        let result = match polled {
            Ok(Poll::Ready(value)) => Ok(value),
            Err(_) => Err(Panicked),
            Ok(Poll::Pending) => {
                let mut state = lock(&self.state);
                if state.stage.is_over() {
                    // Its last waiter has left meanwhile.
                    drop(state);
                    return Poll::Pending;
                }
                state.stage = Stage::Waiting(future);
                // Another waiter has joined meanwhile.
                let spawns = by_waiter && state.is_task;
                drop(state);
                if spawns {
                    self.spawn();
                }
                return Poll::Pending;
            }
        };
        self.land(result.clone());
        Poll::Ready(result)
    }

    /// Has a task drive it.
    fn spawn(self: &Arc<Self>) {
        let driven = Driven(Arc::clone(self));
        let drive = poll_fn(move |cx| {
            let state = lock(&driven.0.state);
            if state.stage.is_over() {
                return Poll::Ready(());
            }
            driven.0.drive(state, cx).map(drop)
        });
        let task = tokio::spawn(drive).abort_handle();
        let mut state = lock(&self.state);
        if state.stage.is_over() {
            task.abort();
        } else {
            state.task = Some(task);
        }
    }

    /// Frees the key, unless a later flight has it.
    fn leave_table(&self) {
        let mut table = lock(&self.table);
        let is_own = |known: &Arc<Self>| std::ptr::eq(&raw const **known, self);
        if table.get(&self.key).is_some_and(is_own) {
            let removed = table.remove(&self.key);
            drop(table);
            drop(removed);
        }
    }

    /// Ends with a result: frees the key, then tells the waiters.
    fn land(&self, result: Result<V, Panicked>) {
        self.leave_table();
        let mut state = lock(&self.state);
        let before = std::mem::replace(&mut state.stage, Stage::Landed(result));
        let leader = state.leader.take();
        let followers = std::mem::take(&mut state.followers);
        drop(state);
        drop(before);
        let followers = followers.into_iter().map(|(_, waker)| waker);
        leader.into_iter().chain(followers).for_each(Waker::wake);
    }
}

impl<K, V> Clone for Flights<K, V> {
    fn clone(&self) -> Self {
        Self {
            table: Arc::clone(&self.table),
        }
    }
}

impl<K, V> Default for Flights<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn default() -> Self {
        Self::new()
    }
}

impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Flights")
    }
}

/// A flight in a task, which ends with it.
struct Driven<K, V>(Arc<Flight<K, V>>)
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static;

impl<K, V> Drop for Driven<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        let is_over = lock(&self.0.state).stage.is_over();
        if !is_over {
            // The runtime shuts down.
            self.0.land(Err(Panicked));
        }
    }
}

/// A waiter on a flight: resolves to the result of the flight. Dropping it leaves the flight.
#[must_use = "a waiter that is dropped has left the flight"]
pub struct Waiter<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    flight: Arc<Flight<K, V>>,
    role: Role,
    /// Where its waker is among those of the followers.
    waker: Option<usize>,
}

impl<K, V> Waiter<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Whether it leads the flight or follows.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Leaves the flight, which goes on to its end even without waiters.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn detach(self) {
        let mut state = lock(&self.flight.state);
        state.is_detached = true;
        let spawns = state.becomes_task();
        drop(state);
        if spawns {
            self.flight.spawn();
        }
    }
}

impl<K, V> Future for Waiter<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    type Output = Result<V, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = lock(&this.flight.state);
        match &state.stage {
            Stage::Landed(result) => return Poll::Ready(result.clone()),
            Stage::Abandoned => return Poll::Ready(Err(Panicked)),
            Stage::Waiting(_) | Stage::Polled => {}
        }
        // Also of one that drives the flight: should a task take over, nothing else would wake it.
        state.register(this.role, &mut this.waker, cx);
        if state.is_task {
            return Poll::Pending;
        }
        this.flight.drive(state, cx)
    }
}

impl<K, V> Drop for Waiter<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        let mut state = lock(&self.flight.state);
        state.waiters -= 1;
        let waker = match self.role {
            Role::Leader => state.leader.take(),
            Role::Follower => self.waker.and_then(|at| state.followers.try_remove(at)),
        };
        let goes_on = state.waiters > 0 || state.is_detached;
        if goes_on || matches!(state.stage, Stage::Landed(_)) {
            drop(state);
            drop(waker);
            return;
        }
        let left = std::mem::replace(&mut state.stage, Stage::Abandoned);
        let task = state.task.take();
        drop(state);
        self.flight.leave_table();
        drop(left);
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl<K, V> fmt::Debug for Waiter<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Waiter")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::time::Duration;

    use tokio::sync::{Semaphore, oneshot};

    use super::*;

    const LIMIT: usize = 100;

    fn is_pending(future: &mut (impl Future + Unpin)) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(future).poll(&mut cx).is_pending()
    }

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
        leader.detach();
        follower.detach();
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
        leader.expect("is not full").detach();
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

    #[tokio::test]
    async fn a_waiter_alone_drives_its_flight_and_no_task_does() {
        let flights = Flights::new();
        let own = tokio::task::try_id();
        let waiter = flights.join("k", LIMIT, || async { tokio::task::try_id() });
        assert_eq!(waiter.expect("limit").await, Ok(own));
    }

    #[tokio::test]
    async fn a_flight_that_another_joins_goes_on_in_a_task_of_its_own() {
        let flights = Flights::new();
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let start = || async move {
            let _ = held.acquire().await;
            tokio::task::try_id()
        };
        let mut leader = flights.join("k", LIMIT, start).expect("limit");
        assert!(is_pending(&mut leader));
        let follower = flights.join("k", LIMIT, || ready(tokio::task::try_id()));
        gate.add_permits(1);
        // The leader is not polled meanwhile.
        let by = follower.expect("limit").await.expect("lands");
        assert_ne!(by, tokio::task::try_id());
        assert_eq!(leader.await, Ok(by));
    }

    #[tokio::test]
    async fn a_leader_whose_flight_became_a_task_is_woken_when_it_lands() {
        let flights = Flights::new();
        let gate = Arc::new(Semaphore::new(0));
        let held = Arc::clone(&gate);
        let leader = flights
            .join("k", LIMIT, || async move { held.acquire().await.is_ok() })
            .expect("limit");
        let leader = tokio::spawn(leader);
        settle().await;
        let follower = flights.join("k", LIMIT, || ready(false)).expect("limit");
        settle().await;
        gate.add_permits(1);
        let landed = tokio::time::timeout(Duration::from_secs(5), leader).await;
        assert_eq!(landed.expect("is woken").expect("a task"), Ok(true));
        assert_eq!(follower.await, Ok(true));
    }

    #[tokio::test]
    async fn a_flight_that_another_joins_while_it_is_polled_becomes_a_task_after_that() {
        let flights = Flights::new();
        let gate = Arc::new(Semaphore::new(0));
        let (joined, joins) = std::sync::mpsc::channel();
        let start = || {
            let (flights, held) = (flights.clone(), Arc::clone(&gate));
            async move {
                // As another thread does at this very moment.
                let follower = flights.join("k", LIMIT, pending::<Option<tokio::task::Id>>);
                joined.send(follower).expect("is received");
                let _ = held.acquire().await;
                tokio::task::try_id()
            }
        };
        let mut leader = flights.join("k", LIMIT, start).expect("limit");
        assert!(is_pending(&mut leader));
        let follower = joins.recv().expect("is sent").expect("limit");
        assert_eq!(follower.role(), Role::Follower);
        drop(leader);
        gate.add_permits(1);
        assert_ne!(follower.await, Ok(tokio::task::try_id()));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_flight_that_another_joins_at_its_last_poll_lands_for_both() {
        let flights = Flights::new();
        let (joined, joins) = std::sync::mpsc::channel();
        let start = || {
            let flights = flights.clone();
            async move {
                let follower = flights.join("k", LIMIT, pending::<u32>);
                joined.send(follower).expect("is received");
                7
            }
        };
        let leader = flights.join("k", LIMIT, start).expect("limit");
        assert_eq!(leader.await, Ok(7));
        let follower = joins.recv().expect("is sent").expect("limit");
        assert_eq!(follower.await, Ok(7));
    }

    #[tokio::test]
    async fn a_panic_under_a_waiter_alone_is_told_and_does_not_spread() {
        let flights = Flights::<_, u32>::new();
        let waiter = flights.join("k", LIMIT, || async { panic!("on purpose") });
        assert_eq!(waiter.expect("limit").await, Err(Panicked));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_flight_in_a_task_is_over_as_soon_as_its_last_waiter_has_left() {
        let flights = Flights::new();
        let (sender, receiver) = oneshot::channel::<()>();
        let leader = flights
            .join("k", LIMIT, || async move {
                let _held = receiver;
                pending::<u32>().await
            })
            .expect("limit");
        let follower = flights.join("k", LIMIT, pending).expect("limit");
        settle().await;
        drop(leader);
        assert!(!sender.is_closed());
        drop(follower);
        // The next one may start right now, and there are never two.
        assert!(sender.is_closed());
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn waiters_that_come_and_go_leave_nothing_behind() {
        let flights = Flights::new();
        let leader = flights.join("k", LIMIT, pending::<u32>).expect("limit");
        for _ in 0..1000 {
            let mut waiter = flights.join("k", LIMIT, pending).expect("limit");
            assert!(is_pending(&mut waiter));
            assert!(is_pending(&mut waiter));
        }
        let state = lock(&leader.flight.state);
        assert_eq!(state.followers.len(), 0);
        assert!(state.followers.capacity() < 8);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn on_many_threads_every_waiter_that_stays_gets_an_answer_and_all_is_tidied_up() {
        const ROUNDS: usize = 300;
        const WAITERS: usize = 24;
        let flights = Flights::new();
        for round in 0..ROUNDS {
            let begin = Arc::new(tokio::sync::Barrier::new(WAITERS));
            let waiters: Vec<_> = (0..WAITERS)
                .map(|number| {
                    let (flights, begin) = (flights.clone(), Arc::clone(&begin));
                    tokio::spawn(async move {
                        begin.wait().await;
                        for _ in 0..fastrand::usize(0..8) {
                            tokio::task::yield_now().await;
                        }
                        let steps = fastrand::usize(0..12);
                        let waiter = flights.join(round, LIMIT, || async move {
                            for _ in 0..steps {
                                tokio::task::yield_now().await;
                            }
                            round
                        });
                        let mut waiter = waiter.expect("limit");
                        match number % 4 {
                            // Hangs up after a moment.
                            0 => {
                                let _ = is_pending(&mut waiter);
                                drop(waiter);
                            }
                            1 => waiter.detach(),
                            _ => assert_eq!(waiter.await, Ok(round)),
                        }
                    })
                })
                .collect();
            for waiter in waiters {
                let ended = tokio::time::timeout(Duration::from_secs(20), waiter).await;
                ended.expect("nobody waits for ever").expect("a task");
            }
        }
        // Detached flights end by themselves.
        for _ in 0..10_000 {
            if flights.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{} flights are left", flights.len());
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
