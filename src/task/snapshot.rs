//! One task's state, read from whatever upstream answered, with the bytes it was read from.

use std::fmt;

use bytes::Bytes;

use super::document::{Layers, NotATask, layers};
use super::fields::Fields;
use super::json::Json;
use super::writer::object;
use super::{Dialect, Rendering, State, openai, unified, url_expiry};

/// One task as upstream told of it once. Immutable; clones share their memory.
///
/// `Debug` shows no URL, prompt or other text of the task.
///
/// It holds what is needed of every task. What only a document in another dialect needs is read from the source once
/// more when that is written.
#[derive(Clone)]
pub struct TaskSnapshot {
    source: Bytes,
    native: Option<Dialect>,
    /// The id that the client asked for, whatever upstream calls the task.
    id: Box<str>,
    state: State,
    has_url: bool,
    url_expires_at: Option<i64>,
    progress: u8,
    created_at: i64,
    model: Box<str>,
}

impl TaskSnapshot {
    /// Reads the body of a 2xx answer, in whatever shape it is.
    ///
    /// `asked_id` is the id of the client's path, percent-decoded. `first_seen` (Unix seconds) is
    /// when the gateway first saw the task; it stands in for a creation time that is not told.
    ///
    /// # Errors
    ///
    /// [`NotATask`] if no task can be found in the body: it must never be shown as one.
    pub fn read(asked_id: &str, body: &Bytes, first_seen: i64) -> Result<Self, NotATask> {
        let layers = layers(body)?;
        let native = native(&layers, asked_id);
        let task = Fields::find(layers)?;
        let url = task.url();
        Ok(TaskSnapshot {
            source: body.clone(),
            native,
            id: asked_id.into(),
            state: task.state,
            has_url: url.is_some(),
            url_expires_at: url.and_then(|(_, address)| url_expiry(&address)),
            progress: task.progress(),
            created_at: task.created_at().unwrap_or(first_seen),
            model: task
                .model()
                .map(Json::text_or_escapes)
                .unwrap_or_default()
                .into(),
        })
    }

    /// The task in `dialect`: the source's own bytes, shared, if `rendering` allows it and they
    /// already are what was asked for; else the documented document.
    #[must_use]
    pub fn render(&self, dialect: Dialect, rendering: Rendering) -> Bytes {
        if rendering == Rendering::Faithful && self.native == Some(dialect) {
            return self.source.clone();
        }
        let written = convert(&self.id, &self.source, self.created_at, dialect);
        // it was read before, and has not changed
        written.unwrap_or_else(|_| self.source.clone())
    }

    /// The dialect in which [`source`](Self::source) may be served as it is, if any.
    #[must_use]
    pub const fn native(&self) -> Option<Dialect> {
        self.native
    }

    /// Where the task stands.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether there is a result to fetch; only of a success. One without a URL may still get it.
    #[must_use]
    pub const fn has_url(&self) -> bool {
        self.has_url
    }

    /// The URL of the result, as it was; secret, since it is often signed.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        let (_, address) = Fields::of(&self.source).ok()?.url()?;
        Some(address.into_owned())
    }

    /// When the URL's own signature runs out, in Unix seconds, if it says so.
    #[must_use]
    pub const fn url_expires_at(&self) -> Option<i64> {
        self.url_expires_at
    }

    /// How far the task is, in whole percent, 0–100.
    #[must_use]
    pub const fn progress(&self) -> u8 {
        self.progress
    }

    /// When the task was made, or else first seen, in Unix seconds.
    #[must_use]
    pub const fn created_at(&self) -> i64 {
        self.created_at
    }

    /// The model that was asked for; empty if upstream does not say.
    #[must_use]
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Upstream's bytes.
    #[must_use]
    pub const fn source(&self) -> &Bytes {
        &self.source
    }
}

