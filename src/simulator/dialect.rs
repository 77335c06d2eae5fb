//! The two status paths.

/// One of the two status paths, and the family of documents that belongs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `/v1/video/generations/{id}`.
    Unified,
    /// `/v1/videos/{id}`.
    Openai,
}
