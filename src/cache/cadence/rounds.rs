//! Upstream's rounds: when it last asked its vendors for all running tasks, how often it does, and when it will next.
//!
//! Upstream sleeps, asks for every running task in turn, and sleeps again; between two rounds nothing changes. A poll tells
//! of that in intervals only: a task changed, or did not, since it was last polled. Every [`Model`] supposes a shortest gap
//! between rounds. Its [`Guess`] is a Bayesian filter over one unknown, the age of the last round: with time, a next round
//! begins by the model's hazard; a poll multiplies each age by how likely it makes what was seen. How well a model foresaw
//! the polls is the evidence for it, compared to two rivals: changes at any time, and rounds at irregular times. A guess
//! that is far enough ahead of both is believed. The models differ in nothing but when rounds begin, so that changes within
//! one round, however many, speak for none of them.
//!
//! Plain values: times are seconds on any one clock, and nothing of a task is kept.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "bins are few and not negative, and probabilities need no precision"
)]

use std::sync::LazyLock;

/// The width of a bin of ages in seconds.
const BIN: f64 = 0.3;

/// The number of bins: a round is forgotten after a minute.
const AGES: usize = 200;

/// The number of ages that are summed up side by side; it divides [`AGES`].
const LANES: usize = 8;

/// The time after a round in which no other begins, in seconds.
const TOGETHER: f64 = 1.0;

/// The longest gap that is expected, as a multiple of the shortest. Between them, all are equally likely.
const LONGEST: f64 = 1.25;

/// The shares of rounds that come after the longest expected gap, and before the shortest.
const LATE: f64 = 0.01;
const EARLY: f64 = 0.001;

/// How late those are that are late, in seconds, on average: they are asked for about as often as where no round is known.
const LATE_MEAN: f64 = 5.0;

/// The shortest gaps that are supposed, in seconds: the first, and each next one as a multiple. The sixth is upstream's
/// own sleep of 15 s.
const FIRST_GAP: f64 = 7.533;
const GAP_STEP: f64 = 1.1475;
const GAPS: i32 = 14;

/// The shortest and the mean gap between rounds at irregular times, in seconds.
const IRREGULAR: f64 = 3.75;
const IRREGULAR_MEAN: f64 = 15.0;

/// The mean time from the beginning of a round to the turn of a task, in seconds.
const TURN: f64 = 1.0;

/// The shortest time within which a change is taken to be known, in seconds.
const NARROWEST: f64 = 0.05;

/// The share of changes that no round explains.
const NOISE: f32 = 0.03;

/// The evidence by which a guess has to be ahead to be believed, and to be kept: the logarithm of a ratio of likelihoods.
/// Changes of one round depend on each other, hence so much: a round adds some two.
const BELIEVED: f32 = 14.0;
const KEPT: f32 = 11.0;

/// The most and the least evidence for any model: what was long ago is outweighed soon.
const MOST_EVIDENCE: f32 = 17.0;
const LEAST_EVIDENCE: f32 = -2.0;

/// A guess that was dropped is not taken up again for this long, in seconds, and each time for twice as long; unless it
/// had held for [`HELD`].
const DISTRUST: f64 = 300.0;
const LONGEST_DISTRUST: f64 = 3600.0;
const HELD: f64 = 600.0;

/// The share of the shortest gap over which the next change may be spread in a forecast that is of use.
const VAGUE: f64 = 0.5;

/// Of the rate of changes: how fast it forgets, in seconds for which a task was watched; the most that one poll counts for;
/// and what is supposed at first, as a rate and its weight in seconds.
const RATE_MEMORY: f64 = 1000.0;
const RATE_WATCHED: f64 = 60.0;
const RATE: f64 = 1.0 / 30.0;
const RATE_WEIGHT: f64 = 60.0;

/// The weight of the newest gap in their mean.
const NEWEST: f64 = 0.2;

/// By how much the lag that is aimed at differs from poll to poll, as a share: polls of many tasks that spread over a round
/// tell more of it, and come less at once.
const SPREAD: f64 = 0.2;

