//! Checks beyond the form of a value, which serde has checked.

use std::time::Duration;

use tokio::sync::Semaphore;
use toml::Table;

use super::Config;
use super::explain::invalid;
use super::origin::Origins;
use super::problem::Problem;

/// Refuses settings that are well formed but unusable.
pub(super) fn check(config: &Config, merged: &Table, origins: &Origins) -> Result<(), Problem> {
    let refuse = |key: &str, takes: &str| Err(invalid(key, takes, merged, origins));
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
