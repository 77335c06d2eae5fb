//! Task documents and their dialects: what upstream answers is read into one snapshot, and written anew where it has to be.
//!
//! Upstream answers the same question in many shapes: the documented wrapper, a task row, a bare task, an OpenAI video
//! object, each on either path and each with a vendor's document inside it. [`TaskSnapshot::read`] takes any of them, and
//! [`write_task`] answers in the dialect that the client speaks. [`ErrorDocument`] and [`render_error`] do the same for
//! errors.
//!
//! Everything here is pure: no clock, no I/O, no HTTP types. Work and memory grow with the size of the body, which the
//! caller bounds, and with nothing else: only a constant number of levels is ever opened, and what lies deeper is passed
//! on unread.
//!
//! | file | holds |
//! |---|---|
//! | `dialect`, `status` | the two dialects and the renderings; the four states and the words for them |
//! | `json` | JSON in its raw spelling |
//! | `values`, `url`, `signed_url` | what counts as a time, a length, a URL, and when its signature expires |
//! | `document` | which part of a body is the task, and which the vendor's |
//! | `fields` | the table of where each field is read from |
//! | `writer`, `passed_on` | JSON, member by member; which members of a source are passed on as they are |
//! | `openai`, `unified` | one writer per dialect |
//! | `pointer`, `reader` | JSON pointers; how the documents of a route are read by them |
//! | `snapshot` | what is known of one task |
//! | `created` | what the answer to a create tells |
//! | `error_document` | error documents |
//!
//! Each line imports only from those above it.

mod created;
mod dialect;
mod document;
mod error_document;
mod fields;
mod json;
mod openai;
mod passed_on;
mod pointer;
mod reader;
mod scan;
mod signed_url;
mod snapshot;
mod status;
mod unified;
mod url;
mod values;
mod writer;

#[cfg(test)]
mod cases;
#[cfg(test)]
mod properties;

pub use created::{CreatedTask, named_task};
pub use dialect::{Dialect, ErrorForm, Form, Rendering};
pub use document::{NotATask, Source, without_byte_order_mark};
pub use error_document::{ErrorDocument, is_missing_as_is, is_task_not_exist, render_error};
pub use passed_on::NEVER_WRITTEN;
pub use pointer::Pointer;
pub use reader::{Reader, Reading, is_same_word, texts_at};
pub use signed_url::url_expiry;
pub use snapshot::{SPARE, TaskSnapshot, write_task};
pub use status::State;