/// What one poll showed of one task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sighting {
    /// When it was polled before, in seconds.
    pub(super) before: f64,
    /// When it was polled now.
    pub(super) at: f64,
    /// After what and until when it changed, if it did.
    pub(super) changed: Option<(f64, f64)>,
}

/// When upstream's rounds are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Expected {
    /// The mean seconds from one to the next.
    pub(super) every: f64,
    /// The time of the next, most likely.
    pub(super) next: f64,
}

/// The rounds that the tasks of one class are seen to follow, if any.
#[derive(Debug)]
pub(super) struct Rounds {
    /// One for each model.
    guesses: Box<[Guess]>,
    /// The time up to which they have moved on.
    now: f64,
    /// The evidence for changes at any time.
    plain: f32,
    /// Changes seen, and the seconds for which tasks were watched for them, both decaying.
    changes: f64,
    watched: f64,
    /// Since when a guess is believed.
    believed: Option<f64>,
    /// When one may be believed again, and how long the last ban was.
    again: f64,
    distrust: f64,
    /// The last round and the one before it, and the mean gap, while a guess is believed.
    last: f64,
    previous: f64,
    every: f64,
    /// The number of gaps in the mean.
    gaps: u32,
    /// The number of forecasts so far.
    forecasts: u32,
}

/// What one guess supposes.
#[derive(Debug)]
struct Model {
    /// The shortest gap in seconds, and the mean one.
    gap: f64,
    mean_gap: f64,
    /// The probability that a round begins at this age of the last one.
    hazard: [f32; AGES],
}

/// What is believed under one model.
#[derive(Debug, Clone)]
struct Guess {
    model: usize,
    /// The probability of each age of the last round.
    belief: [f32; AGES],
    evidence: f32,
}

/// The regular models, and the irregular one last.
static MODELS: LazyLock<Vec<Model>> = LazyLock::new(|| {
    let regular = (0..GAPS).map(|n| Model::regular(FIRST_GAP * GAP_STEP.powi(n)));
    regular.chain([Model::irregular()]).collect()
});

/// The share of tasks whose turn in a round is still to come, by its age in the middle of a bin.
static WAITING: LazyLock<[f32; AGES]> =
    LazyLock::new(|| std::array::from_fn(|age| (-middle(age) / TURN).exp() as f32));

/// The age in the middle of a bin, in seconds.
fn middle(age: usize) -> f64 {
    (age as f64 + 0.5) * BIN
}

impl Model {
    fn regular(gap: f64) -> Self {
        let longest = gap * LONGEST;
        let density = |age: f64| match age {
            _ if age < TOGETHER => 0.0,
            _ if age < gap => EARLY / (gap - TOGETHER),
            _ if age < longest => (1.0 - EARLY - LATE) / (longest - gap),
            late => LATE / LATE_MEAN * (-(late - longest) / LATE_MEAN).exp(),
        };
        let mut left = 1.0;
        let hazard = |age: usize| {
            let share = density(middle(age)) * BIN;
            let hazard = (share / left).min(1.0);
            left = (left - share).max(f64::MIN_POSITIVE);
            hazard as f32
        };
        Self {
            gap,
            mean_gap: f64::midpoint(gap, longest),
            hazard: std::array::from_fn(hazard),
        }
    }

    fn irregular() -> Self {
        let hazard = (BIN / (IRREGULAR_MEAN - IRREGULAR)) as f32;
        let hazard = |age: usize| if middle(age) < IRREGULAR { 0.0 } else { hazard };
        Self {
            gap: IRREGULAR,
            mean_gap: IRREGULAR_MEAN,
            hazard: std::array::from_fn(hazard),
        }
    }
}

impl Rounds {
    pub(super) fn new() -> Self {
        Self {
            guesses: (0..MODELS.len()).map(Guess::new).collect(),
            now: f64::NEG_INFINITY,
            plain: 0.0,
            changes: RATE * RATE_WEIGHT,
            watched: RATE_WEIGHT,
            believed: None,
            again: f64::NEG_INFINITY,
            distrust: 0.0,
            last: f64::NEG_INFINITY,
            previous: f64::NEG_INFINITY,
            every: 0.0,
            gaps: 0,
            forecasts: 0,
        }
    }

