//! What passes between `Status` and the layers below it on the way in: a client's question about a task, as plain
//! values.

use std::sync::Arc;

use http::HeaderValue;
use tokio::time::Instant;

use super::key::{Credentials, TaskKey};
use super::preferences::CacheMode;
use crate::task::{Dialect, Rendering};

/// A client's question about a task.
#[derive(Debug, Clone)]
pub struct TaskQuery {
    /// The caller and the task; its dialect is the one upstream is asked in.
    pub key: TaskKey,
    /// The parts of the client's request that are sent upstream.
    pub credentials: Credentials,
    /// What the client accepts.
    pub cache_mode: CacheMode,
    /// When the request arrived.
    pub at: Instant,
    /// When the client is to be answered at the latest.
    pub deadline: Instant,
    /// What the client's long poll waits for, if it is one.
    pub wait: Option<Wait>,
}

/// What a long poll waits for: an answer that differs from the one the client has, or the end of the task.
#[derive(Debug, Clone)]
pub struct Wait {
    /// The validators of the answer it has.
    pub known: Option<HeaderValue>,
    /// When it returns whatever there is.
    pub until: Instant,
    /// The path it requested.
    pub dialect: Dialect,
    /// How documents are written for it.
    pub rendering: Rendering,
}

/// The question for upstream.
#[derive(Debug, Clone)]
pub struct TaskFetch {
    /// The question of the client that started the flight.
    pub query: Arc<TaskQuery>,
    /// When the task was first seen, in Unix seconds.
    pub first_seen: i64,
    /// The deadline for all attempts together.
    pub deadline: Instant,
}
