//! How upstream last judged a caller's credential.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How upstream last judged a caller.
#[derive(Debug)]
pub(super) struct Standing {
    /// When upstream last accepted the credential, in milliseconds since the store's start; or one of those below.
    pub(super) accepted: AtomicU64,
}

impl Standing {
    /// Upstream has not judged the caller yet.
    pub(super) const UNKNOWN: u64 = u64::MAX;
    /// What was remembered under it is not shown again: upstream refused the caller, or too many others came.
    pub(super) const OVER: u64 = u64::MAX - 1;

    pub(super) fn new() -> Arc<Self> {
        let accepted = AtomicU64::new(Self::UNKNOWN);
        Arc::new(Self { accepted })
    }

    pub(super) fn end(&self) {
        self.accepted.store(Self::OVER, Ordering::Release);
    }

    pub(super) fn is_over(&self) -> bool {
        self.accepted.load(Ordering::Acquire) == Self::OVER
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
