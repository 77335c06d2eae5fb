//! How the documents of a route are read: by pointers and words of its own, and by the built-in reader for all else.

use std::borrow::Cow;
use std::ops::Range;

use super::document::{ACCEPTED, Layers, NotATask, Source, carries, without_byte_order_mark};
use super::fields::Fields;
use super::json::Json;
use super::pointer::Pointer;
use super::{State, url_expiry, values};

/// Where the documents of a route have what counts. Of several pointers the first that finds something counts, then the
/// built-in reader, which knows wrappers, bare tasks and OpenAI's video objects. The default is the built-in reader alone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reader {
    /// Where the status word is.
    pub status: Vec<Pointer>,
    /// Where the result of a success is: a URL, or any other text or number that stands for it.
    pub result: Vec<Pointer>,
    /// Where the reason of a failure is.
    pub error: Vec<Pointer>,
    /// Where the progress in percent is.
    pub progress: Vec<Pointer>,
    /// Words for a success, beside those that are known.
    pub succeeded: Vec<String>,
    /// Words for a failure, beside those that are known.
    pub failed: Vec<String>,
    /// Where the list is, if one answer tells of several tasks.
    pub each: Option<Pointer>,
    /// Members whose values change although nothing has happened.
    pub volatile: Vec<Pointer>,
}

/// What a document says of a task, or of all tasks that were asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading<'a> {
    /// The state; of several tasks that of the least finished one, and `Processing` while one is missing.
    pub state: State,
    /// The result of a success; of several tasks any, if each has one.
    pub result: Option<Cow<'a, str>>,
    /// Why it failed.
    pub error: Option<Cow<'a, str>>,
    /// The progress in whole percent.
    pub progress: Option<u8>,
    /// When the result can no longer be fetched, in Unix seconds.
    pub expires_at: Option<i64>,
    /// When the task was created, in Unix seconds.
    pub created_at: Option<i64>,
    /// The model.
    pub model: Option<Cow<'a, str>>,
    /// Whether there are failures among the successes.
    pub is_mixed: bool,
}

impl Reading<'_> {
    const fn of(state: State) -> Self {
        Self {
            state,
            result: None,
            error: None,
            progress: None,
            expires_at: None,
            created_at: None,
            model: None,
            is_mixed: false,
        }
    }

    /// What several tasks say together.
    fn and(self, other: &Self) -> Self {
        let state = match (self.state, other.state) {
            (State::Queued, State::Queued) => State::Queued,
            (one, other) if !one.is_terminal() || !other.is_terminal() => State::Processing,
            (State::Failed, State::Failed) => State::Failed,
            _ => State::Succeeded,
        };
        Self {
            result: self.result.filter(|_| other.result.is_some()),
            expires_at: [self.expires_at, other.expires_at]
                .into_iter()
                .flatten()
                .min(),
            created_at: self.created_at.min(other.created_at),
            is_mixed: self.is_mixed || other.is_mixed || self.state != other.state,
            ..Self::of(state)
        }
    }
}

