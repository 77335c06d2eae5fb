//! The cache: answers within a budget of bytes, and the callers that may be shown them.
//!
//! Freshness and expiry are decided here, on tokio's clock; what is evicted when memory runs out is decided by `entries`. A
//! cached answer is shown only if nothing has changed the task since ([`Store::invalidate`]), upstream has not refused the
//! caller since ([`Store::refuse`]), and it has accepted the caller's credential recently.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use ahash::RandomState;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use super::credential::{Acceptance, CredentialState};
use super::entries::Entries;
use super::entry::{Entry, Looked, Span, Use};
use super::failures::{Failure, Failures};
use super::freshness::{CredentialVerdict, Decision, Fault, Rule};
use super::lease::Lease;
use crate::answer::reply::{Headers, Reply, SharedReply};
use crate::request::key::{Caller, TaskKey};
use crate::route::{self, RouteId, TaskId};
use crate::task::Dialect;

/// The number of epochs. Tasks that share a slot can only cost each other a cached answer.
const SLOTS: u16 = 4096;

/// The slot of all answers that tell of several tasks, behind the others: a write to any task counts here too.
const MANY: u16 = SLOTS;

/// The stamp of the store's start, in milliseconds: what was before it has a stamp as well.
const STARTED: u64 = 30 * 24 * 3600 * 1000;

/// The number of accepted callers that are kept; the least recently used beyond it have to be checked again.
const CALLERS: u64 = 65_536;

/// The number of callers that are kept although upstream has not accepted them yet.
const STRANGERS: u64 = 16_384;

/// Cached answers, bounded in bytes.
pub struct Store {
    pub(super) entries: Arc<Entries>,
    pub(super) callers: Cache<Caller, Arc<CredentialState>, RandomState>,
    /// Credential states of callers whom upstream has not accepted yet.
    strangers: Cache<Caller, Arc<CredentialState>, RandomState>,
    /// Per-slot generation, bumped when a task of the slot changes. `u32`, since every entry stores one.
    epochs: Box<[AtomicU32]>,
    /// Tasks that upstream itself failed on.
    failures: Failures,
    pub(super) digests: RandomState,
    /// When the tasks of a slot, or the callers of one, last changed: answers from before that are not adopted.
    changed: Box<[AtomicU64]>,
    /// The origin of [`Store::stamp`].
    start: Instant,
}

/// Why an answer of the fleet is not adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotAdopted {
    /// A later state of the task is known.
    Older,
    /// Upstream was asked for it before the task was written to or forgotten.
    Forgotten,
    /// Upstream was asked for it before it refused the caller.
    Refused,
}

/// The result of storing a reply.
#[derive(Debug)]
pub struct Kept {
    /// The reply, as clients are shown it.
    pub reply: SharedReply,
    /// Whether it was stored.
    pub stored: bool,
}

impl Kept {
    fn not_stored(reply: Reply) -> Self {
        Self {
            reply: SharedReply::new(Arc::new(reply)),
            stored: false,
        }
    }
}

impl Store {
    /// An empty cache of `capacity` bytes, which calls `evicted` for every answer that leaves it.
    pub fn new(capacity: u64, evicted: impl Fn(RemovalCause) + Send + Sync + 'static) -> Self {
        let digests = RandomState::new();
        let entries = Entries::new(capacity, digests.clone(), evicted);
        let callers = Cache::builder()
            .max_capacity(CALLERS)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(|_, credential: Arc<CredentialState>, _| credential.revoke())
            .build_with_hasher(RandomState::new());
        Self {
            entries,
            callers,
            strangers: Cache::builder()
                .max_capacity(STRANGERS)
                .eviction_policy(EvictionPolicy::lru())
                .build_with_hasher(RandomState::new()),
            epochs: (0..=MANY).map(|_| AtomicU32::new(0)).collect(),
            failures: Failures::new(),
            digests,
            changed: (0..=MANY + SLOTS).map(|_| AtomicU64::new(0)).collect(),
            start: Instant::now(),
        }
    }

