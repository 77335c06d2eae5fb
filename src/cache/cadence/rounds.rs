//! Upstream's rounds: when it last asked its vendors for all running tasks, how often it does, and when it will next.
//!
//! Upstream sleeps, asks for every running task in turn, and sleeps again; between two rounds nothing changes. A poll tells
//! of that in intervals only: a task changed, or did not, since it was last polled. What is believed is a hidden Markov
//! model over how rounds come, a [`Guess`](super::guess::Guess), and the age of the last one. With time, the next round
//! begins by the guess's hazard; a poll multiplies each pair by how likely it makes what was seen; and now and then the guess
//! becomes another one, since worlds change. Its rivals are changes at any time, and rounds at irregular times. Guesses differ
//! in nothing but when rounds begin and how their turns spread, so that changes within one round, however many, do not speak
//! for one gap or another.
//!
//! Regular rounds are believed once they are likely. What is left of their rivals, and of changes that no round explains,
//! stays in the forecast, so that doubt costs polls rather than lag.
//!
//! Plain values: times are seconds on any one clock, and nothing of a task is kept.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "bins are few and not negative, and probabilities need no precision"
)]

use std::array::from_fn;

use super::guess::{
    AGES, ALL, BIN, DURATIONS, GAPS, GUESSES, LANES, PLAIN_PRIOR, REGULAR, SLEEP, SPREADS,
    STILL_WAITING, TURNS, USUAL_GAP, WAITING, lanes_of, middle, sum,
};

/// The bins before the one of age 0, into which time moves on before all have to be moved.
const SLACK: usize = 40;

/// How often a guess gives way to any other, per second, and how often that is reckoned, in seconds.
const SWITCHES: f64 = 0.0005;
const RECKONED: f64 = 5.0;

/// The shortest time within which a change is taken to be known, in seconds.
const NARROWEST: f64 = 0.05;

/// The share of changes that no round explains.
const NOISE: f64 = 0.03;

/// How likely regular rounds have to be to be believed, and to stay so.
const BELIEVED: f32 = 0.9;
const KEPT: f32 = 0.6;

/// Where rounds were believed for less than [`HELD`] and then were not regular, they are not believed again for this long, in
/// seconds, and each time for twice as long: upstream's instances, if there are several, are in step at times. When they are
/// believed again, this share of the lag is aimed at until they have held.
const DISTRUST: f64 = 60.0;
const LONGEST_DISTRUST: f64 = 3600.0;
const HELD: f64 = 600.0;
const PROBATION: f64 = 0.5;

/// Of the rate of changes that are no ends: how fast it forgets, in seconds for which a task was watched; the most that one poll
/// counts for; and what is supposed at first, as a rate and its weight in seconds.
const RATE_MEMORY: f64 = 1000.0;
const RATE_WATCHED: f64 = 60.0;
const RATE: f64 = 1.0 / 30.0;
const RATE_WEIGHT: f64 = 60.0;

/// The most likely that a change that is no end can be in a round: some tasks are queued.
const SURE: f64 = 0.85;

/// How fast the durations of rounds are learnt, with each round, and how rare one may become.
const LEARNS: f32 = 0.05;
const RAREST: f32 = 0.02;

/// The weight of the newest gap in their mean.
const NEWEST: f64 = 0.2;

/// The share of a round's turns by which a forecast ends.
const FORECAST: f32 = 0.95;

/// The likelihood of a guess, and of an age, from which on they count in a forecast.
const COUNTS: f32 = 0.01;
const COUNTS_OF_AGE: f32 = 1e-4;

/// The most that a poll may leave unseen, as a share of the lag that is aimed at. Where one poll covers a round, that is its
/// lag; the rest is for turns that come later than foreseen.
const COVERED: f64 = 0.85;

/// What one poll showed of one task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sighting {
    /// When it was polled before, in seconds.
    pub(super) before: f64,
    /// When it was polled now.
    pub(super) at: f64,
    /// How likely it was to end at its age, per second.
    pub(super) hazard: f64,
    /// How it changed, if it did.
    pub(super) changed: Option<Change>,
}

/// A change of a task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Change {
    /// After when it happened, and until when.
    pub(super) within: (f64, f64),
    /// Whether the task ended.
    pub(super) is_end: bool,
}

