//! What a request is, from its method and raw path alone.

use http::Method;

use crate::task::Dialect;

const UNIFIED: &str = "/v1/video/generations/";
const OPENAI: &str = "/v1/videos/";

/// Words that stand where an id would, but name other resources of the OpenAI API.
const NOT_IDS: [&str; 3] = ["edits", "extensions", "characters"];

/// What a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `GET` or `HEAD` on one task's status.
    Poll {
        /// The path it came on.
        dialect: Dialect,
        /// Which task.
        task: TaskId,
    },
    /// A method that is not safe on a task's path or below it: it may change the task.
    Write {
        /// The path it came on.
        dialect: Dialect,
        /// Which task.
        task: TaskId,
    },
    /// Anything else.
    Forward {
        /// Whose errors its client understands.
        dialect: Dialect,
    },
}

/// A task's id as it stands in the path: opaque, its bytes untouched.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TaskId(std::sync::Arc<str>);

impl Route {
    /// Reads the raw path: nothing is decoded, merged or cleaned, so that no two paths that upstream tells apart
    /// become one.
    #[must_use]
    pub fn read(method: &Method, path: &str) -> Self {
        let Some((dialect, rest)) = split(path) else {
            let unified = path.starts_with("/v1/video/generations");
            let dialect = if unified {
                Dialect::Unified
            } else {
                Dialect::OpenAi
            };
            return Self::Forward { dialect };
        };
        let (id, below) = rest
            .split_once('/')
            .map_or((rest, None), |(id, below)| (id, Some(below)));
        if !is_id(id) || (dialect == Dialect::OpenAi && NOT_IDS.contains(&id)) {
            return Self::Forward { dialect };
        }
        let task = TaskId::new(id);
        let reads = method == Method::GET || method == Method::HEAD;
        match below {
            None if reads => Self::Poll { dialect, task },
            // A preflight changes nothing (RFC 9110 §9.2.1).
            _ if method.is_safe() => Self::Forward { dialect },
            _ => Self::Write { dialect, task },
        }
    }

    /// The dialect in which a client of this path reads errors.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Poll { dialect, .. }
            | Self::Write { dialect, .. }
            | Self::Forward { dialect } => *dialect,
        }
    }
}

/// The label of a route in metrics and logs: a closed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteLabel {
    /// Status polls on `/v1/video/generations/{task_id}`.
    Unified,
    /// Status polls on `/v1/videos/{task_id}`.
    OpenAi,
    /// Everything that is passed on.
    Forward,
}

impl RouteLabel {
    /// All of them, in the order of their declaration.
    pub const ALL: [Self; 3] = [Self::Unified, Self::OpenAi, Self::Forward];

    /// Of status polls in this dialect.
    #[must_use]
    pub const fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Unified => Self::Unified,
            Dialect::OpenAi => Self::OpenAi,
        }
    }

    /// As metrics and logs spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unified => Dialect::Unified.as_str(),
            Self::OpenAi => Dialect::OpenAi.as_str(),
            Self::Forward => "forward",
        }
    }
}

fn split(path: &str) -> Option<(Dialect, &str)> {
    path.strip_prefix(UNIFIED)
        .map(|rest| (Dialect::Unified, rest))
        .or_else(|| {
            path.strip_prefix(OPENAI)
                .map(|rest| (Dialect::OpenAi, rest))
        })
}

/// Nothing is no id. Dot segments (RFC 3986 §5.2.4) are none either: what they mean depends on who resolves them, encoded or not.
fn is_id(segment: &str) -> bool {
    let mut rest = segment.as_bytes();
    let mut dots = 0;
    while let [b'.', after @ ..] | [b'%', b'2', b'e' | b'E', after @ ..] = rest {
        (rest, dots) = (after, dots + 1);
    }
    !(rest.is_empty() && dots <= 2)
}

/// The path and id on which a task of this dialect is polled upstream.
#[must_use]
pub fn status_path(dialect: Dialect, task: &TaskId) -> String {
    let base = match dialect {
        Dialect::Unified => UNIFIED,
        Dialect::OpenAi => OPENAI,
    };
    [base, task.as_str()].concat()
}

impl TaskId {
    /// From the raw path segment.
    #[must_use]
    pub fn new(segment: &str) -> Self {
        Self(segment.into())
    }

