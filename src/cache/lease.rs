//! What a poll holds from its start to its end, so that it is known then whether its answer may still be kept.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::credential::CredentialState;

/// What a poll must find unchanged when it lands, or its answer is not remembered.
#[derive(Debug, Clone)]
pub struct Lease {
    pub(super) epoch: u32,
    pub(super) credential: Arc<CredentialState>,
}

impl PartialEq for Lease {
    fn eq(&self, other: &Self) -> bool {
        self.epoch == other.epoch && Arc::ptr_eq(&self.credential, &other.credential)
    }
}

impl Eq for Lease {}

impl Hash for Lease {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.epoch.hash(to);
    }
}