    /// Learns from a poll.
    pub(super) fn see(&mut self, sighting: &Sighting) {
        let Sighting {
            before,
            at,
            changed,
        } = *sighting;
        let watched = (at - before).min(RATE_WATCHED);
        if !watched.is_finite() || watched <= 0.0 {
            return;
        }
        self.advance(at);

        // How likely it is that a task changes at any time, and in a round.
        let rate = self.changes / self.watched;
        let (from, to) = changed.unwrap_or((before, at));
        let from = from.min(to - NARROWEST);
        let within = ((to - from) / (at - before)).min(1.0);
        let any_time = ((1.0 - (-rate * watched).exp()) * within) as f32;
        let in_a_round = (1.0 - NOISE) * (1.0 - (-rate * IRREGULAR_MEAN).exp()) as f32;
        let likely = |change: f32| match changed {
            Some(_) => change,
            None => 1.0 - change,
        };
        // Of tasks whose turn was still to come at these times; all, where the round had not begun.
        let earlier = |time: f64| ((self.now - time) / TURN).exp() as f32;
        let (from, to) = (earlier(from), earlier(to));
        let likelihood = WAITING.map(|waiting| {
            let turn = (waiting * from).min(1.0) - (waiting * to).min(1.0);
            likely(in_a_round * turn + NOISE * any_time)
        });
        let rival = likely(any_time);
        for guess in &mut self.guesses {
            guess.see(&likelihood, rival);
        }
        self.weigh();
        self.believe(at);

        let kept = (-watched / RATE_MEMORY).exp();
        let change = f64::from(u8::from(changed.is_some()));
        self.watched = self.watched * kept + watched;
        self.changes = self.changes * kept + change;
    }

    /// Moves on to the last whole bin before `to`; believes nothing any more of when the last round was, where nothing was
    /// seen for so long that every age is equally likely.
    fn advance(&mut self, to: f64) {
        let bins = ((to - self.now) / BIN).max(0.0);
        if bins > (2 * AGES) as f64 {
            self.now = to;
            for guess in &mut self.guesses {
                guess.forget();
            }
            return;
        }
        for guess in &mut self.guesses {
            guess.advance(bins as usize);
        }
        self.now += bins.floor() * BIN;
    }

    /// The seconds from `now` after which to poll a task again that is polled now, so that its changes are seen `lag`
    /// seconds late on average; at most `most`. `None` if no guess is believed, or it is too vague to be of use.
    ///
    /// Where the next change is spread evenly over a time `w`, polls at intervals of twice the lag leave `2 lag² / w` of it
    /// unseen between two of them. The same for any other spread, `w` being the time over which an even one is as
    /// concentrated, is the rule of Barlow and Proschan for the inspections of a thing that fails at an unknown time: each
    /// interval costs equally much.
    pub(super) fn wait(&mut self, now: f64, changed: bool, lag: f64, most: f64) -> Option<f64> {
        self.forecasts = self.forecasts.wrapping_add(1);
        let golden = (f64::from(self.forecasts) * 0.618_033_988_75).fract();
        let lag = lag * (1.0 + SPREAD * (2.0 * golden - 1.0));
        let mut guess = self.best()?.clone();
        let bins = ((now - self.now) / BIN).clamp(0.0, AGES as f64);
        guess.advance(bins as usize);
        guess.wait(changed, lag, most)
    }

    /// When the rounds are, if a guess is believed.
    pub(super) fn expected(&self, now: f64) -> Option<Expected> {
        self.best()?;
        let every = self.every;
        let missed = ((now - self.last) / every).max(0.0).floor();
        Some(Expected {
            every,
            next: self.last + every * (missed + 1.0),
        })
    }

    /// The guess that is believed.
    fn best(&self) -> Option<&Guess> {
        self.believed.and_then(|_| self.candidate())
    }

    /// The guess that is far enough ahead.
    fn candidate(&self) -> Option<&Guess> {
        let evidence = |one: &&Guess, other: &&Guess| one.evidence.total_cmp(&other.evidence);
        let (irregular, regular) = self.guesses.split_last()?;
        let best = regular.iter().max_by(evidence)?;
        let rival = irregular.evidence.max(self.plain);
        let bar = if self.believed.is_some() {
            KEPT
        } else {
            BELIEVED
        };
        (best.evidence - rival >= bar).then_some(best)
    }

