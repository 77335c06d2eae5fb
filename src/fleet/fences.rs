//! Under which fence the answers in the store are known to the fleet.

use std::sync::Mutex;

use ahash::HashMap;

use super::engine::{EntryKey, Fence};
use crate::sync::lock;

/// How many are remembered; beyond it all are forgotten, which costs a known answer on the way for each.
const MOST: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Fences(Mutex<HashMap<EntryKey, Fence>>);

impl Fences {
    pub(super) fn get(&self, key: &EntryKey) -> Fence {
        lock(&self.0).get(key).copied().unwrap_or_default()
    }

    pub(super) fn raise(&self, key: &EntryKey, fence: Fence) {
        let fences = &mut *lock(&self.0);
        if fences.len() >= MOST && !fences.contains_key(key) {
            fences.clear();
        }
        let known = fences.entry(*key).or_default();
        *known = fence.max(*known);
    }
}
