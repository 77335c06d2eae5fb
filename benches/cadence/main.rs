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

use crate::optimum::Known;
use crate::shared::{Life, Looks, Run, SCENES, Scene, Second, mean};
use crate::simulation::{Rule, Sum, WORLDS, World, measure};

/// `cache.in_flight_ttl` and `cache.in_flight_max`, as they are by default.
pub(crate) const LEAST: f64 = 2.0;
pub(crate) const MOST: f64 = 10.0;

/// The longest interval where rounds are known.
pub(crate) const LONGEST: f64 = 20.0;

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
    let scenes = SCENES.map(Reached::of);
    let text = text(&fixed, &stretched, &learning, &scenes);
    println!("{text}");
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
    std::fs::write(place.join("cadence.md"), text).expect("benches/ can be written to");
    let picture = plot::picture(&fixed, &stretched, &learning, &scenes);
    std::fs::write(place.join("cadence.svg"), picture).expect("benches/ can be written to");
}

fn text(
    fixed: &[(f64, Sum)],
    stretched: &[(f64, Sum)],
    learning: &[(&str, Sum)],
    scenes: &[Reached],
) -> String {
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
         after the other for up to 3 s. The optima are Barlow and Proschan's for the lag that is reached, with all distributions\n\
         known: without rounds; with the moment at which the last round began, and with that at which it ended, which no poll tells\n\
         exactly. Where documents tell the progress, a poll shows whether the task has had its turn in a round, which saves polls.\n\
         \"Before\" is the cadence of the end times alone, 2–10 s; ± is the 95 % interval of 20 pairs of runs. Learnt after: the\n\
         rounds from the first task of all until they are known, in the median run. A second model has every other task from the\n\
         hundredth on, of which these are measured.\n\n\
         | upstream | optimum without rounds | last began known | last ended known | before | reached | by rounds | learnt after |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for reached in scenes {
        reached.row(&mut text);
    }
    text.push_str(
        "\n## When one who waits sees the end\n\n\
         The same runs: of all ends, how many are seen within one second of upstream and within two, and what 95 of 100 stay within.\n\n\
         | upstream | before | reached |\n|---|---|---|\n",
    );
    for Reached {
        scene,
        before,
        after,
        ..
    } in scenes
    {
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            scene.name,
            seen(before),
            seen(after)
        );
    }
    text
}

/// What is reached in one scene.
pub(crate) struct Reached {
    pub(crate) scene: Scene,
    /// The ages at which upstream tells ends, in ascending order.
    pub(crate) ends: Vec<f64>,
    /// By the end times alone, and with rounds learnt.
    pub(crate) before: Vec<Run>,
    pub(crate) after: Vec<Run>,
}

/// The seeds of each scene.
const SEEDS: u64 = 20;

impl Reached {
    fn of(scene: Scene) -> Self {
        let [before, after] =
            [false, true].map(|knows| shared::runs(scene, knows, &(100..200), SEEDS));
        Self {
            scene,
            ends: shared::ends(scene),
            before,
            after,
        }
    }

    /// What can be known of upstream's rounds, if it has any.
    fn known(&self, end: bool) -> Option<Known> {
        match self.scene.looks {
            _ if self.scene.second == Some(Second::Live) => None,
            Looks::Live => None,
            Looks::Rounds { sleep, takes, .. } => Some(Known {
                sleep: sleep(0.0),
                takes,
                end,
                turns: self.scene.progress,
            }),
        }
    }

    /// A row: what is reached beside what can be.
    fn row(&self, text: &mut String) {
        let Self {
            scene,
            ends,
            before,
            after,
        } = self;
        let [polls, lag]: [fn(&Life) -> f64; 2] = [|life| life.polls, |life| life.lag];
        let reached = mean(after, lag);
        let without = optimum::without_rounds(ends, reached);
        let [start, end] = [false, true].map(|end| match self.known(end) {
            None => "–".into(),
            Some(known) => {
                let most = optimum::with_rounds(ends, known, LONGEST, reached);
                format!("{:.1}", most.polls)
            }
        });
        let ratio = |of| {
            format!(
                "× {:.2} ± {:.2}",
                mean(after, of) / mean(before, of),
                (100.0 * margin(before, after, of)).ceil() / 100.0
            )
        };
        let mut learnt: Vec<_> = after
            .iter()
            .map(|run| run.learnt_after.unwrap_or(usize::MAX))
            .collect();
        learnt.sort_unstable();
        let learnt = match learnt[learnt.len() / 2] {
            usize::MAX => "–".into(),
            _ if scene.second == Some(Second::Live) => "–".into(),
            1 => "1 round".to_owned(),
            rounds => format!("{rounds} rounds"),
        };
        let _ = writeln!(
            text,
            "| {} | {:.1} | {start} | {end} | {:.1} at {:.2} s | {:.1} at {reached:.2} s: {}, {} | {:.0} % | {learnt} |",
            scene.name,
            without.polls,
            mean(before, polls),
            mean(before, lag),
            mean(after, polls),
            ratio(polls),
            ratio(lag),
            100.0 * mean(after, |life| life.by_round),
        );
    }
}

/// Half the width of the 95 % interval of a ratio of means, whose runs are pairs.
fn margin(before: &[Run], after: &[Run], of: fn(&Life) -> f64) -> f64 {
    let [base, ratio] = [mean(before, of), mean(after, of) / mean(before, of)];
    let residual = |(before, after): (&Run, &Run)| {
        let [before, after] = [before, after].map(|run| mean(std::slice::from_ref(run), of));
        (after - ratio * before).powi(2)
    };
    let runs = before.len() as f64;
    let squares: f64 = before.iter().zip(after).map(residual).sum();
    // Student's t for 20 runs.
    2.09 * (squares / (runs - 1.0) / runs).sqrt() / base
}

/// How soon ends are seen.
fn seen(runs: &[Run]) -> String {
    let mut lags: Vec<f64> = runs
        .iter()
        .flat_map(|run| &run.lives)
        .map(|life| life.lag)
        .collect();
    lags.sort_by(f64::total_cmp);
    let within =
        |lag: f64| 100.0 * lags.partition_point(|one| *one <= lag) as f64 / lags.len() as f64;
    let p95 = lags[lags.len() * 95 / 100];
    format!("{:.0} %, {:.0} %, {p95:.1} s", within(1.0), within(2.0))
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
