//! When the tasks of one model end: a histogram that forgets, and the intervals between looks that follow from it.

use std::time::Duration;

/// By how much of the fixed cadence's the mean lag may be longer, by what is foretold. Below the quarter that is
/// promised, for what cannot be foretold.
pub(super) const ALLOWANCE: f64 = 0.2;

/// How many tasks the doubt counts for.
pub(super) const PRIOR_WEIGHT: f64 = 3.0;

/// How many tasks must have ended before anything is stretched: fewer are an anecdote.
const ENOUGH: u32 = 3;

/// What remains of the weight of an end when the next one is learnt: some thirty are remembered well.
const DECAY: f64 = 0.97;

/// By how much of its age an end is smeared both ways, since no two tasks take equally long.
const BANDWIDTH: f64 = 0.2;

/// Beyond the age that all but this share of the tasks ended before, nothing is known.
const UNKNOWN: f64 = 0.005;

/// How many ages are told apart, up to some fifteen hours: steps of less than a second for young tasks, of 8 % for
/// old ones.
const AGES: usize = 112;
const STEP: f64 = 1.08;
const SCALE: f64 = 10.0;

/// Between what the interval may be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The fixed cadence. None at all stays none: who wants every answer fresh from upstream gets it.
    pub least: Duration,
    /// How far it may stretch; no more than `least` for not at all.
    pub most: Duration,
}

/// What was learnt of one model.
#[derive(Debug)]
pub(super) struct EndTimes {
    /// The weight of the ends at each age.
    weights: [f32; AGES],
    /// How many ends were learnt, as far as that matters.
    ends: u32,
    /// What follows from the weights within these bounds, once someone asked.
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

    /// Spreads the weight of one end evenly over the time in which it may have been.
    #[expect(clippy::cast_possible_truncation, reason = "weights need no precision")]
    pub(super) fn learn(&mut self, from: f64, to: f64) {
        let from = (from * (1.0 - BANDWIDTH)).min(starts(AGES - 1));
        let to = (to * (1.0 + BANDWIDTH)).clamp(from + 1.0, starts(AGES));
        for (place, weight) in self.weights.iter_mut().enumerate() {
            let within = (starts(place + 1).min(to) - starts(place).max(from)).max(0.0);
            *weight = (f64::from(*weight) * DECAY + within / (to - from)) as f32;
        }
        self.ends = self.ends.saturating_add(1);
        self.plan = None;
    }

    /// The first moment at which, by the hazard there, another look is due: a long interval must not reach far into
    /// an age at which a short one is due.
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
        for place in place(age)..=AGES {
            let ahead = (starts(place) - age).max(0.0);
            if ahead >= due {
                break;
            }
            let here = plan.get(place).copied().map_or(0.0, f64::from);
            due = due.min(ahead + here);
        }
        Duration::try_from_secs_f64(due)
            .unwrap_or_default()
            .clamp(bounds.least, bounds.most)
    }
}

/// The best interval for each age, in seconds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "intervals need no precision"
)]
fn plan(weights: &[f32; AGES], bounds: Bounds) -> [f32; AGES] {
    let (least, most) = (bounds.least.as_secs_f64(), bounds.most.as_secs_f64());
    let learnt: f64 = weights.iter().copied().map(f64::from).sum();
    let mut plan = [least as f32; AGES];

    // The hazard at each age, from the oldest down to the youngest.
    let mut hazard = [0.0; AGES];
    let mut weight = [0.0; AGES];
    let (mut older, mut known, mut oldest) = (0.0, 0.0, 0);
    for place in (0..AGES).rev() {
        known += f64::from(weights[place]);
        weight[place] = f64::from(weights[place]) + PRIOR_WEIGHT / AGES as f64;
        let width = starts(place + 1) - starts(place);
        hazard[place] = weight[place] / width / (older + weight[place] / 2.0);
        older += weight[place];
        if oldest == 0 && known > learnt * UNKNOWN {
            oldest = place + 1;
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

/// The age at which a place begins, in seconds.
fn starts(place: usize) -> f64 {
    SCALE * (STEP.powi(i32::try_from(place).unwrap_or(i32::MAX)) - 1.0)
}

/// The place of an age in seconds; `AGES` for what is older than all of them.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "neither negative nor large"
)]
fn place(age: f64) -> usize {
    let place = (age / SCALE + 1.0).ln() / STEP.ln();
    (place.max(0.0) as usize).min(AGES)
}
