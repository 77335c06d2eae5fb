//! The lease of a poll: taken when it starts, and compared when it ends, to decide whether its answer may still be stored
//! (the lease of memcached; Nishtala et al. 2013, §3.2.1).

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use http::HeaderMap;

use super::credential::CredentialState;
use crate::answer::reply::Headers;

/// What must be unchanged when a flight lands, or its answer is not stored.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The slot of the task.
    pub(super) slot: u16,
    /// Counts the writes to its tasks: those that upstream accepted, and the caller's own.
    pub(super) writes: u32,
    pub(super) credential: Arc<CredentialState>,
}

impl PartialEq for Lease {
    fn eq(&self, other: &Self) -> bool {
        self.slot == other.slot
            && self.writes == other.writes
            && Arc::ptr_eq(&self.credential, &other.credential)
    }
}

impl Eq for Lease {}

impl Hash for Lease {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.writes.hash(to);
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