    /// The raw path segment.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as a client of the API would write it in a document: percent-decoded where that gives a text.
    #[must_use]
    pub fn decoded(&self) -> std::borrow::Cow<'_, str> {
        decoded(&self.0)
    }
}

/// See [`TaskId::decoded`].
#[must_use]
pub fn decoded(segment: &str) -> std::borrow::Cow<'_, str> {
    percent_encoding::percent_decode_str(segment)
        .decode_utf8()
        .unwrap_or(std::borrow::Cow::Borrowed(segment))
}

impl std::fmt::Display for TaskId {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::fmt::Debug for TaskId {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(dialect: Dialect, id: &str) -> Route {
        Route::Poll {
            dialect,
            task: TaskId::new(id),
        }
    }

    #[test]
    fn both_status_paths_are_polls_with_their_raw_id() {
        for id in [
            "task_1",
            "sora-2:task_01k",
            "a%2Fb",
            "a%2fb",
            "video_bGl0ZWxsbQ==",
            "x;y",
            "%E4%BB%BB",
        ] {
            assert_eq!(
                Route::read(&Method::GET, &format!("/v1/videos/{id}")),
                poll(Dialect::OpenAi, id)
            );
            assert_eq!(
                Route::read(&Method::HEAD, &format!("/v1/video/generations/{id}")),
                poll(Dialect::Unified, id)
            );
        }
    }

    #[test]
    fn what_only_looks_like_a_status_path_is_forwarded() {
        for path in [
            "/",
            "/v1/videos",
            "/v1/videos/",
            "/v1/videos/a/",
            "/v1/videos/a/content",
            "/v1//videos/a",
            "//v1/videos/a",
            "/V1/videos/a",
            "/v1/videos/edits",
            "/v1/videos/extensions",
            "/v1/videos/characters",
            "/v1/videos/..",
            "/v1/videos/.",
            "/v1/videos/%2e%2E",
            "/v1/videos/characters/c1",
            "/v1/video/generations",
            "/v1/video/query",
            "/v1/videos//a",
            "/v1%2Fvideos/a",
        ] {
            assert!(
                matches!(Route::read(&Method::GET, path), Route::Forward { .. }),
                "{path}"
            );
        }
    }

    #[test]
    fn other_methods_on_a_task_are_writes() {
        for (method, path) in [
            (Method::DELETE, "/v1/videos/a"),
            (Method::POST, "/v1/videos/a/remix"),
            (Method::PATCH, "/v1/video/generations/a"),
        ] {
            assert!(
                matches!(Route::read(&method, path), Route::Write { .. }),
                "{method} {path}"
            );
        }
        for safe in [Method::OPTIONS, Method::TRACE] {
            assert!(matches!(
                Route::read(&safe, "/v1/videos/a"),
                Route::Forward { .. }
            ));
        }
        assert!(matches!(
            Route::read(&Method::POST, "/v1/videos/edits"),
            Route::Forward { .. }
        ));
        assert!(matches!(
            Route::read(&Method::POST, "/v1/videos"),
            Route::Forward { .. }
        ));
    }

    proptest::proptest! {
        /// What is polled is what was asked for, byte for byte: two paths never share a key.
        #[test]
        fn a_poll_is_of_just_the_path_that_was_asked_for(
            path in "/?/?(v1|V1|%76%31|\\.)?(/|//|%2[Ff]|/\\./)(videos|Videos|video/generations)(/|//|%2[fF]|)[a-zA-Z0-9./;:%=?~-]{0,12}",
        ) {
            match Route::read(&Method::GET, &path) {
                Route::Poll { dialect, task } => {
                    assert_eq!(status_path(dialect, &task), path);
                    assert!(is_id(task.as_str()) && !task.as_str().contains('/'));
                }
                Route::Forward { .. } => {}
                Route::Write { .. } => panic!("a read is no write"),
            }
            if let Route::Write { dialect, task } = Route::read(&Method::POST, &path) {
                let rest = path.strip_prefix(&status_path(dialect, &task));
                assert!(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')));
            }
        }
    }

    #[test]
    fn ids_are_decoded_only_for_documents() {
        assert_eq!(TaskId::new("a%2Fb").decoded(), "a/b");
        assert_eq!(TaskId::new("a%FF").decoded(), "a%FF");
    }
}
