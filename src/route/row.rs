//! A row of the table: which requests ask on a route, made from its definition or refused in words.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::definition::{Definition, Keep, PollMethod, preset, presets};
use super::label::RouteLabel;
use super::task_id::TaskId;
use super::template::{Template, is_id};
use crate::task::{Dialect, ErrorForm, Pointer, Reader, is_same_word};

/// The number of a route, by which its answers are cached. A route that a reload changes gets another one, so that what
/// was read by its old rules is not shown any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouteId(pub(super) u8);

impl RouteId {
    /// The route whose documents are written in this dialect.
    #[must_use]
    pub const fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Unified => Self(0),
            Dialect::OpenAi => Self(1),
        }
    }

    /// The first that is free for other routes.
    pub(super) const FIRST: u8 = 2;

    /// The dialect that the route's documents are converted from and into, if they are.
    #[must_use]
    pub const fn dialect(self) -> Option<Dialect> {
        match self.0 {
            0 => Some(Dialect::Unified),
            1 => Some(Dialect::OpenAi),
            _ => None,
        }
    }

    /// The other routes that tell of the same task in documents that convert into this one's.
    pub fn others(self) -> impl Iterator<Item = Self> {
        let converts = self.dialect().is_some();
        let all = Dialect::ALL.into_iter().map(Self::of);
        all.filter(move |other| converts && *other != self)
    }
}

/// A status route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusRoute {
    /// Its documents are converted from one dialect into another where that is asked for.
    Converted(Dialect),
    /// Its documents are passed on as they come.
    AsIs(Arc<AsIsRoute>),
}

/// A route whose answers are passed on as they come: bytes and status are upstream's.
#[derive(Debug, PartialEq, Eq)]
pub struct AsIsRoute {
    /// Its number.
    pub id: RouteId,
    /// Its name in metrics and logs.
    pub label: RouteLabel,
    /// The form of pollgate's own errors.
    pub errors: ErrorForm,
    /// How its documents are read.
    pub reader: Reader,
    /// Whether nothing is remembered: only concurrent polls share an answer.
    pub shares_only: bool,
    /// The longest time for which a success is remembered.
    pub max_ttl: Option<Duration>,
    /// Where the ids are in the body of a request, if it is asked by `POST`.
    pub ids: Option<Pointer>,
}

impl StatusRoute {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> RouteId {
        match self {
            Self::Converted(dialect) => RouteId::of(*dialect),
            Self::AsIs(route) => route.id,
        }
    }

    /// Its name in metrics and logs.
    #[must_use]
    pub fn label(&self) -> RouteLabel {
        match self {
            Self::Converted(dialect) => RouteLabel::of(*dialect),
            Self::AsIs(route) => route.label,
        }
    }

    /// The form of pollgate's own errors.
    #[must_use]
    pub fn errors(&self) -> ErrorForm {
        match self {
            Self::Converted(dialect) => ErrorForm::of(*dialect),
            Self::AsIs(route) => route.errors,
        }
    }
}

/// What a request is, by its method and its raw target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Matched {
    /// `GET` or `HEAD` on a task's status.
    Poll {
        /// Its route.
        route: StatusRoute,
        /// The task that it asks for.
        task: TaskId,
        /// The query without the id's parameter, where the id stands in the query.
        rest_of_query: Option<String>,
    },
    /// `POST`, which asks for the tasks that its body names, if it names any.
    PollByBody(Arc<AsIsRoute>),
    /// A method that is not safe, on a task's path or below it: it may change the task.
    Write {
        /// The form in which its client reads errors.
        errors: ErrorForm,
        /// The task that its path names.
        task: TaskId,
    },
    /// Any other request.
    Forward {
        /// The form in which its client reads errors.
        errors: ErrorForm,
    },
}

impl Matched {
    /// The form in which its client reads errors.
    #[must_use]
    pub fn errors(&self) -> ErrorForm {
        match self {
            Self::Poll { route, .. } => route.errors(),
            Self::PollByBody(route) => route.errors,
            Self::Write { errors, .. } | Self::Forward { errors } => *errors,
        }
    }
}

/// What is wrong with the routes of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The name of the route; `None` for the list of presets.
    pub route: Option<String>,
    /// Its key that is wrong, if it is one.
    pub key: Option<&'static str>,
    /// What is wrong, and what it takes.
    pub what: String,
}

impl Mistake {
    pub(super) fn of(route: &str, Wrong(key, what): Wrong) -> Self {
        Self {
            route: Some(route.to_owned()),
            key: Some(key),
            what: format!("{key}: {what}"),
        }
    }

    pub(super) const fn of_presets(what: String) -> Self {
        Self {
            route: None,
            key: None,
            what,
        }
    }
}

