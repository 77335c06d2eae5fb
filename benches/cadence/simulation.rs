//! Tasks that live and end, and one who waits for each of them: what a cadence costs, and what it misses.

use std::time::Duration;

use pollgate::cache::cadence::{Bounds, Cadence, Running};
use tokio::time::Instant;

/// A seeded source of chance (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice that repeat themselves for a seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 up to, but without, 1.
    pub(crate) fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What a vendor's tasks are like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World {
    /// What it is called.
    pub(crate) name: &'static str,
    /// How long the n-th task takes, in seconds.
    pub(crate) lifetime: fn(&mut Dice, usize) -> f64,
    /// How often upstream asks its vendor, in seconds; 0 for always. The rounds of each task have their own phase.
    pub(crate) refresh: f64,
}

/// 83 to 253 s, half of them at most 105 s.
pub(crate) fn usual(dice: &mut Dice, _: usize) -> f64 {
    quantile(
        &[
            (0.0, 83.0),
            (0.25, 94.0),
            (0.5, 105.0),
            (0.75, 130.0),
            (0.9, 175.0),
            (1.0, 253.0),
        ],
        dice.unit(),
    )
}

fn quantile(points: &[(f64, f64)], at: f64) -> f64 {
    let mut pairs = points.windows(2);
    pairs
        .find_map(|pair| {
            let [(low, from), (high, to)] = [pair[0], pair[1]];
            (at <= high).then(|| from + (to - from) * (at - low) / (high - low))
        })
        .unwrap_or(0.0)
}

/// The usual world first, then its variations.
pub(crate) const WORLDS: [World; 8] = [
    World {
        name: "usual: 83–253 s, median 105 s, rounds of 15 s",
        lifetime: usual,
        refresh: 15.0,
    },
    World {
        name: "upstream always knows: no rounds",
        lifetime: usual,
        refresh: 0.0,
    },
    World {
        name: "slow rounds of 45 s",
        lifetime: usual,
        refresh: 45.0,
    },
    World {
        name: "two kinds of task: 20–30 s and 150–200 s",
        lifetime: |dice, _| {
            let fast = dice.unit() < 0.5;
            if fast {
                20.0 + 10.0 * dice.unit()
            } else {
                150.0 + 50.0 * dice.unit()
            }
        },
        refresh: 15.0,
    },
    World {
        name: "twice as fast from the 100th task on",
        lifetime: |dice, n| usual(dice, n) * if n < 100 { 1.0 } else { 0.5 },
        refresh: 15.0,
    },
    World {
        name: "twice as slow from the 100th task on",
        lifetime: |dice, n| usual(dice, n) * if n < 100 { 1.0 } else { 2.0 },
        refresh: 15.0,
    },
    World {
        name: "short tasks of 10–20 s, no rounds",
        lifetime: |dice, _| 10.0 + 10.0 * dice.unit(),
        refresh: 0.0,
    },
    World {
        name: "every fifth task fails, at any time",
        lifetime: |dice, n| {
            let whole = usual(dice, n);
            if dice.unit() < 0.2 {
                whole * dice.unit()
            } else {
                whole
            }
        },
        refresh: 15.0,
    },
];

/// Who decides when to look again.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rule {
    /// Always after so many seconds.
    Fixed(f64),
    /// [`Cadence`], between so many seconds and so many.
    Adaptive(f64, f64),
}

/// One task to its end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// How often upstream was asked.
    pub(crate) polls: f64,
    /// From "done" upstream to "seen", in seconds.
    pub(crate) lag: f64,
    /// From done at the vendor to "seen".
    pub(crate) whole_lag: f64,
}

/// Follows `count` tasks, one after the other, each by one who waits from its beginning to its end. The first look is
/// up to two seconds after the submit.
pub(crate) fn follow(
    world: World,
    rule: Rule,
    count: usize,
    seed: u64,
    cadence: &Cadence,
) -> Vec<Run> {
    let (mut dice, begun) = (Dice::new(seed), Instant::now());
    (0..count)
        .map(|n| {
            let end = (world.lifetime)(&mut dice, n);
            let phase = dice.unit() * world.refresh;
            let told = if world.refresh > 0.0 {
                ((end - phase) / world.refresh).ceil() * world.refresh + phase
            } else {
                end
            };
            let (mut before, mut now) = (0.0, dice.unit() * 2.0);
            let mut polls = 1.0;
            while now < told {
                let interval = match rule {
                    Rule::Fixed(interval) => interval,
                    Rule::Adaptive(least, most) => {
                        let bounds = Bounds {
                            least: seconds(least),
                            most: seconds(most),
                        };
                        let task = Running {
                            at: begun + seconds(now),
                            age: seconds(now),
                            progress: 50,
                            has_changed: false,
                        };
                        cadence.next("model", task, bounds).lasts.as_secs_f64()
                    }
                };
                before = now;
                now += interval;
                polls += 1.0;
            }
            cadence.learn("model", seconds(before), seconds(now));
            Run {
                polls,
                lag: now - told,
                whole_lag: now - end,
            }
        })
        .collect()
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// What many runs come to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sum {
    /// Polls per task.
    pub(crate) polls: f64,
    /// Mean seconds from "done" upstream to "seen".
    pub(crate) lag: f64,
    /// What 95 of 100 stay within.
    pub(crate) p95: f64,
    /// Mean seconds from done at the vendor to "seen".
    pub(crate) whole_lag: f64,
}

/// Means over the tasks from `first` on until before `last`, of `repeats` runs with seeds of their own.
pub(crate) fn measure(
    world: World,
    rule: Rule,
    tasks: std::ops::Range<usize>,
    repeats: u64,
) -> Sum {
    let runs: Vec<Run> = (0..repeats)
        .flat_map(|seed| {
            follow(world, rule, tasks.end, seed, &Cadence::new()).split_off(tasks.start)
        })
        .collect();
    let mean = |of: fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    let mut lags: Vec<f64> = runs.iter().map(|run| run.lag).collect();
    lags.sort_by(f64::total_cmp);
    Sum {
        polls: mean(|run| run.polls),
        lag: mean(|run| run.lag),
        p95: lags[lags.len() * 95 / 100],
        whole_lag: mean(|run| run.whole_lag),
    }
}
