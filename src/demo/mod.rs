//! `pollgate demo`: the simulator, the gateway and a crowd of pollers in one process, over real sockets.
//!
//! | file | holds |
//! |---|---|
//! | `workload` | the tasks that are made, and with which key |
//! | `crowd`, `client` | the pollers |
//! | `referee` | judges every answer against what the simulator knows |
//! | `tally` | counts |
//! | `view` | what is shown, as plain values |
//! | `render`, `report`, `paint` | that as a picture, as lines, and in color |
//! | `screen` | the terminal |
//! | `endpoints` | where to send requests of one's own |

mod client;
mod crowd;
mod endpoints;
mod paint;
mod referee;
mod render;
mod report;
mod screen;
mod tally;
mod view;
mod workload;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, LogRequests, UpstreamUrl};
use crate::daemon::Bound;
use crate::gateway::Problem;
use crate::simulator::{self, Fault, Rule, Simulator};
use crate::sync::lock;
use crowd::Crowd;
use endpoints::Endpoints;
use referee::Allowance;
use screen::{Screen, say};
use tally::{Rates, Tally};
use view::View;
use workload::{KEYS, Workload};

/// How many finished tasks the simulator still knows, so that a long demo stays small.
const REMEMBERED: usize = 10_000;

/// What can be set about the demo.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How many tasks live at a time; one that is over makes room for the next.
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u16).range(1..=1000))]
    tasks: u16,
    /// How many clients poll each task, about once a second, half of them on each status path.
    #[arg(long, value_name = "N", default_value = "25", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pollers: u16,
    /// When to stop; without it, at Ctrl-C.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// Where the gateway listens; port 0 takes a free one, and the demo tells which.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where the gateway's metrics are served, or "off"; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", value_parser = admin)]
    admin: Admin,
}

/// An address, or none.
#[derive(Clone, Copy, Debug)]
struct Admin(Option<SocketAddr>);

fn admin(text: &str) -> Result<Admin, String> {
    if text == "off" {
        return Ok(Admin(None));
    }
    let address = text.parse().map_err(|_| {
        format!("`{text}` is neither an address such as 127.0.0.1:9090 nor \"off\"")
    })?;
    Ok(Admin(Some(address)))
}

/// Runs the demo until its time is over or `stop` is cancelled.
///
/// # Errors
/// A port is taken, or the demo's own check failed: a poller was told what it should not have been.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Problem> {
    let (tasks, pollers) = (usize::from(options.tasks), usize::from(options.pollers));
    let simulator = Simulator::new(simulator_settings(tasks));
    let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let config = gateway_config(&options, upstream.local_addr()?)?;
    let allowance = Allowance::of(&config.cache);
    let gateway = Bound::new(config).await?;
    let endpoints = Endpoints {
        gateway: format!("http://{}", gateway.address()?),
        admin: gateway
            .admin_address()
            .map(|address| format!("http://{address}")),
    };
    let mut screen = Screen::new();
    if let Screen::Plain { .. } = screen {
        say(&report::opening(&endpoints, tasks, pollers))?;
    }

    // Front to back: the crowd stops at `stop`, the gateway when the crowd is done, the simulator last.
    let (done, drained) = (CancellationToken::new(), CancellationToken::new());
    let behind = {
        let (simulator, drained) = (simulator.clone(), drained.clone());
        tokio::spawn(async move { simulator.run(upstream, drained.cancelled_owned()).await })
    };
    let gateway = {
        let (done, stop) = (done.clone(), stop.clone());
        tokio::spawn(async move {
            let served = gateway.run(done).await;
            stop.cancel();
            served
        })
    };
    let tally = Arc::new(Mutex::new(Tally::new(tasks)));
    let crowd = tokio::spawn({
        let workload = Workload::new(options.seconds);
        let (gateway, stop) = (endpoints.gateway.clone(), stop.clone());
        let (simulator, tally) = (simulator.clone(), Arc::clone(&tally));
        Crowd::new(gateway, simulator, allowance, workload, tally, stop).poll(tasks, pollers)
    });

    let started = Instant::now();
    let mut show = Show {
        simulator: simulator.clone(),
        tally: Arc::clone(&tally),
        rates: Rates::default(),
        started,
        seconds: options.seconds,
    };
    let time = options.seconds.map_or(Duration::MAX, Duration::from_secs);
    // A reader that went away (`| head`) has seen enough: the demo ends as if it had been stopped.
    let shown = tokio::select! {
        shown = show.run(&mut screen, &endpoints) => shown,
        _ = timeout(time, stop.cancelled()) => Ok(()),
    };
    stop.cancel();
    let shown = shown.and(screen.leave());
    crowd.await?;
    let view = show.view();
    done.cancel();
    gateway.await??;
    drained.cancel();
    behind.await??;

    let tally = lock(&tally);
    let faults = simulator.counts().faults.values().sum();
    let shown = shown.and_then(|()| say(&report::summary(&view, &tally, faults)));
    if let Some(failure) = report::failure(&tally) {
        return Err(failure.into());
    }
    match shown {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Looks again and again.
struct Show {
    simulator: Simulator,
    tally: Arc<Mutex<Tally>>,
    rates: Rates,
    started: Instant,
    seconds: Option<u64>,
}

impl Show {
    /// Shows one view after the other; ends only with an error.
    async fn run(&mut self, screen: &mut Screen, endpoints: &Endpoints) -> io::Result<()> {
        let mut pace = interval(screen.pace());
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut second = self.started;
        loop {
            pace.tick().await;
            let mut view = self.view();
            if second.elapsed() >= Duration::from_secs(1) {
                second += Duration::from_secs(1);
                self.rates.note(view.client, view.upstream);
                view.rates = self.rates.clone();
            }
            if view.client > 0 {
                screen.show(&view, endpoints)?;
            }
        }
    }

    fn view(&self) -> View {
        View {
            elapsed: self.started.elapsed(),
            seconds: self.seconds,
            ..View::look(&self.simulator, &lock(&self.tally), &self.rates)
        }
    }
}

/// Some latency, and now and then a fault for the gateway to hide.
fn simulator_settings(tasks: usize) -> simulator::Settings {
    simulator::Settings {
        keys: KEYS.map(str::to_owned).into(),
        latency: (Duration::from_millis(30)..=Duration::from_millis(120)).into(),
        faults: vec![
            Rule::new(Fault::RateLimited).rate(0.01),
            Rule::new(Fault::BadGateway).rate(0.01),
            Rule::new(Fault::Html).rate(0.01),
        ],
        max_tasks: REMEMBERED + tasks,
        ..simulator::Settings::default()
    }
}

/// The defaults, but for the ports, the log (the picture needs the terminal), and `adaptive`: without it the referee
/// can be strict about how old an answer may be.
fn gateway_config(options: &Options, upstream: SocketAddr) -> Result<Config, Problem> {
    let url = format!("http://{upstream}");
    Ok(Config {
        listen: config::Listen {
            address: options.listen,
            admin: options.admin.0,
            ..config::Listen::default()
        },
        upstream: config::Upstream {
            url: UpstreamUrl::parse(&url).ok_or("the simulator has no address")?,
            ..config::Upstream::default()
        },
        cache: config::Cache {
            adaptive: false,
            ..config::Cache::default()
        },
        log: config::Log {
            requests: LogRequests::Off,
            snapshot: None,
            ..config::Log::default()
        },
        ..Config::default()
    })
}
