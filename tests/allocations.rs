//! The allocations of a status poll in the assembled stack, counted on the answering thread from a parsed request to a
//! response: without hyper's server and without upstream.
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

/// The mean over enough requests to hide rare allocations, such as the growth of a table.
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

/// The limit for a hit: its headers, the values computed for each answer, and its copy of a small document, which costs
/// less than reference counting does.
const HIT: f64 = 11.5;

/// A hit, and the future of a follower.
const SHARED: f64 = 15.0;

/// A hit, and an upstream poll: the request, hyper's client, the document, the flight and the entry.
const MISS: f64 = 55.0;

/// The conversion of the document for the other path, after which its entry is weighed again.
const CONVERSION: f64 = 17.5;

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
