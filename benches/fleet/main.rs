//! What a fleet saves, and what it costs: 50 sidecars on one engine against one sidecar, and against 50 without a fleet.
//!
//! ```sh
//! POLLGATE_ENGINES=/usr/bin/valkey-server cargo bench --bench fleet
//! ```
//!
//! The sidecars are processes, the engine is a real one, the upstream is scripted and counts. It takes about eight minutes,
//! and writes `benches/fleet.md`. Ratios are of figures from the same run. `-- one_task`, `many_tasks`, `again` or `cost`
//! runs a part and writes nothing.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a panic is a failed run; figures are for reading"
)]

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/fleet/crowd.rs"]
mod crowd;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/fleet/scene.rs"]
mod scene;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/fleet/server.rs"]
mod server;
#[allow(dead_code, unused_imports, reason = "the tests use the rest")]
#[path = "../../tests/it/support/mod.rs"]
mod support;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/fleet/tunnel.rs"]
mod tunnel;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use tokio::time::sleep;

use crowd::{Crowd, KEY, Seen, path};
use scene::{Fleet, upstream};
use server::Server;
use support::{Reply, Upstream};
use tunnel::Tunnel;

/// How many sidecars, and how many clients at each.
const SIDECARS: usize = 50;
const POLLERS: usize = 20;

const LATENCY: Duration = Duration::from_millis(120);

/// How long each scene lasts.
const STORM: Duration = Duration::from_secs(20);

/// The time between two polls of one client.
const PAUSE: Duration = Duration::from_millis(500);

/// Keeps the log short, and the sidecars small.
const SETTINGS: [(&str, &str); 5] = [
    ("cache.in_flight_ttl", "2s"),
    ("log.level", "info"),
    ("log.requests", "off"),
    ("log.snapshot", "off"),
    ("limits.workers", "1"),
];

/// What became of one scene.
struct Scene {
    name: &'static str,
    polls: usize,
    /// Polls that sidecars made by themselves, since the engine had not answered in time or was away.
    alone: usize,
    seen: Seen,
}

/// Lets clients poll tasks through sidecars for a while, during which something happens.
struct Storm {
    name: &'static str,
    engine: Option<u16>,
    sidecars: usize,
    /// How many clients each sidecar has.
    each: usize,
    tasks: usize,
}

impl Storm {
    /// All clients poll the same task.
    const fn of_one_task(name: &'static str, engine: Option<u16>) -> Self {
        Self {
            name,
            engine,
            sidecars: SIDECARS,
            each: POLLERS,
            tasks: 1,
        }
    }

    async fn run(self, happens: impl AsyncFnOnce(&Upstream)) -> Scene {
        let upstream = upstream(LATENCY).await;
        let fleet = Fleet::start(self.sidecars, &upstream.url(), self.engine, &SETTINGS).await;
        let crowd = Crowd::start(&fleet.addresses(), self.each, self.tasks, PAUSE);
        let began = Instant::now();
        sleep(Duration::from_secs(5)).await;
        happens(&upstream).await;
        sleep(STORM.saturating_sub(began.elapsed())).await;
        let polls = upstream.count();
        Scene::end(self.name, crowd, &fleet, polls).await
    }
}

impl Scene {
    async fn end(name: &'static str, crowd: Crowd, fleet: &Fleet, polls: usize) -> Self {
        let seen = crowd.end().await;
        let mut alone = 0;
        for why in ["timeout", "away", "full", "rounds"] {
            let series = format!("pollgate_fleet_alone_total{{why=\"{why}\"}}");
            alone += fleet.sum(&series).await;
        }
        let scene = Self {
            name,
            polls,
            alone,
            seen,
        };
        println!("{}", scene.row(0));
        for wrong in [&scene.seen.failed, &scene.seen.backward] {
            for one in wrong.iter().take(3) {
                println!("    {one}");
            }
        }
        scene
    }

    fn row(&self, one: usize) -> String {
        let Seen {
            answered,
            failed,
            backward,
            ..
        } = &self.seen;
        let share = match one {
            0 => "–".to_owned(),
            one => format!("{:.3}", self.polls as f64 / one as f64),
        };
        let ms = |share| self.seen.quantile(share).as_secs_f64() * 1e3;
        format!(
            "| {} | {} | {share} | {} | {answered} | {} | {} | {:.1} ms | {:.0} ms |",
            self.name,
            self.polls,
            self.alone,
            failed.len(),
            backward.len(),
            ms(0.5),
            ms(0.99),
        )
    }
}

const HEAD: &str = "| scene | upstream polls | ÷ one sidecar | sidecars by themselves | client polls answered | failed | backward | p50 | p99 |\n|---|---|---|---|---|---|---|---|---|\n";

