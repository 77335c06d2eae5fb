//! What is known of one task, read from whatever upstream answered.

use std::fmt;

use bytes::Bytes;

use super::document::{Layers, NotATask, Source, without_byte_order_mark};
use super::fields::Fields;
use super::json::Json;
use super::reader::Reader;
use super::writer::object;
use super::{Dialect, Rendering, State, openai, unified, url_expiry};

/// What is needed of every task, as upstream told of it once. The rest is read from the source once more when a document
/// is written.
///
/// `Debug` shows no id, model or other text of the task.
#[derive(Clone)]
pub struct TaskSnapshot {
    native: Option<Dialect>,
    asked_id: Box<str>,
    state: State,
    is_mixed: bool,
    has_url: bool,
    url_expires_at: Option<i64>,
    progress: u8,
    created_at: i64,
    updated_at: Option<i64>,
    model: Box<str>,
}

impl TaskSnapshot {
    /// Reads a task, in whatever shape it is.
    ///
    /// # Errors
    ///
    /// [`NotATask`] if no task can be found in the body: it must never be shown as one.
    pub fn read(source: &Source<'_>) -> Result<Self, NotATask> {
        let layers = Layers::of(source)?;
        let native = native(&layers, source);
        let task = Fields::find(layers, source)?;
        let url = task.url();
        let signed_until = url.and_then(|(_, url)| url_expiry(url));
        Ok(TaskSnapshot {
            native,
            asked_id: source.asked_id.into(),
            state: task.state,
            is_mixed: false,
            has_url: url.is_some(),
            url_expires_at: [signed_until, task.own_expiry()]
                .into_iter()
                .flatten()
                .min(),
            progress: task.progress(),
            created_at: task.created_at().unwrap_or(source.first_seen),
            updated_at: task.updated_at(),
            model: task
                .model()
                .map(Json::text_or_escapes)
                .unwrap_or_default()
                .into(),
        })
    }

    /// Reads a task, or all that were asked for, by the pointers and words of its route. Its documents are never converted.
    ///
    /// # Errors
    ///
    /// [`NotATask`] if the body says nothing of them.
    pub fn read_by(reader: &Reader, source: &Source<'_>) -> Result<Self, NotATask> {
        let reading = reader.read(source)?;
        Ok(TaskSnapshot {
            native: None,
            asked_id: source.asked_id.into(),
            state: reading.state,
            is_mixed: reading.is_mixed,
            has_url: reading.result.is_some(),
            url_expires_at: reading.expires_at,
            progress: match reading.state {
                State::Succeeded => 100,
                _ => reading.progress.unwrap_or(0),
            },
            created_at: reading.created_at.unwrap_or(source.first_seen),
            updated_at: None,
            model: reading.model.unwrap_or_default().into(),
        })
    }

    /// The dialect in which the source already is what could be asked for, if any. See [`Rendering::passes`].
    #[must_use]
    pub const fn native(&self) -> Option<Dialect> {
        self.native
    }

    /// The id that the client asked for, whatever upstream calls the task.
    #[must_use]
    pub fn asked_id(&self) -> &str {
        &self.asked_id
    }

    /// The task's state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether it is of several tasks, of which some succeeded and some failed.
    #[must_use]
    pub const fn is_mixed(&self) -> bool {
        self.is_mixed
    }

    /// Whether there is a result to fetch; only of a success. One without a URL may still get it.
    #[must_use]
    pub const fn has_url(&self) -> bool {
        self.has_url
    }

    /// When the result can no longer be fetched, in Unix seconds: the earliest time that its URL's signature or the
    /// document itself tells.
    #[must_use]
    pub const fn url_expires_at(&self) -> Option<i64> {
        self.url_expires_at
    }

    /// How far the task is, in whole percent, 0–100.
    #[must_use]
    pub const fn progress(&self) -> u8 {
        self.progress
    }

    /// When the task was created, or else first seen, in Unix seconds.
    #[must_use]
    pub const fn created_at(&self) -> i64 {
        self.created_at
    }

    /// When upstream last changed the task, in Unix seconds, if it says so.
    #[must_use]
    pub const fn updated_at(&self) -> Option<i64> {
        self.updated_at
    }

    /// The model that was asked for; empty if upstream does not say.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }
}

/// The most memory beyond its length that a written document keeps, in bytes.
pub const SPARE: usize = 512;

