//! Reads the configuration layers and records the origin of each setting.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::explain::{explain, invalid, location};
use super::keys::{self, get, nearest, put};
use super::origin::{FILE_NAME, Origin, Origins, SHORT_NAMES, environment_name};
use super::problem::Problem;
use super::routes;
use super::validate;
use super::{Config, Proxy};

/// The layers above the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file, if a flag names one; it overrides `POLLGATE_CONFIG`.
    pub file: Option<PathBuf>,
    /// Environment variables; those that are empty or not settings are ignored.
    pub environment: Vec<(String, String)>,
    /// Key, flag and value of each flag given.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// The effective configuration, with the origin of each setting.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    pub(super) origins: Origins,
}

impl Loaded {
    /// Prefixes a message that begins with a key with the location where that key was set.
    #[must_use]
    pub fn with_location(&self, message: &str) -> String {
        let key = message.split(':').next().unwrap_or_default();
        match location(key, &self.origins).as_str() {
            "defaults" => message.to_owned(),
            location => format!("{location}: {message}"),
        }
    }

    /// Settings that are allowed and probably not meant, each with its location.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let warnings = validate::warnings(&self.config).into_iter();
        warnings
            .map(|(key, warning)| self.with_location(&format!("{key}: {warning}")))
            .collect()
    }
}

/// Reads every layer: defaults, file, environment, flags, each overriding the one before.
///
/// # Errors
/// Every mistake, each with its location and what would be right.
pub fn load(sources: &Sources) -> Result<Loaded, Problem> {
    let defaults = keys::default_table()?;
    let environment: Vec<_> = sources
        .environment
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let named = environment.iter().find(|(name, _)| name == FILE_NAME);
    let file = sources
        .file
        .clone()
        .or_else(|| named.map(|(_, path)| path.into()));
    let mut layers = Layers {
        known: keys::known(&defaults),
        merged: defaults.clone(),
        defaults,
        origins: Origins::new(),
        mistakes: Vec::new(),
    };
    if let Some(path) = &file {
        layers.add_file(path);
    }
    for (name, text) in environment {
        layers.add_variable(name, text);
    }
    for (key, flag, text) in &sources.flags {
        layers.set(key, Value::String(text.clone()), Origin::Flag(flag));
    }
    let mut config = layers.read()?;
    config.upstream.proxy = Proxy::from_environment(&sources.environment, &config.upstream.url)
        .unwrap_or_else(|mistake| {
            layers.mistakes.push(mistake);
            None
        });
    if !layers.mistakes.is_empty() {
        return Err(Problem::new(layers.mistakes));
    }
    Ok(Loaded {
        config,
        file,
        origins: layers.origins,
    })
}

struct Layers {
    known: Vec<String>,
    defaults: Table,
    merged: Table,
    origins: Origins,
    mistakes: Vec<String>,
}

impl Layers {
    /// Reads the settings. Where one is refused, its default takes its place, so that the next mistake is found too.
    fn read(&mut self) -> Result<Config, Problem> {
        let mut table = self.merged.clone();
        let mut refused: Vec<String> = Vec::new();
        let config = loop {
            let read: Result<Config, _> =
                serde_path_to_error::deserialize(Value::Table(table.clone()));
            let error = match read {
                Ok(config) => break config,
                Err(error) => error,
            };
            let path = error.path().to_string();
            let message = error.inner().message();
            if let Some(mistake) =
                routes::refuse(&path, message, &mut table, &self.merged, &self.origins)
            {
                self.mistakes.push(mistake);
                continue;
            }
            let mistake = explain(&path, message, &self.merged, &self.origins);
            self.mistakes.push(mistake);
            let key = path.split('[').next().unwrap_or_default().to_owned();
            if refused.contains(&key) || !self.restore(&mut table, &key) {
                return Err(Problem::new(std::mem::take(&mut self.mistakes)));
            }
            refused.push(key);
        };
        self.mistakes
            .extend(routes::check(&config, &self.merged, &self.origins));
        for (key, takes) in validate::check(&config, &self.origins) {
            let is_default = refused
                .iter()
                .any(|refused| key == refused || key.starts_with(&format!("{refused}.")));
            if !is_default {
                let mistake = invalid(key, takes, &self.merged, &self.origins);
                self.mistakes.push(mistake);
            }
        }
        Ok(config)
    }