    /// Looks up the entry of `key`, and what it may be used for where `credential_ttl` is how long an accepted credential
    /// is trusted. Counts as a use, unless it may not be used at all.
    #[must_use]
    pub fn look(&self, key: &TaskKey, now: Instant, credential_ttl: Duration) -> Option<Looked> {
        let digest = self.digest(key);
        let entry = self.entries.index.get(digest, key)?;
        // A hit counts as a use of the caller's credential.
        if self.callers.entry_count() >= CALLERS / 2 {
            self.callers.get(&key.caller);
        }
        let good_for = self.good_for(&entry, now, credential_ttl);
        if good_for.is_shown_while_failing() {
            self.entries.record_use(digest, &entry);
        }
        Some(Looked { entry, good_for })
    }

    /// Takes a lease; to be done before upstream is asked.
    #[must_use]
    pub fn lease(&self, key: &TaskKey) -> Lease {
        let credential = self.credential(key.caller);
        let slot = self.slot(&key.task);
        Lease {
            slot,
            writes: self.writes(slot, &credential),
            credential,
        }
    }

    /// Whether neither the task nor its caller's credential changed since the lease was taken.
    #[must_use]
    pub fn is_valid(&self, lease: &Lease) -> bool {
        !lease.credential.is_revoked() && !self.is_overwritten(lease)
    }

    /// Whether the task was written to since the lease was taken.
    #[must_use]
    pub fn is_overwritten(&self, lease: &Lease) -> bool {
        lease.writes != self.writes(lease.slot, &lease.credential)
    }

    /// The state of a caller's credential. Only those that upstream accepted take the place of others: keys that anybody
    /// can make up are kept apart.
    fn credential(&self, caller: Caller) -> Arc<CredentialState> {
        let accepted = self.callers.get(&caller);
        accepted
            .filter(|state| !state.is_revoked())
            .unwrap_or_else(|| {
                // A state that was evicted from the callers may still be here.
                let entry = self.strangers.entry(caller);
                entry
                    .or_insert_with_if(CredentialState::new, |state| state.is_revoked())
                    .into_value()
            })
    }

    /// The generation of a task (and of those that share its slot).
    #[must_use]
    pub fn epoch(&self, task: &TaskId) -> u32 {
        self.epochs[usize::from(self.slot(task))].load(Ordering::Acquire)
    }

    /// How many writes to the tasks of a slot count for a caller: those that upstream accepted, and its own.
    fn writes(&self, slot: u16, credential: &CredentialState) -> u32 {
        let accepted = self.epochs[usize::from(slot)].load(Ordering::Acquire);
        accepted.wrapping_add(credential.writes(slot))
    }

    /// Records that upstream accepted the caller's credential, unless it has refused it since the lease was taken.
    pub fn accept(&self, caller: Caller, lease: &Lease, now: Instant) {
        let stamp = self.stamp(now);
        let accepted = &lease.credential.accepted;
        // A refusal stands, and so does a later acceptance.
        let before =
            accepted.fetch_update(
                Ordering::AcqRel,
                Ordering::Acquire,
                |accepted| match accepted {
                    CredentialState::REVOKED => None,
                    CredentialState::UNKNOWN => Some(stamp),
                    accepted => Some(accepted.max(stamp)),
                },
            );
        if before == Ok(CredentialState::UNKNOWN) {
            let kept = || Arc::clone(&lease.credential);
            let entry = self.callers.entry(caller);
            let current = entry
                .or_insert_with_if(kept, |state| state.is_revoked())
                .into_value();
            if !Arc::ptr_eq(&current, &lease.credential) {
                // Another state of this caller was accepted before. A refusal would revoke only that one.
                lease.credential.revoke();
            }
        }
    }

    /// Records that upstream refused the caller's credential: everything remembered for the caller is purged, and no poll
    /// that is in progress brings any of it back.
    pub fn refuse(&self, caller: Caller) {
        self.refuse_as_of(caller, Instant::now());
    }

