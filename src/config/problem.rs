//! Configuration errors.

use std::fmt;

/// Why a configuration is refused: every mistake in it, each with its location, what it got and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(Vec<String>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Problem {}

impl Problem {
    pub(super) fn new(mistakes: Vec<String>) -> Self {
        Self(mistakes)
    }

    /// Each mistake by itself.
    #[must_use]
    pub fn mistakes(&self) -> &[String] {
        &self.0
    }

    pub(super) fn unwritable(error: &toml::ser::Error) -> Self {
        Self(vec![format!(
            "the configuration cannot be written as TOML: {error}"
        )])
    }
}
