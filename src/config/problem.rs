//! Configuration errors.

use std::fmt;

/// Why a configuration is refused: location, key, what it got and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
