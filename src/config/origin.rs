//! Where a setting came from: the default, a line of a file, a name in the environment, or a flag.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Where one setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A line of a configuration file, counted from 1.
    File {
        /// As it was named.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A variable, by its name.
    Environment(String),
    /// A flag, with its dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(to, "{}:{line}", path.display()),
            Self::Environment(name) => write!(to, "environment {name}"),
            Self::Flag(name) => write!(to, "flag {name}"),
        }
    }
}

/// The origin of every setting that is not the default, by its dotted key.
pub(super) type Origins = BTreeMap<String, Origin>;

/// The name of a key in the environment: `cache.succeeded_ttl` is `POLLGATE_CACHE__SUCCEEDED_TTL`.
pub(super) fn environment_name(key: &str) -> String {
    format!("POLLGATE_{}", key.replace('.', "__").to_ascii_uppercase())
}
