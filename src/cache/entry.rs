//! One cached answer, and what it may be used for.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::cadence::TaskAge;
use super::credential::CredentialState;
use super::freshness::Rule;
use crate::answer::outcome::Outcome;
use crate::answer::reply::{HoldsReply, Reply, SharedReply};
use crate::answer::{Answer, FwdReason, Landed, Origin};
use crate::message::fields::unix_now;
use crate::request::key::{Caller, TaskKey};
use crate::route::{RouteId, TaskId};

/// A cached answer. It is one piece of memory, apart from the documents: a hit on an entry that has not been used for a
/// while spends most of its time waiting for memory.
#[derive(Debug)]
pub struct Entry {
    /// What upstream said.
    pub reply: Reply,
    /// How long it is fresh since it was received.
    pub(super) fresh: Span,
    /// How long after that it is usable while upstream is failing.
    pub(super) stale: Span,
    /// When the task was first seen, in Unix seconds.
    pub(super) first_seen: u32,
    /// When the URL's signature ends, less the margin, in Unix seconds; 0 for never. Looked at on the wall clock, which
    /// goes on while the machine is suspended.
    pub(super) ends_at: u32,
    /// The rule that decided how long it is fresh.
    pub rule: Rule,
    /// The caller. The task's id is part of the reply's document.
    pub(super) caller: Caller,
    /// The route that upstream was asked on.
    pub(super) route: RouteId,
    /// The slot of its task's epoch.
    pub(super) slot: u16,
    /// The writes to the slot that counted when upstream was asked.
    pub(super) writes: u32,
    /// How old its task was when this was received, or how long a success had been without its URL, in milliseconds; or [`AGELESS`](Self::AGELESS).
    pub(super) age: u32,
    /// The state of the caller's credential: part of the entry, so that a hit takes one look-up.
    pub(super) credential: Arc<CredentialState>,
    /// How long upstream is not asked again after it failed on this task, in milliseconds since `received`.
    pub(super) cooldown: AtomicU32,
    /// Its place among those on probation; else [`NOWHERE`](Self::NOWHERE).
    pub(super) place: AtomicU32,
    /// Whether it was used since it was stored.
    pub(super) used: AtomicBool,
    /// What weighs it again when it has grown.
    pub(super) scales: Arc<Scales>,
}

/// A duration in four bytes: in milliseconds up to 24 days, beyond that in seconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span(u32);

impl Span {
    const IN_SECONDS: u32 = 1 << 31;

    pub(super) fn new(duration: Duration) -> Self {
        let fits = |number: &u32| *number < Self::IN_SECONDS;
        let millis = u32::try_from(duration.as_millis()).ok().filter(fits);
        let seconds = || u32::try_from(duration.as_secs()).ok().filter(fits);
        let seconds = || seconds().unwrap_or(Self::IN_SECONDS - 1) | Self::IN_SECONDS;
        Self(millis.unwrap_or_else(seconds))
    }

    fn get(self) -> Duration {
        let number = self.0 & !Self::IN_SECONDS;
        if self.0 == number {
            Duration::from_millis(number.into())
        } else {
            Duration::from_secs(number.into())
        }
    }
}

/// More would cost 32 bytes for each entry: the allocator works in such steps, and counts of references take 16.
const _: () = assert!(size_of::<Entry>() <= 208);

/// What a cached answer may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is served without asking upstream.
    Fresh,
    /// Upstream failed on it a moment ago: it is served stale, without asking again yet.
    CoolingDown,
    /// It is served stale if upstream fails (RFC 5861).
    StaleIfError,
    /// It is not shown again: the task was written to since, or upstream refused the caller.
    Invalidated,
    /// It is no longer usable.
    Expired,
}

/// An entry that was looked up.
#[derive(Debug, Clone)]
pub struct Looked {
    /// The entry itself.
    pub entry: Arc<Entry>,
    /// What it may be used for now.
    pub good_for: Use,
}

impl Use {
    /// Whether the entry is shown while upstream is failing.
    #[must_use]
    pub const fn is_shown_while_failing(self) -> bool {
        matches!(self, Self::Fresh | Self::CoolingDown | Self::StaleIfError)
    }
}

impl Entry {
    /// The `age` of entries that have none.
    pub(super) const AGELESS: u32 = u32::MAX;

    /// The `place` of entries that are not on probation.
    pub(super) const NOWHERE: u32 = u32::MAX;

    /// The key of the entry.
    #[must_use]
    pub fn key(&self) -> TaskKey {
        TaskKey {
            caller: self.caller,
            route: self.route,
            task: TaskId::from_whole(self.reply.body.label()),
        }
    }

    /// The task's raw id; of several tasks all, one a line.
    #[must_use]
    pub fn task(&self) -> &str {
        self.reply.body.task()
    }

    /// The parts of the key, from which its digest is computed.
    pub(super) fn parts(&self) -> (Caller, RouteId, &str) {
        (self.caller, self.route, self.reply.body.label())
    }