    /// The same where upstream refused it at `at`.
    pub fn refuse_as_of(&self, caller: Caller, at: Instant) {
        self.note_change(self.slot_of(caller), at);
        // A state that moka is about to evict is evicted, and so revoked, now.
        self.callers.run_pending_tasks();
        for states in [&self.callers, &self.strangers] {
            if let Some(state) = states.remove(&caller) {
                state.revoke();
            }
        }
    }

    /// Carries out what was decided about a reply. It replaces what was remembered under `key`, unless its task or its
    /// caller's credential changed since the lease was taken.
    pub fn keep(
        &self,
        key: &TaskKey,
        reply: Reply,
        decision: &Decision,
        first_seen: i64,
        lease: &Lease,
    ) -> Kept {
        match decision.credential {
            Some(CredentialVerdict::Refused) => self.refuse(key.caller),
            Some(CredentialVerdict::Accepted) => self.accept(key.caller, lease, reply.received),
            None => {}
        }
        lease.credential.set_cors(reply.headers.as_deref());
        if decision.forbidden {
            // Nor is a poll remembered that is still in progress on another path.
            lease.credential.count_write(lease.slot);
            self.purge_for(key);
        }
        if decision.fault.is_none() {
            self.failures.clear(key);
        }
        let Some(lifetime) = decision.lifetime.filter(|_| self.is_valid(lease)) else {
            return Kept::not_stored(reply);
        };
        let digest = self.digest(key);
        if lifetime.is_zero() || self.capacity() == 0 {
            // The earlier entry must not be served stale: upstream has moved on.
            self.entries.forget(digest, key);
            return Kept::not_stored(reply);
        }
        // Of a running task, or of a success that waits for its URL.
        let counts = !reply.is_terminal() || lifetime.rule == Rule::UrlAwaited;
        let age = decision.age.filter(|_| counts);
        let entry = Arc::new(Entry {
            fresh: Span::new(lifetime.fresh),
            stale: Span::new(lifetime.stale_if_error),
            first_seen: u32::try_from(first_seen).unwrap_or(0),
            ends_at: lifetime
                .ends_at
                .map_or(0, |at| u32::try_from(at.max(1)).unwrap_or(u32::MAX)),
            age: age.map_or(Entry::AGELESS, |age| {
                u32::try_from(millis(age.at(reply.received))).unwrap_or(Entry::AGELESS - 1)
            }),
            rule: lifetime.rule,
            caller: key.caller,
            route: key.route,
            slot: lease.slot,
            writes: lease.writes,
            credential: Arc::clone(&lease.credential),
            cooldown: AtomicU32::new(0),
            place: AtomicU32::new(Entry::NOWHERE),
            used: AtomicBool::new(false),
            scales: Arc::clone(&self.entries.scales),
            reply: reply.for_storage(&key.task),
        });
        let stored = self.entries.set(digest, key, Arc::clone(&entry));
        // A change between the check and the insertion leaves an entry that is never found, by its epoch or credential.
        Kept {
            reply: SharedReply::new(entry),
            stored,
        }
    }

    /// Keeps an answer that another sidecar was given when it asked at `asked`, as [`keep`](Self::keep) does.
    ///
    /// # Errors
    /// The answer must not be shown here: it is from before something that is known.
    pub fn adopt(
        &self,
        key: &TaskKey,
        reply: Reply,
        decision: &Decision,
        first_seen: i64,
        lease: &Lease,
        asked: Instant,
    ) -> Result<Kept, NotAdopted> {
        let asked_at = self.stamp(asked);
        let has_changed = |slot: usize| asked_at < self.changed[slot].load(Ordering::Acquire);
        if has_changed(self.slot(&key.task).into()) {
            return Err(NotAdopted::Forgotten);
        }
        if has_changed(self.slot_of(key.caller)) {
            return Err(NotAdopted::Refused);
        }
        if self.known_since(key, asked, &reply).is_some() {
            return Err(NotAdopted::Older);
        }
        Ok(self.keep(key, reply, decision, first_seen, lease))
    }

    /// What came since `asked`, if an answer to a question of that time is behind it.
    #[must_use]
    pub fn known_since(&self, key: &TaskKey, asked: Instant, reply: &Reply) -> Option<Arc<Entry>> {
        let known = self.peek(key).filter(|known| self.is_current(known))?;
        (asked < known.reply.received && reply.is_behind(&known.reply)).then_some(known)
    }