/// The documented document, in `dialect`, of the task in `body`; for the rest see [`TaskSnapshot::read`].
///
/// # Errors
///
/// [`NotATask`] if no task can be found in the body.
pub fn convert(
    asked_id: &str,
    body: &[u8],
    first_seen: i64,
    dialect: Dialect,
) -> Result<Bytes, NotATask> {
    let task = Fields::of(body)?;
    let mut out = Vec::with_capacity(body.len() + 512);
    object(&mut out, |outer| match dialect {
        Dialect::Unified => unified::write(asked_id, &task, outer),
        Dialect::OpenAi => openai::write(asked_id, first_seen, &task, outer),
    });
    Ok(out.into())
}

/// The dialect in which the body already is what could be asked for.
fn native(body: &Layers<'_>, asked_id: &str) -> Option<Dialect> {
    if unified::is_native(body) {
        Some(Dialect::Unified)
    } else if openai::is_native(body, asked_id) {
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
            .field("source_bytes", &self.source.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &'static str) -> Result<TaskSnapshot, NotATask> {
        TaskSnapshot::read("t", &Bytes::from_static(body.as_bytes()), 1)
    }

    #[test]
    fn what_is_no_task_says_why() {
        for (body, why) in [
            ("", NotATask::Empty),
            (" \n", NotATask::Empty),
            ("<html></html>", NotATask::Html),
            ("{\"id\":\"t\",\"status\":\"que", NotATask::NotJson),
            ("\u{feff}{}", NotATask::NotJson),
            ("[]", NotATask::NotAnObject),
            ("null", NotATask::NotAnObject),
            (r#"{"code":"success","data":null}"#, NotATask::NoData),
            (r#"{"code":"success","data":[]}"#, NotATask::NoData),
            (r#"{"code":"success","data":{}}"#, NotATask::NoStatus),
            (r#"{"id":"t","status":null}"#, NotATask::NoStatus),
            (r#"{"error":{"message":"no"}}"#, NotATask::NoStatus),
            (r#"{"status":"ok"}"#, NotATask::NoId),
        ] {
            assert_eq!(read(body).unwrap_err(), why, "{body}");
        }
        let broken = TaskSnapshot::read("t", &Bytes::from_static(b"{\"id\":\"\xff\"}"), 1);
        assert_eq!(broken.unwrap_err(), NotATask::NotJson);
    }

    #[test]
    fn debug_shows_neither_url_nor_prompt() {
        let task = read(
            r#"{"id":"t","status":"done","url":"https://secret.example/x?sig=1","prompt":"secret"}"#,
        );
        let task = task.unwrap();
        assert_eq!(task.url().unwrap(), "https://secret.example/x?sig=1");
        assert!(!format!("{task:?}").contains("secret"));
    }

    #[test]
    fn faithful_rendering_shares_the_source() {
        let task = read(r#"{"code":"success","data":{"status":"SUCCESS"}}"#).unwrap();
        let unified = task.render(Dialect::Unified, Rendering::Faithful);
        assert_eq!(unified.as_ptr(), task.source().as_ptr());
        let openai = task.render(Dialect::OpenAi, Rendering::Faithful);
        assert_ne!(openai, unified);
    }

    #[test]
    fn deep_and_wide_bodies_are_read_in_bounded_time() {
        let deep = format!(
            r#"{{"id":"t","status":"done","metadata":{{"a":{}{}}}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        let wide = format!(
            r#"{{"id":"t","status":"done","metadata":{{{}"z":0}}}}"#,
            r#""":0,"#.repeat(200_000)
        );
        let wrapped = format!(
            "{}{{}}{}",
            r#"{"code":0,"data":"#.repeat(50_000),
            "}".repeat(50_000)
        );
        for body in [deep, wide] {
            let task = TaskSnapshot::read("t", &Bytes::from(body), 1).unwrap();
            for dialect in [Dialect::Unified, Dialect::OpenAi] {
                assert!(task.render(dialect, Rendering::Documented).len() > 100_000);
            }
        }
        let wrapped = TaskSnapshot::read("t", &Bytes::from(wrapped), 1);
        assert_eq!(wrapped.unwrap_err(), NotATask::NoStatus);
    }
}
