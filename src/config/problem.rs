//! What is wrong with a configuration, in words that help.

use std::fmt;

/// Why a configuration cannot be used: where, which key, what was found and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for Problem {}

impl Problem {
    pub(super) fn new(told: String) -> Self {
        Self(told)
    }

    pub(super) fn unwritable(error: &toml::ser::Error) -> Self {
        Self(format!(
            "the configuration cannot be written as TOML: {error}"
        ))
    }
}