    /// Invalidates a task for one caller, on whatever route: polls in progress of this caller are not remembered.
    pub fn invalidate_for(&self, task: &TaskId, caller: Caller) {
        self.invalidate_for_as_of(task, caller, Instant::now());
    }

    /// The same where the task was written to at `at`.
    pub fn invalidate_for_as_of(&self, task: &TaskId, caller: Caller, at: Instant) {
        let credential = self.credential(caller);
        for slot in [self.slot(task), MANY] {
            self.note_change(slot.into(), at);
            credential.count_write(slot);
        }
        // Those that are found without a search leave at once.
        let route = RouteId::of(Dialect::Unified);
        let task = task.clone();
        self.purge_for(&TaskKey {
            caller,
            route,
            task,
        });
    }

    /// Whether upstream has accepted the caller's credential.
    #[must_use]
    pub fn knows(&self, caller: Caller) -> bool {
        self.callers.contains_key(&caller)
    }

    /// What upstream said of a task that is left alone at `now`, since upstream failed on it.
    #[must_use]
    pub fn failure(&self, key: &TaskKey, now: Instant) -> Option<Failure> {
        let (lease, failure) = self.failures.current(key, now)?;
        self.is_valid(&lease).then_some(failure)
    }

    /// The fault of a task when upstream was last asked for it, if it was one of the task's own.
    #[must_use]
    pub fn last_fault(&self, key: &TaskKey) -> Option<Fault> {
        self.failures.last_fault(key)
    }

    /// Records that upstream itself failed on a task, which is left alone for `pause`, and longer each time.
    pub fn fail(
        &self,
        key: &TaskKey,
        fault: Fault,
        failure: Failure,
        lease: &Lease,
        now: Instant,
        pause: Duration,
    ) {
        let pause = self.failures.record(key, fault, failure, lease, now, pause);
        self.back_off(key, now, pause);
    }

    /// Drops what is remembered of a task for one caller, whichever path it came on.
    pub fn purge_for(&self, key: &TaskKey) {
        for route in std::iter::once(key.route).chain(key.route.others()) {
            let key = TaskKey {
                route,
                ..key.clone()
            };
            self.entries.forget(self.digest(&key), &key);
        }
    }

    /// The headers by which upstream last let pages of other origins read this caller's answers.
    #[must_use]
    pub fn cors(&self, caller: Caller) -> Headers {
        self.callers.get(&caller)?.cors()
    }

    /// Records that upstream failed on what is remembered under `key`, and is not asked for it again for `pause`.
    pub fn back_off(&self, key: &TaskKey, now: Instant, pause: Duration) {
        if let Some(entry) = self.peek(key) {
            let cooldown = millis(now.duration_since(entry.reply.received) + pause);
            let cooldown = u32::try_from(cooldown).unwrap_or(u32::MAX);
            entry.cooldown.store(cooldown, Ordering::Relaxed);
        }
    }

    /// The entry of `key`, whether or not it may still be shown.
    #[must_use]
    pub fn peek(&self, key: &TaskKey) -> Option<Arc<Entry>> {
        self.entries.index.get(self.digest(key), key)
    }

    /// Purges a task for every caller and on every route; polls in progress do not bring it back. Returns the number of
    /// answers purged.
    pub fn purge_task(&self, task: &TaskId) -> usize {
        self.purge_task_as_of(task, Instant::now())
    }

    /// The same where the task was forgotten at `at`.
    pub fn purge_task_as_of(&self, task: &TaskId, at: Instant) -> usize {
        self.invalidate_as_of(task, at);
        self.failures.clear_task(task.as_str());
        self.purge_where(|entry| route::names(entry.task(), task.as_str()))
    }

    /// Like [`Store::purge_task`], without searching for the entries: they are never shown again, and expire.
    pub fn invalidate(&self, task: &TaskId) {
        self.invalidate_as_of(task, Instant::now());
    }

