//! The leads that run in this process. A lead goes on when all its clients have hung up: those who come next wait for it,
//! instead of asking upstream beside it.

use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};

use ahash::HashMap;
use tokio::sync::watch;

use crate::answer::Landed;
use crate::cache::Lease;
use crate::error::Error;
use crate::fleet::engine::{EntryKey, Fence};
use crate::sync::lock;

/// How a lead ended for those who wait in this process.
#[derive(Debug, Clone)]
pub(super) enum Flown {
    /// With this.
    Landed(Result<Landed, Error>),
    /// Upstream failed here; others may fare better.
    Failed(Result<Landed, Error>),
}

/// Which lead it is. One that was begun before a write to the task is another than one that was begun after it.
pub(super) type LeadKey = (EntryKey, Fence, Lease);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Leads(Mutex<HashMap<LeadKey, watch::Receiver<Option<Flown>>>>);

/// What a lead tells its outcome through, once. Dropped before, it tells that it panicked.
pub(super) struct Telling {
    /// Where it is found until it has told.
    found: Option<(Arc<Leads>, LeadKey)>,
    tell: watch::Sender<Option<Flown>>,
}

/// Waits for the outcome of a lead.
pub(super) struct Told(watch::Receiver<Option<Flown>>);

impl Leads {
    /// The outcome of this lead, and what a lead that is to begin tells it through; `None` where it runs already. Without a
    /// key it is found by nobody.
    pub(super) fn begin(self: &Arc<Self>, key: Option<LeadKey>) -> (Option<Telling>, Told) {
        let (tell, told) = watch::channel(None);
        if let Some(key) = &key {
            match lock(&self.0).entry(key.clone()) {
                Entry::Occupied(running) => return (None, Told(running.get().clone())),
                Entry::Vacant(place) => drop(place.insert(told.clone())),
            }
        }
        let found = key.map(|key| (Arc::clone(self), key));
        (Some(Telling { found, tell }), Told(told))
    }
}

impl Telling {
    pub(super) fn tell(mut self, flown: Flown) {
        // Who comes from now on asks anew, or finds it in memory.
        self.leave();
        self.tell.send_replace(Some(flown));
    }

    fn leave(&mut self) {
        if let Some((leads, key)) = self.found.take() {
            lock(&leads.0).remove(&key);
        }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Told {
    pub(super) async fn wait(mut self) -> Flown {
        let flown = self.0.wait_for(Option::is_some).await;
        let flown = flown.ok().and_then(|flown| flown.clone());
        flown.unwrap_or(Flown::Landed(Err(Error::Panicked)))
    }
}
