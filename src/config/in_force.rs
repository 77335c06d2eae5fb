//! The settings in force, for people.

use toml::{Table, Value};

use super::Config;
use super::changes::is_fixed;
use super::keys::{self, get};

/// One setting, and whether it is the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its dotted key.
    pub key: String,
    /// The value in force, without a secret.
    pub value: String,
    /// Whether it differs from the default.
    pub is_changed: bool,
    /// The value that the next start will take up, if it is another one.
    pub after_restart: Option<String>,
}

impl Config {
    /// The settings of a process that started with `self` and took up `last` since then, in the order of their keys.
    #[must_use]
    pub fn in_force(&self, last: &Self) -> Vec<Setting> {
        let [started, current] =
            [self, last].map(|config| Table::try_from(config).unwrap_or_default());
        let defaults = keys::default_table().unwrap_or_default();
        let mut known = keys::known(&defaults);
        known.sort();
        let settings = known.into_iter().filter_map(|key| {
            let (first, next) = (get(&started, &key), get(&current, &key));
            let waits = is_fixed(&started, &current, &key) && first != next;
            let value = if waits { first } else { next };
            if value.is_none() && !waits {
                return None;
            }
            Some(Setting {
                value: text(value),
                is_changed: value != get(&defaults, &key),
                after_restart: waits.then(|| text(next)),
                key,
            })
        });
        let proxy = self.upstream.proxy.as_ref().map(|proxy| Setting {
            key: "proxy, from the environment".into(),
            value: proxy.to_string(),
            is_changed: true,
            after_restart: None,
        });
        settings.chain(proxy).collect()
    }
}

/// A URL with a user or a query may hold a secret.
fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) if text.contains(['@', '?', '#']) => "(not shown)".into(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "none".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_in_force_or_waits_for_a_restart() {
        let started = Config::default();
        let mut last = Config::default();
        last.cache.adaptive = false;
        last.listen.address.set_port(1);
        let settings = started.in_force(&last);
        let of = |key: &str| {
            let setting = settings.iter().find(|setting| setting.key == key);
            let Setting {
                value,
                is_changed,
                after_restart,
                ..
            } = setting.expect(key);
            (value.as_str(), *is_changed, after_restart.as_deref())
        };
        assert_eq!(of("cache.adaptive"), ("false", true, None));
        assert_eq!(of("cache.failed_ttl"), ("10m", false, None));
        assert_eq!(
            of("listen.address"),
            ("127.0.0.1:8080", false, Some("127.0.0.1:1"))
        );
        assert!(
            settings
                .iter()
                .all(|setting| setting.key != "listen.tls.cert")
        );
    }

    #[test]
    fn what_may_hold_a_secret_is_not_shown() {
        for secret in ["redis://user:hunter2@engine", "https://h/?key=hunter2"] {
            assert_eq!(text(Some(&Value::String(secret.into()))), "(not shown)");
        }
    }
}
