//! Instructions that a status poll takes in the gateway, without the client's connection.
//!
//! `cargo bench --bench stack` (wants valgrind: `apt-get install valgrind`)
//!
//! Each scene runs twice under callgrind, the second time with twice the requests: the difference is what the requests
//! took, without the start. Making the requests is subtracted too. The count is of all threads, in user space, and
//! hardly depends on what else the machine does; the time beside it does, and is taken without valgrind. Both are a little
//! too high: benchmarks are built with the tests' dependencies, and with those tokio's clock can be paused.
//!
//! Where the instructions go: build with `CARGO_PROFILE_BENCH_DEBUG=1 CARGO_PROFILE_BENCH_STRIP=none`, run this program
//! with a scene and a number under `valgrind --tool=callgrind` (or `--tool=dhat` for allocations). How many allocations
//! a hit may have is a test: `tests/allocations.rs`.

#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::disallowed_types,
    reason = "its output is what it is for, and the time in it is the real one"
)]

mod scenes;

use std::process::{Command, Stdio};
use std::time::Instant;

use mimalloc::MiMalloc;
use pollgate::config::Log;
use scenes::{Scene, Stage};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Requests of the shorter run.
const REQUESTS: usize = 2_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let named = |name: &String| Scene::ALL.into_iter().find(|scene| scene.as_str() == name);
    if let Some(scene) = arguments.first().and_then(named) {
        let requests = arguments.get(1).and_then(|count| count.parse().ok());
        return run(scene, requests.unwrap_or(REQUESTS));
    }
    println!("| scene | instructions per request | time |");
    println!("|---|---|---|");
    let (made, made_in) = (instructions(Scene::Request), seconds(Scene::Request));
    for scene in Scene::ALL.into_iter().skip(1) {
        let time = (seconds(scene) - made_in) * 1e6;
        match (instructions(scene), made) {
            (Some(all), Some(made)) => {
                println!("| {} | {:.0} | {time:.2} µs |", scene.as_str(), all - made);
            }
            _ => println!("| {} | (no valgrind) | {time:.2} µs |", scene.as_str()),
        }
    }
}

/// One run, in a process of its own; the log is on, as in a gateway.
fn run(scene: Scene, requests: usize) {
    let _log = pollgate::telemetry::start(&Log::default());
    let mut stage = Stage::new(scene);
    let requests = stage.requests(requests);
    let started = Instant::now();
    stage.run(requests);
    eprintln!("seconds: {}", started.elapsed().as_secs_f64());
}

/// What one request takes; `None` without valgrind.
fn instructions(scene: Scene) -> Option<f64> {
    let collected = |requests: usize| {
        let mut valgrind = Command::new("valgrind");
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        valgrind.arg(std::env::current_exe().expect("this program"));
        told(&mut valgrind, scene, requests, "Collected : ")
    };
    Some((collected(2 * REQUESTS)? - collected(REQUESTS)?) / REQUESTS as f64)
}

/// How long one request takes, the best of five runs.
fn seconds(scene: Scene) -> f64 {
    let requests = 10 * REQUESTS;
    let mut own = Command::new(std::env::current_exe().expect("this program"));
    let took = |_| told(&mut own, scene, requests, "seconds: ").expect("says how long");
    (0..5).map(took).fold(f64::INFINITY, f64::min) / requests as f64
}

/// Runs the scene and reads the number after `label` in what is written to standard error.
fn told(program: &mut Command, scene: Scene, requests: usize, label: &str) -> Option<f64> {
    let program = program.args([scene.as_str(), &requests.to_string()]);
    let output = program.stdout(Stdio::null()).output().ok()?;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let number = told
        .lines()
        .find_map(|line| Some(line.split_once(label)?.1))?;
    number.trim().parse().ok()
}
