//! How upstream last judged a caller's credential.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How upstream last judged a caller.
#[derive(Debug)]
pub(super) struct CredentialState {
    /// When upstream last accepted the credential, in milliseconds since the store's start; or one of those below.
    pub(super) accepted: AtomicU64,
}

impl CredentialState {
    /// Upstream has not judged the caller yet.
    pub(super) const UNKNOWN: u64 = u64::MAX;
    /// What was remembered under it is not shown again: upstream refused the caller, or too many others came.
    pub(super) const REVOKED: u64 = u64::MAX - 1;

    pub(super) fn new() -> Arc<Self> {
        let accepted = AtomicU64::new(Self::UNKNOWN);
        Arc::new(Self { accepted })
    }

    pub(super) fn revoke(&self) {
        self.accepted.store(Self::REVOKED, Ordering::Release);
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
