//! Reads the layers, keeps where each setting came from, and says what is wrong in words that help.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::Semaphore;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::origin::{Origin, Origins, environment_name};
use super::{Config, Proxy};

/// Keys that have no default, and so do not stand in [`Config::default`].
const OPTIONAL_KEYS: [&str; 3] = ["listen.tls.cert", "listen.tls.key", "upstream.ca_file"];

/// Where to read from, besides the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file, if there is one.
    pub file: Option<PathBuf>,
    /// Names and values of the environment; those that do not look like settings are passed over.
    pub environment: Vec<(String, String)>,
    /// Key, flag and value of every flag that was given.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// A configuration that was read, and where its settings came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    pub(super) origins: Origins,
}

impl Loaded {
    /// A message that begins with a key, with the place in front where that key was set.
    #[must_use]
    pub fn with_place(&self, message: &str) -> String {
        let key = message.split(':').next().unwrap_or_default();
        match place(key, &self.origins).as_str() {
            "defaults" => message.to_owned(),
            place => format!("{place}: {message}"),
        }
    }
}

/// Why a configuration cannot be used: where, which key, what was found and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for Problem {}

impl Problem {
    pub(super) fn unwritable(error: &toml::ser::Error) -> Self {
        Self(format!(
            "the configuration cannot be written as TOML: {error}"
        ))
    }
}

/// Reads every layer: defaults, file, environment, flags; the later one wins.
///
/// # Errors
/// The first thing that is wrong, with its place and what would be right.
pub fn load(sources: &Sources) -> Result<Loaded, Problem> {
    let defaults = default_table()?;
    let known = known_keys(&defaults);
    let mut layers = Layers {
        merged: defaults.clone(),
        origins: Origins::new(),
        known,
    };
    if let Some(path) = &sources.file {
        layers.add_file(path)?;
    }
    for (name, text) in &sources.environment {
        layers.add_variable(name, text, &defaults)?;
    }
    for (key, flag, text) in &sources.flags {
        layers.set(key, Value::String(text.clone()), Origin::Flag(flag));
    }
    let Layers {
        merged, origins, ..
    } = layers;
    let mut config: Config = serde_path_to_error::deserialize(Value::Table(merged.clone()))
        .map_err(|error| {
            let key = error.path().to_string();
            explain(&key, error.inner().message(), &merged, &origins)
        })?;
    check(&config, &merged, &origins)?;
    config.upstream.proxy =
        Proxy::from_environment(&sources.environment, &config.upstream.url).map_err(Problem)?;
    Ok(Loaded { config, origins })
}

struct Layers {
    merged: Table,
    origins: Origins,
    known: Vec<String>,
}

impl Layers {
    fn add_file(&mut self, path: &Path) -> Result<(), Problem> {
        let name = path.display();
        let text = fs::read_to_string(path).map_err(|error| {
            Problem(format!(
                "{name}: cannot be read: {error}; name a TOML file with --config or POLLGATE_CONFIG"
            ))
        })?;
        let line_of = |at: &Range<usize>| {
            text.get(..at.start)
                .map_or(1, |before| before.matches('\n').count() + 1)
        };
        let broken = |error: &toml::de::Error| {
            let line = error.span().map_or(1, |at| line_of(&at));
            Problem(format!(
                "{name}:{line}: not valid TOML: {}",
                error.message()
            ))
        };
        let positions = DeTable::parse(&text).map_err(|error| broken(&error))?;
        let values: Table = toml::from_str(&text).map_err(|error| broken(&error))?;
        let mut lines = Vec::new();
        collect_lines("", positions.get_ref(), &mut |key, at| {
            lines.push((key, line_of(&at)));
        });
        lines.sort_by_key(|(_, line)| *line);
        for (key, line) in lines {
            let origin = Origin::File {
                path: path.to_owned(),
                line,
            };
            if !self.is_known(&key) {
                return Err(self.unknown(&key, &origin));
            }
            if let Some(value) = get(&values, &key) {
                self.set(&key, value.clone(), origin);
            }
        }
        Ok(())
    }

