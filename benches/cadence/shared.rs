//! Tasks that run side by side and follow the rounds of one upstream, or none: what it brings to know them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::Duration;

use pollgate::cache::cadence::{Bounds, Cadence, Changed, Found, Running};
use tokio::time::Instant;

use super::simulation::{Dice, usual};

/// How upstream learns of its vendor's tasks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Looks {
    /// It asks the vendor whenever it is asked.
    Live,
    /// It sleeps, then looks at one task after the other, and sleeps again.
    Rounds {
        /// The seconds of sleep at a time.
        sleep: fn(f64) -> f64,
        /// A round takes up to so many seconds.
        takes: f64,
        /// The number of instances; each has a share of the tasks, and rounds of its own.
        instances: u8,
    },
}

/// An upstream, its tasks and its documents. All tasks take 83–253 s at the vendor, half of them at most 105 s.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene {
    /// What it is called.
    pub(crate) name: &'static str,
    /// How upstream looks.
    pub(crate) looks: Looks,
    /// The number of tasks at once.
    pub(crate) at_once: usize,
    /// Whether documents tell the progress, which every round changes.
    pub(crate) progress: bool,
    /// Whether documents tell when they were changed.
    pub(crate) updated_at: bool,
    /// Whether every other task from the hundredth on is of a second model, of which only these are measured.
    pub(crate) second: Option<Second>,
}

/// How upstream learns of the tasks of a second model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Second {
    /// In the rounds of the first.
    InRounds,
    /// It asks the vendor whenever it is asked.
    Live,
}

impl Scene {
    /// The model of the n-th task.
    fn model(&self, n: usize) -> &'static str {
        match self.second {
            Some(_) if n >= 100 && n % 2 == 1 => "second",
            _ => "first",
        }
    }

    /// The one that is measured.
    fn measured(&self) -> &'static str {
        self.second.map_or("first", |_| "second")
    }

    /// Whether upstream asks the vendor for the n-th task whenever it is asked.
    fn is_live(&self, n: usize) -> bool {
        matches!(self.looks, Looks::Live)
            || self.second == Some(Second::Live) && self.model(n) == "second"
    }
}

const ROUNDS: Looks = Looks::Rounds {
    sleep: |_| 15.0,
    takes: 3.0,
    instances: 1,
};
const TWO: Looks = Looks::Rounds {
    sleep: |_| 15.0,
    takes: 3.0,
    instances: 2,
};
const CHANGING: Looks = Looks::Rounds {
    sleep: |now| if now % 1800.0 < 900.0 { 15.0 } else { 24.0 },
    takes: 3.0,
    instances: 1,
};
const SLOW: Looks = Looks::Rounds {
    sleep: |_| 45.0,
    takes: 3.0,
    instances: 1,
};
const LONG: Looks = Looks::Rounds {
    sleep: |_| 15.0,
    takes: 8.0,
    instances: 1,
};
const QUICK: Looks = Looks::Rounds {
    sleep: |_| 10.0,
    takes: 2.0,
    instances: 1,
};
const PACED: Looks = Looks::Rounds {
    sleep: |_| 15.0,
    takes: 20.0,
    instances: 1,
};

const fn scene(name: &'static str, looks: Looks, told: (bool, bool)) -> Scene {
    Scene {
        name,
        looks,
        at_once: 20,
        progress: told.0,
        updated_at: told.1,
        second: None,
    }
}

const fn alone(scene: Scene) -> Scene {
    Scene {
        at_once: 1,
        ..scene
    }
}

const fn and(scene: Scene, second: Second) -> Scene {
    Scene {
        second: Some(second),
        ..scene
    }
}

/// The usual scenes first: rounds of 15 s of sleep and up to 3 s of looking.
pub(crate) const SCENES: [Scene; 21] = [
    scene(
        "usual rounds; documents tell the state",
        ROUNDS,
        (false, false),
    ),
    scene("usual rounds; state and progress", ROUNDS, (true, false)),
    scene(
        "usual rounds; state and `updated_at`",
        ROUNDS,
        (false, true),
    ),
    scene("usual rounds; all three", ROUNDS, (true, true)),
    scene(
        "rounds of up to 8 s after 15 s of sleep; state",
        LONG,
        (false, false),
    ),
    scene(
        "rounds of up to 8 s after 15 s of sleep; all three",
        LONG,
        (true, true),
    ),
    scene(
        "rounds of up to 2 s after 10 s of sleep; state and progress",
        QUICK,
        (true, false),
    ),
    scene("rounds of 45 s; state", SLOW, (false, false)),
    scene("no rounds; state", Looks::Live, (false, false)),
    scene("no rounds; all three", Looks::Live, (true, true)),
    scene(
        "rounds of up to 20 s after 15 s of sleep; state",
        PACED,
        (false, false),
    ),
    scene("two instances; state", TWO, (false, false)),
    scene("two instances; all three", TWO, (true, true)),
    scene(
        "15 s and 24 s of sleep by turns, 15 min each; state",
        CHANGING,
        (false, false),
    ),
    scene(
        "15 s and 24 s of sleep by turns, 15 min each; all three",
        CHANGING,
        (true, true),
    ),
    alone(scene("one task at a time; state", ROUNDS, (false, false))),
    alone(scene("one task at a time; all three", ROUNDS, (true, true))),
    and(
        scene(
            "a second model in the same rounds; state",
            ROUNDS,
            (false, false),
        ),
        Second::InRounds,
    ),
    and(
        scene(
            "a second model in the same rounds; all three",
            ROUNDS,
            (true, true),
        ),
        Second::InRounds,
    ),
    and(
        scene(
            "a second model without rounds; state",
            ROUNDS,
            (false, false),
        ),
        Second::Live,
    ),
    and(
        scene(
            "a second model without rounds; all three",
            ROUNDS,
            (true, true),
        ),
        Second::Live,
    ),
];

