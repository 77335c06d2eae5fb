//! Why nothing can be served.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::gateway::Problem;

/// Why nothing can be served.
#[derive(Debug)]
pub enum StartProblem {
    /// What the configuration names cannot be used.
    Configuration(Problem),
    /// A port cannot be bound.
    Bind {
        /// The key that names it.
        key: &'static str,
        /// Where it would have been.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// A socket that was passed in cannot be used.
    Passed(String),
}

impl fmt::Display for StartProblem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(problem) => problem.fmt(to),
            Self::Bind {
                key,
                address,
                error,
            } => write!(to, "{key}: cannot listen on {address}: {error}"),
            Self::Passed(problem) => to.write_str(problem),
        }
    }
}

impl std::error::Error for StartProblem {}