/// A key that is wrong, and what is wrong with it.
pub(super) struct Wrong(pub(super) &'static str, pub(super) String);

/// A row of the table: which requests ask on a route.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub(super) route: StatusRoute,
    pub(super) definition: Definition,
    pub(super) templates: Box<[Template]>,
    pub(super) method: PollMethod,
    pub(super) id: IdAt,
    pub(super) when: Box<[(String, String)]>,
    pub(super) unless: Box<[String]>,
    /// Segments that are no ids.
    pub(super) not_ids: &'static [&'static str],
    /// Whether method, path and query are told by the id alone.
    pub(super) is_told_by_id: bool,
}

/// Where the id of a task is in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum IdAt {
    Path,
    Query(String),
    Body(Pointer),
}

impl Row {
    pub(super) fn new(
        definition: &Definition,
        before: Option<StatusRoute>,
        next: RouteId,
    ) -> Result<Self, Wrong> {
        let name = &definition.name;
        check_name(name)?;
        let templates = templates(definition)?;
        let method = definition.method.unwrap_or_default();
        let by_body = method == PollMethod::Post;
        let is_in_body = |id: &String| id.starts_with("body:");
        if by_body && !definition.id.as_ref().is_some_and(is_in_body) {
            let takes = "POST takes id = \"body:/POINTER\", where the id is in its JSON body: a POST without it may create";
            return Err(Wrong("method", takes.into()));
        }
        let id = IdAt::read(definition, &templates)?;
        if matches!(id, IdAt::Body(_)) && !by_body {
            let takes = "in the body it takes method = \"POST\"";
            return Err(Wrong("id", takes.into()));
        }
        let each = definition.each.as_deref();
        let each = each.map(|text| pointer("each", text)).transpose()?;
        if each.is_some() && !by_body {
            let takes = "it takes id = \"body:/POINTER\", which tells all tasks that are asked for";
            return Err(Wrong("each", takes.into()));
        }
        let (when, unless) = conditions(definition, &id)?;
        check_words(definition)?;
        let max_ttl = definition.max_ttl.as_deref().map(|text| {
            let takes = || format!("got {text:?}, takes a duration such as \"50m\" or \"12h\"");
            humantime::parse_duration(text).map_err(|_| Wrong("max_ttl", takes()))
        });
        let ids = match &id {
            IdAt::Body(pointer) => Some(pointer.clone()),
            _ => None,
        };
        let new = AsIsRoute {
            id: next,
            label: RouteLabel::named(name),
            errors: definition.errors.unwrap_or_default().into(),
            reader: Reader {
                status: pointers("status", definition.status.as_ref())?,
                result: pointers("result", definition.result.as_ref())?,
                error: pointers("error", definition.error.as_ref())?,
                progress: pointers("progress", definition.progress.as_ref())?,
                succeeded: definition.succeeded.clone().unwrap_or_default(),
                failed: definition.failed.clone().unwrap_or_default(),
                each,
                volatile: pointers("volatile", definition.volatile.as_ref())?,
            },
            shares_only: definition.keep == Some(Keep::Share),
            max_ttl: max_ttl.transpose()?,
            ids,
        };
        let is_told_by_id = templates.len() == 1
            && templates.iter().all(Template::is_told_by_id)
            && method == PollMethod::Get;
        Ok(Self {
            route: before.unwrap_or_else(|| StatusRoute::AsIs(Arc::new(new))),
            definition: definition.clone(),
            templates: templates.into(),
            method,
            id,
            when,
            unless,
            not_ids: &[],
            is_told_by_id,
        })
    }

    /// The poll that a request is, whose whole path fits.
    pub(super) fn poll(
        &self,
        method: &Method,
        path: &str,
        query: Option<&str>,
        id: Option<&str>,
    ) -> Option<Matched> {
        let asks = match self.method {
            PollMethod::Get => method == Method::GET || method == Method::HEAD,
            PollMethod::Post => method == Method::POST,
        };
        if !asks || !self.holds(query) {
            return None;
        }
        let (id, rest_of_query) = match (&self.id, &self.route) {
            (IdAt::Body(_), StatusRoute::AsIs(route)) => {
                return Some(Matched::PollByBody(Arc::clone(route)));
            }
            (IdAt::Query(name), _) => {
                let (id, rest) = without(query?, name)?;
                (id, Some(rest))
            }
            _ => (id?, None),
        };
        let task = if self.is_told_by_id {
            TaskId::new(id)
        } else {
            TaskId::within([id], path, None)
        };
        Some(Matched::Poll {
            route: self.route.clone(),
            task,
            rest_of_query,
        })
    }