/// A task that is polled now, and when it is to be polled again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wish {
    /// When it is polled.
    pub(super) now: f64,
    /// Whether it had changed.
    pub(super) has_changed: bool,
    /// How likely it is to end at its age, per second.
    pub(super) hazard: f64,
    /// How late its changes are to be seen on average, in seconds.
    pub(super) lag: f64,
    /// The longest time to the next poll, in seconds.
    pub(super) most: f64,
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
#[derive(Debug, Clone)]
pub(super) struct Rounds {
    /// How likely each guess is, with each age of the last round; of which `first` has age 0. All of this, `sums` and `plain`
    /// included, are shares of [`total`](Self::total).
    belief: Box<[[f32; SLACK + AGES]; GUESSES]>,
    first: usize,
    /// How likely each guess is.
    sums: [f32; GUESSES],
    /// How likely it is that changes come at any time.
    plain: f32,
    /// How likely each of [`DURATIONS`] is of new-api's next round.
    durations: [f32; DURATIONS.len()],
    /// The time up to which rounds have aged, and that up to which guesses have given way to others.
    now: f64,
    reckoned: f64,
    /// Changes seen that were no ends, and the seconds for which tasks were watched for them, both decaying.
    changes: f64,
    watched: f64,
    /// Since when rounds are believed.
    believed: Option<f64>,
    /// When they may be again, and how long the last ban was.
    again: f64,
    distrust: f64,
    /// The last round and the one before it, and the mean gap, while rounds are believed.
    last: f64,
    previous: f64,
    every: f64,
}

impl Rounds {
    pub(super) fn new() -> Self {
        let mut rounds = Self {
            belief: Box::new([[0.0; SLACK + AGES]; GUESSES]),
            first: SLACK,
            sums: [0.0; GUESSES],
            plain: 0.0,
            durations: DURATIONS.map(|(_, _, share)| share as f32),
            now: f64::NEG_INFINITY,
            reckoned: f64::NEG_INFINITY,
            changes: RATE * RATE_WEIGHT,
            watched: RATE_WEIGHT,
            believed: None,
            again: f64::NEG_INFINITY,
            distrust: 0.0,
            last: f64::NEG_INFINITY,
            previous: f64::NEG_INFINITY,
            every: 0.0,
        };
        rounds.forget(1.0);
        rounds
    }

    /// Learns from a poll.
    pub(super) fn see(&mut self, sighting: &Sighting) {
        let Sighting {
            before,
            at,
            hazard,
            changed,
        } = *sighting;
        let watched = (at - before).min(RATE_WATCHED);
        if !watched.is_finite() || watched <= 0.0 {
            return;
        }
        self.advance(at);

        // How likely it is that a task changes at any time, and in a round.
        let (from, to) = changed.map_or((before, at), |change| change.within);
        let from = from.min(to - NARROWEST);
        let within = ((to - from) / (at - before)).min(1.0);
        let any_time = (1.0 - (-(self.rate() + hazard) * watched).exp()) * within;
        let in_a_round = (1.0 - NOISE) * self.in_a_round(hazard);
        let likely = |change: f64| match changed {
            Some(_) => change.max(f64::from(f32::MIN_POSITIVE)),
            None => 1.0 - change,
        };
        let other = likely(NOISE * any_time);
        let gain = (likely(in_a_round + NOISE * any_time) / other - 1.0) as f32;
        self.plain *= (likely(any_time) / other) as f32;
        self.weigh(gain, (from, to));

        self.believe(at);
        let kept = (-watched / RATE_MEMORY).exp();
        let change = changed.is_some_and(|change| !change.is_end);
        self.watched = self.watched * kept + watched;
        self.changes = self.changes * kept + f64::from(u8::from(change));
    }

    pub(super) fn is_believed(&self) -> bool {
        self.believed.is_some()
    }

