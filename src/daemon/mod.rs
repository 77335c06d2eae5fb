//! `pollgate serve`: binds the ports or takes those passed in, serves until told to stop, reloads when told to.

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

pub use self::problem::StartProblem;
pub use self::reload::Reloader;
pub use self::signals::{reload_on_hangup, stop_on_signals};
use self::sockets::Door;
pub use self::sockets::Passed;

/// How often what is of no use any more is let go: remembered answers are gone so long after their time at the latest.
const RECLAIM: Duration = Duration::from_secs(5);

/// The most connections of the admin listener. A new one takes the place of an idle one, so that whatever keeps
/// connections open keeps no probe out.
const ADMIN_CONNECTIONS: usize = 64;

/// A gateway with its ports bound, ready to run.
#[derive(Debug)]
pub struct Bound {
    gateway: Gateway,
    clients: Door,
    admin: Option<Door>,
    options: ServerOptions,
    config: Config,
}

impl Bound {
    /// Looks at the files that the configuration names; binds nothing.
    ///
    /// # Errors
    /// One that cannot be used.
    pub fn examine(config: &Config) -> Result<(Gateway, Option<TlsIdentity>), StartProblem> {
        let gateway = Gateway::new(config).map_err(StartProblem::Configuration)?;
        let tls = config
            .listen
            .tls
            .as_ref()
            .map(TlsIdentity::read)
            .transpose();
        Ok((
            gateway,
            tls.map_err(|problem| StartProblem::Configuration(problem.into()))?,
        ))
    }

    /// Sets the gateway up and binds its ports.
    ///
    /// # Errors
    /// A file that the configuration names cannot be used, or a port is taken.
    pub async fn new(config: Config) -> Result<Self, StartProblem> {
        Self::with_sockets(config, Passed::default()).await
    }

    /// Sets the gateway up, and binds those of its ports that were not passed in.
    ///
    /// # Errors
    /// As with [`Bound::new`], or a socket that was passed in cannot be used.
    pub async fn with_sockets(config: Config, passed: Passed) -> Result<Self, StartProblem> {
        let (gateway, tls) = Self::examine(&config)?;
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
        })
    }

    /// Where clients come in.
    ///
    /// # Errors
    /// The system does not know.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.clients.listener.local_addr()
    }

    /// Where metrics are served.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
            .as_ref()
            .and_then(|admin| admin.listener.local_addr().ok())
    }

    /// The gateway that is going to run.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// What reloads it while it runs.
    ///
    /// # Errors
    /// The system does not know where it listens.
    pub fn reloader(&self) -> io::Result<Reloader> {
        Ok(Reloader {
            gateway: self.gateway.clone(),
            tls: self.options.tls.clone(),
            started: self.config.clone(),
            last: self.config.clone(),
            status: self.status()?,
        })
    }

    /// What the service manager shows people.
    fn status(&self) -> io::Result<String> {
        Ok(format!(
            "serving on {}, upstream {}",
            self.address()?,
            self.config.upstream.url
        ))
    }

    /// Runs until `stop` is cancelled and what was under way is done.
    ///
    /// # Errors
    /// A listener broke.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Problem> {
        let status = self.status()?;
        let Self {
            gateway,
            clients,
            admin,
            options,
            config,
        } = self;
        let proxy = config.upstream.proxy.as_ref();
        tracing::info!(
            "listening on {}{}, upstream {}{}",
            clients.listener.local_addr()?,
            clients.note("listen.address"),
            config.upstream.url,
            proxy.map_or(String::new(), |proxy| format!(
                ", through the proxy {proxy}"
            ))
        );
        make_room_for(config.limits.max_connections.get());
        let drained = CancellationToken::new();
        let admin = match admin {
            Some(door) => {
                let address = door.listener.local_addr()?;
                tracing::info!("admin listening on {address}{}", door.note("listen.admin"));
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
                // It outlives the clients' listener, so that readiness can be seen while draining; but on a socket that
                // was passed in, the next process is the one to ask.
                let until = if door.passed { &stop } else { &drained };
                let serving = server::serve(door.listener, service, options, until.clone());
                Some(tokio::spawn(serving))
            }
            None => None,
        };
        let chores = [
            tokio::spawn(reclaim(gateway.clone())),
            tokio::spawn(snapshots(gateway.clone(), config.log.snapshot)),
            tokio::spawn(give_up_in_time(
                stop.clone(),
                gateway.clone(),
                config.limits.drain,
            )),
            tokio::spawn(async { match notify::stay_alive().await {} }),
        ];
        notify::ready(&status);
        // Joined, for it is said even where nothing is under way and the end comes at once.
        let (served, ()) = tokio::join!(
            server::serve(clients.listener, gateway.clone(), options, stop.clone()),
            begin_to_drain(stop, &gateway, config.limits.drain),
        );
        drained.cancel();
        for chore in chores {
            chore.abort();
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

async fn begin_to_drain(stop: CancellationToken, gateway: &Gateway, within: Duration) {
    stop.cancelled().await;
    tracing::info!("draining: no new connections, those under way have {within:?}");
    notify::stopping("draining: no new connections, those under way finish");
    gateway.drain();
}

async fn give_up_in_time(stop: CancellationToken, gateway: Gateway, within: Duration) {
    stop.cancelled().await;
    // A little before connections are cut: a clear word is better than none.
    tokio::time::sleep(within.mul_f64(0.9)).await;
    gateway.give_up();
}

/// Every connection takes a file descriptor, and a request that is passed on takes another one. Shells and service
/// managers give 1,024 at first, and more to who asks.
fn make_room_for(connections: usize) {
    let least = (connections as u64).saturating_add(256);
    match rlimit::increase_nofile_limit(least.saturating_mul(2)) {
        Ok(given) if given >= least => {}
        Ok(given) => tracing::warn!(
            "the system allows {given} open files, and limits.max_connections = {connections} takes {least} at least: \
             raise its hard limit (ulimit -Hn, LimitNOFILE=), or lower the setting"
        ),
        Err(error) => tracing::warn!("the limit of open files cannot be raised: {error}"),
    }
}

async fn reclaim(gateway: Gateway) {
    let mut pace = tokio::time::interval(RECLAIM);
    loop {
        pace.tick().await;
        gateway.reclaim().await;
    }
}

async fn snapshots(gateway: Gateway, every: Option<Duration>) {
    let Some(every) = every else { return };
    let mut pace = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    loop {
        pace.tick().await;
        telemetry::write_snapshot(&gateway.expose(Exposition::Prometheus));
    }
}
