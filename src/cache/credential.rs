//! The state of a caller's credential: unknown, accepted or revoked.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderMap;

use crate::answer::reply::{CORS, Headers};

/// How many slots of tasks have a count of a caller's writes. Tasks that share one can only cost each other a cached answer.
const WRITE_SLOTS: usize = 64;

/// Where the writes to a slot of tasks are counted.
fn write_slot(slot: u16) -> usize {
    usize::from(slot) % WRITE_SLOTS
}

/// What is known of one caller's credential.
#[derive(Debug)]
pub(super) struct CredentialState {
    /// When upstream last accepted the credential, in milliseconds since the store's start; or one of the constants below.
    pub(super) accepted: AtomicU64,
    /// Counts the caller's own writes, by the slot of the task: polls that were in progress meanwhile are not remembered.
    /// Few callers write.
    writes: OnceLock<Box<[AtomicU32; WRITE_SLOTS]>>,
    /// The headers by which upstream last let pages of other origins read the caller's answers.
    cors: ArcSwapOption<HeaderMap>,
    /// Whether there are any: hits of other callers do not touch `cors`.
    has_cors: AtomicBool,
}

impl CredentialState {
    /// Upstream has neither accepted nor refused it yet.
    pub(super) const UNKNOWN: u64 = u64::MAX;
    /// Entries under it are not shown again: upstream refused the caller, or the state was evicted.
    pub(super) const REVOKED: u64 = u64::MAX - 1;

    pub(super) fn new() -> Arc<Self> {
        let accepted = AtomicU64::new(Self::UNKNOWN);
        Arc::new(Self {
            accepted,
            writes: OnceLock::new(),
            cors: ArcSwapOption::empty(),
            has_cors: AtomicBool::new(false),
        })
    }

    /// How many writes of the caller there were to the tasks of a slot.
    pub(super) fn writes(&self, slot: u16) -> u32 {
        let counts = self.writes.get();
        counts.map_or(0, |counts| counts[write_slot(slot)].load(Ordering::Acquire))
    }

    /// Counts a write of the caller.
    pub(super) fn count_write(&self, slot: u16) {
        let counts = self
            .writes
            .get_or_init(|| Box::new([const { AtomicU32::new(0) }; WRITE_SLOTS]));
        counts[write_slot(slot)].fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn revoke(&self) {
        self.accepted.store(Self::REVOKED, Ordering::Release);
    }

    pub(super) fn cors(&self) -> Headers {
        if self.has_cors.load(Ordering::Acquire) {
            self.cors.load_full()
        } else {
            None
        }
    }

    /// Keeps the CORS headers of an answer. They are part of what the caller may be shown, since `origin` is part of the
    /// caller.
    pub(super) fn set_cors(&self, headers: Option<&HeaderMap>) {
        let is_cors = |name: &http::HeaderName| name.as_str().starts_with(CORS);
        let Some(headers) = headers.filter(|headers| headers.keys().any(is_cors)) else {
            return;
        };
        let cors: HeaderMap = headers
            .iter()
            .filter(|(name, _)| is_cors(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if self.cors.load().as_deref() != Some(&cors) {
            self.cors.store(Some(Arc::new(cors)));
            self.has_cors.store(true, Ordering::Release);
        }
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.accepted.load(Ordering::Acquire) == Self::REVOKED
    }
}

/// How upstream last judged a caller's credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// Accepted, that long ago.
    Accepted(Duration),
    /// Refused, or not asked yet.
    Missing,
}