    fn add_variable(&mut self, name: &str, text: &str, defaults: &Table) -> Result<(), Problem> {
        // Names without `__` are no settings: POLLGATE_CONFIG, or what Kubernetes sets for a service called pollgate;
        // but for those that someone meant to be one.
        let meant = |key: &&String| environment_name(key).replace("__", "_") == name;
        if !name.starts_with("POLLGATE_")
            || !(name.contains("__") || self.known.iter().any(|key| meant(&key)))
        {
            return Ok(());
        }
        let Some(key) = self
            .known
            .iter()
            .find(|key| environment_name(key) == name)
            .cloned()
        else {
            let nearest = nearest(name, self.known.iter().map(|key| environment_name(key)));
            return Err(Problem(format!(
                "environment: unknown name {name}; did you mean {nearest}?"
            )));
        };
        let value = match get(defaults, &key) {
            Some(Value::Integer(_)) => text.parse().map_or_else(|_| text.into(), Value::Integer),
            Some(Value::Boolean(_)) => text.parse().map_or_else(|_| text.into(), Value::Boolean),
            _ => text.into(),
        };
        self.set(&key, value, Origin::Environment(name.to_owned()));
        Ok(())
    }

    fn set(&mut self, key: &str, value: Value, origin: Origin) {
        put(&mut self.merged, key, value);
        self.origins.insert(key.to_owned(), origin);
    }

    /// A whole section counts as known, so that `[cache]` alone, or a section that is no table, gets its own message.
    fn is_known(&self, key: &str) -> bool {
        self.known.iter().any(|known| {
            known == key
                || known
                    .strip_prefix(key)
                    .is_some_and(|rest| rest.starts_with('.'))
        })
    }

    fn unknown(&self, key: &str, origin: &Origin) -> Problem {
        let nearest = nearest(key, self.known.iter().cloned());
        Problem(format!(
            "{origin}: unknown key {key}; did you mean {nearest}?"
        ))
    }
}

/// What serde cannot see: settings that are well formed and make no sense.
fn check(config: &Config, merged: &Table, origins: &Origins) -> Result<(), Problem> {
    let refuse = |key: &str, takes: &str| Err(complain(key, takes, merged, origins));
    if let Some(admin) = config.listen.admin {
        if !admin.ip().is_loopback() && !config.listen.admin_public {
            return refuse(
                "listen.admin",
                "a loopback address; to let other machines in, also set listen.admin_public = true",
            );
        }
        if admin == config.listen.address && admin.port() != 0 {
            return refuse(
                "listen.admin",
                r#"an address other than listen.address, or "off""#,
            );
        }
    }
    let positive: [(&str, Duration); 5] = [
        ("upstream.connect_timeout", config.upstream.connect_timeout),
        ("upstream.timeout", config.upstream.timeout),
        ("limits.header_timeout", config.limits.header_timeout),
        ("limits.idle_timeout", config.limits.idle_timeout),
        ("log.snapshot", config.log.snapshot.unwrap_or(Duration::MAX)),
    ];
    if let Some((key, _)) = positive.iter().find(|(_, value)| value.is_zero()) {
        return refuse(key, "a duration above zero");
    }
    for (key, value) in [
        ("limits.max_connections", config.limits.max_connections),
        ("limits.max_upstream", config.limits.max_upstream),
    ] {
        if value.get() > Semaphore::MAX_PERMITS {
            return refuse(key, "a smaller number");
        }
    }
    if config.upstream.max_status_body.bytes() == 0 {
        return refuse("upstream.max_status_body", "a size above zero");
    }
    if config.cache.in_flight_max < config.cache.in_flight_ttl
        && origins.contains_key("cache.in_flight_max")
    {
        return refuse("cache.in_flight_max", "at least cache.in_flight_ttl");
    }
    Ok(())
}