    /// When to poll a task again, in seconds from now. `None` if no rounds are believed.
    ///
    /// Where the next turn is spread evenly over a time `w`, polls at intervals of twice the lag leave `2 lag² / w` of it unseen
    /// between two of them. The same for any other spread, `w` being the time over which an even one is as concentrated, is the
    /// rule of Barlow and Proschan for the inspections of a thing that fails at an unknown time: each interval costs equally
    /// much.
    pub(super) fn wait(&mut self, wish: &Wish) -> Option<f64> {
        self.advance(wish.now);
        self.believed?;
        let turns = self.turns(wish.has_changed, self.in_a_round(wish.hazard));
        let (mut squares, mut all) = (0.0, 0.0);
        for share in turns {
            squares += share * share;
            all += share;
            if all > FORECAST {
                break;
            }
        }
        let width = BIN * f64::from(all / squares);
        let lag = if self.distrust > 0.0 {
            PROBATION * wish.lag
        } else {
            wish.lag
        };
        let budget = (2.0 * lag * lag / width).min(COVERED * lag);
        let (mut waited, mut over, mut unseen) = (0.0, 0.0, 0.0);
        for share in turns {
            over += f64::from(share);
            if unseen + over * BIN >= budget {
                return Some((waited + (budget - unseen) / over).min(wish.most));
            }
            unseen += over * BIN;
            waited += BIN;
        }
        Some(waited.min(wish.most))
    }

    /// When the rounds are, if they are believed.
    pub(super) fn expected(&self, now: f64) -> Option<Expected> {
        self.believed?;
        let every = self.every;
        let missed = ((now - self.last) / every).max(0.0).floor();
        Some(Expected {
            every,
            next: self.last + every * (missed + 1.0),
        })
    }

    /// The changes of a task that are no ends, per second.
    fn rate(&self) -> f64 {
        self.changes / self.watched
    }

    /// How likely it is that a task changes in a round.
    fn in_a_round(&self, hazard: f64) -> f64 {
        let other = (self.rate() * USUAL_GAP).min(SURE);
        1.0 - (1.0 - other) * (-hazard * USUAL_GAP).exp()
    }

    /// What all that is believed adds up to.
    fn total(&self) -> f32 {
        self.plain + sum(&self.sums)
    }

    /// How likely it is that rounds are regular.
    fn regular(&self) -> f32 {
        sum(&self.sums[..REGULAR]) / self.total()
    }

    /// Makes all ages equally likely up to the shortest gap, and lets a share of all guesses give way to others.
    fn forget(&mut self, share: f32) {
        let total = self.total();
        let (kept, taken) = match 1.0 - share {
            kept if total.is_normal() => (kept / total, share),
            _ => (0.0, 1.0),
        };
        self.first = SLACK;
        self.plain = self.plain * kept + taken * PLAIN_PRIOR as f32;
        for ((belief, sum), guess) in self.belief.iter_mut().zip(&mut self.sums).zip(&*ALL) {
            *sum = *sum * kept + taken * guess.prior as f32;
            belief.fill(0.0);
            let ages = &mut belief[SLACK..][..=guess.from];
            ages.fill(*sum / ages.len() as f32);
        }
    }

    /// Moves on to the last whole bin before `to`.
    fn advance(&mut self, to: f64) {
        let bins = ((to - self.now) / BIN).max(0.0);
        if bins > (2 * AGES) as f64 {
            self.believed = None;
            self.forget((SWITCHES * (to - self.reckoned)).min(1.0) as f32);
            (self.now, self.reckoned) = (to, to);
            return;
        }
        for _ in 0..bins as usize {
            self.age();
        }
        self.now += bins.floor() * BIN;
        if self.now - self.reckoned > RECKONED {
            self.switch((SWITCHES * (self.now - self.reckoned)).min(1.0) as f32);
            self.reckoned = self.now;
            self.track();
        }
    }

    /// Makes the last round a bin older, or begins a next one.
    fn age(&mut self) {
        let old = self.first;
        if old == 0 {
            for belief in self.belief.iter_mut() {
                belief.copy_within(..AGES, SLACK);
            }
        }
        let old = if old == 0 { SLACK } else { old };
        self.first = old - 1;
        let mut sleeps = 0.0;
        for (n, guess) in ALL.iter().enumerate() {
            let due = lanes_of(guess.from..guess.until + 1);
            let hazards = guess.hazard[due.clone()].chunks_exact(LANES);
            let ages = self.belief[n][old..][due].chunks_exact_mut(LANES);
            let mut lanes = [0.0; LANES];
            for (ages, hazards) in ages.zip(hazards) {
                for ((age, hazard), lane) in ages.iter_mut().zip(hazards).zip(&mut lanes) {
                    let begins = *age * hazard;
                    *age -= begins;
                    *lane += begins;
                }
            }
            let begins = lanes.iter().sum::<f32>();
            let is_sleep = (GAPS..REGULAR).contains(&n);
            self.belief[n][self.first] = if is_sleep { 0.0 } else { begins };
            if is_sleep {
                self.sums[n] -= begins;
                sleeps += begins;
            }
        }
        for (n, share) in (GAPS..).zip(self.durations) {
            self.belief[n][self.first] = sleeps * share;
            self.sums[n] += sleeps * share;
        }
    }

