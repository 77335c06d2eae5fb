//! How often a status poll allocates on its way through the assembled stack. Counted on the thread that answers, from
//! a parsed request to a response; so nothing of hyper's server is in it, and nothing of upstream.
//!
//! The figures: `cargo test --test allocations -- --nocapture`

#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "figures are for reading"
)]

#[path = "../benches/stack/scenes.rs"]
#[allow(dead_code, reason = "some of it is for the benchmark alone")]
mod scenes;

use scenes::{Scene, Stage};

const REQUESTS: usize = 1_000;

/// The mean over so many requests that what comes once in a while (a table that grows) hardly shows.
fn allocations(scene: Scene) -> f64 {
    let mut stage = Stage::new(scene);
    let requests = stage.requests(REQUESTS);
    let counted = allocation_counter::measure(|| stage.run(requests));
    let (count, bytes) = (
        counted.count_total as f64 / REQUESTS as f64,
        counted.bytes_total as f64 / REQUESTS as f64,
    );
    println!(
        "{}: {count:.2} allocations, {bytes:.0} bytes",
        scene.as_str()
    );
    count
}

/// What a hit may allocate: its headers, the values that are made for each answer, and its copy of a small document,
/// which costs less than counting who shares it does.
const HIT: f64 = 11.5;

/// The same with the future of one who waits for another one's poll.
const SHARED: f64 = 15.0;

/// The same with a poll of upstream: the request, hyper's client, the document, the flight and the entry.
const MISS: f64 = 61.0;

/// And writing the document anew for the other path.
const CONVERSION: f64 = 11.5;

#[test]
fn a_hit_allocates_little() {
    assert!(allocations(Scene::Hit) <= HIT);
    assert!(allocations(Scene::ConvertedHit) <= HIT);
}

#[test]
fn a_shared_answer_allocates_little() {
    assert!(allocations(Scene::Shared) <= SHARED);
}

#[test]
fn a_miss_allocates_a_bounded_number_of_times() {
    assert!(allocations(Scene::Miss) <= MISS);
    assert!(allocations(Scene::ConvertedMiss) <= MISS + CONVERSION);
}
