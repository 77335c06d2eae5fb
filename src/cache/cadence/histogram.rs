//! The ages at which tasks of one model end: a decaying histogram, and the poll intervals derived from it.

use std::sync::LazyLock;
use std::time::Duration;

/// How much longer the predicted mean lag may be, as a share of the fixed cadence's. Less than the quarter that is
/// promised, to leave room for what cannot be predicted.
pub(super) const ALLOWANCE: f64 = 0.2;

/// The weight of the prior, in tasks.
pub(super) const PRIOR_WEIGHT: f64 = 3.0;

/// The number of ends before any interval is stretched: fewer are an anecdote.
const ENOUGH: u32 = 3;

/// The decay of older ends with each new one: some thirty keep a noticeable weight.
const DECAY: f64 = 0.97;

/// The bandwidth of an end as a share of its age, both ways: no two tasks take equally long.
const BANDWIDTH: f64 = 0.2;

/// The share of ends beyond which the tail counts as unknown.
const UNKNOWN: f64 = 0.005;

/// The number of bins, up to some fifteen hours: less than a second wide for young tasks, 8 % for old ones.
const AGES: usize = 112;
const STEP: f64 = 1.08;
const SCALE: f64 = 10.0;

/// The bounds of an interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The fixed cadence. Zero stays zero: it disables caching of running tasks.
    pub least: Duration,
    /// The longest interval; at most `least` disables stretching.
    pub most: Duration,
}

/// The end times of one model.
#[derive(Debug)]
pub(super) struct EndTimes {
    /// The weight of each bin.
    weights: [f32; AGES],
    /// The number of ends learnt.
    ends: u32,
    /// The intervals for these bounds, computed on first use.
    plan: Option<(Bounds, Box<[f32; AGES]>)>,
}

impl EndTimes {
    pub(super) const fn new() -> Self {
        Self {
            weights: [0.0; AGES],
            ends: 0,
            plan: None,
        }
    }

    /// Spreads the weight of an end evenly over the time in which it may have happened.
    #[expect(clippy::cast_possible_truncation, reason = "weights need no precision")]
    pub(super) fn learn(&mut self, from: f64, to: f64) {
        let from = (from * (1.0 - BANDWIDTH)).min(starts(AGES - 1));
        let to = (to * (1.0 + BANDWIDTH)).clamp(from + 1.0, starts(AGES));
        for (bin, weight) in self.weights.iter_mut().enumerate() {
            let within = (starts(bin + 1).min(to) - starts(bin).max(from)).max(0.0);
            *weight = (f64::from(*weight) * DECAY + within / (to - from)) as f32;
        }
        self.ends = self.ends.saturating_add(1);
        self.plan = None;
    }

    /// How likely a task of this age is to end, per second: 0 before enough have ended.
    #[expect(clippy::cast_precision_loss, reason = "bins are few")]
    pub(super) fn hazard(&self, age: Duration) -> f64 {
        if self.ends < ENOUGH {
            return 0.0;
        }
        let bin = bin(age.as_secs_f64()).min(AGES - 1);
        let prior = PRIOR_WEIGHT / AGES as f64;
        let here = f64::from(self.weights[bin]) + prior;
        let older: f32 = self.weights[bin + 1..].iter().sum();
        let older = f64::from(older) + prior * (AGES - 1 - bin) as f64;
        here / (starts(bin + 1) - starts(bin)) / (older + here / 2.0)
    }

    /// The time to the first age at which, by the hazard there, another poll is due: a long interval must not reach far
    /// into ages that call for short ones.
    pub(super) fn interval(&mut self, age: Duration, bounds: Bounds) -> Duration {
        if self.ends < ENOUGH {
            return bounds.least;
        }
        if self.plan.as_ref().is_none_or(|(made, _)| *made != bounds) {
            self.plan = Some((bounds, Box::new(plan(&self.weights, bounds))));
        }
        let Some((_, plan)) = &self.plan else {
            return bounds.least;
        };
        let age = age.as_secs_f64();
        let most = bounds.most.as_secs_f64();
        let mut due = most;
        for bin in bin(age)..=AGES {
            let ahead = (starts(bin) - age).max(0.0);
            if ahead >= due {
                break;
            }
            let here = plan.get(bin).copied().map_or(0.0, f64::from);
            due = due.min(ahead + here);
        }
        Duration::try_from_secs_f64(due)
            .unwrap_or_default()
            .clamp(bounds.least, bounds.most)
    }
}

/// The optimal interval of each bin, in seconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "intervals need no precision"
)]
fn plan(weights: &[f32; AGES], bounds: Bounds) -> [f32; AGES] {
    let (least, most) = (bounds.least.as_secs_f64(), bounds.most.as_secs_f64());
    let learnt: f64 = weights.iter().copied().map(f64::from).sum();
    let mut plan = [least as f32; AGES];

    // The hazard of each bin, from the oldest down.
    let mut hazard = [0.0; AGES];
    let mut weight = [0.0; AGES];
    let (mut older, mut known, mut oldest) = (0.0, 0.0, 0);
    for bin in (0..AGES).rev() {
        known += f64::from(weights[bin]);
        weight[bin] = f64::from(weights[bin]) + PRIOR_WEIGHT / AGES as f64;
        let width = starts(bin + 1) - starts(bin);
        hazard[bin] = weight[bin] / width / (older + weight[bin] / 2.0);
        older += weight[bin];
        if oldest == 0 && known > learnt * UNKNOWN {
            oldest = bin + 1;
        }
    }
    let (hazard, weight) = (&hazard[..oldest], &weight[..oldest]);

    let interval = |c: f64, hazard: f64| (c / hazard).sqrt().clamp(least, most);
    let total: f64 = weight.iter().sum();
    let allowed = total * least * ALLOWANCE;
    let lags = |c: f64| {
        let excess = |(weight, hazard): (&f64, &f64)| weight * (interval(c, *hazard) - least);
        weight.iter().zip(hazard).map(excess).sum::<f64>()
    };
    let (mut low, mut high) = (-20.0_f64, 20.0_f64);
    for _ in 0..30 {
        let middle = f64::midpoint(low, high);
        if lags(middle.exp()) <= allowed {
            low = middle;
        } else {
            high = middle;
        }
    }
    for (plan, hazard) in plan.iter_mut().zip(hazard) {
        *plan = interval(low.exp(), *hazard) as f32;
    }
    plan
}

/// The age at which a bin begins, in seconds.
fn starts(bin: usize) -> f64 {
    static STARTS: LazyLock<[f64; AGES + 1]> = LazyLock::new(|| {
        let starts = |bin| SCALE * (STEP.powi(i32::try_from(bin).unwrap_or(i32::MAX)) - 1.0);
        std::array::from_fn(starts)
    });
    STARTS[bin]
}

/// The bin of an age in seconds; `AGES` beyond the last.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "neither negative nor large"
)]
fn bin(age: f64) -> usize {
    let bin = (age / SCALE + 1.0).ln() / STEP.ln();
    (bin.max(0.0) as usize).min(AGES)
}
