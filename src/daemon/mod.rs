//! The process of `pollgate serve`: binds ports or takes over passed sockets, handles signals, reloads, and notifies the
//! service manager.

mod notify;
mod problem;
mod reload;
mod signals;
mod sockets;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::config::Config;
use crate::gateway::{Gateway, Problem};
use crate::server::{self, ServerOptions, TlsIdentity, WhenFull};
use crate::stack;
use crate::telemetry::{self, Exposition};

pub(crate) use self::problem::StartProblem;
pub(crate) use self::reload::Reloader;
pub(crate) use self::signals::{reload_on_hangup, stop_on_signals};
use self::sockets::Listener;
pub(crate) use self::sockets::Passed;

/// How often expired entries are reclaimed; none outlives its expiry by more than this.
const RECLAIM: Duration = Duration::from_secs(5);

/// The most connections of the admin listener. A new one takes the place of an idle one, so that whatever keeps
/// connections open keeps no probe out.
const ADMIN_CONNECTIONS: usize = 64;

/// A gateway with its ports bound, ready to run.
#[derive(Debug)]
pub(crate) struct Bound {
    gateway: Gateway,
    clients: Listener,
    admin: Option<Listener>,
    options: ServerOptions,
    config: Config,
    /// What the log says at the start, behind the addresses.
    about: Option<String>,
    warnings: Vec<String>,
}

impl Bound {
    /// Reads the files that the configuration names; binds nothing.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(crate) fn examine(config: &Config) -> Result<(Gateway, Option<TlsIdentity>), StartProblem> {
        let gateway = Gateway::new(config).map_err(StartProblem::Configuration)?;
        Ok((gateway, Self::identity(config)?))
    }

    fn identity(config: &Config) -> Result<Option<TlsIdentity>, StartProblem> {
        let tls = config
            .listen
            .tls
            .as_ref()
            .map(TlsIdentity::read)
            .transpose();
        tls.map_err(|problem| StartProblem::Configuration(problem.into()))
    }

    /// Sets up the gateway and binds the ports for which no socket was passed.
    ///
    /// # Errors
    /// A file that the configuration names cannot be used, a port cannot be bound, or a passed socket cannot be used.
    pub(crate) async fn with_sockets(config: Config, passed: Passed) -> Result<Self, StartProblem> {
        let gateway = Gateway::new(&config).map_err(StartProblem::Configuration)?;
        Self::around(gateway, config, passed).await
    }

    /// Binds the ports of a gateway.
    ///
    /// # Errors
    /// As for [`Bound::with_sockets`].
    pub(crate) async fn around(
        gateway: Gateway,
        config: Config,
        passed: Passed,
    ) -> Result<Self, StartProblem> {
        let tls = Self::identity(&config)?;
        let options = ServerOptions {
            max_connections: config.limits.max_connections.get(),
            when_full: WhenFull::TurnAway,
            header_timeout: config.limits.header_timeout,
            idle_timeout: config.limits.idle_timeout,
            drain: config.limits.drain,
            tls,
            gauge: Some(gateway.metrics().connections()),
            refuse: stack::refuse,
        };
        let clients = sockets::clients(&config.listen, passed.clients).await?;
        let admin = sockets::admin(&config.listen, passed.admin).await?;
        Ok(Self {
            gateway,
            clients,
            admin,
            options,
            config,
            about: None,
            warnings: Vec::new(),
        })
    }

    /// Adds what the log says at the start: what is running, and warnings about its configuration.
    #[must_use]
    pub(crate) fn with_remarks(mut self, about: String, warnings: Vec<String>) -> Self {
        self.about = Some(about);
        self.warnings = warnings;
        self
    }

    /// The address for clients.
    ///
    /// # Errors
    /// The system cannot report the address.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.clients.socket.local_addr()
    }

    /// The address of the admin listener.
    #[must_use]
    pub(crate) fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
            .as_ref()
            .and_then(|admin| admin.socket.local_addr().ok())
    }

    /// The gateway.
    #[must_use]
    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Creates the reloader of this gateway.
    ///
    /// # Errors
    /// The system cannot report the address.
    pub(crate) fn reloader(&self) -> io::Result<Reloader> {
        Ok(Reloader {
            gateway: self.gateway.clone(),
            tls: self.options.tls.clone(),
            started: self.config.clone(),
            last: self.config.clone(),
            status: self.status()?,
        })
    }

    /// The status line shown by the service manager.
    fn status(&self) -> io::Result<String> {
        Ok(format!(
            "serving on {}, upstream {}",
            self.address()?,
            self.config.upstream.url
        ))
    }

    /// Serves until `stop` is cancelled and requests in progress have finished.
    ///
    /// # Errors
    /// A listener failed.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), Problem> {
        let status = self.status()?;
        let Self {
            gateway,
            clients,
            admin,
            options,
            config,
            about,
            warnings,
        } = self;
        let proxy = config.upstream.proxy.as_ref();
        tracing::info!(
            "listening on {}{}, upstream {}{}",
            clients.socket.local_addr()?,
            clients.note("listen.address"),
            config.upstream.url,
            proxy.map_or(String::new(), |proxy| format!(
                ", through the proxy {proxy}"
            ))
        );
        raise_file_limit(config.limits.max_connections.get());
        let drained = CancellationToken::new();
        let admin = match admin {
            Some(listener) => {
                let address = listener.socket.local_addr()?;
                tracing::info!(
                    "admin listening on {address}{}",
                    listener.note("listen.admin")
                );
                let options = ServerOptions {
                    max_connections: ADMIN_CONNECTIONS,
                    when_full: WhenFull::CloseIdlest,
                    drain: Duration::from_secs(1),
                    tls: None,
                    gauge: None,
                    refuse: admin::refuse,
                    ..options.clone()
                };
                let service = Admin::new(gateway.clone(), stop.clone(), address);
                // It outlives the clients' listener, so that `/readyz` answers while draining. A passed socket is left to
                // the next process at once.
                let until = if listener.passed { &stop } else { &drained };
                let serving = server::serve(listener.socket, service, options, until.clone());
                Some(tokio::spawn(serving))
            }
            None => None,
        };
        if let Some(about) = about {
            tracing::info!("{about}");
        }
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let tasks = [
            tokio::spawn(reclaim(gateway.clone())),
            tokio::spawn(snapshots(gateway.clone(), config.log.snapshot)),
            tokio::spawn(give_up_before_cut(
                stop.clone(),
                gateway.clone(),
                config.limits.drain,
            )),
            tokio::spawn(async { match notify::feed_watchdog().await {} }),
        ];
        gateway.join_fleet().await;
        notify::ready(&status);
        // Joined, so that the drain is logged even if nothing is in progress.
        let (served, ()) = tokio::join!(
            server::serve(clients.socket, gateway.clone(), options, stop.clone()),
            start_draining(stop, &gateway, config.limits.drain),
        );
        drained.cancel();
        for task in tasks {
            task.abort();
        }
        if let Some(admin) = admin {
            admin.await??;
        }
        if config.log.snapshot.is_some() {
            telemetry::write_snapshot(&gateway.expose(Exposition::Prometheus));
        }
        tracing::info!("stopped");
        Ok(served?)
    }
}

