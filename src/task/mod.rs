//! Task documents and their dialects: what upstream answers is read into one snapshot, and written from it.
//!
//! Upstream answers the same question in many shapes: the documented wrapper, a task row, a bare
//! task, an OpenAI video object, each on either path and each with a vendor's document inside it.
//! [`TaskSnapshot::read`] takes any of them, and [`TaskSnapshot::render`] answers in the dialect
//! that the client speaks. [`Fault`] and [`render_error`] do the same for errors.
//!
//! Everything here is pure: no clock, no I/O, no HTTP types. Work and memory grow with the size of
//! the body, which the caller bounds, and with nothing else: only a constant number of levels is
//! ever opened, and what lies deeper is passed on unread.
//!
//! | file | holds |
//! |---|---|
//! | `snapshot` | one task's state and fields |
//! | `status` | the four states and the words for them |
//! | `reader` | the table of where each field is read from |
//! | `document` | which part of a body is the task, and which the vendor's |
//! | `values` | what counts as a time, a percentage, a length, a size, a format |
//! | `link`, `expiry` | what counts as a URL, and when its signature runs out |
//! | `unified`, `openai` | one writer per dialect |
//! | `metadata` | what of `metadata` is passed on |
//! | `fault` | error documents |
//! | `json`, `writer` | JSON in the spelling it came in |

mod document;
mod expiry;
mod fault;
mod json;
mod link;
mod metadata;
mod openai;
mod reader;
mod snapshot;
mod status;
mod unified;
mod values;
mod writer;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod properties;

pub use expiry::url_expiry;
pub use fault::{Fault, is_task_not_exist, render_error};
pub use snapshot::{NotATask, TaskSnapshot, convert};
pub use status::State;

/// The language that a path speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// The wrapper `{"code","message","data"}` of `/v1/video/generations/{task_id}`.
    Unified,
    /// The video object of `/v1/videos/{task_id}`.
    OpenAi,
}

impl Dialect {
    /// The one of the other path.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Unified => Self::OpenAi,
            Self::OpenAi => Self::Unified,
        }
    }

    /// The word for it in configuration, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unified => "unified",
            Self::OpenAi => "openai",
        }
    }
}

/// How much of upstream's own spelling a client gets to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rendering {
    /// Upstream's bytes where they already are what was asked for, else as [`Rendering::Documented`].
    Faithful,
    /// Always written anew, in the documented shape.
    Documented,
}
