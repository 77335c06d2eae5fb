//! `pollgate serve`: binds the ports, serves until told to stop, reloads when told to.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::config::Config;
use crate::gateway::{Gateway, Problem};
use crate::server::{self, Keeping, TlsIdentity};
use crate::telemetry::{self, Exposition};

/// How often the store gives back the memory of what is of no use any more.
const RECLAIM: Duration = Duration::from_secs(5);

/// Why nothing can be served.
#[derive(Debug)]
pub enum StartProblem {
    /// What the configuration names cannot be used.
    Configuration(Problem),
    /// A port cannot be bound.
    Bind {
        /// The key that names it.
        key: &'static str,
        /// Where it would have been.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
}

impl fmt::Display for StartProblem {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(problem) => problem.fmt(to),
            Self::Bind {
                key,
                address,
                error,
            } => write!(to, "{key}: cannot listen on {address}: {error}"),
        }
    }
}

impl std::error::Error for StartProblem {}

/// A gateway with its ports bound, ready to run.
#[derive(Debug)]
pub struct Bound {
    gateway: Gateway,
    clients: TcpListener,
    admin: Option<TcpListener>,
    keeping: Keeping,
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
        let (gateway, tls) = Self::examine(&config)?;
        let keeping = Keeping {
            max_connections: config.limits.max_connections.get(),
            header_timeout: config.limits.header_timeout,
            idle_timeout: config.limits.idle_timeout,
            drain: config.limits.drain,
            tls,
            gauge: Some(gateway.metrics().connections()),
        };
        let clients = bind("listen.address", config.listen.address).await?;
        let admin = match config.listen.admin {
            Some(address) => Some(bind("listen.admin", address).await?),
            None => None,
        };
        Ok(Self {
            gateway,
            clients,
            admin,
            keeping,
            config,
        })
    }

    /// Where clients come in.
    ///
    /// # Errors
    /// The system does not know.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.clients.local_addr()
    }

    /// Where metrics are served.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
            .as_ref()
            .and_then(|admin| admin.local_addr().ok())
    }

    /// The gateway that is going to run.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Runs until `stop` is cancelled and what was under way is done.
    ///
    /// # Errors
    /// A listener broke.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Problem> {
        let Self {
            gateway,
            clients,
            admin,
            keeping,
            config,
        } = self;
        let proxy = config.upstream.proxy.as_ref();
        tracing::info!(
            "listening on {}, upstream {}{}",
            clients.local_addr()?,
            config.upstream.url,
            proxy.map_or(String::new(), |proxy| format!(
                ", through the proxy {proxy}"
            ))
        );
        // The admin listener outlives the clients', so that readiness can be seen while draining.
        let drained = CancellationToken::new();
        let admin = admin
            .map(|listener| Ok::<_, io::Error>((listener.local_addr()?, listener)))
            .transpose()?;
        let admin = admin.map(|(address, listener)| {
            tracing::info!("admin listening on {address}");
            let keeping = Keeping {
                max_connections: 64,
                drain: Duration::from_secs(1),
                tls: None,
                gauge: None,
                ..keeping.clone()
            };
            let service = Admin::new(gateway.clone(), stop.clone(), address);
            tokio::spawn(server::serve(listener, service, keeping, drained.clone()))
        });
        let chores = [
            tokio::spawn(reclaim(gateway.clone())),
            tokio::spawn(snapshots(gateway.clone(), config.log.snapshot)),
            tokio::spawn(drain_at(stop.clone(), gateway.clone(), config.limits.drain)),
        ];
        let served = server::serve(clients, gateway.clone(), keeping, stop).await;
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

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartProblem> {
    TcpListener::bind(address)
        .await
        .map_err(|error| StartProblem::Bind {
            key,
            address,
            error,
        })
}

async fn drain_at(stop: CancellationToken, gateway: Gateway, within: Duration) {
    stop.cancelled().await;
    tracing::info!("draining: no new connections, those under way have {within:?}");
    gateway.drain();
    // A little before connections are cut: a clear word is better than none.
    tokio::time::sleep(within.mul_f64(0.9)).await;
    gateway.give_up();
}

async fn reclaim(gateway: Gateway) {
    let mut pace = tokio::time::interval(RECLAIM);
    loop {
        pace.tick().await;
        gateway.store().reclaim();
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

/// Cancels the token at SIGTERM or SIGINT; a second one ends the process at once.
///
/// # Errors
/// The system takes no signal handlers.
pub fn stop_on_signals(stop: CancellationToken) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        for last in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if last {
                std::process::exit(1);
            }
            stop.cancel();
        }
    });
    Ok(())
}

/// Calls `reload` at every SIGHUP.
///
/// # Errors
/// The system takes no signal handlers.
pub fn reload_on_hangup(reload: impl Fn() + Send + 'static) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload();
        }
    });
    Ok(())
}