async fn nothing(_: &Upstream) {}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let only: Vec<_> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let wants = |part: &str| only.is_empty() || only.iter().any(|wanted| wanted == part);
    let binary = server::binaries().swap_remove(0);
    let mut page = String::new();
    let version = std::process::Command::new(&binary)
        .arg("--version")
        .output();
    let version = String::from_utf8(version.expect("a version").stdout).expect("text");
    let version: Vec<_> = version.split(' ').take(3).collect();
    writeln!(
        page,
        "# What a fleet saves, and what it costs\n\nWritten by `cargo bench --bench fleet`, which tells how it measures, on {} cores with {}. \
         {SIDECARS} sidecars with {POLLERS} clients each, a poll every {PAUSE:?}, upstream takes {LATENCY:?}, `cache.in_flight_ttl` is 2 s, {STORM:?} a scene.\n",
        std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
        version.join(" ")
    )
    .unwrap();
    if wants("one_task") {
        one_task(&binary, &mut page).await;
    }
    if wants("many_tasks") {
        many_tasks(&binary, &mut page).await;
    }
    if wants("again") {
        again(&binary, &mut page).await;
    }
    if wants("cost") {
        cost(&binary, &mut page).await;
    }
    if only.is_empty() {
        std::fs::write("benches/fleet.md", &page).expect("written");
    }
    println!("{page}");
}

async fn one_task(binary: &Path, page: &mut String) {
    writeln!(page, "### One task\n\nTarget: at most 1.02 × the polls of one sidecar; with any fault of the engine 0 failed, 0 backward, and never more polls than without a fleet.\n").unwrap();
    page.push_str(HEAD);
    let one = Storm {
        sidecars: 1,
        ..Storm::of_one_task("one sidecar", None)
    };
    let one = one.run(nothing).await;
    let alone = Storm::of_one_task("50 without a fleet", None);
    let alone = alone.run(nothing).await;
    // Each has an engine of its own: none remembers the tasks of another's upstream.
    let scenes = [
        one,
        alone,
        undisturbed(binary).await,
        frozen(binary).await,
        killed(binary).await,
        cut_off(binary).await,
        full(binary).await,
        flushed(binary).await,
        cut_off_from_upstream(binary).await,
    ];
    for scene in &scenes {
        writeln!(page, "{}", scene.row(scenes[0].polls)).unwrap();
    }
}

async fn undisturbed(binary: &Path) -> Scene {
    let server = Server::start(binary, &[]);
    let storm = Storm::of_one_task("50 in a fleet", Some(server.port()));
    storm.run(nothing).await
}

async fn frozen(binary: &Path) -> Scene {
    let server = Server::start(binary, &[]);
    let storm = Storm::of_one_task("its engine frozen for 5 s", Some(server.port()));
    let happens = async |_: &Upstream| {
        server.signal("STOP");
        sleep(Duration::from_secs(5)).await;
        server.signal("CONT");
    };
    storm.run(happens).await
}

async fn killed(binary: &Path) -> Scene {
    let mut server = Server::start(binary, &[]);
    let storm = Storm::of_one_task("killed, back empty after 5 s", Some(server.port()));
    let happens = async |_: &Upstream| {
        server.kill();
        sleep(Duration::from_secs(5)).await;
        server.restart();
    };
    storm.run(happens).await
}

async fn cut_off(binary: &Path) -> Scene {
    let server = Server::start(binary, &[]);
    let tunnel = Tunnel::to(server.port()).await;
    let storm = Storm::of_one_task("cut off for 5 s, in silence", Some(tunnel.port()));
    let happens = async |_: &Upstream| {
        tunnel.swallow(true);
        sleep(Duration::from_secs(5)).await;
        tunnel.swallow(false);
    };
    storm.run(happens).await
}

async fn full(binary: &Path) -> Scene {
    let server = Server::start(binary, &[]);
    let storm = Storm::of_one_task("full for 5 s", Some(server.port()));
    let set = |bytes: &str| {
        let mut command = redis::cmd("CONFIG");
        command
            .arg(&["SET", "maxmemory", bytes])
            .exec(&mut server.connection())
            .expect("set");
    };
    let happens = async |_: &Upstream| {
        set("1");
        sleep(Duration::from_secs(5)).await;
        set("0");
    };
    storm.run(happens).await
}