impl Reader {
    /// Reads what a 2xx answer says of the tasks that were asked for.
    ///
    /// # Errors
    /// [`NotATask`] if it says nothing of them. No error and no unknown word is ever taken for an end.
    pub fn read<'a>(&self, source: &Source<'a>) -> Result<Reading<'a>, NotATask> {
        match &self.each {
            None => self.read_one(source),
            Some(each) => self.read_each(each, source),
        }
    }

    fn read_each<'a>(&self, each: &Pointer, source: &Source<'a>) -> Result<Reading<'a>, NotATask> {
        let list = each.find(root(source.body)?).ok_or(NotATask::NoData)?;
        if !list.as_str().starts_with('[') {
            return Err(NotATask::NoData);
        }
        let items = list.items();
        let readings = items.iter().map(|item| {
            self.read_one(&Source {
                asked_id: "",
                body: item.as_str().as_bytes(),
                ..*source
            })
        });
        let told = readings
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .reduce(|one, other| one.and(&other));
        let objects: Vec<_> = items.iter().filter_map(|item| item.object()).collect();
        let has_all = source
            .asked_id
            .split('\n')
            .all(|id| objects.iter().any(|object| carries(object, id)));
        Ok(match told {
            Some(told) if has_all => told,
            _ => Reading::of(State::Processing),
        })
    }

    fn read_one<'a>(&self, source: &Source<'a>) -> Result<Reading<'a>, NotATask> {
        if source.status == ACCEPTED && source.body.trim_ascii().is_empty() {
            return Ok(Reading::of(State::Processing));
        }
        let root = root(source.body)?;
        let layers = Layers::of(source);
        let is_asked_for = source.status == ACCEPTED
            || matches!(&layers, Ok(layers) if layers.carries(source.asked_id));
        let mut fields = layers.and_then(|layers| Fields::find(layers, source));
        let own = first(&self.status, root, Some);
        let word = match (own, &fields) {
            (Some(word), _) => Some(word),
            (None, Ok(fields)) => fields.status,
            (None, Err(why)) => return Err(*why),
        };
        let word = word.map(|word| word.text().unwrap_or(Cow::Borrowed(word.as_str())));
        let state = match word {
            Some(word) if word.trim().is_empty() && !is_asked_for => {
                return Err(NotATask::NoStatus);
            }
            Some(word) => self.state(&word),
            None => State::Processing,
        };
        if let Ok(fields) = &mut fields {
            fields.state = state;
        }
        let fields = fields.as_ref().ok();
        let result = (state == State::Succeeded)
            .then(|| {
                let pointed = first(&self.result, root, standing_for_it);
                pointed.or_else(|| Some(fields?.url()?.1.clone()))
            })
            .flatten();
        let signed_until = result.as_deref().and_then(url_expiry);
        let own = fields.and_then(Fields::own_expiry);
        Ok(Reading {
            state,
            error: (state == State::Failed)
                .then(|| first(&self.error, root, |value| value.non_empty()?.text()))
                .flatten()
                .or_else(|| fields?.message()),
            progress: first(&self.progress, root, values::percent)
                .or_else(|| Some(fields?.progress())),
            expires_at: [signed_until, own].into_iter().flatten().min(),
            created_at: fields.and_then(Fields::created_at),
            model: fields.and_then(Fields::model).map(Json::text_or_escapes),
            is_mixed: false,
            result,
        })
    }

    /// Whether a body has a status where one of the pointers says.
    #[must_use]
    pub fn has_status(&self, body: &[u8]) -> bool {
        root(body).is_ok_and(|root| first(&self.status, root, Json::non_empty).is_some())
    }

    /// The state that a word means: `Processing` where it is not known.
    fn state(&self, word: &str) -> State {
        let is = |known: &String| is_same_word(known, word);
        if self.succeeded.iter().any(is) {
            State::Succeeded
        } else if self.failed.iter().any(is) {
            State::Failed
        } else {
            State::read(word)
        }
    }

    /// Where in the body of a task in this state the volatile values are, in order and apart from each other. The result of
    /// a success is none: it may follow later, and that is news.
    #[must_use]
    pub fn volatile_in(&self, body: &[u8], state: Option<State>) -> Vec<Range<usize>> {
        if self.volatile.is_empty() {
            return Vec::new();
        }
        let Ok(root) = root(body) else {
            return Vec::new();
        };
        let is_result =
            |pointer: &&Pointer| state == Some(State::Succeeded) && self.result.contains(pointer);
        let volatile = self.volatile.iter().filter(|pointer| !is_result(pointer));
        let found = volatile.filter_map(|pointer| {
            let value = pointer.find(root)?.as_str();
            let start = value.as_ptr() as usize - body.as_ptr() as usize;
            Some(start..start + value.len())
        });
        let mut ranges: Vec<_> = found.collect();
        ranges.sort_by_key(|range| (range.start, usize::MAX - range.end));
        // One may lie inside another.
        let mut end = 0;
        ranges.retain(|range| {
            let is_apart = range.start >= end;
            end = end.max(range.end);
            is_apart
        });
        ranges
    }
}

