//! What the adaptive cadence saves and what it costs, simulated: writes `benches/cadence.md` and `benches/cadence.svg`.
//!
//! `cargo bench --bench cadence`; the same on every run.
#![allow(
    missing_docs,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]

mod optimum;
mod plot;
mod shared;
mod simulation;

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use crate::shared::{Looks, SCENES, Scene, lives, mean};
use crate::simulation::{Rule, Sum, WORLDS, World, measure};

/// `cache.in_flight_ttl` and `cache.in_flight_max`, as they are by default.
pub(crate) const LEAST: f64 = 2.0;
pub(crate) const MOST: f64 = 10.0;

const FIXED: [f64; 9] = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0];
const STRETCHED: [f64; 5] = [4.0, 6.0, 10.0, 15.0, 20.0];

/// How many tasks of the model ended before, as a word, the tasks measured, and how often.
const LEARNT: [(&str, Range<usize>, u64); 4] = [
    ("1 end", 1..2, 2000),
    ("3 ends", 3..5, 1000),
    ("10 ends", 10..15, 400),
    ("100 ends", 100..200, 40),
];

fn main() {
    if !std::env::args().any(|argument| argument == "--bench") {
        return; // `cargo test --benches` only wants to know that it builds
    }
    let usual = WORLDS[0];
    let fixed = FIXED.map(|interval| {
        (
            interval,
            measure(usual, Rule::Fixed(interval), 100..200, 40),
        )
    });
    let stretched = STRETCHED.map(|most| {
        (
            most,
            measure(usual, Rule::Adaptive(LEAST, most), 100..200, 40),
        )
    });
    let learning = LEARNT.map(|(word, tasks, repeats)| {
        (
            word,
            measure(usual, Rule::Adaptive(LEAST, MOST), tasks, repeats),
        )
    });
    let text = text(&fixed, &stretched, &learning);
    println!("{text}");
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    std::fs::write(place.join("cadence.md"), text).expect("benches/ can be written to");
    let picture = plot::picture(&fixed, &stretched, &learning);
    std::fs::write(place.join("cadence.svg"), picture).expect("benches/ can be written to");
}

fn text(fixed: &[(f64, Sum)], stretched: &[(f64, Sum)], learning: &[(&str, Sum)]) -> String {
    let mut text = String::from(
        "# The adaptive cadence, simulated\n\n\
         Made by `cargo bench --bench cadence`; the rule is told in `src/cache/cadence/mod.rs`. One waits for each task from its\n\
         beginning to its end. Lag is the time from \"done\" upstream to \"seen\"; in brackets what 95 of 100 stay within.\n\n\
         ![Polls per task against lag, and the interval over a task's life](cadence.svg)\n\n\
         ## Tasks of 83–253 s, median 105 s; upstream asks its vendor every 15 s\n\n\
         | cadence | polls per task | lag | from done at the vendor |\n|---|---|---|---|\n",
    );
    for (interval, sum) in fixed {
        row(&mut text, &format!("fixed, {interval} s"), sum);
    }
    for (most, sum) in stretched {
        row(
            &mut text,
            &format!("adaptive, {LEAST}–{most} s, 100 ends learnt"),
            sum,
        );
    }
    for (word, sum) in learning {
        row(
            &mut text,
            &format!("adaptive, {LEAST}–{MOST} s, {word} learnt"),
            sum,
        );
    }
    let _ = write!(
        text,
        "\n## Other tasks: adaptive, {LEAST}–{MOST} s, against fixed, {LEAST} s\n\n\
         | tasks | after | polls per task | lag |\n|---|---|---|---|\n"
    );
    for world in WORLDS {
        for (word, tasks, repeats) in [
            ("1 to 30 ends", 1..30, 100),
            ("30 to 100 ends", 30..100, 40),
            ("100 to 200 ends", 100..200, 40),
            ("200 to 300 ends", 200..300, 40),
        ] {
            comparison(&mut text, world, word, &tasks, repeats);
        }
    }
    text.push_str(
        "\n## Upstream's rounds: known, and not known\n\n\
         Tasks of 83–253 s, median 105 s, 20 at once where nothing else is said. Upstream sleeps 15 s, then looks at one task\n\
         after the other for up to 3 s. The optimum is Barlow and Proschan's for the lag that is reached, with all distributions\n\
         known: without rounds; and with the last round known, and of the next one its earliest time and its spread, but not what\n\
         polls of other tasks tell. \"Before\" is the cadence of the end times alone, 2–10 s.\n\n\
         | upstream | optimum without rounds | optimum with rounds | before | reached | by rounds |\n|---|---|---|---|---|---|\n",
    );
    for scene in SCENES {
        rounds(&mut text, scene);
    }
    text
}

/// What is reached in a scene beside what can be.
fn rounds(text: &mut String, scene: Scene) {
    let [before, reached] = [false, true].map(|knows| lives(scene, knows, 100..200, 20));
    let polls = |lives: &[_]| mean(lives, |life| life.polls);
    let lag = |lives: &[_]| mean(lives, |life| life.lag);
    let ends = shared::ends(scene);
    let without = optimum::without_rounds(&ends, lag(&reached));
    let with = match scene.looks {
        Looks::Live => "–".into(),
        Looks::Rounds { sleep, takes, .. } => {
            let most = optimum::with_rounds(&ends, (sleep(0.0), takes), lag(&reached));
            format!("{:.1} at {:.2} s", most.polls, most.lag)
        }
    };
    let _ = writeln!(
        text,
        "| {} | {:.1} | {with} | {:.1} at {:.2} s | {:.1} at {:.2} s: × {:.2}, × {:.2} | {:.0} % |",
        scene.name,
        without.polls,
        polls(&before),
        lag(&before),
        polls(&reached),
        lag(&reached),
        polls(&reached) / polls(&before),
        lag(&reached) / lag(&before),
        100.0 * mean(&reached, |life| life.by_round),
    );
}

fn row(text: &mut String, name: &str, sum: &Sum) {
    let Sum {
        polls,
        lag,
        p95,
        whole_lag,
    } = sum;
    let _ = writeln!(
        text,
        "| {name} | {polls:.1} | {lag:.2} s ({p95:.1} s) | {whole_lag:.1} s |"
    );
}

fn comparison(text: &mut String, world: World, after: &str, tasks: &Range<usize>, repeats: u64) {
    let fixed = measure(world, Rule::Fixed(LEAST), tasks.clone(), repeats);
    let adaptive = measure(world, Rule::Adaptive(LEAST, MOST), tasks.clone(), repeats);
    let _ = writeln!(
        text,
        "| {} | {after} | {:.1} → {:.1}: {:.0} % | {:.2} → {:.2} s: × {:.2} |",
        world.name,
        fixed.polls,
        adaptive.polls,
        100.0 * adaptive.polls / fixed.polls,
        fixed.lag,
        adaptive.lag,
        adaptive.lag / fixed.lag,
    );
}
