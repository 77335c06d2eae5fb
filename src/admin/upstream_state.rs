//! How upstream is doing, in the words of the page. The only file of the admin listener that reads the circuit breaker.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::gateway::Gateway;
use crate::upstream::breakers::CircuitStatus;

/// How upstream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum State {
    /// No poll has been sent yet.
    #[default]
    Unknown,
    /// Polls are answered.
    Up,
    /// Many polls fail, but not all.
    Failing,
    /// It asked all callers to pause.
    Paused,
    /// It failed when it was last polled, some time ago.
    Stale,
    /// The circuit is open: only probes are sent.
    Down,
}

/// The state of upstream, and what is known of it.
#[derive(Debug, Clone)]
pub(super) struct UpstreamState {
    pub state: State,
    /// When the state began, if the circuit breaker knows.
    pub since: Option<Instant>,
    /// Why, if the circuit breaker knows.
    pub reason: Option<Arc<str>>,
    /// How long until the next poll is allowed, while most are not.
    pub probe_in: Duration,
    /// The share of the last seconds' polls that failed; zero if only one did.
    pub failures: f64,
}

impl State {
    /// The word for the header and the title.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "not polled yet",
            Self::Up => "up",
            Self::Failing | Self::Stale => "failing",
            Self::Paused => "paused",
            Self::Down => "down",
        }
    }

    /// The name of its sign in the style sheet.
    pub(super) const fn sign(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "fine",
            Self::Failing | Self::Stale => "trouble",
            Self::Paused => "held",
            Self::Down => "down",
        }
    }

    /// Its sign, for the title of a tab.
    pub(super) const fn symbol(self) -> &'static str {
        match self {
            Self::Unknown => "○",
            Self::Up => "●",
            Self::Failing | Self::Stale => "◆",
            Self::Paused => "❚❚",
            Self::Down => "▲",
        }
    }

    /// Its number in the chart of the last hour.
    pub(super) const fn number(self) -> f64 {
        match self {
            Self::Unknown => 0.0,
            Self::Up => 1.0,
            Self::Failing => 2.0,
            Self::Paused => 3.0,
            Self::Stale | Self::Down => 4.0,
        }
    }
}

impl UpstreamState {
    /// Reads the circuit of all callers. A closed one reads as [`State::Up`]: whether upstream is failing depends on the
    /// share of polls that fail, too.
    pub(super) fn read(gateway: &Gateway, now: Instant) -> Self {
        let up = Self {
            state: State::Up,
            since: None,
            reason: None,
            probe_in: Duration::ZERO,
            failures: 0.0,
        };
        match gateway.polls().breakers.status(now) {
            CircuitStatus::Closed { failed, passed } => Self {
                failures: if failed > 1 {
                    f64::from(failed) / f64::from(failed + passed)
                } else {
                    0.0
                },
                ..up
            },
            CircuitStatus::Open {
                since,
                reason,
                probe_in,
            } => Self {
                state: State::Down,
                since: Some(since),
                reason: Some(reason),
                probe_in,
                ..up
            },
            CircuitStatus::Paused { since, probe_in } => Self {
                state: State::Paused,
                since: Some(since),
                probe_in,
                ..up
            },
            CircuitStatus::Stale => Self {
                state: State::Stale,
                ..up
            },
        }
    }
}
