//! What is remembered: answers within a budget of bytes, and which callers may be shown them.
//!
//! Freshness is decided here, on tokio's clock; moka only reclaims memory. Three things must hold before a
//! remembered answer is shown: nothing changed the task since ([`Store::forget_task`]), upstream has not refused the
//! caller since ([`Store::refuse`]), and upstream has accepted the caller's credential recently.

mod inspect;

pub use inspect::{Acceptance, CallerCount, Census, Remembered, Use};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahash::RandomState;
use moka::Expiry;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use crate::cadence::Life;
use crate::freshness::{Lifetime, Rule};
use crate::key::{Caller, TaskKey};
use crate::reply::{Answer, Asked, Reply};
use crate::route::TaskId;
use crate::verdict::Verdict;

/// How many tasks' changes are told apart. Two tasks of one slot only ever cost each other a remembered answer.
const SLOTS: usize = 4096;

/// How many callers' standings are kept; beyond it the ones unseen for longest have to be checked again.
const CALLERS: u64 = 65_536;

/// What an entry takes beside its reply and its key, in bytes; measured, not derived. moka and the allocator alone are
/// 450; the rest is what the parts of an entry take beside themselves in the allocator.
const OVERHEAD: usize = 560;

/// Remembered answers, bounded in bytes.
pub struct Store {
    answers: Cache<TaskKey, Arc<Entry>, RandomState>,
    callers: Cache<Caller, Arc<Standing>, RandomState>,
    /// Counts up whenever a task of that slot changes.
    epochs: Box<[AtomicU64]>,
    slots: RandomState,
    generations: AtomicU64,
    /// What [`Standing::accepted`] counts from.
    start: Instant,
}

/// A remembered answer.
#[derive(Debug)]
pub struct Entry {
    /// What upstream said.
    pub reply: Arc<Reply>,
    /// Until when it is served without asking again.
    pub fresh_until: Instant,
    /// Until when it may stand in for a failing upstream.
    pub useful_until: Instant,
    /// When the task was first seen, in Unix seconds.
    pub first_seen: i64,
    /// The task's life, where it is one.
    pub life: Option<Box<Life>>,
    /// What decided until when it is fresh.
    pub rule: Rule,
    /// Of its task, when it was asked for.
    epoch: u64,
    /// Of its caller: part of the entry, so that a hit takes one look-up.
    standing: Arc<Standing>,
    /// Until when upstream is not asked again after it failed, in milliseconds since `received`.
    rests_until: AtomicU64,
}

impl Entry {
    fn is_resting(&self, now: Instant) -> bool {
        let until = Duration::from_millis(self.rests_until.load(Ordering::Relaxed));
        now.duration_since(self.reply.received) < until
    }

    /// The answer that this entry gives.
    #[must_use]
    pub fn answer(&self, verdict: Verdict, asked: Option<Asked>) -> Answer {
        Answer {
            reply: Arc::clone(&self.reply),
            headers: None,
            verdict,
            asked,
            received: self.reply.received,
            fresh_until: self.fresh_until,
            stored: false,
        }
    }
}

/// What a poll must find unchanged when it lands, or its answer is not remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Takeoff {
    epoch: u64,
    generation: u64,
}

/// How upstream last judged a caller.
#[derive(Debug)]
struct Standing {
    /// Tells it from the caller's earlier ones.
    generation: u64,
    /// When upstream last accepted the credential, in milliseconds since the store's start; or one of those below.
    accepted: AtomicU64,
}

impl Standing {
    /// Upstream has not judged the caller yet.
    const UNKNOWN: u64 = u64::MAX;
    /// What was remembered under it is not shown again: upstream refused the caller, or too many others came.
    const OVER: u64 = u64::MAX - 1;

    fn end(&self) {
        self.accepted.store(Self::OVER, Ordering::Release);
    }
}

/// What is remembered of a task.
#[derive(Debug, Clone)]
pub enum Found {
    /// It may be served without asking.
    Fresh(Arc<Entry>),
    /// Upstream failed on it a moment ago: this stands in, without asking again already.
    Resting(Arc<Entry>),
    /// Upstream must be asked; should it fail, this may stand in.
    Stale(Arc<Entry>),
    /// Nothing that may be shown.
    Nothing,
}