    /// Lets a share of all guesses give way to others; the last round stays when it was. Bounds the numbers as well.
    fn switch(&mut self, share: f32) {
        let scale = 1.0 / self.total();
        let mut ages = [0.0_f32; AGES];
        for belief in self.belief.iter() {
            for (all, belief) in ages.iter_mut().zip(&belief[self.first..]) {
                *all += belief * scale;
            }
        }
        let plain = self.plain * scale;
        let any = (USUAL_GAP / BIN) as usize;
        for age in &mut ages[..any] {
            *age += plain / any as f32;
        }
        self.plain = plain + share * (PLAIN_PRIOR as f32 - plain);
        let kept = scale * (1.0 - share);
        for ((belief, total), guess) in self.belief.iter_mut().zip(&mut self.sums).zip(&*ALL) {
            let taken = share * guess.prior as f32;
            let belief = &mut belief[self.first..][..AGES];
            for (belief, age) in belief[..=guess.until].iter_mut().zip(&ages) {
                *belief = *belief * kept + taken * age;
            }
            *total = sum(&belief[..=guess.until]);
        }
        // Of each round once: when all of its turns are over, and the next one has not begun under any guess.
        let asleep = (((SLEEP - RECKONED) / BIN) as usize, (SLEEP / BIN) as usize);
        let lasts = |n: usize| sum(&self.belief[n][self.first..][asleep.0..asleep.1]);
        let lasts: [f32; DURATIONS.len()] = from_fn(|n| lasts(GAPS + n));
        let all = sum(&lasts) * (1.0 + RAREST * DURATIONS.len() as f32);
        for (share, lasts) in self.durations.iter_mut().zip(lasts) {
            *share += LEARNS * (lasts + RAREST * all - *share * all);
        }
    }

    /// Weighs the ages by what was seen of a task: each gains by the share of turns that came within this time.
    fn weigh(&mut self, gain: f32, (from, to): (f64, f64)) {
        let bins = |time: f64| ((self.now - time) / BIN).clamp(-1.0, AGES as f64);
        let (from, to) = (bins(from), bins(to));
        let ages = lanes_of(to.max(0.0) as usize..from.max(0.0) as usize + TURNS + 2);
        // Where in the table the middle of the bin of age 0 was at a time.
        let place = |bins: f64| {
            let place = AGES as f64 + 0.5 - bins;
            (place as usize, place.fract() as f32)
        };
        let ((from, from_part), (to, to_part)) = (place(from), place(to));
        let mut gains = [[0.0_f32; AGES]; SPREADS];
        for (gains, waiting) in gains.iter_mut().zip(&*WAITING) {
            let waiting = |place: usize| &waiting[place + ages.start..];
            let at = |part: f32, one: f32, next: f32| one + part * (next - one);
            let earlier = waiting(from).iter().zip(waiting(from + 1));
            let later = waiting(to).iter().zip(waiting(to + 1));
            let both = earlier.zip(later);
            for (share, (earlier, later)) in gains[ages.clone()].iter_mut().zip(both) {
                let turns = at(from_part, *earlier.0, *earlier.1) - at(to_part, *later.0, *later.1);
                *share = gain * turns;
            }
        }
        for ((belief, sum), guess) in self.belief.iter_mut().zip(&mut self.sums).zip(&*ALL) {
            let belief = &mut belief[self.first..][ages.clone()];
            let gains = &gains[guess.spread][ages.clone()];
            let mut lanes = [0.0; LANES];
            let belief = belief.chunks_exact_mut(LANES);
            for (belief, gains) in belief.zip(gains.chunks_exact(LANES)) {
                for ((belief, gain), lane) in belief.iter_mut().zip(gains).zip(&mut lanes) {
                    let more = *belief * gain;
                    *belief += more;
                    *lane += more;
                }
            }
            *sum = (*sum + lanes.iter().sum::<f32>()).max(0.0);
        }
        let total = self.total();
        // Sums drift by their rounding: taken anew before they have shrunk far.
        if !(1e-3..1e3).contains(&total) {
            self.bound(total);
        }
    }

