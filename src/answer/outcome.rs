//! How a request was answered: a closed list, with one spelling for metrics and logs.

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From the cache, fresh.
    Hit,
    /// By a flight that another client had started.
    Shared,
    /// By an upstream request of its own.
    Fetched,
    /// By another sidecar of the fleet: its poll, or what the fleet remembers.
    Fleet,
    /// With the last known state, since upstream is failing.
    Stale,
    /// Forwarded, unread.
    Forwarded,
    /// Rejected by pollgate.
    Shed,
    /// With an error instead of what was requested.
    Failed,
}

impl Outcome {
    /// All outcomes, in order of declaration.
    pub const ALL: [Self; 8] = [
        Self::Hit,
        Self::Shared,
        Self::Fetched,
        Self::Fleet,
        Self::Stale,
        Self::Forwarded,
        Self::Shed,
        Self::Failed,
    ];

    /// The spelling in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Shared => "shared",
            Self::Fetched => "fetched",
            Self::Fleet => "fleet",
            Self::Stale => "stale",
            Self::Forwarded => "forwarded",
            Self::Shed => "shed",
            Self::Failed => "failed",
        }
    }

    /// Whether the answer is only the last known state.
    #[must_use]
    pub const fn is_stale(self) -> bool {
        matches!(self, Self::Stale)
    }
}