    /// Whether a query has what it must have, and nothing that it must not.
    fn holds(&self, query: Option<&str>) -> bool {
        if self.when.is_empty() && self.unless.is_empty() {
            return true;
        }
        if query.is_some_and(is_split_differently) {
            return false;
        }
        let parameters = || query.into_iter().flat_map(parameters);
        let has = |(name, wanted): &(String, String)| {
            let mut values = parameters().filter(|(is, _)| is == name);
            // Servers differ in which of several they take.
            values.next().is_some_and(|(_, value)| value == *wanted) && values.next().is_none()
        };
        self.when.iter().all(has)
            && !parameters().any(|(name, _)| self.unless.iter().any(|one| *one == name))
    }

    /// Why two rows cannot both be there: there is a request that both match.
    pub(super) fn overlap(&self, other: &Self) -> Option<Mistake> {
        if self.method != other.method || self.excludes(other) || other.excludes(self) {
            return None;
        }
        let is_no_id =
            |segment: &str| self.not_ids.contains(&segment) || other.not_ids.contains(&segment);
        let pairs = self
            .templates
            .iter()
            .flat_map(|one| other.templates.iter().map(move |another| (one, another)));
        let (one, another) = pairs
            .into_iter()
            .find(|(one, another)| one.overlaps(another, is_no_id))?;
        let name = &other.definition.name;
        let mut what = format!("{one} matches requests of route {name:?} too, which has {another}");
        what.push_str(match preset(name) {
            Some(_) => "; to change a preset, give the route its name",
            None if matches!(other.route, StatusRoute::Converted(_)) => ", and is built in",
            None => "",
        });
        Some(Mistake::of(&self.definition.name, Wrong("path", what)))
    }

    /// Whether a query that fits this row cannot fit the other.
    fn excludes(&self, other: &Self) -> bool {
        self.when.iter().any(|(name, value)| {
            let differs = |(other, wanted): &(String, String)| other == name && wanted != value;
            other.when.iter().any(differs) || other.unless.contains(name)
        })
    }

    /// The route.
    #[must_use]
    pub const fn route(&self) -> &StatusRoute {
        &self.route
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.definition.name
    }

    /// Its path templates.
    #[must_use]
    pub fn templates(&self) -> &[Template] {
        &self.templates
    }

    /// How it is asked, in words: method, and where the id is.
    #[must_use]
    pub fn asks(&self) -> (&'static str, Cow<'_, str>) {
        let method = match self.method {
            PollMethod::Get => "GET",
            PollMethod::Post => "POST",
        };
        let id = match &self.id {
            IdAt::Path => Cow::Borrowed("path"),
            IdAt::Query(name) => format!("query:{name}").into(),
            IdAt::Body(pointer) => format!("body:{pointer}").into(),
        };
        (method, id)
    }

    /// The query parameters that there must be, and those that there must not be.
    pub fn conditions(&self) -> impl Iterator<Item = String> {
        let when = self.when.iter();
        let when = when.map(|(name, value)| format!("when {name}={value}"));
        when.chain(self.unless.iter().map(|name| format!("unless {name}")))
    }

    /// The definition that it came from.
    #[must_use]
    pub const fn definition(&self) -> &Definition {
        &self.definition
    }
}

impl IdAt {
    fn read(definition: &Definition, templates: &[Template]) -> Result<Self, Wrong> {
        let without = templates.iter().find(|one| !one.has_id());
        let with = templates.iter().find(|one| one.has_id());
        let Some(id) = definition.id.as_deref() else {
            return match without {
                None => Ok(Self::Path),
                Some(path) => Err(Wrong(
                    "path",
                    format!(
                        "got {:?}, takes {{id}} where the task is, as in \"/v1/tasks/{{id}}\"; where it is not in the \
                         path, id = \"query:NAME\" or \"body:/POINTER\" tells",
                        path.as_str()
                    ),
                )),
            };
        };
        if let Some(path) = with {
            let what = format!("got {id:?}, but the task is in the path already: {path}");
            return Err(Wrong("id", what));
        }
        match id.split_once(':') {
            Some(("query", name)) if !name.is_empty() => Ok(Self::Query(name.into())),
            Some(("body", text)) if !text.is_empty() => Ok(Self::Body(pointer("id", text)?)),
            _ => Err(Wrong(
                "id",
                format!("got {id:?}, takes \"query:NAME\" or \"body:/POINTER\""),
            )),
        }
    }
}

