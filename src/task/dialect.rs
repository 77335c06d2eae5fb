//! The two languages that documents are written in, and how faithfully.

/// The language that a path speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// The wrapper `{"code","message","data"}` of `/v1/video/generations/{task_id}`.
    Unified,
    /// The video object of `/v1/videos/{task_id}`.
    OpenAi,
}

impl Dialect {
    /// The one of the other path.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Unified => Self::OpenAi,
            Self::OpenAi => Self::Unified,
        }
    }

    /// The word for it in configuration, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unified => "unified",
            Self::OpenAi => "openai",
        }
    }
}

/// How much of upstream's own spelling a client gets to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rendering {
    /// Upstream's bytes where they already are what was asked for, else as [`Rendering::Documented`].
    Faithful,
    /// Always written anew, in the documented shape.
    Documented,
}
