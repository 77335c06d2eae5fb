//! Whole fleets: real pollgate processes around a real engine that freezes, dies, fills up, loses its memory, and behind
//! networks that swallow everything.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a panic is a failed test; figures are for reading"
)]

mod crowd;
mod namespace;
mod scene;
#[allow(dead_code, reason = "the tests of the link use the rest")]
mod server;
#[allow(
    dead_code,
    unused_imports,
    reason = "the tests over sockets use the rest"
)]
#[path = "../it/support/mod.rs"]
mod support;
mod tunnel;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use tokio::time::{sleep, timeout};

use self::crowd::{Crowd, KEY, Seen, path};
use self::namespace::Namespace;
use self::scene::{Fleet, upstream};
use self::server::Server;
use self::support::{Client, Reply, Upstream, eventually};
use self::tunnel::Tunnel;

/// How long an answer stays fresh while its task runs.
const TTL: Duration = Duration::from_secs(1);

/// Patient with the engine: the tests share their cores with others.
const SETTINGS: [(&str, &str); 2] = [("cache.in_flight_ttl", "1s"), ("fleet.timeout", "100ms")];

/// How long upstream takes.
const LATENCY: Duration = Duration::from_millis(60);

/// How long a crowd polls.
const STORM: Duration = Duration::from_secs(6);

const MS100: Duration = Duration::from_millis(100);

/// The most polls that one gateway alone makes of one task in a storm: one for each time that its answer ends.
fn alone(storm: Duration) -> usize {
    (storm.as_secs_f64() / TTL.as_secs_f64()).ceil() as usize + 1
}

/// The engine for tests of processes: their number is for faults, not for versions.
fn engine() -> PathBuf {
    server::binaries().swap_remove(0)
}

/// Lets a crowd poll one task through five gateways while something happens to the engine.
async fn storm(engine: u16, happens: impl AsyncFnOnce()) -> (Seen, usize) {
    storm_at(SocketAddr::from(([127, 0, 0, 1], engine)), happens).await
}

async fn storm_at(engine: SocketAddr, happens: impl AsyncFnOnce()) -> (Seen, usize) {
    let upstream = upstream(LATENCY).await;
    let fleet = Fleet::start_at(5, &upstream.url(), Some(engine), &SETTINGS).await;
    let crowd = Crowd::start(&fleet.addresses(), 4, 1, MS100);
    let began = Instant::now();
    sleep(Duration::from_millis(1500)).await;
    happens().await;
    sleep(STORM.saturating_sub(began.elapsed())).await;
    let seen = crowd.end().await;
    println!(
        "{} polls answered, {} upstream, p50 {:?}, p99 {:?}",
        seen.answered,
        upstream.count(),
        seen.quantile(0.5),
        seen.quantile(0.99)
    );
    (seen, upstream.count())
}

