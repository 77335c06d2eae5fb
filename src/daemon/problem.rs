//! Errors at the start.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::gateway::Problem;

/// Why the gateway cannot start.
#[derive(Debug)]
pub(crate) enum StartProblem {
    /// A file that the configuration names cannot be used.
    Configuration(Problem),
    /// A port cannot be bound.
    Bind {
        /// The configuration key of the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// A passed socket cannot be used.
    Passed(String),
}

impl fmt::Display for StartProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(problem) => problem.fmt(f),
            Self::Bind {
                key,
                address,
                error,
            } => write!(f, "{key}: cannot listen on {address}: {error}"),
            Self::Passed(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for StartProblem {}