/// One task to its end.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Life {
    /// How often upstream was asked.
    pub(crate) polls: f64,
    /// From "done" upstream to "seen", in seconds.
    pub(crate) lag: f64,
    /// The share of intervals that followed known rounds.
    pub(crate) by_round: f64,
}

/// A task and the times at which its row changes.
struct Task {
    n: usize,
    begun: f64,
    changes: Vec<f64>,
    polls: f64,
    by_round: f64,
    /// When it was polled last, and how many changes were seen then.
    seen: Option<(f64, usize)>,
}

/// The beginnings and the lengths of each instance's rounds so far.
struct Upstream {
    scene: Scene,
    dice: Dice,
    rounds: Vec<Vec<(f64, f64)>>,
}

impl Upstream {
    fn new(scene: Scene, seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x5555);
        let rounds = match scene.looks {
            Looks::Live => Vec::new(),
            Looks::Rounds {
                sleep, instances, ..
            } => {
                let first = -dice.unit() * sleep(0.0);
                let apart = |instance| f64::from(instance) * 0.45 * sleep(0.0);
                let first = |instance| vec![(first + apart(instance), 0.0)];
                (0..instances).map(first).collect()
            }
        };
        Self {
            scene,
            dice,
            rounds,
        }
    }

    fn round(&mut self, instance: usize, n: usize) -> (f64, f64) {
        if let Looks::Rounds { sleep, takes, .. } = self.scene.looks {
            let rounds = &mut self.rounds[instance];
            while rounds.len() <= n {
                let (start, took) = rounds[rounds.len() - 1];
                rounds.push((start + took + sleep(start), self.dice.unit() * takes));
            }
        }
        self.rounds[instance][n]
    }

    /// The number of rounds of the first instance, if there is one, that began within these seconds.
    fn rounds_within(&self, seconds: Range<f64>) -> usize {
        let rounds = self.rounds.first().into_iter().flatten();
        rounds.filter(|(start, _)| seconds.contains(start)).count()
    }

    /// When the row of a task that ends after `lifetime` changes, last of all to its end.
    fn changes(&mut self, n: usize, begun: f64, lifetime: f64, dice: &mut Dice) -> Vec<f64> {
        let (end, starts) = (begun + lifetime, begun + 30.0 * dice.unit());
        let (place, instance) = (dice.unit(), dice.unit());
        let mut changes = Vec::new();
        if self.scene.is_live(n) {
            let mut next = starts;
            while next < end && (self.scene.progress || changes.is_empty()) {
                changes.push(next);
                next += 5.0 + 10.0 * dice.unit();
            }
            changes.push(end);
            return changes;
        }
        let instance = (instance * self.rounds.len() as f64) as usize;
        let mut n = self.rounds[instance].partition_point(|(start, _)| start + 100.0 < begun);
        loop {
            let (start, took) = self.round(instance, n);
            let turn = start + place * took;
            n += 1;
            if turn >= end {
                changes.push(turn);
                return changes;
            }
            if turn >= starts && (self.scene.progress || changes.is_empty()) {
                changes.push(turn);
            }
        }
    }
}

/// The ages at which upstream tells the ends of many tasks, of those that are measured, in ascending order.
pub(crate) fn ends(scene: Scene) -> Vec<f64> {
    let (mut upstream, mut dice) = (Upstream::new(scene, 1), Dice::new(1));
    let end = |n: usize| {
        let (begun, lifetime) = (n as f64 + dice.unit(), usual(&mut dice, n));
        let changes = upstream.changes(n, begun, lifetime, &mut dice);
        changes[changes.len() - 1] - begun
    };
    let numbers = (0..200_000).filter(|n| scene.model(*n) == scene.measured());
    let mut ends: Vec<f64> = numbers.map(end).collect();
    ends.sort_by(f64::total_cmp);
    ends
}

