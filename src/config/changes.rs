//! The difference between two configurations, and which part of it a running gateway can apply.

use toml::Table;

use super::Config;
use super::{keys, routes};

/// Keys that are read once, when the process starts. A reload applies all others.
const FIXED: &[&str] = &[
    "cache.capacity",
    "fleet.alone",
    "fleet.ca_file",
    "fleet.cert",
    "fleet.engine",
    "fleet.key",
    "fleet.lease",
    "fleet.max_value",
    "fleet.name",
    "fleet.password_file",
    "fleet.secret_file",
    "fleet.sentinel.hosts",
    "fleet.sentinel.name",
    "fleet.share",
    "fleet.timeout",
    "limits.caller_share",
    "limits.drain",
    "limits.header_timeout",
    "limits.idle_timeout",
    "limits.max_connections",
    "limits.max_upstream",
    "limits.workers",
    "listen.address",
    "listen.admin",
    "listen.admin_public",
    "log.format",
    "log.snapshot",
    "upstream.ca_file",
    "upstream.connect_timeout",
    "upstream.url",
];

/// The keys that differ between two configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that a running gateway applies.
    pub applied: Vec<String>,
    /// Those that wait for a restart.
    pub wait_for_restart: Vec<String>,
}

impl Config {
    /// The difference between `wanted` and what is in force in a process that started with `self` and last applied
    /// `last`.
    #[must_use]
    pub fn changes(&self, last: &Self, wanted: &Self) -> Changes {
        let [started, last, wanted] =
            [self, last, wanted].map(|config| Table::try_from(config).unwrap_or_default());
        let differs = |from: &Table, key: &str| keys::get(from, key) != keys::get(&wanted, key);
        let mut changes = Changes::default();
        for key in keys::known(&keys::default_table().unwrap_or_default()) {
            if is_fixed(&started, &wanted, &key) {
                if differs(&started, &key) {
                    changes.wait_for_restart.push(key);
                }
            } else if differs(&last, &key) {
                changes.applied.push(key);
            }
        }
        if differs(&last, routes::KEY) {
            changes.applied.push(routes::KEY.into());
        }
        changes
    }
}

/// Whether a process that started with one configuration can apply this key of another one only by a restart.
pub(super) fn is_fixed(started: &Table, wanted: &Table, key: &str) -> bool {
    // The files of `listen.tls` can be replaced while running; HTTPS itself is switched on or off at the start only.
    let https_toggled = started_with_tls(started) != started_with_tls(wanted);
    FIXED.contains(&key) || (https_toggled && key.starts_with("listen.tls."))
}

fn started_with_tls(config: &Table) -> bool {
    keys::get(config, "listen.tls").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Tls;

    /// Keys that a reload applies. A new key is listed either here or in [`FIXED`].
    const LIVE: &[&str] = &[
        "answers.rendering",
        "cache.adaptive",
        "cache.credential_ttl",
        "cache.failed_ttl",
        "cache.in_flight_max",
        "cache.in_flight_ttl",
        "cache.missing_ttl",
        "cache.stale_if_error",
        "cache.succeeded_ttl",
        "cache.url_margin",
        "callers.headers",
        "limits.max_wait",
        "limits.max_waiters",
        "listen.forwarded",
        "listen.tls.cert",
        "listen.tls.key",
        "log.level",
        "log.requests",
        "routes.presets",
        "upstream.dialect",
        "upstream.max_status_body",
        "upstream.patience",
        "upstream.timeout",
    ];

    #[test]
    fn every_key_either_waits_for_a_restart_or_does_not() {
        let mut known = keys::known(&keys::default_table().expect("is TOML"));
        let mut listed: Vec<_> = FIXED
            .iter()
            .chain(LIVE)
            .map(|key| (*key).to_owned())
            .collect();
        known.sort();
        listed.sort();
        assert_eq!(listed, known);
    }

    #[test]
    fn a_change_waits_for_a_restart_until_it_is_taken_back() {
        let started = Config::default();
        let mut wanted = Config::default();
        wanted.listen.address.set_port(1);
        wanted.cache.adaptive = false;
        let first = started.changes(&started, &wanted);
        assert_eq!(first.applied, ["cache.adaptive"]);
        assert_eq!(first.wait_for_restart, ["listen.address"]);
        let again = started.changes(&wanted, &wanted);
        assert_eq!(again.applied, [""; 0]);
        assert_eq!(again.wait_for_restart, ["listen.address"]);
        let back = started.changes(&wanted, &started);
        assert_eq!(back.applied, ["cache.adaptive"]);
        assert_eq!(back.wait_for_restart, [""; 0]);
    }

    #[test]
    fn other_certificates_are_applied_where_there_was_one() {
        let with = |cert: &str| {
            let mut config = Config::default();
            config.listen.tls = Some(Tls {
                cert: cert.into(),
                key: "key.pem".into(),
            });
            config
        };
        let (plain, one, other) = (Config::default(), with("1.pem"), with("2.pem"));
        assert_eq!(one.changes(&one, &other).applied, ["listen.tls.cert"]);
        for (from, to) in [(&plain, &one), (&one, &plain)] {
            let changes = from.changes(from, to);
            assert_eq!(changes.applied, [""; 0]);
            assert_eq!(
                changes.wait_for_restart,
                ["listen.tls.cert", "listen.tls.key"]
            );
        }
    }
}