/// The task that a source tells of, written in `dialect`.
///
/// The documented rendering has the documented members alone. Any other keeps the members of the source that are neither
/// written anew nor private. Where a source may pass untouched is the caller's to ask: [`Rendering::passes`].
///
/// # Errors
///
/// [`NotATask`] if no task can be found in the body.
pub fn write_task(
    source: &Source<'_>,
    dialect: Dialect,
    rendering: Rendering,
) -> Result<Bytes, NotATask> {
    let task = Fields::of(source)?;
    let mut out = Vec::with_capacity(source.body.len() + SPARE);
    object(&mut out, |outer| match dialect {
        Dialect::Unified => unified::write(source, &task, rendering, outer),
        Dialect::OpenAi => openai::write(source, &task, rendering, outer),
    });
    // It is kept as long as the task is.
    if out.capacity() - out.len() > SPARE {
        out.shrink_to_fit();
    }
    Ok(out.into())
}

/// The dialect in which the body already is what could be asked for.
fn native(body: &Layers<'_>, source: &Source<'_>) -> Option<Dialect> {
    if without_byte_order_mark(source.body).len() < source.body.len() {
        None
    } else if unified::is_native(body) {
        Some(Dialect::Unified)
    } else if openai::is_native(body, source.asked_id) {
        Some(Dialect::OpenAi)
    } else {
        None
    }
}

