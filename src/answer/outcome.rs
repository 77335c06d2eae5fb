//! How a request was answered: one closed list, one spelling for metrics, logs and `cache-status`.

/// How a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From memory, fresh.
    Hit,
    /// By another client's poll that was under way.
    Shared,
    /// By a poll of its own.
    Fetched,
    /// With the last known state, because upstream is failing.
    Stale,
    /// Passed on, unread.
    Forwarded,
    /// Refused here.
    Shed,
    /// Not answered with what was asked for.
    Failed,
}

impl Outcome {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 7] = [
        Self::Hit,
        Self::Shared,
        Self::Fetched,
        Self::Stale,
        Self::Forwarded,
        Self::Shed,
        Self::Failed,
    ];

    /// The one spelling.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Shared => "shared",
            Self::Fetched => "fetched",
            Self::Stale => "stale",
            Self::Forwarded => "forwarded",
            Self::Shed => "shed",
            Self::Failed => "failed",
        }
    }

    /// Whether it is only the last known state.
    #[must_use]
    pub const fn is_stale(self) -> bool {
        matches!(self, Self::Stale)
    }
}