    /// Puts the default in the place of a key or section; returns whether there was anything to replace.
    fn restore(&self, table: &mut Table, key: &str) -> bool {
        if let Some(default) = get(&self.defaults, key) {
            put(table, key, default.clone());
            return true;
        }
        keys::remove(table, key)
    }

    fn add_file(&mut self, path: &Path) {
        let name = path.display();
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                return self.mistakes.push(format!(
                    "{name}: cannot be read: {error}; name a TOML file with --config or {FILE_NAME}"
                ));
            }
        };
        let line_of = |at: &Range<usize>| {
            text.get(..at.start)
                .map_or(1, |before| before.matches('\n').count() + 1)
        };
        let mut broken = |error: &toml::de::Error| {
            let at = error.span().unwrap_or(0..0);
            let line = line_of(&at);
            let what = match error.message() {
                "duplicate key" => duplicate(&text, line),
                message => message.to_owned(),
            };
            self.mistakes
                .push(format!("{name}:{line}: not valid TOML: {what}"));
        };
        let positions = match DeTable::parse(&text) {
            Ok(positions) => positions,
            Err(error) => return broken(&error),
        };
        let values: Table = match toml::from_str(&text) {
            Ok(values) => values,
            Err(error) => return broken(&error),
        };
        let mut misspelled = Vec::new();
        for (what, at) in routes::misspelled(positions.get_ref()) {
            misspelled.push(what.split(':').next().unwrap_or_default());
            let line = line_of(&at);
            self.mistakes.push(format!("{name}:{line}: {what}"));
        }
        for (key, at) in routes::positions(positions.get_ref()) {
            let (path, line) = (path.to_owned(), line_of(&at));
            self.origins.insert(key, Origin::File { path, line });
        }
        let mut lines = Vec::new();
        collect_lines("", positions.get_ref(), &mut |key, at| {
            lines.push((key, line_of(&at)));
        });
        lines.sort_by_key(|(_, line)| *line);
        lines.retain(|(key, _)| {
            let section = key.split('.').next().unwrap_or_default();
            !misspelled.contains(&section)
        });
        for (key, line) in lines {
            let origin = Origin::File {
                path: path.to_owned(),
                line,
            };
            if key == routes::KEY {
                put(
                    &mut self.merged,
                    &key,
                    values
                        .get(&key)
                        .cloned()
                        .unwrap_or_else(|| Value::Array(Vec::new())),
                );
            } else if !self.is_known(&key) {
                let hint = self.hint(&key, str::to_owned);
                self.mistakes
                    .push(format!("{origin}: unknown key {key}; {hint}"));
            } else if let Some(value) = get(&values, &key) {
                self.set(&key, value.clone(), origin);
            }
        }
    }

    fn add_variable(&mut self, name: &str, text: &str) {
        let short = SHORT_NAMES.iter().find(|(short, _)| *short == name);
        if let Some((_, key)) = short {
            return self.set_variable(key, name, text);
        }
        let known = self.known.iter().find(|key| environment_name(key) == name);
        if let Some(key) = known.cloned() {
            return self.set_variable(&key, name, text);
        }
        // A name without `__` is not a setting but, for example, a variable that Kubernetes sets for a service called
        // pollgate; unless it is the name of a setting with `_` in place of `__`.
        let Some(rest) = name.strip_prefix("POLLGATE_") else {
            return;
        };
        if rest.starts_with("ROUTE__") {
            self.mistakes.push(format!(
                "environment: unknown name {name}; routes of your own are in the file only, as [[route]]"
            ));
            return;
        }
        let meant = |key: &String| environment_name(key).replace("__", "_") == name;
        if name.contains("__") || self.known.iter().any(meant) {
            let dotted = rest.replace("__", ".").to_ascii_lowercase();
            let hint = match self.known.iter().find(|key| meant(key)) {
                Some(key) => format!("did you mean {}?", environment_name(key)),
                None => self.hint(&dotted, environment_name),
            };
            self.mistakes
                .push(format!("environment: unknown name {name}; {hint}"));
        }
    }

    /// Sets a key to the text of a variable, read by the type of the key's default. Lists are written with commas.
    fn set_variable(&mut self, key: &str, name: &str, text: &str) {
        let value = match get(&self.defaults, key) {
            Some(Value::Integer(_)) => text.parse().map_or_else(|_| text.into(), Value::Integer),
            Some(Value::Boolean(_)) => text.parse().map_or_else(|_| text.into(), Value::Boolean),
            Some(Value::Array(_)) => list(text),
            _ => text.into(),
        };
        let other = match self.origins.get(key) {
            Some(Origin::Environment(other)) => Some(other.clone()),
            _ => None,
        };
        if let Some(other) = other
            && get(&self.merged, key) != Some(&value)
        {
            self.mistakes.push(format!(
                "environment: {other} and {name} both set {key}, to different values"
            ));
        }
        self.set(key, value, Origin::Environment(name.to_owned()));
    }

    fn set(&mut self, key: &str, value: Value, origin: Origin) {
        put(&mut self.merged, key, value);
        self.origins.insert(key.to_owned(), origin);
    }

    /// Sections count as known: `cache = 5` has an error message of its own.
    fn is_known(&self, key: &str) -> bool {
        self.known.iter().any(|known| {
            known == key
                || known
                    .strip_prefix(key)
                    .is_some_and(|rest| rest.starts_with('.'))
        })
    }

    /// What an unknown key may have been meant to be; `spell` writes a key as its layer does.
    fn hint(&self, wrong: &str, spell: impl Fn(&str) -> String) -> String {
        if let Some(near) = nearest(wrong, &self.known) {
            return format!("did you mean {}?", spell(near));
        }
        let section = wrong.split('.').next().unwrap_or_default();
        let names: Vec<_> = self
            .known
            .iter()
            .filter_map(|key| key.strip_prefix(section)?.strip_prefix('.'))
            .collect();
        if names.is_empty() {
            let sections: Vec<_> = self.defaults.keys().map(String::as_str).collect();
            return format!("the sections are {}", sections.join(", "));
        }
        format!("{section} takes {}", names.join(", "))
    }
}