impl fmt::Debug for TaskSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSnapshot")
            .field("state", &self.state)
            .field("progress", &self.progress)
            .field("created_at", &self.created_at)
            .field("has_url", &self.has_url())
            .field("url_expires_at", &self.url_expires_at)
            .field("native", &self.native)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(status: u16, body: &[u8]) -> Source<'_> {
        Source {
            asked_id: "t",
            status,
            body,
            first_seen: 1,
        }
    }

    fn read(body: &str) -> Result<TaskSnapshot, NotATask> {
        TaskSnapshot::read(&source(200, body.as_bytes()))
    }

    #[test]
    fn what_is_no_task_says_why() {
        for (body, why) in [
            ("", NotATask::Empty),
            (" \n", NotATask::Empty),
            ("\u{feff}", NotATask::Empty),
            ("<html></html>", NotATask::Html),
            ("{\"id\":\"t\",\"status\":\"que", NotATask::NotJson),
            ("\u{feff}\u{feff}{}", NotATask::NotJson),
            ("[]", NotATask::NotAnObject),
            ("null", NotATask::NotAnObject),
            (r#"{"code":"success","data":null}"#, NotATask::NoData),
            (r#"{"code":"success","data":[]}"#, NotATask::NoData),
            (
                r#"{"code":500,"data":null,"status":"error"}"#,
                NotATask::NoData,
            ),
            (r#"{"code":"success","data":{}}"#, NotATask::NoStatus),
            (
                r#"{"code":"success","data":{"id":"other"}}"#,
                NotATask::NoStatus,
            ),
            (r#"{"id":"other","status":null}"#, NotATask::NoStatus),
            (r#"{"request_id":"r-1","id":"x"}"#, NotATask::NoStatus),
            (r#"{"error":{"message":"no"}}"#, NotATask::NoStatus),
            (r#"{"status":"ok"}"#, NotATask::NoId),
            (r#"{"status":404,"path":"/t"}"#, NotATask::NoId),
        ] {
            assert_eq!(read(body).unwrap_err(), why, "{body}");
        }
        let broken = TaskSnapshot::read(&source(200, b"{\"id\":\"\xff\"}"));
        assert_eq!(broken.unwrap_err(), NotATask::NotJson);
    }

    #[test]
    fn asked_id_or_a_listed_word_makes_a_task() {
        for (body, state) in [
            (r#"{"id":"t"}"#, State::Processing),
            (r#"{"task_id":"t","status":null}"#, State::Processing),
            (r#"{"video_id":"t","progress":100}"#, State::Processing),
            (
                r#"{"request_id":"t","status":"dreaming"}"#,
                State::Processing,
            ),
            (
                r#"{"code":"success","data":{"task_id":"t"}}"#,
                State::Processing,
            ),
            (
                r#"{"code":"success","data":null,"id":"t","status":"done"}"#,
                State::Succeeded,
            ),
            (r#"{"status":"Content Moderated"}"#, State::Failed),
            (r#"{"status":"QUEUEING"}"#, State::Queued),
            (r#"{"request_id":"r-1","status":"done"}"#, State::Succeeded),
        ] {
            assert_eq!(read(body).unwrap().state(), state, "{body}");
        }
        let number = Source {
            asked_id: "12",
            ..source(200, br#"{"id":12}"#)
        };
        assert_eq!(
            TaskSnapshot::read(&number).unwrap().state(),
            State::Processing
        );
    }

    #[test]
    fn a_202_is_a_task_under_way_unless_it_is_a_page() {
        for (body, state) in [
            ("", State::Processing),
            (" ", State::Processing),
            ("{}", State::Processing),
            (r#"{"code":"success","data":null}"#, State::Processing),
            (r#"{"status":"ok"}"#, State::Processing),
            (r#"{"status":"pending"}"#, State::Queued),
        ] {
            let source = source(202, body.as_bytes());
            let task = TaskSnapshot::read(&source).unwrap();
            assert_eq!((task.state(), task.native()), (state, None), "{body}");
            let written = write_task(&source, Dialect::OpenAi, Rendering::Documented).unwrap();
            assert_eq!(read_bytes(&written).state(), state, "{body}");
        }
        for (body, why) in [
            ("<html>challenge</html>", NotATask::Html),
            ("Accepted", NotATask::NotJson),
        ] {
            let read = TaskSnapshot::read(&source(202, body.as_bytes()));
            assert_eq!(read.unwrap_err(), why);
        }
    }

    #[test]
    fn a_listed_word_beside_a_wrapper_decides() {
        for (outer, inner, state, native) in [
            (
                r#""completed""#,
                r#""IN_PROGRESS""#,
                State::Succeeded,
                false,
            ),
            (r#""queued""#, r#""SUCCESS""#, State::Queued, false),
            ("200", r#""SUCCESS""#, State::Succeeded, true),
            (r#""ok""#, r#""SUCCESS""#, State::Succeeded, true),
            ("null", r#""FAILURE""#, State::Failed, true),
            (r#""running""#, "null", State::Processing, false),
            ("7", "5", State::Processing, true),
        ] {
            let body =
                format!(r#"{{"code":"success","data":{{"status":{inner}}},"status":{outer}}}"#);
            let task = read(&body).unwrap();
            assert_eq!(task.state(), state, "{body}");
            let native_in_unified = task.native() == Some(Dialect::Unified);
            assert_eq!(native_in_unified, native, "{body}");
        }
    }

    #[test]
    fn the_earliest_end_of_the_result_counts() {
        let expiry = |own: &str, url: &str| {
            let body = format!(r#"{{"id":"t","status":"done","url":"{url}","expires_at":{own}}}"#);
            read(&body).unwrap().url_expires_at()
        };
        let signed = "https://h/x?Expires=1795435200";
        assert_eq!(expiry("null", signed), Some(1_795_435_200));
        assert_eq!(expiry("1795435100", signed), Some(1_795_435_100));
        assert_eq!(expiry("1795435300", signed), Some(1_795_435_200));
        assert_eq!(expiry("1795435300", ""), Some(1_795_435_300));
        assert_eq!(expiry("0", "https://h/x"), None);
    }

    #[test]
    fn debug_shows_no_text_of_the_task() {
        let task = read(
            r#"{"id":"t","status":"done","model":"secret","url":"https://secret.example/x?sig=1","prompt":"secret"}"#,
        );
        assert!(!format!("{task:?}").contains("secret"));
        let body = b"secret";
        assert!(!format!("{:?}", source(200, body)).contains("secret"));
    }

    fn read_bytes(body: &[u8]) -> TaskSnapshot {
        TaskSnapshot::read(&source(200, body)).unwrap()
    }

    #[test]
    fn deep_and_wide_bodies_are_read_in_bounded_time() {
        let deep = format!(
            r#"{{"id":"t","status":"done","metadata":{{"a":{}{}}}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let wide = format!(
            r#"{{"id":"t","status":"done","metadata":{{{}"z":0}},{}"z":0}}"#,
            r#""":0,"#.repeat(100_000),
            r#""":0,"#.repeat(100_000)
        );
        let listed = format!(
            r#"{{"id":"t","status":"done","output":{}{}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let wrapped = format!(
            "{}{{}}{}",
            r#"{"code":0,"data":"#.repeat(50_000),
            "}".repeat(50_000)
        );
        assert!(read(&listed).is_ok_and(|task| !task.has_url()));
        for body in [deep, wide] {
            let source = source(200, body.as_bytes());
            TaskSnapshot::read(&source).unwrap();
            for dialect in [Dialect::Unified, Dialect::OpenAi] {
                for rendering in [Rendering::Documented, Rendering::Faithful] {
                    let written = write_task(&source, dialect, rendering).unwrap();
                    assert!(written.len() > 100_000);
                }
            }
        }
        assert_eq!(read(&wrapped).unwrap_err(), NotATask::NoStatus);
    }
}