/// The text, or all texts of a list, that a pointer finds in a body; `None` if there is none, or anything else.
#[must_use]
pub fn texts_at(body: &[u8], pointer: &Pointer) -> Option<Vec<String>> {
    let value = pointer.find(root(body).ok()?)?;
    let items = match value.non_empty() {
        Some(text) => vec![text],
        None => value.items(),
    };
    let texts = items
        .into_iter()
        .map(|item| item.non_empty()?.text().map(Cow::into_owned));
    texts
        .collect::<Option<Vec<_>>>()
        .filter(|texts| !texts.is_empty())
}

/// The whole body, if it is JSON.
fn root(body: &[u8]) -> Result<Json<'_>, NotATask> {
    let body = without_byte_order_mark(body);
    match body.trim_ascii_start().first() {
        None => Err(NotATask::Empty),
        Some(b'<') => Err(NotATask::Html),
        Some(_) => std::str::from_utf8(body)
            .ok()
            .and_then(Json::parse)
            .ok_or(NotATask::NotJson),
    }
}

/// The first value that fits.
fn first<'a, T>(
    pointers: &[Pointer],
    root: Json<'a>,
    fits: impl Fn(Json<'a>) -> Option<T>,
) -> Option<T> {
    pointers.iter().find_map(|pointer| {
        let value = pointer.find(root).filter(|value| !value.is_null())?;
        fits(value)
    })
}

