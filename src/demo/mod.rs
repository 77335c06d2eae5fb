//! `pollgate demo`: the simulator, the gateway and a crowd of pollers in one process, over real sockets.
//!
//! | file | holds |
//! |---|---|
//! | `workload` | the tasks: owner, channel, lifetime, outcome |
//! | `route` | the status routes, as clients know them |
//! | `crowd`, `client` | the pollers |
//! | `referee` | judges every answer against the true states |
//! | `tally` | counters |
//! | `view` | the view model: all that is shown, as plain values |
//! | `render`, `report`, `paint` | the view as a picture, as plain lines, and in colour |
//! | `screen` | standard output |
//! | `endpoints` | where to send requests by hand |

mod client;
mod crowd;
mod endpoints;
mod paint;
mod referee;
mod render;
mod report;
mod route;
mod screen;
mod tally;
mod view;
mod workload;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::net::TcpListener;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Config, EngineUrl, LogRequests, UpstreamUrl};
use crate::daemon::{Bound, Passed};
use crate::fleet::link::LinkConfig;
use crate::fleet::memory::MemoryEngine;
use crate::fleet::seal::Secret;
use crate::gateway::{Gateway, Membership, Over, Problem};
use crate::simulator::{self, Fault, Rule, Simulator};
use crate::sync::lock;
use crowd::Crowd;
use endpoints::Endpoints;
use referee::Allowance;
use route::{OTHERS, Slot};
use screen::{Screen, say};
use tally::{Rates, Tally};
use view::View;
use workload::{KEYS, Workload};

/// Finished tasks that the simulator keeps, so that a long demo stays small.
const KEPT_TASKS: usize = 10_000;
/// Faults injected into upstream polls. Each of them fails the poll of a client without a gateway.
const FAULTS: [Fault; 3] = [Fault::RateLimited, Fault::BadGateway, Fault::Html];
/// The share of upstream polls that each of them strikes.
const FAULT_RATE: f64 = 0.01;

/// Tasks at a time on each of the other routes.
const TASKS_PER_ROUTE: usize = 2;

/// Options of `pollgate demo`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Number of tasks at a time; when one ends, the next is created.
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u16).range(1..=1000))]
    tasks: u16,
    /// Number of clients that poll each task, about once a second, half of them on each path of the video API.
    #[arg(long, value_name = "N", default_value = "25", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pollers: u16,
    /// Poll tasks on the other status routes as well (octopus, mj, kling, suno, tasks, ark): two at a time on each.
    #[arg(long)]
    routes: bool,
    /// Number of gateways; more than one are a fleet, and each client keeps to one of them.
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=100))]
    sidecars: u16,
    /// A Valkey or Redis for the fleet; without it the fleet shares the memory of this process.
    #[arg(long, value_name = "URL")]
    engine: Option<EngineUrl>,
    /// Stop after this many seconds instead of at Ctrl-C.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// Address of the gateway; port 0 takes a free port, which the demo prints.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address of the admin listener, or "off"; port 0 takes a free port.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0", value_parser = admin)]
    admin: Admin,
}

/// The admin listener's address, or none.
#[derive(Debug, Clone, Copy)]
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

