//! How rounds may come: the guesses that [`rounds`](super::rounds) weighs, and how the turns of a round may be spread.
//!
//! The general guesses leave open how long upstream sleeps. new-api is known to sleep [`SLEEP`] after the end of a round, so that
//! its next one follows from the spread of the turns in the last one: each of [`DURATIONS`] is a guess of its own there, and
//! each new round is of any of them.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "bins are few, and probabilities need no precision"
)]

use std::array::from_fn;
use std::ops::Range;
use std::sync::LazyLock;

/// The width of a bin of ages in seconds.
pub(super) const BIN: f64 = 0.4;

/// The number of bins: a round is forgotten after a minute.
pub(super) const AGES: usize = 152;

/// The number of ages that are summed up side by side; it divides [`AGES`].
pub(super) const LANES: usize = 8;

/// The shortest gaps of the general guesses, in seconds: the first, and each next one as a multiple.
const FIRST_GAP: f64 = 7.533;
const GAP_STEP: f64 = 1.1475;
pub(super) const GAPS: usize = 14;

/// The longest gap that they expect, as a multiple of the shortest. Between them, all are equally likely.
const LONGEST: f64 = 1.25;

/// The mean seconds from the beginning of such a round to the turn of a task.
const TURN: f64 = 1.0;

/// What new-api sleeps between two rounds, in seconds, and by how much longer it may take to begin the next one.
pub(super) const SLEEP: f64 = 15.0;
const OVERSLEEPS: f64 = 0.4;

/// How long its rounds take, in seconds, from and to, and how likely each is before anything is seen. Within one, turns are spread
/// evenly.
pub(super) const DURATIONS: [(f64, f64, f64); 4] = [
    (0.0, 0.75, 0.3),
    (0.75, 1.5, 0.3),
    (1.5, 3.0, 0.3),
    (3.0, 6.0, 0.1),
];

/// The bins within which turns come after the beginning of their round.
pub(super) const TURNS: usize = 16;

/// The share of rounds that come after the longest expected gap, how late those are on average, and at most, in seconds.
const LATE: f64 = 0.01;
const LATE_MEAN: f64 = 5.0;
const LATEST: f64 = 15.0;

/// The shortest and the mean gap between rounds at irregular times, in seconds; the latter also stands for any gap where none is
/// known.
const IRREGULAR: f64 = 3.75;
pub(super) const USUAL_GAP: f64 = 15.0;

/// The number of guesses at regular rounds; that at irregular ones comes after them.
pub(super) const REGULAR: usize = GAPS + DURATIONS.len();
pub(super) const GUESSES: usize = REGULAR + 1;

/// How likely it is, before anything is seen, that changes come at any time, in irregular rounds, and in new-api's. The general
/// guesses share the rest.
pub(super) const PLAIN_PRIOR: f64 = 0.2;
const IRREGULAR_PRIOR: f64 = 0.2;
const SLEEP_PRIOR: f64 = 0.35;

/// How rounds come.
#[derive(Debug)]
pub(super) struct Guess {
    /// How likely that is before anything is seen.
    pub(super) prior: f64,
    /// The shortest gap in seconds, and the mean one.
    pub(super) gap: f64,
    pub(super) mean_gap: f64,
    /// The share of gaps that end at this age, and the share that has not ended before.
    pub(super) ends: [f32; AGES],
    pub(super) left: [f32; AGES],
    /// The probability that a round begins at this age of the last one; 0 up to `from`, and 1 at `until`.
    pub(super) hazard: [f32; AGES],
    pub(super) from: usize,
    pub(super) until: usize,
    /// How the turns of a round are spread that has begun.
    pub(super) spread: usize,
}

/// The share of tasks whose turn is still to come, by the age of their round: at the beginnings of bins, after as many in which no
/// round has begun.
pub(super) type Waiting = [f32; 2 * AGES + 2];

/// The regular guesses, and the irregular one last.
pub(super) static ALL: LazyLock<Vec<Guess>> = LazyLock::new(|| {
    let general = (1.0 - PLAIN_PRIOR - IRREGULAR_PRIOR - SLEEP_PRIOR) / GAPS as f64;
    let gaps = (0..GAPS).map(|n| FIRST_GAP * GAP_STEP.powf(n as f64));
    let general = gaps.map(|gap| Guess::regular(general, gap, gap * LONGEST));
    let sleep = DURATIONS
        .iter()
        .enumerate()
        .map(|(n, (from, to, share))| Guess {
            spread: n + 1,
            ..Guess::regular(SLEEP_PRIOR * share, SLEEP + from, SLEEP + to + OVERSLEEPS)
        });
    general.chain(sleep).chain([Guess::irregular()]).collect()
});

