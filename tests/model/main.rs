//! The model check: random schedules of polls, hang-ups, faults, purges and time against the task pipeline, on
//! paused time and without sockets. A simple reference judges every answer.
//!
//! A schedule depends on its seed alone. A failure prints the seed and the story. To replay a seed:
//! `POLLGATE_MODEL_SEED=17 cargo test --test model`. `POLLGATE_MODEL_SCHEDULES=100000` runs that many.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed; figures are for reading"
)]

mod fleet;
mod rules;
mod schedule;
mod upstream;
mod world;

use std::str::FromStr;

use schedule::{Summary, run};

/// The number of schedules in an ordinary run.
const SCHEDULES: u64 = 2000;

fn from_environment<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .ok()
            .unwrap_or_else(|| panic!("{name}: not a number: {text}")),
    )
}

#[test]
fn no_schedule_makes_a_poll_return_what_the_reference_forbids() {
    let seeds = match from_environment("POLLGATE_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("POLLGATE_MODEL_SCHEDULES").unwrap_or(SCHEDULES),
    };
    let many = seeds.end - seeds.start > 1;
    let mut all = Summary::default();
    for seed in seeds {
        match run(seed) {
            Ok(summary) => all += summary,
            Err(story) => {
                panic!("\n{story}\nschedule {seed}: see it again with POLLGATE_MODEL_SEED={seed}")
            }
        }
    }
    println!("{all:?}");
    // A model that reaches nothing finds nothing, so every way to answer must have occurred.
    if many {
        assert!(all.is_varied(), "{all:?}");
    }
}

#[test]
fn a_schedule_follows_from_its_seed() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed), run(seed));
    }
}
