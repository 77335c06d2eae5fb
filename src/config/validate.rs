//! Checks beyond the form of a value, which serde has checked.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, HOST};
use tokio::sync::Semaphore;

use super::origin::Origins;
use super::{Config, Shared};
use crate::message::fields::HOP_BY_HOP;

/// A key that is well formed but unusable, and what it takes.
type Refused = (&'static str, &'static str);

/// The shortest lease: time for a heartbeat's delay.
const MIN_LEASE: Duration = Duration::from_millis(100);

/// The longest lease: those who wait for a member that has died wait for as long.
const MAX_LEASE: Duration = Duration::from_secs(10);

/// Whether two listeners cannot have both addresses: one may be all addresses of the machine.
fn are_one(one: SocketAddr, other: SocketAddr) -> bool {
    let takes = |all: SocketAddr, other: SocketAddr| {
        all.ip().is_unspecified() && (all.is_ipv6() || other.is_ipv4())
    };
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip() || takes(one, other) || takes(other, one))
}

/// Refuses settings that are well formed but unusable.
pub(super) fn check(config: &Config, origins: &Origins) -> Vec<Refused> {
    let mut refused = Vec::new();
    let mut require = |holds: bool, key, takes| {
        if !holds {
            refused.push((key, takes));
        }
    };
    if let Some(admin) = config.listen.admin {
        require(
            admin.ip().is_loopback() || config.listen.admin_public,
            "listen.admin",
            "a loopback address; to let other machines in, also set listen.admin_public = true",
        );
        require(
            !are_one(admin, config.listen.address),
            "listen.admin",
            r#"an address and port that listen.address does not take already, or "off""#,
        );
    }
    let fleet = &config.fleet;
    require(
        fleet.engine.is_none() || fleet.secret_file.is_some(),
        "fleet.engine",
        "fleet.secret_file beside it: a file with at least 32 bytes, the same for all members",
    );
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    require(
        !fleet.name.is_empty() && fleet.name.len() <= 64 && fleet.name.chars().all(is_plain),
        "fleet.name",
        "up to 64 letters, digits, hyphens, underscores and dots",
    );
    for (given, missing, key, takes) in [
        (&fleet.cert, &fleet.key, "fleet.cert", "fleet.key beside it"),
        (&fleet.key, &fleet.cert, "fleet.key", "fleet.cert beside it"),
    ] {
        require(given.is_none() || missing.is_some(), key, takes);
    }
    require(
        fleet.lease >= MIN_LEASE && fleet.lease <= MAX_LEASE,
        "fleet.lease",
        r#"a duration from "100ms" to "10s""#,
    );
    let shares = |what| fleet.share.contains(&what);
    require(
        shares(Shared::Answers) || !shares(Shared::Cadence),
        "fleet.share",
        r#""answers" beside "cadence": an end is told by the member whose answer the others have"#,
    );
    let durations: [(&str, Duration); 6] = [
        ("fleet.timeout", fleet.timeout),
        ("upstream.connect_timeout", config.upstream.connect_timeout),
        ("upstream.timeout", config.upstream.timeout),
        ("limits.header_timeout", config.limits.header_timeout),
        ("limits.idle_timeout", config.limits.idle_timeout),
        ("log.snapshot", config.log.snapshot.unwrap_or(Duration::MAX)),
    ];
    for (key, value) in durations {
        require(!value.is_zero(), key, "a duration above zero");
    }
    for (key, value) in [
        ("limits.max_connections", config.limits.max_connections),
        ("limits.max_upstream", config.limits.max_upstream),
    ] {
        require(
            value.get() <= Semaphore::MAX_PERMITS,
            key,
            "a smaller number",
        );
    }
    require(
        config.upstream.max_status_body.bytes() > 0,
        "upstream.max_status_body",
        "a size above zero",
    );
    let is_of_connection =
        |name| HOP_BY_HOP.contains(name) || [CONTENT_LENGTH, HOST].contains(name);
    require(
        !config.callers.headers.iter().any(is_of_connection),
        "callers.headers",
        "headers that are not about one connection or one body",
    );
    require(
        config.cache.in_flight_max >= config.cache.in_flight_ttl
            || !origins.contains_key("cache.in_flight_max"),
        "cache.in_flight_max",
        "at least cache.in_flight_ttl",
    );
    refused
}

/// Settings that are allowed and probably not meant, each with its key and what comes of it.
pub(super) fn warnings(config: &Config) -> Vec<(&'static str, String)> {
    let mut warnings = Vec::new();
    if config.upstream.url.prefix().ends_with("/v1") {
        warnings.push((
            "upstream.url",
            "ends in /v1, which the paths of clients begin with: upstream will be asked for /v1/v1/…".into(),
        ));
    }
    if let Some(admin) = config.listen.admin
        && !admin.ip().is_loopback()
    {
        warnings.push((
            "listen.admin",
            format!("{admin} is reachable from other machines, and has no password"),
        ));
    }
    if let Some(engine) = &config.fleet.engine
        && !engine.tls
        && engine.password.is_some()
        && !is_loopback(&engine.host)
    {
        warnings.push((
            "fleet.engine",
            "its password is sent in the clear; rediss:// encrypts the connection".into(),
        ));
    }
    warnings
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_listeners_may_have_one_port_only_on_different_addresses() {
        let parse = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for (one, other, clash) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("[::]:1", "127.0.0.1:1", true),
            ("[::]:1", "[::1]:1", true),
            ("0.0.0.0:0", "0.0.0.0:0", false),
        ] {
            let (one, other) = (parse(one), parse(other));
            assert_eq!(are_one(one, other), clash, "{one} {other}");
            assert_eq!(are_one(other, one), clash, "{one} {other}");
        }
    }
}