/// Runs the demo for `--seconds` or until `stop` is cancelled.
///
/// # Errors
/// A port is taken, or the demo's own check failed: a poller got a wrong answer.
pub(crate) async fn run(options: Options, stop: CancellationToken) -> Result<(), Problem> {
    let (tasks, pollers) = (usize::from(options.tasks), usize::from(options.pollers));
    let mut slots: Vec<_> = (0..tasks).map(Slot::video).collect();
    if options.routes {
        let others = OTHERS.iter().map(Slot::other);
        slots.extend(others.flat_map(|slot| [slot; TASKS_PER_ROUTE]));
    }
    let simulator = Simulator::new(simulator_settings(slots.len()));
    let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let config = gateway_config(&options, upstream.local_addr()?)?;
    let allowance = Allowance::of(&config.cache);
    let (bound, endpoints) = bind(&options, &config).await?;
    let gateways = bound.iter().map(|bound| bound.gateway().clone()).collect();
    let tally = Arc::new(Mutex::new(Tally::new(slots.len())));
    let mut show = Show {
        simulator: simulator.clone(),
        gateways,
        tally: Arc::clone(&tally),
        rates: Rates::default(),
        started: Instant::now(),
        seconds: options.seconds,
    };
    let mut screen = Screen::new();
    if let Screen::Plain { .. } = screen {
        let faults = FAULTS.map(Fault::name);
        let fault_rate = show.view().fault_percent();
        say(&report::opening(
            &endpoints,
            tasks,
            pollers,
            slots.len() - tasks,
            &faults,
            &fault_rate,
        ))?;
    }

    // The crowd stops at `stop`, the gateway when the crowd is done, the simulator last.
    let (done, drained) = (CancellationToken::new(), CancellationToken::new());
    let simulating = {
        let (simulator, drained) = (simulator.clone(), drained.clone());
        tokio::spawn(async move { simulator.run(upstream, drained.cancelled_owned()).await })
    };
    let serving = {
        let (done, stop) = (done.clone(), stop.clone());
        tokio::spawn(async move {
            let served = bound.into_iter().map(|bound| async {
                let served = bound.run(done.clone()).await;
                stop.cancel();
                served
            });
            join_all(served)
                .await
                .into_iter()
                .collect::<Result<(), _>>()
        })
    };
    let crowd = tokio::spawn({
        let workload = Workload::new(options.seconds);
        let (gateways, stop) = (endpoints.gateways.clone(), stop.clone());
        let (simulator, tally) = (simulator.clone(), Arc::clone(&tally));
        Crowd::new(gateways, simulator, allowance, workload, tally, stop).poll(slots, pollers)
    });

    show.started = Instant::now();
    let time = options.seconds.map_or(Duration::MAX, Duration::from_secs);
    // A reader that closed the pipe (`| head`) ends the demo like Ctrl-C.
    let shown = tokio::select! {
        shown = show.run(&mut screen, &endpoints) => shown,
        _ = timeout(time, stop.cancelled()) => Ok(()),
    };
    stop.cancel();
    let shown = shown.and(screen.leave());
    crowd.await?;
    let elapsed = show.started.elapsed();
    done.cancel();
    serving.await??;
    drained.cancel();
    simulating.await??;

    // Only now has the gateway counted every answer.
    let view = View {
        elapsed,
        ..show.view()
    };
    let tally = lock(&tally);
    let shown = shown.and_then(|()| say(&report::summary(&view, &tally)));
    if let Some(failure) = report::failure(&tally) {
        return Err(failure.into());
    }
    match shown {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Shows a view at regular intervals.
struct Show {
    simulator: Simulator,
    gateways: Vec<Gateway>,
    tally: Arc<Mutex<Tally>>,
    rates: Rates,
    started: Instant,
    seconds: Option<u64>,
}

impl Show {
    /// Shows views until standard output fails.
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
            ..View::new(
                &self.simulator,
                self.gateways
                    .iter()
                    .map(|gateway| gateway.metrics().polls_avoided())
                    .sum(),
                &lock(&self.tally),
                &self.rates,
            )
        }
    }
}

/// Sets up the gateways and binds their ports.
async fn bind(options: &Options, config: &Config) -> Result<(Vec<Bound>, Endpoints), Problem> {
    let membership = membership(options)?;
    let mut bound = Vec::new();
    for number in 0..options.sidecars {
        let mut config = config.clone();
        if number > 0 {
            // The ports that were asked for are the first one's.
            config.listen.address.set_port(0);
            config.listen.admin = None;
        }
        let gateway = Gateway::with_membership(&config, membership.clone())?;
        bound.push(Bound::around(gateway, config, Passed::default()).await?);
    }
    let addresses: io::Result<Vec<_>> = bound.iter().map(Bound::address).collect();
    let endpoints = Endpoints {
        gateways: addresses?
            .iter()
            .map(|address| format!("http://{address}"))
            .collect(),
        admin: bound[0]
            .admin_address()
            .map(|address| format!("http://{address}")),
        engine: membership.map(|membership| match membership.engine {
            Over::Memory(_) => {
                "an engine in the memory of this process; --engine URL takes a real one".into()
            }
            Over::Link(link) => link.engine.to_string(),
        }),
    };
    Ok((bound, endpoints))
}

/// What the gateways share, with a secret of this run; nothing where there is one only.
fn membership(options: &Options) -> Result<Option<Membership>, Problem> {
    if options.sidecars == 1 && options.engine.is_none() {
        return Ok(None);
    }
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    let engine = match &options.engine {
        None => Over::Memory(MemoryEngine::new()),
        Some(engine) => Over::Link(Box::new(LinkConfig {
            engine: engine.clone(),
            password_file: None,
            sentinel: None,
            ca_file: None,
            cert: None,
            key: None,
            name: format!("demo-{}", std::process::id()),
            max_value: usize::try_from(config::Fleet::default().max_value.bytes())
                .unwrap_or(usize::MAX),
        })),
    };
    Ok(Some(Membership {
        secret: Secret::new(&secret)?,
        engine,
    }))
}

/// Some latency, and faults for the gateway to hide.
fn simulator_settings(tasks: usize) -> simulator::Settings {
    simulator::Settings {
        keys: KEYS.map(str::to_owned).into(),
        latency: (Duration::from_millis(30)..=Duration::from_millis(120)).into(),
        faults: FAULTS.map(|fault| Rule::new(fault).rate(FAULT_RATE)).into(),
        max_tasks: KEPT_TASKS + tasks,
        ..simulator::Settings::default()
    }
}

/// The defaults, except for the ports, the log (the picture needs the terminal), and `adaptive`: without it the referee
/// can be strict about an answer's age.
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