/// Puts serde's words into the form of every message here.
fn explain(key: &str, said: &str, merged: &Table, origins: &Origins) -> Problem {
    // `[[cache]]` is a list of sections.
    if let Some((section, _)) = key.split_once('[') {
        return complain(
            section,
            "one section with keys of its own, as in [section]",
            merged,
            origins,
        );
    }
    if let Some((_, missing)) = said.split_once("missing field `") {
        let missing = missing.trim_end_matches('`');
        let place = place(key, origins);
        return Problem(format!(
            "{place}: {key}.{missing} is missing: {key} takes both cert and key"
        ));
    }
    let takes = said
        .rsplit_once("expected ")
        .map_or(said, |(_, takes)| takes)
        .trim();
    let takes = match takes {
        "a boolean" => "true or false".to_owned(),
        "a nonzero usize" | "usize" => "a whole number above zero".to_owned(),
        "path string" => "a path, as text".to_owned(),
        takes if takes.starts_with("struct ") || takes == "a map" => {
            "a section with keys of its own".to_owned()
        }
        takes => takes.replace('`', "\""),
    };
    complain(key, &takes, merged, origins)
}

fn complain(key: &str, takes: &str, merged: &Table, origins: &Origins) -> Problem {
    let place = place(key, origins);
    // A URL with a user or a query in it may hold a secret: it is not repeated.
    let got = match get(merged, key) {
        Some(Value::String(text)) if text.contains(['@', '?', '#']) => {
            "a text with a user or a query in it (not repeated here)".to_owned()
        }
        Some(value) => value.to_string().trim().to_owned(),
        None => "nothing".to_owned(),
    };
    Problem(format!("{place}: {key}: got {got}, takes {takes}"))
}

fn place(key: &str, origins: &Origins) -> String {
    origins
        .iter()
        .find(|(set, _)| *set == key || set.starts_with(&format!("{key}.")))
        .map_or_else(|| "defaults".to_owned(), |(_, origin)| origin.to_string())
}

fn nearest(wrong: &str, known: impl Iterator<Item = String>) -> String {
    // The right name in the wrong section is nearer than any other name in that section.
    let likeness = |key: &String| {
        let whole = strsim::jaro_winkler(wrong, key);
        whole.max(strsim::jaro_winkler(last_name(wrong), last_name(key)) * 0.99)
    };
    known
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .unwrap_or_default()
}

/// `succeeded_ttl` of `cache.succeeded_ttl`, and of its name in the environment.
fn last_name(key: &str) -> &str {
    key.rsplit(['.'])
        .next()
        .and_then(|name| name.rsplit("__").next())
        .unwrap_or(key)
}

pub(super) fn default_table() -> Result<Table, Problem> {
    Table::try_from(Config::default()).map_err(|error| Problem::unwritable(&error))
}

fn known_keys(defaults: &Table) -> Vec<String> {
    let mut keys: Vec<String> = OPTIONAL_KEYS.map(str::to_owned).into();
    for (section, values) in defaults {
        for key in values.as_table().into_iter().flat_map(Table::keys) {
            keys.push(format!("{section}.{key}"));
        }
    }
    keys
}

fn collect_lines(prefix: &str, table: &DeTable<'_>, found: &mut impl FnMut(String, Range<usize>)) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{prefix}.{}", key.get_ref())
        };
        match value.get_ref() {
            DeValue::Table(inner) => collect_lines(&path, inner, found),
            _ => found(path, key.span()),
        }
    }
}

pub(super) fn get<'t>(table: &'t Table, key: &str) -> Option<&'t Value> {
    match key.split_once('.') {
        Some((section, rest)) => get(table.get(section)?.as_table()?, rest),
        None => table.get(key),
    }
}

fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((section, rest)) => {
            let inner = table
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
        None => {
            table.insert(key.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Sources {
        Sources {
            environment: pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Sources::default()
        }
    }

    fn complaint(sources: &Sources) -> String {
        load(sources)
            .map(|_| ())
            .expect_err("is refused")
            .to_string()
    }

    #[test]
    fn nothing_set_is_the_defaults() {
        assert_eq!(
            load(&Sources::default()).expect("loads").config,
            Config::default()
        );
    }

    #[test]
    fn the_environment_is_read_by_the_type_of_the_key() {
        let loaded = load(&environment(&[
            ("POLLGATE_CACHE__SUCCEEDED_TTL", "6h"),
            ("POLLGATE_CACHE__ADAPTIVE", "false"),
            ("POLLGATE_LIMITS__MAX_UPSTREAM", "7"),
            ("POLLGATE_UPSTREAM__CA_FILE", "7"),
            ("POLLGATE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ]))
        .expect("loads")
        .config;
        assert_eq!(loaded.cache.succeeded_ttl, Duration::from_hours(6));
        assert!(!loaded.cache.adaptive);
        assert_eq!(loaded.limits.max_upstream.get(), 7);
        assert_eq!(loaded.upstream.ca_file, Some("7".into()));
    }

    #[test]
    fn flags_win_over_the_environment() {
        let mut sources = environment(&[("POLLGATE_LISTEN__ADDRESS", "127.0.0.1:1")]);
        sources
            .flags
            .push(("listen.address", "--listen", "127.0.0.1:2".into()));
        assert_eq!(
            load(&sources).expect("loads").config.listen.address.port(),
            2
        );
    }

    #[test]
    fn a_wrong_value_is_told_with_its_place_and_what_it_takes() {
        for (name, value, told) in [
            (
                "CACHE__SUCCEEDED_TTL",
                "12 parsecs",
                r#"cache.succeeded_ttl: got "12 parsecs", takes a duration such as"#,
            ),
            (
                "CACHE__ADAPTIVE",
                "perhaps",
                r#"cache.adaptive: got "perhaps", takes true or false"#,
            ),
            (
                "LIMITS__MAX_UPSTREAM",
                "0",
                "limits.max_upstream: got 0, takes a whole number above zero",
            ),
            (
                "LIMITS__MAX_UPSTREAM",
                "-1",
                "limits.max_upstream: got -1, takes a whole number above zero",
            ),
            (
                "UPSTREAM__DIALECT",
                "klingon",
                r#"upstream.dialect: got "klingon", takes one of "match", "unified", "openai""#,
            ),
            (
                "UPSTREAM__TIMEOUT",
                "0s",
                r#"upstream.timeout: got "0s", takes a duration above zero"#,
            ),
            (
                "LISTEN__ADMIN",
                "0.0.0.0:9090",
                "listen.admin: got \"0.0.0.0:9090\", takes a loopback address",
            ),
            ("LISTEN__TLS__CERT", "cert.pem", "listen.tls.key is missing"),
        ] {
            let name = format!("POLLGATE_{name}");
            let complaint = complaint(&environment(&[(&name, value)]));
            assert!(
                complaint.starts_with(&format!("environment {name}: ")),
                "{complaint}"
            );
            assert!(complaint.contains(told), "{complaint}");
        }
    }

    #[test]
    fn an_unknown_name_is_told_with_the_nearest_known_one() {
        let complaint = complaint(&environment(&[("POLLGATE_CACHE__SUCCEDED_TTL", "1h")]));
        assert!(
            complaint.contains("did you mean POLLGATE_CACHE__SUCCEEDED_TTL?"),
            "{complaint}"
        );
    }

    #[test]
    fn a_secret_in_the_upstream_url_is_refused_and_not_repeated() {
        let complaint = complaint(&environment(&[(
            "POLLGATE_UPSTREAM__URL",
            "https://me:hunter2@octopusx.ai",
        )]));
        assert!(!complaint.contains("hunter2"), "{complaint}");
    }
}