impl Store {
    /// An empty one that keeps within `capacity` bytes, and calls `evicted` for every answer that had to go.
    pub fn new(capacity: u64, evicted: impl Fn(RemovalCause) + Send + Sync + 'static) -> Self {
        let answers = Cache::builder()
            .max_capacity(capacity)
            .weigher(|key: &TaskKey, entry: &Arc<Entry>| {
                let weight =
                    OVERHEAD + size_of::<Entry>() + key.task.as_str().len() + entry.reply.weight();
                u32::try_from(weight).unwrap_or(u32::MAX)
            })
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(UntilUseless)
            .eviction_listener(move |_, _, cause| evicted(cause))
            .build_with_hasher(RandomState::new());
        let callers = Cache::builder()
            .max_capacity(CALLERS)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(|_, standing: Arc<Standing>, _| standing.end())
            .build_with_hasher(RandomState::new());
        Self {
            answers,
            callers,
            epochs: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            slots: RandomState::new(),
            generations: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    /// What is remembered under `key` for a caller whose credential was accepted within `credential_ttl`; to stand in
    /// while upstream fails, and so cannot be asked about the credential either, for as much longer as an answer may.
    #[must_use]
    pub fn find(&self, key: &TaskKey, now: Instant, credential_ttl: Duration) -> Found {
        let Some(entry) = self.answers.get(key) else {
            return Found::Nothing;
        };
        let accepted = match entry.standing.accepted.load(Ordering::Acquire) {
            Standing::UNKNOWN | Standing::OVER => return Found::Nothing,
            millis => self.start + Duration::from_millis(millis),
        };
        if entry.epoch != self.epoch(&key.task) || now >= entry.useful_until.max(entry.fresh_until)
        {
            return Found::Nothing;
        }
        let unchecked = now.duration_since(accepted);
        let stand_in = entry.useful_until.duration_since(entry.fresh_until);
        if unchecked > credential_ttl.saturating_add(stand_in) {
            // A key that upstream has not seen for so long may be anybody's by now.
            Found::Nothing
        } else if unchecked > credential_ttl {
            Found::Stale(entry)
        } else if now < entry.fresh_until {
            Found::Fresh(entry)
        } else if entry.is_resting(now) {
            Found::Resting(entry)
        } else {
            Found::Stale(entry)
        }
    }

    /// What has to stay as it is until a poll lands. To be taken before the poll is sent.
    #[must_use]
    pub fn takeoff(&self, key: &TaskKey) -> Takeoff {
        let standing = self.callers.get_with(key.caller, || self.standing());
        Takeoff {
            epoch: self.epoch(&key.task),
            generation: standing.generation,
        }
    }

    /// Counts the changes of a task (and of those that share its slot).
    #[must_use]
    pub fn epoch(&self, task: &TaskId) -> u64 {
        self.slot(task).load(Ordering::Acquire)
    }

    /// Notes that upstream accepted the caller's credential, unless it has refused it since `takeoff`.
    pub fn accept(&self, caller: Caller, takeoff: Takeoff, now: Instant) {
        let Some(standing) = self.callers.get(&caller) else {
            return;
        };
        if standing.generation == takeoff.generation {
            let millis = now.saturating_duration_since(self.start).as_millis();
            let millis = u64::try_from(millis).unwrap_or(0);
            // Not over a refusal that comes in at this moment.
            let _ =
                standing
                    .accepted
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, |accepted| {
                        (accepted != Standing::OVER).then_some(millis)
                    });
        }
    }

    /// Notes that upstream refused the caller's credential: whatever the caller had is forgotten, and no poll that
    /// took off earlier brings any of it back.
    pub fn refuse(&self, caller: Caller) {
        // Should the caller's standing be on its way out, it is gone now, and over.
        self.callers.run_pending_tasks();
        // The listener ends the standing that this one replaces.
        self.callers.insert(caller, self.standing());
    }

    /// Remembers an answer in the place of an earlier one, unless its task or its caller's standing changed since
    /// `takeoff`. Says whether it did.
    pub fn remember(
        &self,
        key: &TaskKey,
        reply: &Arc<Reply>,
        arrival: Arrival,
        takeoff: Takeoff,
    ) -> bool {
        let Arrival {
            now,
            lifetime,
            first_seen,
            life,
        } = arrival;
        let fresh_until = now + lifetime.fresh;
        let useful_until = fresh_until + lifetime.stand_in;
        let Some(standing) = self.holding(key, takeoff) else {
            return false;
        };
        if useful_until == now {
            // What was known before must not come back as the last known state: upstream has gone beyond it.
            self.answers.invalidate(key);
            return false;
        }
        let entry = Entry {
            reply: Arc::clone(reply),
            fresh_until,
            useful_until,
            first_seen,
            life: life.filter(|_| !reply.is_terminal()).map(Box::new),
            rule: lifetime.rule,
            epoch: takeoff.epoch,
            standing,
            rests_until: AtomicU64::new(0),
        };
        self.answers.insert(key.clone(), Arc::new(entry));
        // A change between the check and the insertion leaves an entry that is never found, by its epoch or standing.
        true
    }

    /// Notes that upstream failed to answer for what is remembered under `key`, and is not to be asked again for that
    /// long: a failing upstream gets no more polls than one that is well.
    pub fn rest(&self, key: &TaskKey, now: Instant, pause: Duration) {
        if let Some(entry) = self.answers.get(key) {
            let until = now.duration_since(entry.reply.received) + pause;
            let until = u64::try_from(until.as_millis()).unwrap_or(u64::MAX);
            entry.rests_until.store(until, Ordering::Relaxed);
        }
    }

    /// What was last remembered of a task, whether or not it may still be shown: only to learn from.
    #[must_use]
    pub fn last(&self, key: &TaskKey) -> Option<Arc<Entry>> {
        self.answers.get(key)
    }

    /// Forgets a task for every caller and in both dialects; polls under way will not bring it back.
    /// Says how many answers that were.
    pub fn forget_task(&self, task: &TaskId) -> usize {
        self.touch(task);
        self.forget_where(|key| key.task == *task)
    }

    /// As [`Store::forget_task`], without looking for the entries, which age out unseen.
    pub fn touch(&self, task: &TaskId) {
        self.slot(task).fetch_add(1, Ordering::AcqRel);
    }

    /// Forgets everything; polls under way will not bring it back. Says how many answers that were.
    pub fn forget_all(&self) -> usize {
        for epoch in &self.epochs {
            epoch.fetch_add(1, Ordering::AcqRel);
        }
        self.forget_where(|_| true)
    }

    /// How many answers are remembered.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.answers.entry_count()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes they take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.answers.weighted_size()
    }

