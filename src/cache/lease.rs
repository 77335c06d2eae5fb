//! What a poll holds from its start to its end, so that it is known then whether its answer may still be kept.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use http::HeaderMap;

use super::credential::CredentialState;
use crate::answer::reply::Headers;

/// What a poll must find unchanged when it lands, or its answer is not remembered.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Counts the writes to the task that upstream accepted.
    pub(super) epoch: u32,
    /// Counts the caller's own writes.
    pub(super) writes: u32,
    pub(super) credential: Arc<CredentialState>,
}

impl PartialEq for Lease {
    fn eq(&self, other: &Self) -> bool {
        self.epoch == other.epoch
            && self.writes == other.writes
            && Arc::ptr_eq(&self.credential, &other.credential)
    }
}

impl Eq for Lease {}

impl Hash for Lease {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.epoch.hash(to);
    }
}

impl Lease {
    /// The headers of an error that may not be upstream's own, with those by which upstream lets pages of other origins
    /// read this caller's answers.
    #[must_use]
    pub fn with_cors(&self, headers: Headers) -> Headers {
        let Some(cors) = self.credential.cors() else {
            return headers;
        };
        let mut all = headers.map_or_else(HeaderMap::new, |headers| (*headers).clone());
        for (name, value) in &*cors {
            all.entry(name).or_insert_with(|| value.clone());
        }
        Some(Arc::new(all))
    }
}
