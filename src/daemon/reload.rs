//! Reloading on SIGHUP: reads the configuration again, applies what a running gateway can apply, and logs the rest.

use crate::config::{self, Config, Loaded, Sources};
use crate::gateway::Gateway;
use crate::server::TlsIdentity;
use crate::telemetry;

use super::notify;

/// Reloads one running gateway.
#[derive(Debug)]
pub(crate) struct Reloader {
    pub(super) gateway: Gateway,
    pub(super) tls: Option<TlsIdentity>,
    /// The configuration at the start.
    pub(super) started: Config,
    /// The configuration applied last.
    pub(super) last: Config,
    /// The status line shown by the service manager.
    pub(super) status: String,
}

impl Reloader {
    /// Reads the configuration and the files of `listen.tls` again. An error changes nothing.
    pub(crate) fn reload(&mut self, sources: &Sources, log: &telemetry::Reload) {
        notify::reloading();
        match self.apply(sources, log) {
            Ok(()) => notify::ready(&self.status),
            Err(problem) => {
                tracing::error!("not reloaded, nothing changed: {problem}");
                notify::ready(&format!("{}; not reloaded: {problem}", self.status));
            }
        }
    }

    fn apply(&mut self, sources: &Sources, log: &telemetry::Reload) -> Result<(), String> {
        let loaded = config::load(sources).map_err(|problem| problem.to_string())?;
        if let (Some(identity), Some(tls)) = (&self.tls, &loaded.config.listen.tls) {
            identity
                .reload(tls)
                .map_err(|problem| loaded.with_location(&problem.to_string()))?;
        }
        let warnings = loaded.warnings();
        let Loaded { config, .. } = loaded;
        self.gateway.reload(&config);
        log.set_level(config.log.level);
        let changes = self.started.changes(&self.last, &config);
        self.last = config;
        let files = if self.tls.is_some() {
            "; the files of listen.tls were read again"
        } else {
            ""
        };
        tracing::info!("reloaded: {}{files}", or_nothing(&changes.applied));
        if !changes.wait_for_restart.is_empty() {
            tracing::warn!(
                "these changed and wait for a restart: {}",
                changes.wait_for_restart.join(", ")
            );
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        Ok(())
    }
}

fn or_nothing(keys: &[String]) -> String {
    if keys.is_empty() {
        "no setting changed".to_owned()
    } else {
        keys.join(", ")
    }
}
