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

/// The answer to one client's query, as plain values.
#[derive(Debug, Clone)]
pub struct Answer {
    /// What upstream said.
    pub reply: SharedReply,
    /// Upstream's headers that may leave with the answer; none where it comes from memory.
    pub headers: Headers,
    /// How the answer came about.
    pub outcome: Outcome,
    /// Why upstream was asked; `None` where it was not.
    pub fwd: Option<FwdReason>,
    /// When upstream said so.
    pub received: Instant,
    /// Until when it is served without asking again.
    pub fresh_until: Instant,
    /// Whether it was stored just now.
    pub stored: bool,
}

/// The result of a flight, the same for its leader and its followers.
#[derive(Debug, Clone)]
pub struct Landed {
    /// What upstream said.
    pub reply: SharedReply,
    /// Upstream's headers that may leave with the answer.
    pub headers: Headers,
    /// When upstream said so.
    pub received: Instant,
    /// Until when it is served without asking again.
    pub fresh_until: Instant,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where the result of a flight comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Memory: another flight had landed between the miss and the start of this one.
    Memory,
    /// Upstream, and whether it was stored.
    Upstream {
        /// Whether it was stored.
        stored: bool,
    },
    /// Another sidecar of the fleet.
    Fleet {
        /// Whether it was asking upstream, and this answer was waited for; else it was remembered.
        waited: bool,
    },
}

impl Landed {
    /// The answer for a client whose query went upstream for this reason. `own` is the outcome where upstream was
    /// asked: fetched for the leader, shared for followers.
    #[must_use]
    pub fn answer(self, reason: FwdReason, own: Outcome) -> Answer {
        let (outcome, fwd, stored) = match self.origin {
            Origin::Memory if own == Outcome::Fetched => (Outcome::Hit, None, false),
            Origin::Memory => (own, None, false),
            Origin::Upstream { stored } => (own, Some(reason), stored),
            Origin::Fleet { waited } => (Outcome::Fleet, waited.then_some(reason), false),
        };
        Answer {
            reply: self.reply,
            headers: self.headers,
            outcome,
            fwd,
            received: self.received,
            fresh_until: self.fresh_until,
            stored,
        }
    }
}

impl Landed {
    /// The answer where it is given again without asking upstream.
    #[must_use]
    pub fn remembered(self) -> Answer {
        Answer {
            reply: self.reply,
            headers: self.headers,
            outcome: Outcome::Hit,
            fwd: None,
            received: self.received,
            fresh_until: self.fresh_until,
            stored: false,
        }
    }
}

/// Why a query went upstream: the `fwd` parameter of `cache-status` (RFC 9211 §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FwdReason {
    /// Nothing was stored.
    Miss,
    /// What was stored was no longer fresh.
    Stale,
    /// The client's `cache-control` demanded it.
    Request,
}

impl FwdReason {
    /// The token of RFC 9211.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::Stale => "stale",
            Self::Request => "request",
        }
    }
}