    /// Keeps the evidence within its bounds; what one is ahead of another by stays.
    fn weigh(&mut self) {
        let evidence = self.guesses.iter().map(|guess| guess.evidence);
        let excess = evidence.fold(self.plain, f32::max) - MOST_EVIDENCE;
        let bounded = |evidence: f32| (evidence - excess.max(0.0)).max(LEAST_EVIDENCE);
        self.plain = bounded(self.plain);
        for guess in &mut self.guesses {
            guess.evidence = bounded(guess.evidence);
        }
    }

    /// Takes up a guess, follows it, or drops it.
    fn believe(&mut self, at: f64) {
        let candidate = self.candidate();
        let settled = candidate.and_then(|guess| guess.last(self.now));
        let best_gap = candidate.map_or(0.0, |guess| guess.model().mean_gap);
        match (self.believed, candidate.is_some()) {
            (None, true) if at >= self.again => {
                self.believed = Some(at);
                (self.every, self.gaps) = (best_gap, 0);
                self.last = settled.unwrap_or(at);
                self.previous = f64::NEG_INFINITY;
            }
            (Some(_), true) => {
                let Some(last) = settled else { return };
                if last - self.last > self.every / 2.0 {
                    // A new one: where the one before was is certain now.
                    let gap = self.last - self.previous;
                    if gap < self.every * 1.5 {
                        self.gaps = self.gaps.saturating_add(1);
                        let weight = NEWEST.max(1.0 / f64::from(self.gaps));
                        self.every += (gap - self.every) * weight;
                    }
                    self.previous = self.last;
                }
                self.last = last;
            }
            (Some(since), false) => {
                self.believed = None;
                self.distrust = if at - since > HELD {
                    0.0
                } else {
                    (2.0 * self.distrust).clamp(DISTRUST, LONGEST_DISTRUST)
                };
                self.again = at + self.distrust;
            }
            (None, _) => {}
        }
    }
}

impl Guess {
    fn new(model: usize) -> Self {
        let mut guess = Self {
            model,
            belief: [0.0; AGES],
            evidence: 0.0,
        };
        guess.forget();
        guess
    }

