//! What the members of a fleet tell one another through the journal: what must not be lost, or is worth knowing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::engine::{EngineTime, Member, Sealed};
use super::seal::Secret;
use crate::request::key::Caller;
use crate::route::TaskId;

/// An entry of the journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Told {
    /// Who told it: a member does not listen to itself.
    pub(super) by: u64,
    /// When, in microseconds on the engine's clock; for a forget, when it was done.
    pub(super) at: u64,
    pub(super) item: Item,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Item {
    /// What is known of a task is out of date.
    Forget { task: String },
    /// The same, for one caller.
    ForgetOf { task: String, caller: [u8; 16] },
    /// Everything is.
    ForgetAll,
    /// Upstream refused a caller's credential.
    Refused { caller: [u8; 16] },
    /// Upstream asked a caller for a pause, by name.
    Paused { caller: [u8; 16], until: u64 },
    /// Upstream answers that caller again.
    Resumed { caller: [u8; 16] },
    /// Upstream fails from there, or asked that address for a pause. Hearsay: another way may work.
    Trouble,
    /// A task of this model was seen running at one age, and next ended at another, in milliseconds.
    Ended { model: String, from: u64, to: u64 },
    /// Something that a later version tells.
    #[serde(other)]
    Unknown,
}

impl Told {
    pub(super) fn new(by: Member, at: EngineTime, item: Item) -> Self {
        Self {
            by: by.0,
            at: at.0,
            item,
        }
    }

    pub(super) fn seal(&self, secret: &Secret) -> Sealed {
        secret.seal_news(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// Opens an entry; `None` where it is not readable here.
    pub(super) fn open(secret: &Secret, sealed: &Sealed) -> Option<Self> {
        serde_json::from_slice(&secret.open_news(sealed).ok()?).ok()
    }
}

/// What is forgotten, everywhere in a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Forget {
    /// A task, for every caller: upstream accepted a write to it, or an operator says so.
    Task(TaskId),
    /// A task, for one caller: it writes to it.
    TaskOf(TaskId, Caller),
    /// Everything, since an operator says so.
    All,
    /// Everything of a caller: upstream refused its credential.
    Caller(Caller),
}

impl Forget {
    pub(super) fn item(&self) -> Item {
        match self {
            Self::Task(task) => Item::Forget {
                task: task.as_str().into(),
            },
            Self::TaskOf(task, caller) => Item::ForgetOf {
                task: task.as_str().into(),
                caller: *caller.as_bytes(),
            },
            Self::All => Item::ForgetAll,
            Self::Caller(caller) => Item::Refused {
                caller: *caller.as_bytes(),
            },
        }
    }
}

/// How long after it was told hearsay still counts.
pub(super) const HEARSAY: Duration = Duration::from_secs(10);