fn templates(definition: &Definition) -> Result<Vec<Template>, Wrong> {
    let paths = definition.path.as_deref().unwrap_or_default();
    if paths.is_empty() {
        let name = &definition.name;
        let near = |preset: &&Definition| {
            strsim::normalized_damerau_levenshtein(name, &preset.name) >= NEAR
        };
        let what = match presets().iter().find(near) {
            Some(preset) => format!("it is missing; did you mean the preset {:?}?", preset.name),
            None => "it is missing; it takes one such as \"/v1/tasks/{id}\"".into(),
        };
        return Err(Wrong("path", what));
    }
    let templates = paths.iter().map(|path| Template::parse(path));
    templates
        .collect::<Result<_, _>>()
        .map_err(|what| Wrong("path", what))
}

/// How alike (0 to 1) a name is to that of a preset which was probably meant.
const NEAR: f64 = 0.7;

/// Query parameters that there must be, with their values, and those that there must not be.
type Conditions = (Box<[(String, String)]>, Box<[String]>);

fn conditions(definition: &Definition, id: &IdAt) -> Result<Conditions, Wrong> {
    let when = definition.when.iter().flatten().map(|pair| {
        let told = pair.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) =
            told.ok_or_else(|| Wrong("when", format!("got {pair:?}, takes \"NAME=VALUE\"")))?;
        Ok((name.to_owned(), value.to_owned()))
    });
    let when: Box<[_]> = when.collect::<Result<_, _>>()?;
    let unless = definition.unless.clone().unwrap_or_default();
    for name in &unless {
        if name.is_empty() || name.contains('=') {
            let what = format!("got {name:?}, takes the name of a query parameter");
            return Err(Wrong("unless", what));
        }
        let is_id = matches!(id, IdAt::Query(id) if id == name);
        if is_id || when.iter().any(|(other, _)| other == name) {
            let what = format!("got {name:?}, which every poll must have");
            return Err(Wrong("unless", what));
        }
    }
    Ok((when, unless.into()))
}

/// Words that say nothing, or two things.
fn check_words(definition: &Definition) -> Result<(), Wrong> {
    let of = |words: &'_ Option<Vec<String>>| words.clone().unwrap_or_default();
    let (succeeded, failed) = (of(&definition.succeeded), of(&definition.failed));
    for (key, words) in [("succeeded", &succeeded), ("failed", &failed)] {
        if words.iter().any(|word| word.trim().is_empty()) {
            return Err(Wrong(key, "got an empty text, takes status words".into()));
        }
    }
    let is_both = |word: &&String| succeeded.iter().any(|one| is_same_word(one, word));
    match failed.iter().find(is_both) {
        Some(word) => Err(Wrong(
            "failed",
            format!("got {word:?}, which is in succeeded too"),
        )),
        None => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), Wrong> {
    let is_name = name.len() <= 32
        && name.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)
        });
    let what = if name.is_empty() {
        "it is missing; metrics and logs call the route by it".into()
    } else if !is_name {
        format!("got {name:?}, takes up to 32 of a-z, 0-9, - and _")
    } else if RouteLabel::is_taken(name) {
        format!("got {name:?}, which has a meaning of its own in metrics; take another")
    } else {
        return Ok(());
    };
    Err(Wrong("name", what))
}

fn pointer(key: &'static str, text: &str) -> Result<Pointer, Wrong> {
    Pointer::parse(text).map_err(|takes| Wrong(key, format!("got {text:?}, takes {takes}")))
}

/// Pointers to a part of a document.
fn pointers(key: &'static str, texts: Option<&Vec<String>>) -> Result<Vec<Pointer>, Wrong> {
    let pointers = texts.into_iter().flatten().map(|text| match &**text {
        "" => Err(Wrong(
            key,
            "got the whole document, takes a part of it, as \"/data\"".into(),
        )),
        text => pointer(key, text),
    });
    pointers.collect()
}

/// The parameters of a query, decoded.
fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

fn decoded(text: &str) -> Cow<'_, str> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        let decoded = percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy();
        return Cow::Owned(decoded.into_owned());
    }
    percent_encoding::percent_decode_str(text).decode_utf8_lossy()
}

/// Whether servers differ in what the parameters of a query are: some take `;` for `&`, some leave such a pair out.
fn is_split_differently(query: &str) -> bool {
    query.contains(';')
}

/// The raw value of a parameter, if it is there once and is an id, and the query without it.
fn without<'q>(query: &'q str, name: &str) -> Option<(&'q str, String)> {
    if is_split_differently(query) {
        return None;
    }
    let is_it = |pair: &&str| {
        let (is, _) = pair.split_once('=').unwrap_or((pair, ""));
        decoded(is) == name
    };
    let mut found = query.split('&').filter(is_it);
    let (_, id) = found.next()?.split_once('=')?;
    if found.next().is_some() || !is_id(id) {
        return None;
    }
    let rest: Vec<_> = query.split('&').filter(|pair| !is_it(pair)).collect();
    Some((id, rest.join("&")))
}
