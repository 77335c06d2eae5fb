//! Reads the configuration layers and records the origin of each setting.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::explain::{explain, location};
use super::keys::{self, get, nearest, put};
use super::origin::{Origin, Origins, environment_name};
use super::problem::Problem;
use super::validate;
use super::{Config, Proxy};

/// The layers above the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file, if any.
    pub file: Option<PathBuf>,
    /// Environment variables; those that are not settings are ignored.
    pub environment: Vec<(String, String)>,
    /// Key, flag and value of each flag given.
    pub flags: Vec<(&'static str, &'static str, String)>,
}

/// The effective configuration, with the origin of each setting.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
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
}

/// Reads every layer: defaults, file, environment, flags; the later one wins.
///
/// # Errors
/// The first thing that is wrong, with its location and what would be right.
pub fn load(sources: &Sources) -> Result<Loaded, Problem> {
    let defaults = keys::default_table()?;
    let known = keys::known(&defaults);
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
    validate::check(&config, &merged, &origins)?;
    config.upstream.proxy = Proxy::from_environment(&sources.environment, &config.upstream.url)
        .map_err(Problem::new)?;
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
            Problem::new(format!(
                "{name}: cannot be read: {error}; name a TOML file with --config or POLLGATE_CONFIG"
            ))
        })?;
        let line_of = |at: &Range<usize>| {
            text.get(..at.start)
                .map_or(1, |before| before.matches('\n').count() + 1)
        };
        let broken = |error: &toml::de::Error| {
            let line = error.span().map_or(1, |at| line_of(&at));
            Problem::new(format!(
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
        // A name without `__` is not a setting but, for example, a variable that Kubernetes sets for a service called
        // pollgate; unless it is the name of a setting with `_` in place of `__`.
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
            return Err(Problem::new(format!(
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

    /// Sections count as known: `cache = 5` has an error message of its own.
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
        Problem::new(format!(
            "{origin}: unknown key {key}; did you mean {nearest}?"
        ))
    }
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
