//! The state of a caller's credential: unknown, accepted or revoked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderMap;

use crate::answer::reply::{CORS, Headers};
use crate::sync::{read, write};

/// The number of slots whose writes are counted apart. Beyond it all of the caller's answers are asked for again.
const MOST_WRITTEN: usize = 1024;

/// A caller's own writes, by the slot of the task.
#[derive(Debug, Default)]
struct Writes {
    /// What all counts begin with.
    base: u32,
    counts: HashMap<u16, u32>,
}

impl Writes {
    fn of(&self, slot: u16) -> u32 {
        let count = self.counts.get(&slot).copied().unwrap_or_default();
        self.base.wrapping_add(count)
    }

    fn count(&mut self, slot: u16) {
        if self.counts.len() >= MOST_WRITTEN && !self.counts.contains_key(&slot) {
            // No sum is what it was before.
            let most = self.counts.values().max().copied().unwrap_or_default();
            self.base = self.base.wrapping_add(most).wrapping_add(1);
            self.counts.clear();
        }
        let count = self.counts.entry(slot).or_default();
        *count = count.wrapping_add(1);
    }
}

/// What is known of one caller's credential.
#[derive(Debug)]
pub(super) struct CredentialState {
    /// When upstream last accepted the credential, as a stamp of the store; or one of the constants below.
    pub(super) accepted: AtomicU64,
    /// Counts the caller's own writes, by the slot of the task: polls that were in progress meanwhile are not remembered.
    /// Few callers write.
    writes: OnceLock<RwLock<Writes>>,
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
        let writes = self.writes.get();
        writes.map_or(0, |writes| read(writes).of(slot))
    }

    /// Counts a write of the caller.
    pub(super) fn count_write(&self, slot: u16) {
        write(self.writes.get_or_init(RwLock::default)).count(slot);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_changes_the_count_of_its_slot_and_too_many_change_all() {
        let state = CredentialState::new();
        assert_eq!(state.writes(7), 0);
        state.count_write(7);
        assert_eq!((state.writes(7), state.writes(8)), (1, 0));
        let most = u16::try_from(MOST_WRITTEN).expect("small");
        for slot in 0..most {
            state.count_write(slot);
        }
        assert_eq!((state.writes(7), state.writes(most)), (2, 0));
        state.count_write(most);
        for (slot, before) in [(7, 2), (8, 1), (most, 0), (most + 1, 0)] {
            assert_ne!(state.writes(slot), before, "{slot}");
        }
    }
}