/// How turns may be spread over a round: in the general guesses, and in each of [`DURATIONS`].
pub(super) const SPREADS: usize = DURATIONS.len() + 1;
pub(super) static WAITING: LazyLock<[Waiting; SPREADS]> = LazyLock::new(|| {
    let evenly = |age: f64, (from, to, _): (f64, f64, f64)| {
        let parts = (0..20).map(|part| from + (to - from) * (f64::from(part) + 0.5) / 20.0);
        parts.map(|lasts| (1.0 - age / lasts).max(0.0)).sum::<f64>() / 20.0
    };
    let waiting = |spread: usize, age: f64| match spread {
        0 => (-age / TURN).exp(),
        one => evenly(age, DURATIONS[one - 1]),
    };
    from_fn(|spread| {
        from_fn(|n| match n.saturating_sub(AGES) {
            0 => 1.0,
            TURNS.. => 0.0,
            age => waiting(spread, age as f64 * BIN) as f32,
        })
    })
});

/// The same in the middle of bins, from the beginning of a round on.
pub(super) static STILL_WAITING: LazyLock<[[f32; TURNS + 1]; SPREADS]> = LazyLock::new(|| {
    let middle =
        |waiting: &Waiting, age| f32::midpoint(waiting[AGES + age], waiting[AGES + age + 1]);
    from_fn(|spread| from_fn(|age| middle(&WAITING[spread], age)))
});

/// The age in the middle of a bin, in seconds.
pub(super) fn middle(age: usize) -> f64 {
    (age as f64 + 0.5) * BIN
}

/// These ages, and as many more as fill the lanes.
pub(super) fn lanes_of(ages: Range<usize>) -> Range<usize> {
    ages.start.min(AGES) / LANES * LANES..ages.end.min(AGES).next_multiple_of(LANES)
}

/// The sum, in lanes.
pub(super) fn sum(values: &[f32]) -> f32 {
    let chunks = values.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

impl Guess {
    fn regular(prior: f64, gap: f64, longest: f64) -> Self {
        let density = |age: f64| match age {
            _ if age < gap => 0.0,
            _ if age < longest => (1.0 - LATE) / (longest - gap),
            _ if age < longest + LATEST => LATE / LATE_MEAN * (-(age - longest) / LATE_MEAN).exp(),
            _ => 0.0,
        };
        Self::new(prior, (gap, f64::midpoint(gap, longest)), density)
    }

    fn irregular() -> Self {
        let mean = USUAL_GAP - IRREGULAR;
        let density = |age: f64| match age {
            _ if age < IRREGULAR => 0.0,
            _ => (-(age - IRREGULAR) / mean).exp() / mean,
        };
        Self::new(IRREGULAR_PRIOR, (IRREGULAR, USUAL_GAP), density)
    }

    fn new(prior: f64, (gap, mean_gap): (f64, f64), density: impl Fn(f64) -> f64) -> Self {
        let share = |age: usize| {
            let parts = (0..10).map(|part| (age as f64 + (f64::from(part) + 0.5) / 10.0) * BIN);
            parts.map(&density).sum::<f64>() * BIN / 10.0
        };
        let shares: [f64; AGES] = from_fn(share);
        let from = shares.iter().position(|share| *share > 0.0).unwrap_or(0);
        let until = shares.iter().rposition(|share| *share > 0.0).unwrap_or(0);
        let mut left: f64 = shares.iter().sum();
        let (mut ends, mut lefts, mut hazard) = ([0.0; AGES], [0.0; AGES], [0.0; AGES]);
        for age in 0..=until {
            let share = if age == until { left } else { shares[age] };
            (ends[age], lefts[age]) = (share as f32, left as f32);
            hazard[age] = (share / left) as f32;
            left -= share;
        }
        Self {
            prior,
            gap,
            mean_gap,
            ends,
            left: lefts,
            hazard,
            from,
            until,
            spread: 0,
        }
    }
}