/// A list as the environment has it: with commas, or as TOML.
fn list(text: &str) -> Value {
    let toml = text.starts_with('[').then(|| text.parse::<Value>().ok());
    toml.flatten().unwrap_or_else(|| {
        let items = text.split(',').map(str::trim);
        let items = items.filter(|item| !item.is_empty());
        Value::Array(items.map(Value::from).collect())
    })
}

/// Names the key that line `line` sets for a second time, and where it was set first.
fn duplicate(text: &str, line: usize) -> String {
    let mut section = String::new();
    let mut first: Vec<(String, usize)> = Vec::new();
    for (number, content) in (1..=line).zip(text.lines()) {
        let content = content.trim();
        let key = if let Some(header) = content.strip_prefix("[[") {
            section = header.split(']').next().unwrap_or_default().trim().into();
            // Another item of the list: it may set what an earlier one has set.
            let within = format!("{section}.");
            first.retain(|(known, _)| !known.starts_with(&within));
            continue;
        } else if let Some(header) = content.strip_prefix('[') {
            section = header.split(']').next().unwrap_or_default().trim().into();
            section.clone()
        } else if let Some((name, _)) = content.split_once('=')
            && !content.starts_with('#')
        {
            let name = name.trim();
            match section.as_str() {
                "" => name.to_owned(),
                section => format!("{section}.{name}"),
            }
        } else {
            continue;
        };
        if number == line {
            let earlier = first.iter().find(|(known, _)| *known == key);
            return match earlier {
                Some((_, earlier)) => format!("{key} is set twice, first in line {earlier}"),
                None => format!("{key} is set twice"),
            };
        }
        first.push((key, number));
    }
    "a key is set twice".to_owned()
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
    fn short_names_and_long_names_set_the_same_keys() {
        for (name, key) in SHORT_NAMES {
            let (long, other) = (environment_name(key), "http://127.0.0.1:7");
            let value = if key == "upstream.url" {
                other
            } else {
                "127.0.0.1:7"
            };
            let short = load(&environment(&[(name, value)])).expect("loads");
            let both = load(&environment(&[(name, value), (&long, value)])).expect("loads");
            assert_eq!(short.config, both.config, "{name}");
            assert_ne!(short.config, Config::default(), "{name}");
            let complaint = complaint(&environment(&[(name, "127.0.0.1:8"), (&long, value)]));
            assert!(complaint.contains(&format!("{name} and {long} both set {key}")));
        }
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let names = [
            "POLLGATE_CONFIG",
            "POLLGATE_UPSTREAM",
            "POLLGATE_LISTEN__ADMIN",
            "POLLGATE_CACHE__NO_SUCH",
            "HTTPS_PROXY",
        ];
        let loaded = load(&environment(&names.map(|name| (name, ""))));
        assert_eq!(loaded.expect("loads").config, Config::default());
    }

    #[test]
    fn lists_are_written_with_commas_or_as_toml() {
        for (text, items) in [
            ("mj", &["mj"][..]),
            ("mj, kling,suno", &["mj", "kling", "suno"]),
            ("[]", &[]),
            ("[\"a,b\"]", &["a,b"]),
        ] {
            let items = items.iter().map(|item| Value::from(*item)).collect();
            assert_eq!(list(text), Value::Array(items), "{text}");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("it.toml");
        let text = "[cache]\ncapacty = \"1MiB\"\nfailed_ttl = 5\n[limits]\nmax_upstream = 0\nmax_wait = \"1h\"\n";
        fs::write(&file, text).expect("is written");
        let mut sources = environment(&[
            ("POLLGATE_LOG__LEVEL", "loud"),
            ("POLLGATE_LISTEN__ADMIN", "0.0.0.0:1"),
            ("POLLGATE_LISTEN__TLS__CERT", "cert.pem"),
            ("POLLGATE_UPSTREAM__URI", "http://a.test"),
            ("HTTPS_PROXY", "ftp://p"),
        ]);
        sources.file = Some(file.clone());
        let problem = load(&sources).map(|_| ()).expect_err("is refused");
        let at = |line| format!("{}:{line}: ", file.display());
        for told in [
            &(at(2) + "unknown key cache.capacty; did you mean cache.capacity?"),
            &(at(3) + "cache.failed_ttl: got 5, takes a duration"),
            &(at(5) + "limits.max_upstream: got 0, takes a whole number"),
            "environment POLLGATE_LOG__LEVEL: log.level: got \"loud\"",
            "environment POLLGATE_LISTEN__ADMIN: listen.admin: got \"0.0.0.0:1\"",
            "environment POLLGATE_LISTEN__TLS__CERT: listen.tls.key is missing",
            "environment: unknown name POLLGATE_UPSTREAM__URI; upstream takes ",
            "environment HTTPS_PROXY: ",
        ] {
            let found = problem.mistakes().iter();
            assert_eq!(
                found.filter(|mistake| mistake.starts_with(told)).count(),
                1,
                "{told}: {problem}"
            );
        }
        assert_eq!(problem.mistakes().len(), 8, "{problem}");
    }

    #[test]
    fn what_is_allowed_and_hardly_meant_is_warned_of() {
        for (pairs, warnings) in [
            (&[][..], &[][..]),
            (&[("POLLGATE_UPSTREAM", "http://a.test/api")], &[]),
            (
                &[("POLLGATE_UPSTREAM", "http://a.test/v1/")],
                &["environment POLLGATE_UPSTREAM: upstream.url: ends in /v1"],
            ),
            (
                &[
                    ("POLLGATE_ADMIN", "0.0.0.0:9090"),
                    ("POLLGATE_LISTEN__ADMIN_PUBLIC", "true"),
                ],
                &["environment POLLGATE_ADMIN: listen.admin: 0.0.0.0:9090 is reachable"],
            ),
        ] {
            let told = load(&environment(pairs)).expect("loads").warnings();
            assert_eq!(told.len(), warnings.len(), "{told:?}");
            for (told, warning) in told.iter().zip(warnings) {
                assert!(told.starts_with(warning), "{told}");
            }
        }
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
    fn a_wrong_value_is_told_with_its_location_and_what_it_takes() {
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
            (
                "CALLERS__HEADERS",
                "x-tenant, te",
                r#"callers.headers: got ["x-tenant", "te"], takes headers that are not about one connection"#,
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
    fn an_admin_address_beyond_loopback_has_to_be_meant() {
        for (address, is_loopback) in [
            ("127.0.0.1:9090", true),
            ("127.9.9.9:9090", true),
            ("[::1]:9090", true),
            ("off", true),
            ("0.0.0.0:9090", false),
            ("192.168.1.2:0", false),
            ("[::]:9090", false),
            ("[fe80::1]:9090", false),
            ("[::ffff:192.168.1.2]:9090", false),
        ] {
            let mut pairs = vec![("POLLGATE_LISTEN__ADMIN", address)];
            let loaded = load(&environment(&pairs));
            assert_eq!(loaded.is_ok(), is_loopback, "{address}");
            pairs.push(("POLLGATE_LISTEN__ADMIN_PUBLIC", "true"));
            assert!(load(&environment(&pairs)).is_ok(), "{address}");
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