    /// Makes all that is believed add up to 1, where it can.
    fn bound(&mut self, total: f32) {
        if !total.is_normal() {
            self.forget(1.0);
            return;
        }
        let scale = 1.0 / total;
        self.plain *= scale;
        for (belief, total) in self.belief.iter_mut().zip(&mut self.sums) {
            for belief in belief.iter_mut() {
                *belief *= scale;
            }
            *total = sum(&belief[self.first..][..AGES]);
        }
    }

    /// Takes up rounds, or drops them.
    fn believe(&mut self, at: f64) {
        let regular = self.regular();
        match self.believed {
            None if regular > BELIEVED && at >= self.again => {
                self.believed = Some(at);
                let likely = |one: &(_, &f32), other: &(_, &f32)| one.1.total_cmp(other.1);
                let best = ALL.iter().zip(&self.sums[..REGULAR]).max_by(likely);
                self.every = best.map_or(USUAL_GAP, |(guess, _)| guess.mean_gap);
                self.last = self.last_round().unwrap_or(at);
                self.previous = f64::NEG_INFINITY;
            }
            Some(since) if regular < KEPT => {
                self.believed = None;
                if at - since <= HELD {
                    self.distrust = (2.0 * self.distrust).clamp(DISTRUST, LONGEST_DISTRUST);
                    self.again = at + self.distrust;
                }
            }
            Some(since) if at - since > HELD => self.distrust = 0.0,
            _ => {}
        }
    }

    /// Keeps the mean gap, while rounds are believed.
    fn track(&mut self) {
        let Some(last) = self.believed.and_then(|_| self.last_round()) else {
            return;
        };
        if last - self.last > self.every / 2.0 {
            // A new one: where the one before was is certain now.
            let gap = self.last - self.previous;
            if gap < self.every * 1.5 {
                self.every += (gap - self.every) * NEWEST;
            }
            self.previous = self.last;
        }
        self.last = last;
    }

    /// The time of the last round, where it is clear which one that is.
    fn last_round(&self) -> Option<f64> {
        let (mut all, mut mean) = (0.0, 0.0);
        for (belief, guess) in self.belief[..REGULAR].iter().zip(&*ALL) {
            let recent = &belief[self.first..][..(guess.gap * 0.75 / BIN) as usize];
            for (age, belief) in recent.iter().enumerate() {
                all += belief;
                mean += belief * middle(age) as f32;
            }
        }
        (all > 0.9 * self.total()).then(|| self.now - f64::from(mean / all))
    }

    /// The share of its next turn that a task has in each bin from now on. In a round, it changes as likely as `in_a_round`.
    fn turns(&self, has_changed: bool, in_a_round: f64) -> [f32; AGES] {
        let scale = 1.0 / self.total();
        let any = (self.plain * scale + NOISE as f32) * (BIN / USUAL_GAP) as f32;
        let in_a_round = ((1.0 - NOISE) * in_a_round) as f32;
        let waiting = &*STILL_WAITING;
        let mut turns = [any; AGES];
        // How likely the next round begins in each bin, by general guesses and after new-api's sleep.
        let mut begins = [[0.0_f32; AGES]; 2];
        for ((belief, sum), guess) in self.belief.iter().zip(&self.sums).zip(&*ALL) {
            if sum * scale < COUNTS {
                continue;
            }
            let [general, sleep] = &mut begins;
            let begins = if guess.spread == 0 { general } else { sleep };
            let waiting = &waiting[guess.spread];
            let ages = belief[self.first..].iter().map(|belief| belief * scale);
            for (age, belief) in ages.enumerate().take(guess.until + 1) {
                if belief < COUNTS_OF_AGE {
                    continue;
                }
                // A task that has not changed in a round may have its turn still to come.
                if age < TURNS && !has_changed {
                    let belief = belief / (1.0 - in_a_round * (1.0 - waiting[age]));
                    for (turns, waiting) in turns.iter_mut().zip(waiting[age..].windows(2)) {
                        *turns += belief * (waiting[0] - waiting[1]);
                    }
                }
                let belief = belief / guess.left[age];
                let ages = guess.from.max(age)..guess.until + 1;
                let begins = begins[ages.start - age..].iter_mut();
                for (begins, ends) in begins.zip(&guess.ends[ages]) {
                    *begins += belief * ends;
                }
            }
        }
        // A round begins in the middle of a bin.
        let part = |spread: usize, age: usize| {
            let earlier = age.checked_sub(1).map_or(1.0, |age| waiting[spread][age]);
            earlier - waiting[spread][age]
        };
        let durations = || (1..).zip(self.durations);
        let sleep = |age| durations().map(|(n, share)| share * part(n, age)).sum();
        let parts: [[f32; TURNS]; 2] = [from_fn(|age| part(0, age)), from_fn(sleep)];
        for (begins, parts) in begins.iter().zip(parts) {
            for (n, begins) in begins.iter().enumerate() {
                if *begins < COUNTS_OF_AGE {
                    continue;
                }
                for (turns, part) in turns[n..].iter_mut().zip(parts) {
                    *turns += begins * part;
                }
            }
        }
        turns
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
                    hazard: 0.01,
                    changed: change.map(|_| Change {
                        within: (before, at),
                        is_end: false,
                    }),
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

    /// A task that was polled at this time, whose changes are to be seen a second late.
    const fn polled(now: f64, has_changed: bool) -> Wish {
        Wish {
            now,
            has_changed,
            hazard: 0.01,
            lag: 1.0,
            most: 20.0,
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
                let wait = watch.rounds.wait(&polled(now, true)).expect("is known");
                let due = now + wait - last;
                assert!((14.0..20.0).contains(&due), "{due}");
            }
        }
    }