async fn flushed(binary: &Path) -> Scene {
    let server = Server::start(binary, &[]);
    let storm = Storm::of_one_task("flushed during every poll for 12 s", Some(server.port()));
    // Between the lead and the landing, while all others wait.
    let happens = async |upstream: &Upstream| {
        let end = Instant::now() + Duration::from_secs(12);
        let mut seen = upstream.count();
        while Instant::now() < end {
            if upstream.count() > seen {
                seen = upstream.count();
                sleep(LATENCY / 2).await;
                redis::cmd("FLUSHALL")
                    .exec(&mut server.connection())
                    .expect("flushed");
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    storm.run(happens).await
}

async fn cut_off_from_upstream(binary: &Path) -> Scene {
    let server = Server::start(binary, &[]);
    let upstream = upstream(LATENCY).await;
    let (port, count) = (Some(server.port()), SIDECARS * 4 / 5);
    let mut fleet = Fleet::start(count, &upstream.url(), port, &SETTINGS).await;
    // Known before those that are cut off are asked.
    fleet.gateways[0].client.get(&path(0), KEY, &[]).await;
    for _ in 0..SIDECARS / 5 {
        fleet.add("http://127.0.0.1:1", &SETTINGS).await;
    }
    fleet.are_together(SIDECARS).await;
    let before = upstream.count();
    let crowd = Crowd::start(&fleet.addresses(), POLLERS, 1, PAUSE);
    sleep(STORM).await;
    let (name, polls) = (
        "a fifth of the sidecars cut off from upstream",
        upstream.count() - before,
    );
    Scene::end(name, crowd, &fleet, polls).await
}

async fn many_tasks(binary: &Path, page: &mut String) {
    const TASKS: usize = SIDECARS * POLLERS;
    writeln!(page, "\n### {TASKS} tasks\n\nTarget: at most 1.05 ×. Each task has two clients, at sidecars of their own.\n").unwrap();
    page.push_str(HEAD);
    let server = Server::start(binary, &[]);
    let one = Storm {
        name: "one sidecar",
        engine: None,
        sidecars: 1,
        each: 2 * TASKS,
        tasks: TASKS,
    };
    let one = one.run(nothing).await;
    let fleet = Storm {
        name: "50 in a fleet",
        engine: Some(server.port()),
        sidecars: SIDECARS,
        each: 2 * POLLERS,
        tasks: TASKS,
    };
    let fleet = fleet.run(nothing).await;
    for scene in [&one, &fleet] {
        writeln!(page, "{}", scene.row(one.polls)).unwrap();
    }
}

/// All sidecars end and start again.
async fn again(binary: &Path, page: &mut String) {
    let server = Server::start(binary, &[]);
    let upstream = Upstream::saying(support::row("SUCCESS")).await;
    let mut counts = Vec::new();
    for _ in 0..2 {
        let before = upstream.count();
        let fleet = Fleet::start(SIDECARS, &upstream.url(), Some(server.port()), &SETTINGS).await;
        for gateway in &fleet.gateways {
            for task in 0..POLLERS {
                gateway.client.get(&path(task), KEY, &[]).await;
            }
        }
        counts.push(upstream.count() - before);
    }
    writeln!(
        page,
        "\n### Started anew\n\nTarget: at most one poll of each caller and finished task.\n\n| | upstream polls |\n|---|---|\n| {SIDECARS} sidecars asked for {POLLERS} finished tasks | {} |\n| the same after all were started anew | {} |",
        counts[0], counts[1]
    )
    .unwrap();
}

/// What a poll takes longer, and what the engine has to do and to hold.
async fn cost(binary: &Path, page: &mut String) {
    const TASKS: usize = 4000;
    let body = support::row("SUCCESS");
    let upstream = Upstream::start(move |_| Reply::json(body.clone())).await;
    let server = Server::start(binary, &[]);
    let used = || -> usize {
        let mut command = redis::cmd("INFO");
        let told: String = command
            .arg("memory")
            .query(&mut server.connection())
            .expect("told");
        let line = told
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"));
        line.and_then(|number| number.parse().ok())
            .expect("a number")
    };
    let alone = Fleet::start(1, &upstream.url(), None, &SETTINGS).await;
    let fleet = Fleet::start(2, &upstream.url(), Some(server.port()), &SETTINGS).await;
    let empty = used();
    let mut took = [const { Vec::new() }; 3];
    // Taken in turn, so that all see the same machine.
    for task in 0..TASKS {
        for (took, gateway) in
            took.iter_mut()
                .zip([&alone.gateways[0], &fleet.gateways[0], &fleet.gateways[1]])
        {
            let asked = Instant::now();
            assert_eq!(gateway.client.get(&path(task), KEY, &[]).await.status, 200);
            took.push(asked.elapsed());
        }
    }
    let each = (used() - empty) / TASKS;
    let [alone_took, lead, follow] = took.map(|mut took| {
        took.sort_unstable();
        took[took.len() / 2].as_secs_f64() * 1e3
    });
    let count = |gateway: usize, command: &str| {
        let series = format!("pollgate_fleet_command_seconds_count{{command=\"{command}\"}}");
        let fleet = &fleet;
        async move { fleet.gateways[gateway].metric(&series).await / TASKS as f64 }
    };
    writeln!(
        page,
        "\n### What it costs\n\nTarget: a lead takes two commands and a follower one; at most 0.2 ms longer at the median. {TASKS} finished tasks, one client, an upstream that answers at once.\n\n\
         | | figure |\n|---|---|\n\
         | a miss without a fleet, median | {alone_took:.3} ms |\n\
         | a miss that leads, median | {lead:.3} ms (+{:.3}) |\n\
         | what another sidecar has asked already, median | {follow:.3} ms ({:+.3}) |\n\
         | commands of a lead | {:.2} board, {:.2} land |\n\
         | commands of a follower | {:.2} board, {:.2} land |\n\
         | memory of the engine per task, {} bytes of document | {each} bytes |",
        lead - alone_took,
        follow - alone_took,
        count(0, "board").await,
        count(0, "land").await,
        count(1, "board").await,
        count(1, "land").await,
        support::row("SUCCESS").len(),
    )
    .unwrap();
}
