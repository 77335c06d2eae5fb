//! How upstream last judged a caller's credential.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderMap;

use crate::answer::reply::{CORS, Headers};

/// How upstream last judged a caller.
#[derive(Debug)]
pub(super) struct CredentialState {
    /// When upstream last accepted the credential, in milliseconds since the store's start; or one of those below.
    pub(super) accepted: AtomicU64,
    /// Counts the caller's own writes: polls that were in progress meanwhile are not remembered.
    pub(super) writes: AtomicU32,
    /// The headers by which upstream last let pages of other origins read the caller's answers.
    cors: ArcSwapOption<HeaderMap>,
    /// Whether there are any: hits of other callers do not touch `cors`.
    has_cors: AtomicBool,
}

impl CredentialState {
    /// Upstream has not judged the caller yet.
    pub(super) const UNKNOWN: u64 = u64::MAX;
    /// What was remembered under it is not shown again: upstream refused the caller, or too many others came.
    pub(super) const REVOKED: u64 = u64::MAX - 1;

    pub(super) fn new() -> Arc<Self> {
        let accepted = AtomicU64::new(Self::UNKNOWN);
        Arc::new(Self {
            accepted,
            writes: AtomicU32::new(0),
            cors: ArcSwapOption::empty(),
            has_cors: AtomicBool::new(false),
        })
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
