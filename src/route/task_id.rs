//! A task's id, as a client asks for it.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What an id from a JSON document is encoded with, so that it reads as one from a path.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?');

/// Between the ids, where a request asks for several tasks. No raw id has one.
const BETWEEN: char = '\n';

/// Before the rest of the resource, where the id alone does not tell it. No raw id has one.
const REST: char = ' ';

/// Between the path and what tells the body, in the rest of a resource. No raw path has one.
const BODY: char = '#';

/// A task's id: the raw path segment or query parameter, never decoded. Where the id alone does not tell what is asked
/// for, the rest is part of it too: two of them are equal only where the same is asked.
#[derive(Clone)]
pub struct TaskId {
    whole: Arc<str>,
    /// The length of the ids in it.
    ids: usize,
}

impl PartialEq for TaskId {
    fn eq(&self, other: &Self) -> bool {
        self.whole == other.whole
    }
}

impl Eq for TaskId {}

impl Hash for TaskId {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.whole.hash(to);
    }
}

impl TaskId {
    /// Takes the raw id.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self {
            whole: id.into(),
            ids: id.len(),
        }
    }

    /// Takes the raw ids of all tasks that are asked for, the raw path, and what tells the body from others, if there is one.
    #[must_use]
    pub fn within<'i>(
        ids: impl IntoIterator<Item = &'i str>,
        path: &str,
        body: Option<&str>,
    ) -> Self {
        let mut text = String::new();
        for id in ids {
            if !text.is_empty() {
                text.push(BETWEEN);
            }
            text.push_str(id);
        }
        let ids = text.len();
        text.push(REST);
        text.push_str(path);
        if let Some(body) = body {
            text.push(BODY);
            text.push_str(body);
        }
        Self {
            whole: text.into(),
            ids,
        }
    }

    /// The raw id; of several tasks all of them, one a line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.whole[..self.ids]
    }

    /// The raw path that is asked on, where the id alone does not tell it.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        let rest = self.whole[self.ids..].strip_prefix(REST)?;
        rest.split(BODY).next()
    }

    /// Everything by which it differs from others.
    #[must_use]
    pub fn whole(&self) -> &str {
        &self.whole
    }

    /// Takes what [`whole`](Self::whole) gave.
    #[must_use]
    pub fn from_whole(text: &str) -> Self {
        Self {
            whole: text.into(),
            ids: id_of(text).len(),
        }
    }

    /// The id as documents have it: percent-decoded, where that gives UTF-8.
    #[must_use]
    pub fn decoded(&self) -> Cow<'_, str> {
        decoded(self.as_str())
    }

    /// Whether this task is asked for, alone or among others.
    #[must_use]
    pub fn names(&self, id: &str) -> bool {
        names(self.as_str(), id)
    }

    /// Whether several tasks are asked for.
    #[must_use]
    pub fn is_many(&self) -> bool {
        self.as_str().contains(BETWEEN)
    }
}

/// The ids of what [`TaskId::whole`] gave.
#[must_use]
pub fn id_of(whole: &str) -> &str {
    whole.split(REST).next().unwrap_or(whole)
}

/// Whether a task is among those that [`TaskId::whole`] tells. An id is the same however it is percent-encoded: clients
/// encode in a query what they leave as it is in a path.
#[must_use]
pub fn names(whole: &str, id: &str) -> bool {
    id_of(whole)
        .split(BETWEEN)
        .any(|one| one == id || decoded(one) == decoded(id))
}

/// The id as documents have it: percent-decoded, where that gives UTF-8. Of several ids, one a line, each.
#[must_use]
pub fn decoded(ids: &str) -> Cow<'_, str> {
    if ids.contains(BETWEEN) {
        let ids: Vec<_> = ids.split(BETWEEN).map(decoded).collect();
        return ids.join("\n").into();
    }
    if !ids.contains('%') {
        return ids.into();
    }
    percent_decode_str(ids)
        .decode_utf8()
        .unwrap_or(Cow::Borrowed(ids))
}

/// An id from a document, as it would stand in a path.
#[must_use]
pub fn encoded(id: &str) -> Cow<'_, str> {
    utf8_percent_encode(id, ENCODED).into()
}

impl fmt::Display for TaskId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.as_str())
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_decoded_only_for_documents() {
        assert_eq!(TaskId::new("a%2Fb").decoded(), "a/b");
        assert_eq!(TaskId::new("a%FF").decoded(), "a%FF");
    }

    #[test]
    fn the_rest_of_a_resource_tells_ids_apart_and_is_not_shown() {
        let here = TaskId::within(["a", "b"], "/here", Some("1"));
        assert_ne!(here, TaskId::within(["a", "b"], "/there", Some("1")));
        assert_ne!(here, TaskId::within(["a", "b"], "/here", Some("2")));
        assert_ne!(here, TaskId::within(["a"], "/here", Some("1")));
        assert_eq!(here.path(), Some("/here"));
        assert_eq!(TaskId::within(["a"], "/a/b", None).path(), Some("/a/b"));
        assert_eq!(TaskId::new("a").path(), None);
        assert_eq!(here, TaskId::from_whole(here.whole()));
        assert_eq!(here.as_str(), "a\nb");
        assert!(here.names("a") && here.names("b") && here.is_many());
        assert!(TaskId::new("a%3Ab").names("a:b") && TaskId::new("a:b").names("a%3ab"));
        assert!(!TaskId::new("a%3Ab").names("a%3Ac"));
        assert!(!here.names("a\nb") && !here.names("/here") && !TaskId::new("a").is_many());
    }

    proptest::proptest! {
        #[test]
        fn an_id_from_a_document_reads_as_one_from_a_path(id in "\\PC{1,12}|[ -~\n]{1,12}") {
            let encoded = encoded(&id);
            assert!(!encoded.contains([BETWEEN, REST]));
            assert_eq!(decoded(&encoded), id);
        }
    }
}