    #[test]
    fn three_rounds_are_enough() {
        believers(3);
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
            assert_eq!(watch.rounds.wait(&polled(watch.now, false)), None);
        }
    }

    #[test]
    fn a_guess_that_was_dropped_is_not_taken_up_again_at_once() {
        let mut watch = Watch::new(1);
        let last = watch.rounds(10);
        assert!(watch.rounds.expected(watch.now).is_some());
        watch.watch(last + 8.0, last + 13.0);
        assert_eq!(watch.rounds.expected(watch.now), None);
        watch.rounds(3);
        assert_eq!(watch.rounds.expected(watch.now), None);
        watch.rounds(6);
        assert!(watch.rounds.expected(watch.now).is_some());
    }

    #[test]
    fn a_long_silence_is_no_news() {
        let mut watch = Watch::new(1);
        watch.rounds(20);
        watch.now += 1000.0;
        // Nothing says any more when the next round is.
        assert_eq!(watch.rounds.wait(&polled(watch.now, false)), None);
        watch.next = watch.now + 5.0;
        watch.rounds(3);
        assert!(watch.rounds.expected(watch.now).is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn whatever_is_seen_beliefs_stay_probabilities_and_waits_within_bounds(
            polls in proptest::collection::vec(
                (-1.0..40.0_f64, 0.0..60.0_f64, proptest::option::of((-0.1..1.1_f64, 0.0..1.1_f64))),
                1..100,
            ),
            hazard in 0.0..2.0_f64,
            lag in 0.0..10.0_f64,
            most in 0.0..30.0_f64,
        ) {
            let (mut rounds, mut now) = (Rounds::new(), 0.0);
            for (later, watched, change) in polls {
                now += later;
                let before = now - watched;
                let changed = change.map(|(from, lasts)| {
                    let from = before + from * watched;
                    Change { within: (from, from + lasts * watched), is_end: lasts < 0.5 }
                });
                rounds.see(&Sighting { before, at: now, hazard, changed });
                let total = rounds.total();
                prop_assert!(total.is_normal() && rounds.plain >= 0.0, "{total}");
                for (belief, sum) in rounds.belief.iter().zip(rounds.sums) {
                    let belief = &belief[rounds.first..][..AGES];
                    prop_assert!(belief.iter().all(|belief| *belief >= 0.0));
                    let all: f32 = belief.iter().sum();
                    prop_assert!((all - sum).abs() <= 1e-3 * total, "{all} {sum} {total}");
                }
                let has_changed = change.is_some();
                if let Some(wait) = rounds.wait(&Wish { now, has_changed, hazard, lag, most }) {
                    prop_assert!((0.0..=most).contains(&wait));
                }
                if let Some(expected) = rounds.expected(now) {
                    prop_assert!(expected.every > 0.0 && expected.next >= now);
                }
            }
        }
    }
}