/// Runs a test that has to end.
async fn bounded(test: impl Future<Output = ()>) {
    timeout(Duration::from_mins(1), test).await.expect("an end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn a_fleet_costs_upstream_what_one_gateway_costs() {
    for binary in server::binaries() {
        println!("{}", binary.display());
        bounded(async {
            let server = Server::start(&binary, &[]);
            let (seen, polls) = storm(server.port(), async || {}).await;
            seen.assert_whole("nothing happens");
            assert!(polls <= alone(STORM) + 1, "{polls} polls of upstream");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn a_frozen_fleet_engine_fails_nobody() {
    bounded(async {
        let server = Server::start(&engine(), &[]);
        let (seen, polls) = storm(server.port(), async || {
            server.signal("STOP");
            sleep(Duration::from_secs(2)).await;
            server.signal("CONT");
        })
        .await;
        seen.assert_whole("frozen");
        assert!(polls <= 5 * alone(STORM), "{polls} polls of upstream");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn a_killed_fleet_engine_fails_nobody() {
    bounded(async {
        let mut server = Server::start(&engine(), &[]);
        let (seen, polls) = storm(server.port(), async || {
            server.kill();
            sleep(Duration::from_secs(2)).await;
            server.restart();
        })
        .await;
        seen.assert_whole("killed");
        assert!(polls <= 5 * alone(STORM), "{polls} polls of upstream");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn a_network_that_swallows_everything_between_fleet_and_engine_fails_nobody() {
    bounded(async {
        let server = Server::start(&engine(), &[]);
        let tunnel = Tunnel::to(server.port()).await;
        let (seen, polls) = storm(tunnel.port(), async || {
            tunnel.swallow(true);
            sleep(Duration::from_secs(2)).await;
            tunnel.swallow(false);
        })
        .await;
        seen.assert_whole("swallowed");
        assert!(polls <= 5 * alone(STORM), "{polls} polls of upstream");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn a_partition_between_fleet_and_engine_fails_nobody() {
    let Some(namespace) = Namespace::new() else {
        return println!("SKIPPED: a network namespace takes root and iproute2");
    };
    bounded(async {
        let place = namespace.place();
        let server = Server::start_in(place.clone(), &engine(), &[]);
        let engine = format!("{}:{}", place.host, server.port()).parse().unwrap();
        let (seen, polls) = storm_at(engine, async || {
            namespace.cut_off(true);
            sleep(Duration::from_secs(2)).await;
            namespace.cut_off(false);
        })
        .await;
        seen.assert_whole("partitioned");
        assert!(polls <= 5 * alone(STORM), "{polls} polls of upstream");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn fleet_connections_that_are_cut_fail_nobody() {
    bounded(async {
        let server = Server::start(&engine(), &[]);
        let tunnel = Tunnel::to(server.port()).await;
        let (seen, polls) = storm(tunnel.port(), async || {
            for _ in 0..3 {
                tunnel.cut();
                sleep(Duration::from_millis(700)).await;
            }
        })
        .await;
        seen.assert_whole("cut");
        assert!(polls <= 5 * alone(STORM), "{polls} polls of upstream");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn a_fleet_engine_that_loses_its_memory_fails_nobody() {
    bounded(async {
        let server = Server::start(&engine(), &[]);
        let (seen, polls) = storm(server.port(), async || {
            for _ in 0..8 {
                redis::cmd("FLUSHALL")
                    .exec(&mut server.connection())
                    .expect("flushed");
                sleep(Duration::from_millis(300)).await;
            }
        })
        .await;
        seen.assert_whole("flushed");
        // Each flush costs a poll at most, and one more where it hits a lease.
        assert!(polls <= alone(STORM) + 2 * 8, "{polls} polls of upstream");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn a_full_fleet_engine_fails_nobody() {
    bounded(async {
        let server = Server::start(&engine(), &[]);
        let set = |bytes: &str| {
            let mut command = redis::cmd("CONFIG");
            command
                .arg(&["SET", "maxmemory", bytes])
                .exec(&mut server.connection())
                .expect("set");
        };
        let (seen, polls) = storm(server.port(), async || {
            set("1");
            sleep(Duration::from_secs(2)).await;
            set("0");
        })
        .await;
        seen.assert_whole("full");
        assert!(polls <= 5 * alone(STORM), "{polls} polls of upstream");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn members_of_a_fleet_that_die_take_nobody_with_them() {
    bounded(async {
        let server = Server::start(&engine(), &[]);
        let upstream = upstream(LATENCY).await;
        let fleet = Fleet::start(5, &upstream.url(), Some(server.port()), &SETTINGS).await;
        let (dying, living) = fleet.gateways.split_at(3);
        let addresses: Vec<_> = living.iter().map(|gateway| gateway.address).collect();
        // The dying lead as well: their pollers are of no interest.
        let leads = Crowd::start(
            &dying
                .iter()
                .map(|gateway| gateway.address)
                .collect::<Vec<_>>(),
            1,
            1,
            MS100,
        );
        let crowd = Crowd::start(&addresses, 4, 1, MS100);
        sleep(Duration::from_secs(1)).await;
        drop(leads);
        for gateway in dying {
            gateway.signal("-KILL");
            sleep(Duration::from_millis(500)).await;
        }
        sleep(Duration::from_secs(2)).await;
        let seen = crowd.end().await;
        seen.assert_whole("three of five killed");
        let polls = upstream.count();
        assert!(polls <= alone(STORM) + 4, "{polls} polls of upstream");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn members_of_a_fleet_that_cannot_reach_upstream_are_served_by_the_others() {
    bounded(async {
        let server = Server::start(&engine(), &[]);
        let upstream = upstream(LATENCY).await;
        let mut fleet = Fleet::start(4, &upstream.url(), Some(server.port()), &SETTINGS).await;
        // Nobody listens there.
        fleet.add("http://127.0.0.1:1", &SETTINGS).await;
        fleet.are_together(5).await;
        // The task is known before the one that is cut off is asked.
        let first = fleet.gateways[0].client.get(&path(0), KEY, &[]).await;
        assert_eq!(first.status, 200);
        let crowd = Crowd::start(&fleet.addresses(), 4, 1, MS100);
        sleep(STORM).await;
        let seen = crowd.end().await;
        seen.assert_whole("one of five cut off");
        let polls = upstream.count();
        assert!(polls <= alone(STORM) + 2, "{polls} polls of upstream");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn a_fleet_that_starts_anew_remembers() {
    bounded(async {
        let server = Server::start(&engine(), &[]);
        let upstream = Upstream::saying(support::row("SUCCESS")).await;
        let fleet = Fleet::start(3, &upstream.url(), Some(server.port()), &SETTINGS).await;
        for gateway in &fleet.gateways {
            assert_eq!(gateway.client.get(&path(0), KEY, &[]).await.status, 200);
        }
        assert_eq!(upstream.count(), 1, "one poll of a finished task");
        drop(fleet);
        let fleet = Fleet::start(3, &upstream.url(), Some(server.port()), &SETTINGS).await;
        for gateway in &fleet.gateways {
            assert_eq!(gateway.client.get(&path(0), KEY, &[]).await.status, 200);
        }
        assert!(
            upstream.count() <= 2,
            "{} polls, one a caller and finished task",
            upstream.count()
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn the_look_up_tells_which_member_of_the_fleet_asked_upstream_on_any_route() {
    bounded(async {
        let server = Server::start(&engine(), &[]);
        let mj =
            r#"{"id":"task-fleet-0","action":"IMAGINE","status":"IN_PROGRESS","progress":"30%"}"#;
        let upstream = Upstream::start(move |asked| {
            let is_mj = asked.target.starts_with("/mj/");
            Reply::json(if is_mj {
                mj.to_owned()
            } else {
                support::row("SUCCESS")
            })
        })
        .await;
        for path in [path(0), "/mj/task/task-fleet-0/fetch".into()] {
            let fleet = Fleet::start(2, &upstream.url(), Some(server.port()), &SETTINGS).await;
            let before = upstream.count();
            for gateway in &fleet.gateways {
                assert_eq!(gateway.client.get(&path, KEY, &[]).await.status, 200);
            }
            assert_eq!(upstream.count(), before + 1, "{path}");
            let words = ["led by this gateway", " of the fleet"];
            for (gateway, words) in fleet.gateways.iter().zip(words) {
                let admin = Client::new(gateway.admin);
                let page = [("accept", "text/html")];
                let page = admin.get("/?task=task-fleet-0", KEY, &page).await;
                assert!(page.text().contains(words), "{path}: {}", page.text());
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn a_purge_on_one_member_reaches_the_whole_fleet() {
    bounded(async {
        let server = Server::start(&engine(), &[]);
        let upstream = Upstream::saying(support::row("SUCCESS")).await;
        let fleet = Fleet::start(3, &upstream.url(), Some(server.port()), &SETTINGS).await;
        for gateway in &fleet.gateways {
            gateway.client.get(&path(0), KEY, &[]).await;
        }
        assert_eq!(upstream.count(), 1);
        upstream.now(|_| Reply::json(support::row("FAILURE")));
        let purge = http::Request::delete(format!(
            "http://{}/cache/task-fleet-0",
            fleet.gateways[0].admin
        ));
        let purge = purge.body(http_body_util::Full::default()).unwrap();
        assert_eq!(fleet.gateways[0].client.send(purge).await.status, 200);
        for gateway in &fleet.gateways {
            eventually("the news", async || {
                let answer = gateway.client.get(&path(0), KEY, &[]).await;
                answer.text().contains("FAILURE")
            })
            .await;
        }
        assert_eq!(upstream.count(), 2, "one poll after the purge");
    })
    .await;
}

/// What nobody who reads the engine may find.
const UNSPEAKABLE: [&str; 12] = [
    KEY,
    "Bearer",
    "task-fleet",
    "sk-fleet",
    "cdn.example.com",
    "SUCCESS",
    "success",
    "IN_PROGRESS",
    "textGenerate",
    "progress",
    "video/generations",
    "0123456789abcdef0123456789abcdef",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes an engine: tests/run fleet"]
async fn whoever_reads_the_fleet_engine_learns_nothing() {
    for binary in server::binaries() {
        bounded(async {
            let server = Server::start(&binary, &["--rdbcompression", "no"]);
            let commands = tunnel::record(server.port()).await;
            let began = Instant::now();
            let upstream = Upstream::start(move |asked| {
                let id = asked
                    .target
                    .rsplit('/')
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                match id.len() % 3 {
                    0 => Reply::new(
                        401,
                        "application/json",
                        r#"{"error":{"message":"no such key","code":"invalid_api_key"}}"#,
                    ),
                    1 if began.elapsed() < Duration::from_secs(1) => {
                        Reply::json(support::row("IN_PROGRESS"))
                    }
                    _ => Reply::json(support::row("SUCCESS")),
                }
            })
            .await;
            let fleet = Fleet::start(3, &upstream.url(), Some(commands.port()), &SETTINGS).await;
            let crowd = Crowd::start(&fleet.addresses(), 12, 12, MS100);
            sleep(Duration::from_secs(3)).await;
            let purge = http::Request::delete(format!(
                "http://{}/cache/task-fleet-3",
                fleet.gateways[0].admin
            ));
            fleet.gateways[0]
                .client
                .send(purge.body(http_body_util::Full::default()).unwrap())
                .await;
            drop(crowd.end().await);
            assert!(
                fleet
                    .sum("pollgate_fleet_landings_total{result=\"kept\"}")
                    .await
                    > 0
            );
            redis::cmd("SAVE")
                .exec(&mut server.connection())
                .expect("saved");
            let dump = std::fs::read(server.directory().join("dump.rdb")).expect("a dump");
            let sent = commands.recorded();
            // The search does find what is there.
            assert!(
                contains(&dump, b"pg1:") && contains(&sent, b"EVALSHA"),
                "the dump and the commands"
            );
            assert!(sent.len() > 10_000, "{} bytes of commands", sent.len());
            for word in UNSPEAKABLE {
                assert!(!contains(&dump, word.as_bytes()), "{word} is in the dump");
                // The scripts themselves speak of keys and values in general.
                let is_general = ["success", "progress"].contains(&word);
                assert!(
                    is_general || !contains(&sent, word.as_bytes()),
                    "{word} was sent"
                );
            }
        })
        .await;
    }
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|part| part == word)
}
