//! The fewest polls that a mean lag can be had for, where the distribution of the ends is known exactly: Barlow and
//! Proschan's inspections of a thing that fails at an unknown time, solved by dynamic programming.

/// The step of the schedules in seconds.
const STEP: f64 = 0.1;

/// Polls and lag of a schedule, per task.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// Polls.
    pub(crate) polls: f64,
    /// Mean seconds from the end until it is seen.
    pub(crate) lag: f64,
}

/// What is looked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    /// The share of tasks of which it is told when it happens; the others are polled on as long as it may.
    told: f64,
    /// The worth of a second of lag, in polls.
    price: f64,
    /// The longest interval, in steps.
    most: usize,
    /// The lag of what is not looked for any more, in seconds.
    later: f64,
}

/// The best schedule for a thing that happens in step `n` with the probability `ends[n]`.
fn inspect(ends: &[f64], wanted: Wanted) -> Cost {
    let Wanted {
        told,
        price,
        most,
        later,
    } = wanted;
    let count = ends.len();
    // The ends up to a step, and the sum of their times.
    let (mut ended, mut times) = (vec![0.0; count + 1], vec![0.0; count + 1]);
    for (n, share) in ends.iter().enumerate() {
        ended[n + 1] = ended[n] + share;
        times[n + 1] = times[n] + share * (n as f64 + 0.5);
    }
    let mut best = vec![Cost::default(); count + 1];
    for from in (0..count).rev() {
        let cost = |to: usize| Cost {
            polls: ended[count] - told * ended[from] + best[to].polls,
            lag: ((ended[to] - ended[from]) * to as f64 - (times[to] - times[from])) * STEP
                + best[to].lag,
        };
        let none = Cost {
            polls: 0.0,
            lag: (ended[count] - ended[from]) * later,
        };
        let worth = |cost: &Cost| cost.polls + price * cost.lag;
        let choices = (from + 1..=(from + most).min(count)).map(cost);
        // At least one poll.
        let choices = choices.chain((from > 0).then_some(none));
        best[from] = choices
            .min_by(|one, other| worth(one).total_cmp(&worth(other)))
            .unwrap_or_default();
    }
    best[0]
}

/// The cost at the price of lag for which the lag is `lag`.
fn at_lag(lag: f64, cost: impl Fn(f64) -> Cost) -> Cost {
    let (mut low, mut high) = (-10.0_f64, 10.0_f64);
    for _ in 0..30 {
        let middle = f64::midpoint(low, high);
        if cost(middle.exp()).lag > lag {
            low = middle;
        } else {
            high = middle;
        }
    }
    cost(high.exp())
}

fn histogram(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let values: Vec<usize> = values.map(|value| (value / STEP) as usize).collect();
    let mut shares = vec![0.0; values.iter().max().map_or(1, |last| last + 1)];
    for value in &values {
        shares[*value] += 1.0 / values.len() as f64;
    }
    shares
}

/// Where rounds are not known: tasks end at these ages, in ascending order, and intervals are 10 s at most.
pub(crate) fn without_rounds(ends: &[f64], lag: f64) -> Cost {
    let ends = histogram(ends.iter().copied());
    let mut cost = at_lag(lag, |price| {
        let wanted = Wanted {
            told: 1.0,
            price,
            most: 100,
            later: f64::INFINITY,
        };
        inspect(&ends, wanted)
    });
    cost.polls += 1.0;
    cost
}

/// Upstream's rounds, as they are known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// The seconds of sleep.
    pub(crate) sleep: f64,
    /// A round takes up to so many seconds.
    pub(crate) takes: f64,
    /// Whether it is known when the last round ended, and not only when it began.
    pub(crate) end: bool,
    /// Whether a poll in a round shows that the task has had its turn; else only its end does.
    pub(crate) turns: bool,
}

/// Where the last round is known, and of the next one when it begins at the earliest and how its turns are spread. Every round
/// is looked for at least once, and no interval is longer than `most` seconds.
pub(crate) fn with_rounds(ends: &[f64], known: Known, most: f64, lag: f64) -> Cost {
    let Known { sleep, takes, .. } = known;
    let parts = (0..100).map(|n| (f64::from(n) + 0.5) / 100.0);
    let turns = parts.clone().flat_map(|late| {
        let turns = parts.clone();
        turns.flat_map(move |took| (0..20).map(move |n| (late, took, (f64::from(n) + 0.5) / 20.0)))
    });
    let late = |late: f64| if known.end { 0.0 } else { late };
    let turn = |(after, took, place): (f64, f64, f64)| takes * (late(after) + took * place);
    let turns = histogram(turns.map(turn));
    let gap = sleep + takes / 2.0;
    let oldest = ends.iter().copied().fold(0.0, f64::max);
    // Polls between two rounds that come later than an interval may last.
    let between = (gap / most - 1.0).max(0.0);
    let beyond = |age: f64| (ends.len() - ends.partition_point(|end| *end <= age)) as f64;
    // The share of tasks that run until each round, averaged over where in a gap a task begins.
    let phases = 8;
    at_lag(lag, |price| {
        let mut all = Cost {
            polls: 1.0,
            lag: 0.0,
        };
        for phase in 0..phases {
            let mut age = gap * (f64::from(phase) + 0.5) / f64::from(phases) - gap;
            while age < oldest {
                let alive = beyond(age.max(0.0));
                let share = (alive - beyond(age + gap)) / alive.max(1.0);
                let wanted = Wanted {
                    told: if known.turns { 1.0 } else { share },
                    price: price * share,
                    most: turns.len(),
                    later: gap,
                };
                let cost = inspect(&turns, wanted);
                let weight = alive / ends.len() as f64 / f64::from(phases);
                all.polls += weight * (cost.polls + between);
                all.lag += weight * share * cost.lag;
                age += gap;
            }
        }
        all
    })
}