async fn start_draining(stop: CancellationToken, gateway: &Gateway, within: Duration) {
    stop.cancelled().await;
    tracing::info!("draining: no new connections; requests in progress have {within:?} to finish");
    notify::stopping("draining: no new connections, finishing requests in progress");
    gateway.drain();
}

async fn give_up_before_cut(stop: CancellationToken, gateway: Gateway, within: Duration) {
    stop.cancelled().await;
    // Shortly before connections are cut, so that clients get an error instead of a broken connection.
    tokio::time::sleep(within.mul_f64(0.9)).await;
    gateway.give_up();
}

/// Raises the limit of open files. Every connection takes a file descriptor, and every request that goes upstream takes
/// another; shells and service managers default to a soft limit of 1,024, which a process may raise.
fn raise_file_limit(connections: usize) {
    let least = (connections as u64).saturating_add(256);
    match rlimit::increase_nofile_limit(least.saturating_mul(2)) {
        Ok(given) if given >= least => {}
        Ok(given) => tracing::warn!(
            "the system allows {given} open files, but limits.max_connections = {connections} needs at least {least}: \
             raise the hard limit (ulimit -Hn, LimitNOFILE=) or lower the setting"
        ),
        Err(error) => tracing::warn!("cannot raise the limit of open files: {error}"),
    }
}

async fn reclaim(gateway: Gateway) {
    let mut interval = tokio::time::interval(RECLAIM);
    loop {
        interval.tick().await;
        gateway.reclaim().await;
    }
}

async fn snapshots(gateway: Gateway, every: Option<Duration>) {
    let Some(every) = every else { return };
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    loop {
        interval.tick().await;
        telemetry::write_snapshot(&gateway.expose(Exposition::Prometheus));
    }
}
