//! The body of a reply and, once it is stored, the task's id: in one allocation, so that a hit touches no other.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use crate::route::{TaskId, id_of};

/// Documents up to this size are copied for each client. A copy is cheaper than a reference count, which is an allocation
/// of its own that lives as long as the document.
const COPIED: usize = 4096;

/// Upstream's bytes, as a slice.
#[derive(Clone)]
pub struct Document {
    /// The body, then the label.
    bytes: Bytes,
    /// Of the body alone.
    len: usize,
}

impl Document {
    /// The body, for a client.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        if self.len <= COPIED {
            Bytes::copy_from_slice(self)
        } else {
            self.bytes.slice(..self.len)
        }
    }

    /// The task that it was [`labelled`](Self::labelled) with, [whole](TaskId::whole); empty if it was not.
    #[must_use]
    pub fn label(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.len..]).unwrap_or_default()
    }

    /// The raw id of that task.
    #[must_use]
    pub fn task(&self) -> &str {
        id_of(self.label())
    }

    /// Whether it is labelled with this task.
    pub(crate) fn is_of(&self, task: &TaskId) -> bool {
        self.bytes[self.len..] == *task.whole().as_bytes()
    }

    /// A copy in an allocation of just its size, labelled with the task.
    #[must_use]
    pub(super) fn labelled(&self, task: &TaskId) -> Self {
        Self {
            bytes: [&**self, task.whole().as_bytes()].concat().into(),
            len: self.len,
        }
    }

    /// The memory that it refers to, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.bytes.len()
    }
}

impl From<Bytes> for Document {
    fn from(bytes: Bytes) -> Self {
        let len = bytes.len();
        Self { bytes, len }
    }
}

impl Deref for Document {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} bytes", self.len)
    }
}
