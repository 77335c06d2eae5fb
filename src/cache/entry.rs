//! One remembered answer, and what it is good for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::cadence::TaskAge;
use super::credential::CredentialState;
use super::freshness::Rule;
use crate::answer::outcome::Outcome;
use crate::answer::reply::{Reply, SharedReply};
use crate::answer::{Answer, FwdReason, Landed, Origin};
use crate::message::fields::unix_now;
use crate::request::key::{Caller, TaskKey};
use crate::request::route::TaskId;
use crate::task::Dialect;

/// A remembered answer. All of it is in one piece of memory, the documents aside: a hit on one that was not asked for
/// in a while waits for memory more than for anything else.
#[derive(Debug)]
pub struct Entry {
    /// What upstream said.
    pub reply: Reply,
    /// For how long it is served without asking again, in milliseconds since it was received.
    pub(super) fresh: u64,
    /// For how long it may stand in for a failing upstream, likewise.
    pub(super) usable: u64,
    /// When the task was first seen, in Unix seconds.
    pub(super) first_seen: u32,
    /// When the URL's signature ends, less the margin, in Unix seconds; 0 for never. Looked at on the wall clock, which
    /// goes on while the machine is suspended.
    pub(super) ends_at: u32,
    /// What decided until when it is fresh.
    pub rule: Rule,
    /// Whose it is; its task stands in the reply's document.
    pub(super) caller: Caller,
    /// The path upstream was asked on.
    pub(super) dialect: Dialect,
    /// Which of the epochs is its task's.
    pub(super) slot: u16,
    /// Of its task, when it was asked for.
    pub(super) epoch: u32,
    /// How old its task was when this was received, or how long a success had been without its URL, in milliseconds; or [`AGELESS`](Self::AGELESS).
    pub(super) age: u32,
    /// Of its caller: part of the entry, so that a hit takes one look-up.
    pub(super) credential: Arc<CredentialState>,
    /// For how long upstream is not asked again after it failed, likewise.
    pub(super) cooldown: AtomicU32,
}

/// One field more, and each answer takes 16 bytes more: allocators give memory in such steps.
const _: () = assert!(size_of::<Entry>() <= 184);

/// What a remembered answer is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// It is served without asking.
    Fresh,
    /// Upstream failed on it a moment ago: it stands in, without asking again already.
    CoolingDown,
    /// It stands in if upstream fails.
    StaleIfError,
    /// The task was changed through this gateway since, or the caller refused: it is not shown again.
    Invalidated,
    /// Its time is over.
    Expired,
}

/// An entry, and what it is good for.
#[derive(Debug, Clone)]
pub struct Looked {
    /// The entry.
    pub entry: Arc<Entry>,
    /// What it is good for.
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
    /// Of no task, or of one that is over.
    pub(super) const AGELESS: u32 = u32::MAX;

    /// What it is remembered under.
    #[must_use]
    pub fn key(&self) -> TaskKey {
        TaskKey {
            caller: self.caller,
            dialect: self.dialect,
            task: TaskId::new(self.task()),
        }
    }

    /// Its task's id, as it stands in the path.
    #[must_use]
    pub fn task(&self) -> &str {
        self.reply.body.task()
    }

    /// What its digest is made of.
    pub(super) fn parts(&self) -> (Caller, Dialect, &str) {
        (self.caller, self.dialect, self.task())
    }

    /// Whether it is remembered under `key`.
    #[must_use]
    pub fn is_of(&self, key: &TaskKey) -> bool {
        self.caller == key.caller && self.dialect == key.dialect && self.reply.body.is_of(&key.task)
    }

    /// The age of its task, where it is running.
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

    /// Until when it is served without asking again.
    #[must_use]
    pub fn fresh_until(&self) -> Instant {
        self.reply.received + Duration::from_millis(self.fresh)
    }

    /// Until when it may stand in for a failing upstream.
    #[must_use]
    pub fn usable_until(&self) -> Instant {
        self.reply.received + Duration::from_millis(self.usable)
    }

    /// The answer that it gives.
    #[must_use]
    pub fn answer(self: Arc<Self>, outcome: Outcome, fwd: Option<FwdReason>) -> Answer {
        Answer {
            headers: self.credential.cors(),
            outcome,
            fwd,
            received: self.reply.received,
            fresh_until: self.fresh_until(),
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
            fresh_until: self.fresh_until(),
            origin: Origin::Memory,
            reply: SharedReply::new(self),
        }
    }

    /// How long upstream is still left alone after it failed on this.
    pub(super) fn cooldown(&self, now: Instant) -> Duration {
        let rests = Duration::from_millis(self.cooldown.load(Ordering::Relaxed).into());
        rests.saturating_sub(now.saturating_duration_since(self.reply.received))
    }

    /// Whether its time is over, whatever became of its task and its caller.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        now >= self.usable_until()
    }

    /// What it is good for while nothing changed its task, to a caller whose credential upstream accepted so long ago.
    /// While upstream fails it cannot be asked about the credential either: an answer stands in for as much longer as
    /// it may.
    pub(super) fn good_for(
        &self,
        unchecked: Duration,
        now: Instant,
        credential_ttl: Duration,
    ) -> Use {
        let stale_if_error = Duration::from_millis(self.usable - self.fresh);
        if self.is_expired(now)
            || self.has_ended()
            || unchecked > credential_ttl.saturating_add(stale_if_error)
        {
            // A key that upstream has not seen for so long may be anybody's by now.
            Use::Expired
        } else if unchecked > credential_ttl {
            Use::StaleIfError
        } else if now < self.fresh_until() {
            Use::Fresh
        } else if self.cooldown(now).is_zero() {
            Use::StaleIfError
        } else {
            Use::CoolingDown
        }
    }
}

impl AsRef<Reply> for Entry {
    fn as_ref(&self) -> &Reply {
        &self.reply
    }
}