    /// Whether this is the entry of `key`.
    #[must_use]
    pub fn is_of(&self, key: &TaskKey) -> bool {
        self.caller == key.caller && self.route == key.route && self.reply.body.is_of(&key.task)
    }

    /// The age of its task while it runs, or how long a success has been without its URL.
    #[must_use]
    pub fn task_age(&self) -> Option<TaskAge> {
        let age = Duration::from_millis(self.age.into());
        (self.age != Self::AGELESS).then(|| TaskAge::begun(self.reply.received, age))
    }

    /// When the task was first seen, in Unix seconds.
    #[must_use]
    pub fn first_seen(&self) -> i64 {
        self.first_seen.into()
    }

    /// Whether the URL's signature has ended, less the margin.
    fn has_ended(&self) -> bool {
        self.ends_at != 0 && unix_now() >= i64::from(self.ends_at)
    }

    /// When it stops being fresh.
    #[must_use]
    pub fn fresh_until(&self) -> Instant {
        self.reply.received + self.fresh.get()
    }

    /// The same for the client, which is told no more than the wall clock leaves of the URL's signature: it has gone further
    /// than the gateway's own clock where the machine was suspended.
    fn told_fresh_until(&self) -> Instant {
        let fresh_until = self.fresh_until();
        if self.ends_at == 0 {
            return fresh_until;
        }
        let left = u64::try_from(i64::from(self.ends_at) - unix_now()).unwrap_or(0);
        fresh_until.min(Instant::now() + Duration::from_secs(left))
    }

    /// When it stops being usable while upstream is failing.
    #[must_use]
    pub fn usable_until(&self) -> Instant {
        self.fresh_until() + self.stale.get()
    }

    /// The entry as an answer.
    #[must_use]
    pub fn answer(self: Arc<Self>, outcome: Outcome, fwd: Option<FwdReason>) -> Answer {
        Answer {
            headers: self.credential.cors(),
            outcome,
            fwd,
            received: self.reply.received,
            fresh_until: self.told_fresh_until(),
            stored: false,
            reply: SharedReply::new(self),
        }
    }

    /// The entry as the result of a flight that found it in memory.
    #[must_use]
    pub fn landed(self: Arc<Self>) -> Landed {
        Landed {
            headers: self.credential.cors(),
            received: self.reply.received,
            fresh_until: self.told_fresh_until(),
            origin: Origin::Memory,
            reply: SharedReply::new(self),
        }
    }

    /// Its place among those on probation.
    pub(super) fn place(&self) -> u32 {
        self.place.load(Ordering::Relaxed)
    }

    /// Only for whoever has locked them.
    pub(super) fn put(&self, place: u32) {
        self.place.store(place, Ordering::Relaxed);
    }

    pub(super) fn is_on_probation(&self) -> bool {
        self.place() != Self::NOWHERE
    }

    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Notes a use. Written once at most: it is shared by all who use it.
    pub(super) fn note_use(&self) {
        if !self.is_used() {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// How much longer upstream is not asked for this task, after it failed on it.
    pub(super) fn cooldown(&self, now: Instant) -> Duration {
        let rests = Duration::from_millis(self.cooldown.load(Ordering::Relaxed).into());
        rests.saturating_sub(now.saturating_duration_since(self.reply.received))
    }

    /// Whether it has expired, whatever happened to its task and its caller.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        now >= self.usable_until()
    }

    /// What it may be used for, provided that it is valid. `unchecked` is the time since upstream accepted the credential.
    /// While upstream is failing it cannot check the credential either, so its TTL is extended by as much as the
    /// entry's.
    pub(super) fn good_for(
        &self,
        unchecked: Duration,
        now: Instant,
        credential_ttl: Duration,
    ) -> Use {
        let stale_if_error = self.stale.get();
        let fresh_until = self.fresh_until();
        if now >= fresh_until + stale_if_error
            || self.has_ended()
            || unchecked > credential_ttl.saturating_add(stale_if_error)
        {
            // The key may have been revoked since upstream last saw it.
            Use::Expired
        } else if unchecked > credential_ttl || credential_ttl.is_zero() {
            // With a TTL of zero nothing is trusted, not even within the same millisecond.
            Use::StaleIfError
        } else if now < fresh_until {
            Use::Fresh
        } else if self.cooldown(now).is_zero() {
            Use::StaleIfError
        } else {
            Use::CoolingDown
        }
    }
}

impl HoldsReply for Entry {
    fn reply(&self) -> &Reply {
        &self.reply
    }

    fn has_grown(self: Arc<Self>) {
        (self.scales.0)(&self);
    }
}

/// Called with an entry that takes more memory than when it was stored.
pub(super) struct Scales(pub(super) WeighAgain);

type WeighAgain = Box<dyn Fn(&Arc<Entry>) + Send + Sync>;

impl fmt::Debug for Scales {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Scales")
    }
}
