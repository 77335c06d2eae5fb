//! A route as it is written in a configuration file, and the presets.

use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, Serialize};

use crate::task::ErrorForm;

/// A status route, as a `[[route]]` of the configuration defines it. What is not given is as in the preset of the same
/// name, if there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Definition {
    /// Its name in metrics and logs.
    pub name: String,
    /// Path templates: `{id}` is the task, any other `{name}` one segment.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub path: Option<Vec<String>>,
    /// Where else the id is: `query:NAME`, or `body:POINTER` for a text or a list of texts in a JSON body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How it is asked: `GET` (and `HEAD`) or `POST`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<PollMethod>,
    /// Query parameters that there must be, each with its value: `NAME=VALUE`.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub when: Option<Vec<String>>,
    /// Query parameters that there must not be.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub unless: Option<Vec<String>>,
    /// Where the status word is: JSON pointers, before the built-in reader.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub status: Option<Vec<String>>,
    /// Where the result is.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub result: Option<Vec<String>>,
    /// Where the reason of a failure is.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub error: Option<Vec<String>>,
    /// Where the progress is.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub progress: Option<Vec<String>>,
    /// Words for a success, beside those that are known.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub succeeded: Option<Vec<String>>,
    /// Words for a failure, beside those that are known.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub failed: Option<Vec<String>>,
    /// Where the list is, if one answer tells of several tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub each: Option<String>,
    /// Members whose values change although nothing has happened.
    #[serde(deserialize_with = "list", skip_serializing_if = "Option::is_none")]
    pub volatile: Option<Vec<String>>,
    /// What is remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// The longest time for which a success is remembered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_ttl: Option<String>,
    /// The form of pollgate's own errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errors: Option<Errors>,
}

/// The keys of a definition, and what each is for.
pub const KEYS: [(&str, &str); 17] = [
    (
        "name",
        "its name in metrics and logs, or that of the preset that it changes",
    ),
    (
        "path",
        "path templates: {id} is the task, any other {name} one segment",
    ),
    (
        "id",
        "where else the id is: \"query:NAME\", or \"body:/POINTER\" for a text or a list of texts",
    ),
    (
        "method",
        "GET (with HEAD), or POST with a JSON body of at most 16 KiB",
    ),
    (
        "when",
        "query parameters that there must be: \"NAME=VALUE\"",
    ),
    ("unless", "query parameters that there must not be"),
    (
        "status",
        "where the status word is: JSON pointers, before the built-in reader",
    ),
    ("result", "where the result is"),
    ("error", "where the reason of a failure is"),
    ("progress", "where the progress in percent is"),
    (
        "succeeded",
        "words for a success, beside those that are known; any other word means that it is under way",
    ),
    ("failed", "words for a failure, beside those that are known"),
    (
        "each",
        "where the list is, if one answer tells of several tasks",
    ),
    (
        "volatile",
        "members that change although nothing has happened: left out of ETag and events, not of the bytes",
    ),
    (
        "keep",
        "task; share: only concurrent polls share an answer, and nothing is remembered",
    ),
    (
        "max_ttl",
        "the longest time for which a success is remembered",
    ),
    (
        "errors",
        "newapi, openai or mj: the form of pollgate's own errors",
    ),
];

/// The method by which a task is asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PollMethod {
    /// `GET`, and `HEAD` with it.
    #[default]
    #[serde(rename = "GET")]
    Get,
    /// `POST`, with a JSON body.
    #[serde(rename = "POST")]
    Post,
}

/// What is remembered of a route's answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Answers that tell of a task.
    #[default]
    Task,
    /// Nothing: only concurrent polls share an answer.
    Share,
}

/// The form of errors, as the configuration spells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Errors {
    /// `{"code","message","data":null}`.
    #[default]
    NewApi,
    /// `{"error":{"message","type","param","code"}}`.
    OpenAi,
    /// `{"code","description","type"}`.
    Mj,
}

impl From<Errors> for ErrorForm {
    fn from(errors: Errors) -> Self {
        match errors {
            Errors::NewApi => Self::NewApi,
            Errors::OpenAi => Self::OpenAi,
            Errors::Mj => Self::Midjourney,
        }
    }
}

impl Definition {
    /// This definition, with the keys of `base` where it has none of its own.
    #[must_use]
    pub fn over(self, base: Self) -> Self {
        Self {
            name: self.name,
            path: self.path.or(base.path),
            id: self.id.or(base.id),
            method: self.method.or(base.method),
            when: self.when.or(base.when),
            unless: self.unless.or(base.unless),
            status: self.status.or(base.status),
            result: self.result.or(base.result),
            error: self.error.or(base.error),
            progress: self.progress.or(base.progress),
            succeeded: self.succeeded.or(base.succeeded),
            failed: self.failed.or(base.failed),
            each: self.each.or(base.each),
            volatile: self.volatile.or(base.volatile),
            keep: self.keep.or(base.keep),
            max_ttl: self.max_ttl.or(base.max_ttl),
            errors: self.errors.or(base.errors),
        }
    }
}

/// The presets that are on by default: routes that the API itself documents, or that many of its kind have.
pub const DEFAULT_PRESETS: [&str; 6] = ["octopus", "mj", "kling", "suno", "tasks", "ark"];

/// Every preset, in the order of the shipped file.
#[must_use]
pub fn presets() -> &'static [Definition] {
    #[derive(Deserialize)]
    struct File {
        route: Vec<Definition>,
    }
    static PRESETS: LazyLock<Vec<Definition>> = LazyLock::new(|| {
        let file: File = toml::from_str(include_str!("presets.toml")).expect("a test reads it");
        file.route
    });
    &PRESETS
}

/// The preset with this name.
pub(super) fn preset(name: &str) -> Option<&'static Definition> {
    presets().iter().find(|preset| preset.name == name)
}

/// One text, or a list of them.
fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a text or a list of texts")]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(Some(match OneOrMany::deserialize(from)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_presets_are_read_and_the_default_ones_are_among_them() {
        for name in DEFAULT_PRESETS {
            assert!(presets().iter().any(|preset| preset.name == name), "{name}");
        }
    }

    #[test]
    fn a_definition_of_ones_own_changes_a_preset_key_by_key() {
        let base: Definition =
            toml::from_str("name = 'a'\npath = '/a/{id}'\nfailed = ['x']").expect("reads");
        let own: Definition = toml::from_str("name = 'a'\nfailed = []").expect("reads");
        let merged = own.over(base);
        assert_eq!(merged.path, Some(vec!["/a/{id}".to_owned()]));
        assert_eq!(merged.failed, Some(Vec::new()));
    }
}
