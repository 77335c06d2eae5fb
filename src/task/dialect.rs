//! The two dialects that documents are written in, and how faithfully.

/// The form of the documents on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// The wrapper `{"code","message","data"}` of `/v1/video/generations/{task_id}`.
    Unified,
    /// The video object of `/v1/videos/{task_id}`.
    OpenAi,
}

impl Dialect {
    /// The dialect of the other path.
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

/// How much of upstream's own spelling a client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rendering {
    /// Upstream's bytes where they already are what was asked for. Otherwise what is wrong is mended, and members that
    /// have no meaning here stay.
    Faithful,
    /// Always written anew, with the documented members alone.
    Documented,
    /// Upstream's bytes and status as they are.
    Verbatim,
}

impl Rendering {
    /// Whether a task's source passes untouched to a client of `asked`, where it already is what could be asked for in
    /// `native`.
    #[must_use]
    pub fn passes(self, native: Option<Dialect>, asked: Dialect) -> bool {
        match self {
            Self::Faithful => native == Some(asked),
            Self::Documented => false,
            Self::Verbatim => true,
        }
    }
}