    /// The same where the task was written to at `at`.
    pub fn invalidate_as_of(&self, task: &TaskId, at: Instant) {
        for slot in [self.slot(task), MANY] {
            self.note_change(slot.into(), at);
            self.epochs[usize::from(slot)].fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Purges everything; polls in progress do not bring it back. Returns the number of answers purged.
    pub fn purge_all(&self) -> usize {
        self.purge_all_as_of(Instant::now())
    }

    /// The same where everything was forgotten at `at`.
    pub fn purge_all_as_of(&self, at: Instant) -> usize {
        for slot in 0..=MANY {
            self.note_change(slot.into(), at);
        }
        self.drop_all()
    }

    /// Drops everything; polls in progress do not bring it back, but what the fleet knows may. Returns the number of answers
    /// dropped.
    pub fn drop_all(&self) -> usize {
        for epoch in &self.epochs {
            epoch.fetch_add(1, Ordering::AcqRel);
        }
        self.failures.clear_all();
        self.purge_where(|_| true)
    }

    /// The number of cached answers.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.entries.index.len()
    }

    /// Whether nothing is cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The capacity in bytes.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        self.entries.capacity
    }

    /// The bytes in use.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries.bytes()
    }

    fn digest(&self, key: &TaskKey) -> u64 {
        self.digests
            .hash_one((key.caller, key.route, key.task.whole()))
    }

    fn purge_where(&self, doomed: impl Fn(&Entry) -> bool) -> usize {
        let now = Instant::now();
        let doomed = self.entries.index.all().filter(|entry| doomed(entry));
        doomed
            .filter(|entry| self.entries.remove(entry) && !entry.is_expired(now))
            .count()
    }

    /// A point in time as milliseconds that can be kept in an atomic; also one before the store's start.
    fn stamp(&self, at: Instant) -> u64 {
        match at.checked_duration_since(self.start) {
            Some(since) => STARTED.saturating_add(millis(since)),
            None => STARTED.saturating_sub(millis(self.start - at)),
        }
    }

    /// Notes that what belongs to a slot changed: nothing that was asked for before `at` is adopted.
    fn note_change(&self, slot: usize, at: Instant) {
        // Rounded up: an answer of the same millisecond may be from before the change.
        let stamp = self.stamp(at).saturating_add(1);
        self.changed[slot].fetch_max(stamp, Ordering::AcqRel);
    }

    fn slot_of(&self, caller: Caller) -> usize {
        let slot = self.digests.hash_one(caller) % u64::from(SLOTS);
        usize::from(MANY) + 1 + usize::try_from(slot).unwrap_or(0)
    }

    fn slot(&self, task: &TaskId) -> u16 {
        if task.is_many() {
            return MANY;
        }
        // However the id is percent-encoded.
        let digest = self.digests.hash_one(&*task.decoded());
        u16::try_from(digest % u64::from(SLOTS)).unwrap_or(0)
    }

    /// Whether the task has not changed, and upstream has not refused the caller, since the answer was asked for.
    pub(super) fn is_current(&self, entry: &Entry) -> bool {
        entry.writes == self.writes(entry.slot, &entry.credential) && !entry.credential.is_revoked()
    }

    pub(super) fn acceptance(&self, entry: &Entry, now: Instant) -> Acceptance {
        match entry.credential.accepted.load(Ordering::Acquire) {
            CredentialState::UNKNOWN | CredentialState::REVOKED => Acceptance::Missing,
            accepted => {
                let since = self.stamp(now).saturating_sub(accepted);
                Acceptance::Accepted(Duration::from_millis(since))
            }
        }
    }

    /// The one rule of what may be shown.
    #[must_use]
    pub fn good_for(&self, entry: &Entry, now: Instant, credential_ttl: Duration) -> Use {
        match self.acceptance(entry, now) {
            Acceptance::Accepted(unchecked) if self.is_current(entry) => {
                entry.good_for(unchecked, now, credential_ttl)
            }
            _ => Use::Invalidated,
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Store")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode, Uri};

    use super::*;
    use crate::cache::cadence::TaskAge;
    use crate::cache::freshness::Lifetime;
    use crate::request::key::{CallerKey, Credentials};
    use crate::task::{Form, Rendering};

    pub(in super::super) const HOUR: Duration = Duration::from_hours(1);

    /// A store, and what is to be said of tasks of one caller whose credential is accepted.
    fn store(capacity: u64) -> (Store, impl Fn(&str) -> TaskKey, Decision) {
        let (key, decision) = circumstances();
        (Store::new(capacity, |_| {}), key, decision)
    }

    pub(in super::super) fn circumstances() -> (impl Fn(&str) -> TaskKey, Decision) {
        let credentials = Credentials::new(HeaderMap::new(), Uri::from_static("/"));
        let caller = CallerKey::random()
            .expect("random bytes")
            .caller(&credentials);
        let key = move |task: &str| TaskKey {
            caller,
            route: RouteId::of(Dialect::Unified),
            task: TaskId::new(task),
        };
        let decision = Decision {
            lifetime: Some(Lifetime {
                fresh: HOUR,
                stale_if_error: HOUR,
                rule: Rule::Succeeded,
                ends_at: None,
            }),
            age: None,
            credential: None,
            fault: None,
            forbidden: false,
            ended: None,
        };
        (key, decision)
    }

    pub(in super::super) fn reply() -> Reply {
        Reply::new(StatusCode::OK, &HeaderMap::new(), Bytes::new(), None)
    }

    /// Remembers an answer for a caller whom upstream accepts.
    fn remember(store: &Store, key: &TaskKey, decision: &Decision, now: Instant) -> Kept {
        let lease = store.lease(key);
        store.accept(key.caller, &lease, now);
        store.keep(key, reply(), decision, 0, &lease)
    }

    fn use_of(store: &Store, key: &TaskKey, now: Instant) -> Option<Use> {
        store.look(key, now, HOUR).map(|looked| looked.good_for)
    }

    fn is_fresh(store: &Store, key: &TaskKey, now: Instant) -> bool {
        use_of(store, key, now) == Some(Use::Fresh)
    }

    fn is_shown(store: &Store, key: &TaskKey, now: Instant) -> bool {
        use_of(store, key, now).is_some_and(Use::is_shown_while_failing)
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_to_go_is_what_was_not_asked_for_and_it_leaves_nothing_behind() {
        let (store, key, decision) = store(20_000);
        let now = Instant::now();
        let caller = key("first").caller;
        let lease = store.lease(&key("first"));
        store.accept(caller, &lease, now);
        for number in 0..500 {
            let key = key(&number.to_string());
            store.keep(&key, reply(), &decision, 0, &store.lease(&key));
            if number == 0 {
                // Again: an answer in the place of an earlier one.
                store.keep(&key, reply(), &decision, 0, &store.lease(&key));
            }
            store.flush();
            let first = TaskKey {
                task: TaskId::new("0"),
                ..key
            };
            assert!(is_fresh(&store, &first, now));
            assert!(store.entries.agree());
        }
        assert!((10..100).contains(&store.len()), "{}", store.len());
        assert!(!is_shown(&store, &key("1"), now));
        store.purge_all();
        assert_eq!(store.entries.index.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_written_counts_and_takes_the_place_of_the_least_recently_used() {
        const SIZE: usize = 10_000;
        let (store, key, decision) = store(24 * SIZE as u64);
        // An error that clients of the other path are told in its form.
        let body = Bytes::from(format!(
            r#"{{"code":"task_not_exist","message":"{}"}}"#,
            "x".repeat(SIZE)
        ));
        let keep = |number: usize| {
            let key = key(&number.to_string());
            let (status, headers) = (StatusCode::BAD_REQUEST, HeaderMap::new());
            let reply = Reply::new(status, &headers, body.clone(), None);
            let lease = store.lease(&key);
            store.keep(&key, reply, &decision, 0, &lease).reply
        };
        let write = |reply: &SharedReply, dialect| {
            let form = Form::Written(dialect, Rendering::Documented);
            let written = reply.rendition(form).body.len();
            store.flush();
            assert!(written > SIZE);
            written
        };
        let kept: Vec<_> = (0..9).map(keep).collect();
        store.flush();
        let before = store.bytes();
        // Room for one is kept from the start. What is there already is not counted again.
        write(&kept[8], Dialect::OpenAi);
        let written = [(); 2].map(|()| write(&kept[8], Dialect::Unified))[0];
        let grown = usize::try_from(store.bytes() - before).expect("grows");
        assert!((written..written + 1024).contains(&grown), "{grown}");
        for reply in &kept[3..8] {
            write(reply, Dialect::OpenAi);
            write(reply, Dialect::Unified);
        }
        let is_there = |number: &usize| store.peek(&key(&number.to_string())).is_some();
        let left: Vec<_> = (0..9).filter(is_there).collect();
        assert_eq!(left, [1, 2, 3, 4, 5, 6, 7, 8], "of 24 documents at most");
        assert!(store.entries.agree());
        // What has left, or was replaced, is not brought back by a client that still holds it.
        keep(8);
        for gone in [&kept[0], &kept[8]] {
            write(gone, Dialect::OpenAi);
            write(gone, Dialect::Unified);
        }
        assert_eq!((0..9).filter(is_there).collect::<Vec<_>>(), left);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_was_evicted_is_accepted_anew() {
        let (store, key, decision) = store(1 << 20);
        let (key, now) = (key("t"), Instant::now());
        assert!(remember(&store, &key, &decision, now).stored);
        // As moka does where there are too many.
        store.callers.invalidate(&key.caller);
        store.callers.run_pending_tasks();
        assert!(!store.knows(key.caller) && !is_shown(&store, &key, now));
        for _ in 0..2 {
            assert!(remember(&store, &key, &decision, now).stored);
            assert!(store.knows(key.caller) && is_fresh(&store, &key, now));
        }
        // Upstream refused it between two steps of its acceptance.
        let lease = store.lease(&key);
        lease.credential.revoke();
        assert!(remember(&store, &key, &decision, now).stored);
        assert!(store.knows(key.caller) && is_fresh(&store, &key, now));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_for_before_a_403_is_not_remembered_after_it() {
        let (store, key, decision) = store(1 << 20);
        let now = Instant::now();
        let key = key("t");
        remember(&store, &key, &decision, now);
        let earlier = store.lease(&key);
        let forbidden = Decision {
            lifetime: None,
            forbidden: true,
            ..decision.clone()
        };
        store.keep(&key, reply(), &forbidden, 0, &store.lease(&key));
        assert!(!is_fresh(&store, &key, now));
        assert!(!store.keep(&key, reply(), &decision, 0, &earlier).stored);
        let later = store.lease(&key);
        assert!(store.keep(&key, reply(), &decision, 0, &later).stored);
        assert!(is_fresh(&store, &key, now));
    }

    #[tokio::test(start_paused = true)]
    async fn two_tasks_of_one_digest_are_never_taken_for_each_other() {
        let (store, key, decision) = store(1 << 20);
        let (one, other) = (key("one"), key("other"));
        let lease = store.lease(&one);
        store.accept(one.caller, &lease, Instant::now());
        store.keep(&one, reply(), &decision, 0, &lease);
        let entry = store.peek(&one).expect("is remembered");
        let digest = store.digest(&other);
        store
            .entries
            .index
            .set(digest, &one, entry, |_| digest, |_, _| {});
        assert!(store.peek(&other).is_none());
        assert!(!is_shown(&store, &other, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_task_grows_older_where_it_is_remembered() {
        let (store, key, decision) = store(1 << 20);
        let (key, now) = (key("t"), Instant::now());
        let aged = |age: Option<Duration>| Decision {
            age: age.map(|age| TaskAge::begun(now, age)),
            ..decision.clone()
        };
        let age = Duration::from_millis(90_500);
        store.keep(&key, reply(), &aged(Some(age)), 0, &store.lease(&key));
        let grown = store.peek(&key).and_then(|entry| entry.task_age());
        assert_eq!(grown.map(|age| age.at(now + HOUR)), Some(age + HOUR));
        store.keep(&key, reply(), &aged(None), 0, &store.lease(&key));
        assert!(
            store
                .peek(&key)
                .is_some_and(|entry| entry.task_age().is_none())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn keys_that_anybody_can_make_up_take_no_accepted_callers_place() {
        let (store, key, decision) = store(1 << 20);
        let (key, now) = (key("t"), Instant::now());
        remember(&store, &key, &decision, now);
        let callers = CallerKey::random().expect("random bytes");
        for number in 0..CALLERS + STRANGERS {
            let target = format!("/?{number}").parse().expect("a target");
            let caller = callers.caller(&Credentials::new(HeaderMap::new(), target));
            let stranger = TaskKey {
                caller,
                ..key.clone()
            };
            drop(store.lease(&stranger));
            store.refuse(caller);
        }
        store.flush();
        assert!(is_fresh(&store, &key, now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_of_one_caller_leaves_another_ones_memory() {
        let (store, key, decision) = store(1 << 20);
        let now = Instant::now();
        let (_, other) = (key("t"), circumstances().0("t"));
        for key in [key("t"), other.clone()] {
            remember(&store, &key, &decision, now);
        }
        let early = store.lease(&key("t"));
        store.invalidate_for(&TaskId::new("t"), key("t").caller);
        assert!(!is_shown(&store, &key("t"), now));
        assert!(is_fresh(&store, &other, now));
        assert!(!store.keep(&key("t"), reply(), &decision, 0, &early).stored);
        store.invalidate(&TaskId::new("t"));
        assert!(!is_shown(&store, &other, now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_signature_ends_by_the_wall_clock_which_a_suspended_machine_does_not_stop() {
        let (store, key, decision) = store(1 << 20);
        let (key, now) = (key("t"), Instant::now());
        let keep = |ends_at: i64| {
            let lifetime = decision.lifetime.map(|lifetime| Lifetime {
                ends_at: Some(ends_at),
                ..lifetime
            });
            let decision = Decision {
                lifetime,
                ..decision.clone()
            };
            let lease = store.lease(&key);
            store.accept(key.caller, &lease, now);
            assert!(store.keep(&key, reply(), &decision, 0, &lease).stored);
        };
        let wall = crate::message::fields::unix_now();
        keep(wall + 3600);
        assert!(is_fresh(&store, &key, now));
        // By the gateway's own clock it is as fresh as before.
        keep(wall + 2);
        let entry = store.look(&key, now, HOUR).expect("is shown").entry;
        let told = entry.answer(crate::answer::outcome::Outcome::Hit, None);
        let told = told.fresh_until;
        assert!(told <= now + Duration::from_secs(2), "{told:?}");
        keep(wall - 1);
        assert!(!is_shown(&store, &key, now));
    }

    #[tokio::test(start_paused = true)]
    async fn without_trust_in_credentials_nothing_is_served_before_upstream_is_asked() {
        let (store, key, decision) = store(1 << 20);
        let (key, now) = (key("t"), Instant::now());
        remember(&store, &key, &decision, now);
        let good_for = |ttl| store.look(&key, now, ttl).map(|looked| looked.good_for);
        assert_eq!(good_for(Duration::ZERO), Some(Use::StaleIfError));
        assert_eq!(good_for(Duration::from_millis(1)), Some(Use::Fresh));
    }

    #[tokio::test(start_paused = true)]
    async fn a_poll_from_before_a_refusal_does_not_accept_the_caller_again() {
        let (store, key, decision) = store(1 << 20);
        let (key, now) = (key("t"), Instant::now());
        let caller = key.caller;
        let early = store.lease(&key);
        store.refuse(caller);
        let late = store.lease(&key);
        store.accept(caller, &early, now);
        assert!(!store.keep(&key, reply(), &decision, 0, &early).stored);
        assert!(store.keep(&key, reply(), &decision, 0, &late).stored);
        assert!(!is_shown(&store, &key, now));
        store.accept(caller, &late, now);
        assert!(is_fresh(&store, &key, now));
    }
}
