//! The origin of a setting: a line of a file, an environment variable, or a flag.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The origin of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// A line of a configuration file.
    File {
        /// The path as given.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A flag, including its dashes.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// The origin of each setting that is not a default, by dotted key.
pub(super) type Origins = BTreeMap<String, Origin>;

/// The environment variable of a key: `POLLGATE_CACHE__SUCCEEDED_TTL` for `cache.succeeded_ttl`.
pub(super) fn environment_name(key: &str) -> String {
    format!("POLLGATE_{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The short names of the environment, for the keys that have a flag.
pub(super) const SHORT_NAMES: [(&str, &str); 3] = [
    ("POLLGATE_ADMIN", "listen.admin"),
    ("POLLGATE_LISTEN", "listen.address"),
    ("POLLGATE_UPSTREAM", "upstream.url"),
];

/// Names the configuration file.
pub(super) const FILE_NAME: &str = "POLLGATE_CONFIG";