    fn model(&self) -> &'static Model {
        &MODELS[self.model]
    }

    /// Makes every age up to the longest expected gap equally likely.
    fn forget(&mut self) {
        let count = (self.model().gap * LONGEST / BIN) as usize;
        self.belief.fill(0.0);
        self.belief[..count].fill(1.0 / count as f32);
    }

    fn advance(&mut self, bins: usize) {
        for _ in 0..bins {
            let born = self.grow();
            self.belief[0] = born;
        }
    }

    /// Makes the last round a bin older, and returns the probability that a next one began.
    fn grow(&mut self) -> f32 {
        let model = self.model();
        let mut lanes = [0.0; LANES];
        let ages = self.belief.chunks_exact_mut(LANES);
        for (beliefs, hazards) in ages.zip(model.hazard.chunks_exact(LANES)) {
            for ((belief, hazard), lane) in beliefs.iter_mut().zip(hazards).zip(&mut lanes) {
                let begins = *belief * hazard;
                *belief -= begins;
                *lane += begins;
            }
        }
        let born = lanes.iter().sum::<f32>() + self.belief[AGES - 1];
        self.belief.copy_within(..AGES - 1, 1);
        self.belief[0] = 0.0;
        born
    }

    /// Learns from a poll: how likely each age makes it, and changes at any time.
    fn see(&mut self, likelihood: &[f32; AGES], rival: f32) {
        let mut lanes = [0.0; LANES];
        let ages = self.belief.chunks_exact_mut(LANES);
        for (beliefs, likely) in ages.zip(likelihood.chunks_exact(LANES)) {
            for ((belief, likely), lane) in beliefs.iter_mut().zip(likely).zip(&mut lanes) {
                *belief *= likely;
                *lane += *belief;
            }
        }
        let sum: f32 = lanes.iter().sum();
        if sum > f32::MIN_POSITIVE && rival > f32::MIN_POSITIVE {
            let scale = 1.0 / sum;
            for belief in &mut self.belief {
                *belief *= scale;
            }
            self.evidence += (sum / rival).ln();
        } else {
            self.forget();
            self.evidence = LEAST_EVIDENCE;
        }
    }

    /// The time of the last round, where it is clear which one that is.
    fn last(&self, now: f64) -> Option<f64> {
        let recent = &self.belief[..(self.model().gap * 0.75 / BIN) as usize];
        let sum: f32 = recent.iter().sum();
        let ages = recent.iter().enumerate();
        let mean: f32 = ages.map(|(age, belief)| middle(age) as f32 * belief).sum();
        (sum > 0.9).then(|| now - f64::from(mean / sum))
    }

    /// See [`Rounds::wait`].
    fn wait(mut self, changed: bool, lag: f64, most: f64) -> Option<f64> {
        // Tasks whose turn in a round that has begun is still to come, of one.
        let mut pending = 0.0;
        if !changed {
            let ages = self.belief.iter().zip(&*WAITING);
            pending = ages.map(|(belief, waiting)| belief * waiting).sum();
        }
        let turn = 1.0 - (-BIN / TURN).exp() as f32;
        let mut news = [0.0_f32; AGES];
        for change in &mut news {
            let born = self.grow();
            *change = pending * turn;
            pending += born - *change;
        }
        let squares: f32 = news.iter().map(|change| change * change).sum();
        let width = BIN / f64::from(squares);
        if width.is_nan() || width > VAGUE * self.model().gap {
            return None;
        }
        let budget = 2.0 * lag * lag / width;
        let (mut waited, mut over, mut unseen) = (0.0, 0.0, 0.0);
        for change in news {
            over += f64::from(change);
            if unseen + over * BIN >= budget {
                return Some((waited + (budget - unseen) / over).min(most));
            }
            unseen += over * BIN;
            waited += BIN;
        }
        Some(waited.min(most))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tasks that are polled every two seconds, in turn.
    struct Watch {
        rounds: Rounds,
        now: f64,
        /// The next round.
        next: f64,
        seed: u64,
    }

    const TASKS: u8 = 20;

    impl Watch {
        fn new(seed: u64) -> Self {
            Self {
                rounds: Rounds::new(),
                now: 0.0,
                next: 5.0,
                seed,
            }
        }

        /// A number from 0 to 1.
        fn chance(&mut self) -> f64 {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005);
            self.seed = self.seed.wrapping_add(1_442_695_040_888_963_407);
            f64::from(u32::try_from(self.seed >> 33).unwrap_or(0)) / f64::from(1_u32 << 31)
        }

        /// Polls until `end`; every task changes once, at its turn within three seconds of `round`.
        fn watch(&mut self, round: f64, end: f64) {
            let turns: Vec<f64> = (0..TASKS).map(|_| round + 3.0 * self.chance()).collect();
            self.until(end, &turns);
        }

        /// Polls until `end`, where tasks change at these times.
        fn until(&mut self, end: f64, changes: &[f64]) {
            let step = 2.0 / f64::from(TASKS);
            let mut n = 0;
            while self.now < end {
                let (before, at) = (self.now - 2.0, self.now);
                let change = changes.iter().enumerate().find(|(task, change)| {
                    task % usize::from(TASKS) == n && **change > before && **change <= at
                });
                self.rounds.see(&Sighting {
                    before,
                    at,
                    changed: change.map(|_| (before, at)),
                });
                n = (n + 1) % usize::from(TASKS);
                self.now += step;
            }
        }

        /// `count` rounds, until five seconds after the last one began; returns when that was.
        fn rounds(&mut self, count: u8) -> f64 {
            let mut round = self.next;
            for _ in 0..count {
                round = self.next;
                self.next = round + 15.0 + 3.0 * self.chance();
                self.watch(round, round + 5.0);
            }
            round
        }
    }

    /// Watches that have seen `count` rounds and believe in them: nearly all of six.
    fn believers(count: u8) -> Vec<(Watch, f64)> {
        let watches = (0..6).map(Watch::new).map(|mut watch| {
            let last = watch.rounds(count);
            (watch, last)
        });
        let believe = |(watch, _): &(Watch, f64)| watch.rounds.expected(watch.now).is_some();
        let watches: Vec<_> = watches.filter(believe).collect();
        assert!(watches.len() >= 5, "{}", watches.len());
        watches
    }

    #[test]
    fn regular_rounds_are_learnt_and_foretold() {
        for (mut watch, last) in believers(20) {
            let now = watch.now;
            let expected = watch.rounds.expected(now).expect("is believed");
            assert!((15.5..17.5).contains(&expected.every), "{expected:?}");
            for _ in 0..20 {
                let wait = watch.rounds.wait(now, true, 1.0, 20.0).expect("is known");
                let due = now + wait - last;
                assert!((15.0..20.0).contains(&due), "{due}");
            }
        }
    }

    #[test]
    fn changes_at_any_time_are_not_taken_for_rounds() {
        for seed in 0..3 {
            let mut watch = Watch::new(seed);
            for _ in 0..20 {
                let (now, mut changes) = (watch.now, Vec::new());
                for _ in 0..TASKS * 3 {
                    changes.push(now + 60.0 * watch.chance());
                }
                watch.until(now + 60.0, &changes);
                assert_eq!(watch.rounds.expected(watch.now), None, "{seed}");
            }
        }
    }

    #[test]
    fn a_guess_that_stops_holding_is_dropped_within_one_round() {
        for (mut watch, last) in believers(20) {
            // In the middle of the gap.
            watch.watch(last + 8.0, last + 13.0);
            assert_eq!(watch.rounds.expected(watch.now), None);
            assert_eq!(watch.rounds.wait(watch.now, false, 1.0, 20.0), None);
        }
    }

    #[test]
    fn a_guess_that_was_dropped_is_not_taken_up_again_at_once() {
        let mut watch = Watch::new(1);
        let last = watch.rounds(10);
        assert!(watch.rounds.expected(watch.now).is_some());
        watch.watch(last + 8.0, last + 13.0);
        assert_eq!(watch.rounds.expected(watch.now), None);
        watch.rounds(12);
        assert_eq!(watch.rounds.expected(watch.now), None);
        watch.rounds(12);
        assert!(watch.rounds.expected(watch.now).is_some());
    }

    #[test]
    fn a_long_silence_is_no_news() {
        let mut watch = Watch::new(1);
        watch.rounds(20);
        watch.rounds.see(&Sighting {
            before: watch.now,
            at: watch.now + 10_000.0,
            changed: None,
        });
        let now = watch.now + 10_000.0;
        // The guess is as good as before, but says no more when the next round is.
        assert!(
            watch
                .rounds
                .expected(now)
                .is_some_and(|rounds| rounds.next > now)
        );
        assert_eq!(watch.rounds.wait(now, false, 1.0, 20.0), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn whatever_is_seen_beliefs_stay_probabilities_and_waits_within_bounds(
            polls in proptest::collection::vec(
                (-1.0..40.0_f64, 0.0..60.0_f64, proptest::option::of((-0.1..1.1_f64, 0.0..1.1_f64))),
                1..100,
            ),
            lag in 0.0..10.0_f64,
            most in 0.0..30.0_f64,
        ) {
            let (mut rounds, mut now) = (Rounds::new(), 0.0);
            for (later, watched, change) in polls {
                now += later;
                let before = now - watched;
                let changed = change.map(|(from, lasts)| {
                    let from = before + from * watched;
                    (from, from + lasts * watched)
                });
                rounds.see(&Sighting { before, at: now, changed });
                for guess in &rounds.guesses {
                    let sum: f32 = guess.belief.iter().sum();
                    prop_assert!((sum - 1.0).abs() < 1e-3, "{sum}");
                    prop_assert!(guess.belief.iter().all(|belief| *belief >= 0.0));
                    prop_assert!((LEAST_EVIDENCE..=MOST_EVIDENCE).contains(&guess.evidence));
                }
                if let Some(wait) = rounds.wait(now, change.is_some(), lag, most) {
                    prop_assert!((0.0..=most).contains(&wait));
                }
                if let Some(expected) = rounds.expected(now) {
                    prop_assert!(expected.every > 0.0 && expected.next >= now);
                }
            }
        }
    }
}
