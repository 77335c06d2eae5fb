//! The dialects that documents are converted into, how faithfully, and the forms of errors.

/// The form of the documents on a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// The wrapper `{"code","message","data"}` of `/v1/video/generations/{task_id}`.
    Unified,
    /// The video object of `/v1/videos/{task_id}`.
    OpenAi,
}

impl Dialect {
    /// Every dialect.
    pub const ALL: [Self; 2] = [Self::Unified, Self::OpenAi];

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

/// The form in which a client gets the documents of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// In a dialect, converted where upstream answered in another.
    Written(Dialect, Rendering),
    /// As they come: bytes and status are upstream's.
    AsIs,
}

/// The form of an error document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorForm {
    /// new-api's: `{"code","message","data":null}`.
    NewApi,
    /// OpenAI's: `{"error":{"message","type","param","code"}}`.
    OpenAi,
    /// Midjourney's, as new-api has it: `{"code":4,"description","type"}`.
    Midjourney,
}

impl ErrorForm {
    /// The form of errors among documents of a dialect.
    #[must_use]
    pub const fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Unified => Self::NewApi,
            Dialect::OpenAi => Self::OpenAi,
        }
    }
}
