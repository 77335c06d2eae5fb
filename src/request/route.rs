//! The kind of a request, from its method and raw path alone.

use http::Method;

use crate::task::Dialect;

const UNIFIED: &str = "/v1/video/generations/";
const OPENAI: &str = "/v1/videos/";

/// Words that stand where an id would on [`OPENAI`], but name other resources: those of the OpenAI and the xAI API, and the
/// kinds of task in Kling's, each of which is a list with tasks below it.
const NOT_IDS: [&str; 17] = [
    "edits",
    "extensions",
    "characters",
    "generations",
    "text2video",
    "image2video",
    "omni-video",
    "multi-image2video",
    "multi-elements",
    "lip-sync",
    "advanced-lip-sync",
    "identify-face",
    "video-extend",
    "effects",
    "avatar",
    "motion-control",
    "image-recognize",
];

/// The kind of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// `GET` or `HEAD` on one task's status.
    Poll {
        /// The dialect of its path.
        dialect: Dialect,
        /// The task that its path names.
        task: TaskId,
    },
    /// A method that is not safe, on a task's path or below it: it may change the task.
    Write {
        /// The dialect of its path.
        dialect: Dialect,
        /// The task that its path names.
        task: TaskId,
    },
    /// Any other request.
    Forward {
        /// The dialect in which its client reads errors.
        dialect: Dialect,
    },
}

/// A task's id: the raw path segment, never decoded.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TaskId(std::sync::Arc<str>);

impl Route {
    /// Reads the raw path. Nothing is decoded, merged or normalised, so that two paths that differ for upstream differ here.
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
    /// Everything else.
    Forward,
}

impl RouteLabel {
    /// Every label, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Unified, Self::OpenAi, Self::Forward];

    /// The label of status polls in this dialect.
    #[must_use]
    pub const fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Unified => Self::Unified,
            Dialect::OpenAi => Self::OpenAi,
        }
    }

    /// The value of the label.
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

/// Whether a segment may be an id. An empty one is none, nor is a dot segment (RFC 3986 §5.2.4), encoded or not: its meaning
/// depends on which hop resolves it.
fn is_id(segment: &str) -> bool {
    let mut rest = segment.as_bytes();
    let mut dots = 0;
    while let [b'.', after @ ..] | [b'%', b'2', b'e' | b'E', after @ ..] = rest {
        (rest, dots) = (after, dots + 1);
    }
    !(rest.is_empty() && dots <= 2)
}

/// The path on which a task of this dialect is polled upstream.
#[must_use]
pub fn status_path(dialect: Dialect, task: &TaskId) -> String {
    let base = match dialect {
        Dialect::Unified => UNIFIED,
        Dialect::OpenAi => OPENAI,
    };
    [base, task.as_str()].concat()
}

impl TaskId {
    /// Takes the raw path segment.
    #[must_use]
    pub fn new(segment: &str) -> Self {
        Self(segment.into())
    }

    /// The raw path segment.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as documents have it: percent-decoded, where that gives UTF-8.
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
            "/v1/videos/text2video",
            "/v1/videos/image2video",
            "/v1/videos/omni-video",
            "/v1/videos/multi-image2video",
            "/v1/videos/lip-sync",
            "/v1/videos/video-extend",
            "/v1/videos/effects",
            "/v1/videos/text2video/task_1",
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
        for path in [
            "/v1/videos/edits",
            "/v1/videos/text2video",
            "/v1/videos/effects",
        ] {
            assert!(
                matches!(Route::read(&Method::POST, path), Route::Forward { .. }),
                "{path}"
            );
        }
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
    fn words_of_lists_are_ids_on_the_unified_path_and_where_they_are_only_a_part() {
        for (path, dialect, id) in [
            ("/v1/video/generations/effects", Dialect::Unified, "effects"),
            ("/v1/videos/effects-1", Dialect::OpenAi, "effects-1"),
            ("/v1/videos/Effects", Dialect::OpenAi, "Effects"),
        ] {
            assert_eq!(Route::read(&Method::GET, path), poll(dialect, id));
        }
    }

    #[test]
    fn ids_are_decoded_only_for_documents() {
        assert_eq!(TaskId::new("a%2Fb").decoded(), "a/b");
        assert_eq!(TaskId::new("a%FF").decoded(), "a%FF");
    }
}