    /// Gives back the memory of what is of no use any more. To be called now and then: moka alone does it only
    /// while the store is in use.
    pub fn reclaim(&self) {
        self.answers.run_pending_tasks();
        self.callers.run_pending_tasks();
    }

    fn forget_where(&self, doomed: impl Fn(&TaskKey) -> bool) -> usize {
        let keys: Vec<_> = self
            .answers
            .iter()
            .map(|(key, _)| key)
            .filter(|key| doomed(key))
            .collect();
        keys.iter()
            .filter(|key| self.answers.remove(&***key).is_some())
            .count()
    }

    /// The caller's standing, where nothing has changed since `takeoff`.
    fn holding(&self, key: &TaskKey, takeoff: Takeoff) -> Option<Arc<Standing>> {
        self.callers.get(&key.caller).filter(|standing| {
            standing.generation == takeoff.generation && self.epoch(&key.task) == takeoff.epoch
        })
    }

    fn slot(&self, task: &TaskId) -> &AtomicU64 {
        let hash = usize::try_from(self.slots.hash_one(task) % SLOTS as u64).unwrap_or(0);
        &self.epochs[hash]
    }

    fn standing(&self) -> Arc<Standing> {
        Arc::new(Standing {
            generation: self.generations.fetch_add(1, Ordering::Relaxed),
            accepted: AtomicU64::new(Standing::UNKNOWN),
        })
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Store")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

/// The circumstances of an answer.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// When it arrived.
    pub now: Instant,
    /// How long it is kept.
    pub lifetime: Lifetime,
    /// When its task was first seen, in Unix seconds.
    pub first_seen: i64,
    /// The task's life, where it is one.
    pub life: Option<Life>,
}

/// Tells moka when an entry's memory may go; on the system's clock, since moka knows no other.
struct UntilUseless;

impl UntilUseless {
    fn left(entry: &Entry) -> Duration {
        entry.useful_until.duration_since(entry.reply.received)
    }
}

impl Expiry<TaskKey, Arc<Entry>> for UntilUseless {
    #[allow(clippy::disallowed_types, reason = "moka keeps its own time")]
    fn expire_after_create(
        &self,
        _: &TaskKey,
        entry: &Arc<Entry>,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(Self::left(entry))
    }

    #[allow(clippy::disallowed_types, reason = "moka keeps its own time")]
    fn expire_after_update(
        &self,
        _: &TaskKey,
        entry: &Arc<Entry>,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(Self::left(entry))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode, Uri};

    use super::*;
    use crate::key::{CallerKey, Credentials};
    use crate::task::Dialect;

    const HOUR: Duration = Duration::from_hours(1);

    #[tokio::test(start_paused = true)]
    async fn a_poll_from_before_a_refusal_does_not_accept_the_caller_again() {
        let store = Store::new(1 << 20, |_| {});
        let credentials = Credentials::new(HeaderMap::new(), Uri::from_static("/"));
        let caller = CallerKey::random()
            .expect("random bytes")
            .caller(&credentials);
        let key = TaskKey {
            caller,
            dialect: Dialect::Unified,
            task: TaskId::new("t"),
        };
        let reply = Reply::new(StatusCode::OK, &HeaderMap::new(), Bytes::new(), None);
        let (reply, now) = (Arc::new(reply), Instant::now());
        let arrival = Arrival {
            now,
            lifetime: Lifetime {
                fresh: HOUR,
                stand_in: HOUR,
                rule: Rule::Succeeded,
            },
            first_seen: 0,
            life: None,
        };
        let early = store.takeoff(&key);
        store.refuse(caller);
        let late = store.takeoff(&key);
        store.accept(caller, early, now);
        assert!(!store.remember(&key, &reply, arrival, early));
        assert!(store.remember(&key, &reply, arrival, late));
        assert!(matches!(store.find(&key, now, HOUR), Found::Nothing));
        store.accept(caller, late, now);
        assert!(matches!(store.find(&key, now, HOUR), Found::Fresh(_)));
    }
}