/// Many tasks, one after the other and side by side.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// In the order in which they began.
    pub(crate) lives: Vec<Life>,
    /// The number of rounds until they were known, if they ever were.
    pub(crate) learnt_after: Option<usize>,
}

/// Follows `count` tasks, each by one who waits from its beginning to its end. Without `knows`, rounds are not learnt.
pub(crate) fn follow(scene: Scene, knows: bool, count: usize, seed: u64) -> Run {
    let (mut first, mut learnt) = (None, None);
    let zero = Instant::now();
    let cadence = Cadence::begun(zero);
    let bounds = Bounds {
        least: Duration::from_secs(2),
        most: Duration::from_secs(10),
    };
    let at = |seconds: f64| zero + Duration::from_secs_f64(seconds);
    let mut upstream = Upstream::new(scene, seed);
    let mut dice = Dice::new(seed);
    let mut lives = vec![Life::default(); count];
    let mut tasks: Vec<Task> = Vec::new();
    let mut due = BinaryHeap::new();
    let micros = |seconds: f64| (seconds * 1e6) as u64;
    let mut begin = |tasks: &mut Vec<Task>, due: &mut BinaryHeap<_>, begun: f64| {
        let n = tasks.len();
        let lifetime = usual(&mut dice, n);
        let begun = begun
            + if scene.at_once > 1 {
                10.0 * dice.unit()
            } else {
                0.0
            };
        tasks.push(Task {
            n,
            begun,
            changes: upstream.changes(n, begun, lifetime, &mut dice),
            polls: 0.0,
            by_round: 0.0,
            seen: None,
        });
        due.push(Reverse((micros(begun + 2.0 * dice.unit()), n)));
    };
    for n in 0..scene.at_once.min(count) {
        begin(&mut tasks, &mut due, 6.0 * n as f64);
    }
    while let Some(Reverse((now, n))) = due.pop() {
        let now = now as f64 / 1e6;
        let model = scene.model(n);
        let task = &mut tasks[n];
        task.polls += 1.0;
        if scene.second.is_some() && model == scene.measured() {
            first.get_or_insert(now);
        }
        let told = task.changes[task.changes.len() - 1];
        let version = task.changes.partition_point(|change| *change <= now);
        let mut has_changed = false;
        if let Some((before, seen)) = task.seen {
            has_changed = version > seen;
            // Upstream's clock is some minutes ahead.
            let updated_at = || (task.changes[version - 1] + 123.4).floor() as i64;
            let found = Found {
                before: at(before),
                at: at(now),
                age: Duration::from_secs_f64((now - task.begun).max(0.0)),
                changed: has_changed.then(|| Changed {
                    is_end: now >= told,
                    updated_at: scene.updated_at.then(updated_at),
                }),
            };
            if knows {
                cadence.see(model, &found);
                let is_known = || cadence.rounds(scene.measured(), at(now)).is_some();
                learnt = learnt.or_else(|| is_known().then_some(now));
            }
        }
        let age = |time: f64| Duration::from_secs_f64((time - task.begun).max(0.0));
        if now >= told {
            let before = task.seen.map_or(task.begun, |(before, _)| before);
            cadence.learn(model, age(before), age(now));
            lives[task.n] = Life {
                polls: task.polls,
                lag: now - told,
                by_round: task.by_round / task.polls,
            };
            if tasks.len() < count {
                begin(&mut tasks, &mut due, now);
            }
            continue;
        }
        let running = Running {
            at: at(now),
            age: age(now),
            progress: 50,
            has_changed,
        };
        let interval = cadence.next(model, running, bounds);
        task.by_round += f64::from(u8::from(interval.by_round));
        task.seen = Some((now, version));
        due.push(Reverse((micros(now + interval.lasts.as_secs_f64()), n)));
    }
    let learnt_after = learnt.map(|learnt| upstream.rounds_within(first.unwrap_or(0.0)..learnt));
    Run {
        lives,
        learnt_after,
    }
}

/// Runs with seeds of their own, of which these tasks count.
pub(crate) fn runs(scene: Scene, knows: bool, tasks: &Range<usize>, repeats: u64) -> Vec<Run> {
    let run = |seed| {
        let run = follow(scene, knows, tasks.end + scene.at_once, seed);
        Run {
            lives: tasks
                .clone()
                .filter(|n| scene.model(*n) == scene.measured())
                .map(|n| run.lives[n])
                .collect(),
            ..run
        }
    };
    (0..repeats).map(run).collect()
}

/// The mean of something over the lives of all runs.
pub(crate) fn mean(runs: &[Run], of: fn(&Life) -> f64) -> f64 {
    let lives = || runs.iter().flat_map(|run| &run.lives);
    lives().map(of).sum::<f64>() / lives().count() as f64
}
