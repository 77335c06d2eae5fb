//! What goes out: upstream's reply, the answer that a client is given, and the response that tells it.

pub mod document;
pub mod etag;
pub mod events;
pub mod handled;
pub mod outcome;
pub mod reply;
pub mod respond;

use tokio::time::Instant;

use self::outcome::Outcome;
use self::reply::{Headers, SharedReply};

/// What a client is told, and how it came about.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What upstream said.
    pub reply: SharedReply,
    /// Its headers that may leave with the answer; none where it is from memory.
    pub headers: Headers,
    /// How the answer came about.
    pub outcome: Outcome,
    /// Why upstream was asked; `None` where it was not.
    pub asked: Option<FwdReason>,
    /// When upstream said so.
    pub received: Instant,
    /// Until when it is served without asking again.
    pub fresh_until: Instant,
    /// Whether it is remembered.
    pub stored: bool,
}

/// Why upstream was asked (RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FwdReason {
    /// Nothing was remembered.
    Miss,
    /// What was remembered was no longer fresh.
    Stale,
    /// The client demanded it.
    Request,
}

impl FwdReason {
    /// The word of RFC 9211.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Request => "request",
        }
    }
}