/// The text or number that a value is; a list stands for its first item.
fn standing_for_it(value: Json<'_>) -> Option<Cow<'_, str>> {
    let value = value.first_item().unwrap_or(value);
    match value.non_empty() {
        Some(text) => text.text(),
        None => value.number(),
    }
}

/// Whether two words are the same in any case, with hyphens or spaces for `_`.
#[must_use]
pub fn is_same_word(one: &str, other: &str) -> bool {
    let letters = |word: &'_ str| {
        word.trim()
            .chars()
            .map(|letter| match letter {
                '-' | ' ' => '_',
                letter => letter.to_ascii_lowercase(),
            })
            .collect::<String>()
    };
    letters(one) == letters(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pointers(texts: &[&str]) -> Vec<Pointer> {
        let pointers = texts.iter().map(|text| Pointer::parse(text));
        pointers.collect::<Result<_, _>>().expect("pointers")
    }

    fn source<'a>(asked_id: &'a str, body: &'a str) -> Source<'a> {
        Source {
            asked_id,
            status: 200,
            body: body.as_bytes(),
            first_seen: 1,
        }
    }

    fn state(reader: &Reader, asked_id: &str, body: &str) -> Option<State> {
        reader
            .read(&source(asked_id, body))
            .ok()
            .map(|told| told.state)
    }

    #[test]
    fn a_pointer_counts_before_the_built_in_reader_and_an_unknown_word_is_under_way() {
        let reader = Reader {
            status: pointers(&["/a/word", "/word"]),
            succeeded: vec!["All Good".into()],
            failed: vec!["broken".into()],
            ..Reader::default()
        };
        for (body, told) in [
            (r#"{"a":{"word":"done"}}"#, Some(State::Succeeded)),
            (
                r#"{"a":{"word":null},"word":"failed"}"#,
                Some(State::Failed),
            ),
            (r#"{"word":"ALL-GOOD"}"#, Some(State::Succeeded)),
            (r#"{"word":"Broken"}"#, Some(State::Failed)),
            (r#"{"word":"nearly done"}"#, Some(State::Processing)),
            (r#"{"word":7}"#, Some(State::Processing)),
            (r#"{"word":""}"#, None),
            (r#"{"word":"","id":"t"}"#, Some(State::Processing)),
            (r#"{"id":"t","status":"done"}"#, Some(State::Succeeded)),
            (r#"{"status":"ok"}"#, None),
            ("[]", None),
            ("\"done\"", None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(state(&reader, "t", body), told, "{body}");
        }
    }

    #[test]
    fn several_tasks_are_as_far_as_the_least_finished_one() {
        let reader = Reader {
            each: Some(Pointer::parse("/list").expect("a pointer")),
            ..Reader::default()
        };
        let all = |list: &str| format!(r#"{{"list":[{list}]}}"#);
        let (done, failed, running) = (
            r#"{"id":"a","status":"done"}"#,
            r#"{"id":"b","status":"failed"}"#,
            r#"{"id":"b","status":"running"}"#,
        );
        for (asked, list, told) in [
            ("a", done.to_owned(), Some(State::Succeeded)),
            ("a\nb", format!("{done},{failed}"), Some(State::Succeeded)),
            ("a\nb", format!("{done},{running}"), Some(State::Processing)),
            ("a\nb", done.to_owned(), Some(State::Processing)),
            ("b", failed.to_owned(), Some(State::Failed)),
            ("a", String::new(), Some(State::Processing)),
            ("a", "7".to_owned(), None),
        ] {
            assert_eq!(state(&reader, asked, &all(&list)), told, "{asked:?} {list}");
        }
        assert_eq!(state(&reader, "a", r#"{"list":null}"#), None);
        for (url, has_result) in [("", false), ("https://h/v.mp4", true)] {
            let list = all(&format!(
                r#"{{"id":"a","status":"done","url":"https://h/a.mp4"}},{{"id":"b","status":"done","url":"{url}"}}"#
            ));
            let told = reader.read(&source("a\nb", &list)).expect("tasks");
            assert_eq!(told.result.is_some(), has_result, "{list}");
        }
        let mixed = all(&format!("{done},{failed}"));
        let mixed = reader.read(&source("a\nb", &mixed)).expect("tasks");
        assert!(mixed.is_mixed);
    }

    #[test]
    fn volatile_values_are_found_where_they_stand() {
        let reader = Reader {
            volatile: pointers(&["/b/c", "/b", "/a", "/none"]),
            result: pointers(&["/a"]),
            ..Reader::default()
        };
        let body = r#"{"a" : 1, "b" : {"c":[2]}, "d":3}"#;
        let volatile = |state| {
            let parts = reader.volatile_in(body.as_bytes(), state);
            let parts = parts.into_iter().map(|part| &body[part]);
            parts.collect::<Vec<_>>()
        };
        assert_eq!(volatile(None), ["1", r#"{"c":[2]}"#]);
        assert_eq!(volatile(Some(State::Processing)), ["1", r#"{"c":[2]}"#]);
        assert_eq!(volatile(Some(State::Succeeded)), [r#"{"c":[2]}"#]);
        assert!(reader.volatile_in(b"no JSON", None).is_empty());
    }

    #[test]
    fn only_texts_name_tasks() {
        let pointer = Pointer::parse("/ids").expect("a pointer");
        for (body, ids) in [
            (r#"{"ids":"a"}"#, Some(vec!["a"])),
            (r#"{"ids":["a","b\u0020c"]}"#, Some(vec!["a", "b c"])),
            (r#"{"ids":[]}"#, None),
            (r#"{"ids":["a",7]}"#, None),
            (r#"{"ids":["a",""]}"#, None),
            (r#"{"ids":{"a":"b"}}"#, None),
            ("{}", None),
            ("", None),
        ] {
            let found = texts_at(body.as_bytes(), &pointer);
            let ids = ids.map(|ids| ids.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(found, ids, "{body}");
        }
    }

    proptest::proptest! {
        /// Whatever is not told to be over by a known word is never an end.
        #[test]
        fn no_unknown_word_is_an_end(word in "[a-zA-Z _-]{0,16}", place in 0..3_usize) {
            let reader = Reader {
                status: pointers(&["/s"]),
                each: (place == 2).then(|| Pointer::parse("/l").expect("a pointer")),
                succeeded: vec!["own end".into()],
                ..Reader::default()
            };
            let body = match place {
                0 => format!(r#"{{"s":"{word}","id":"t"}}"#),
                1 => format!(r#"{{"code":0,"data":{{"id":"t","status":"{word}"}}}}"#),
                _ => format!(r#"{{"l":[{{"s":"{word}","id":"t"}}]}}"#),
            };
            let known = State::read(&word).is_terminal() || is_same_word(&word, "own end");
            let ended = state(&reader, "t", &body).is_some_and(State::is_terminal);
            proptest::prop_assert_eq!(ended, known, "{}", body);
        }
    }
}
