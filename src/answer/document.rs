//! The bytes of a reply, and, where it is remembered, of the id it was asked for under: in one piece, so that a hit finds
//! both in one place.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use crate::request::route::TaskId;

/// Up to this size a document is copied for a client. That is cheaper than the count of those who share it, which is
/// an allocation of its own, and in memory for as long as the document.
const COPIED: usize = 4096;

/// Upstream's bytes, as a slice.
#[derive(Clone)]
pub struct Document {
    /// The body, then the id.
    bytes: Bytes,
    /// Of the body alone.
    len: usize,
}

impl Document {
    /// Its bytes, for a client.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        if self.len <= COPIED {
            Bytes::copy_from_slice(self)
        } else {
            self.bytes.slice(..self.len)
        }
    }

    /// The id that it was [`labelled`](Self::labelled) with, as it stands in the path; empty where there is none.
    #[must_use]
    pub fn task(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.len..]).unwrap_or_default()
    }

    /// Whether that is the id.
    pub(crate) fn is_of(&self, task: &TaskId) -> bool {
        self.bytes[self.len..] == *task.as_str().as_bytes()
    }

    /// A copy that takes no more room than it must, and knows what it was asked for under.
    #[must_use]
    pub(super) fn labelled(&self, task: &TaskId) -> Self {
        Self {
            bytes: [&**self, task.as_str().as_bytes()].concat().into(),
            len: self.len,
        }
    }

    /// The memory it takes beside itself, in bytes.
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
