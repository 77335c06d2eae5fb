//! One circuit breaker. Pure: time and randomness are arguments.
//!
//! It opens on the share of polls that fail within a window, or when none has passed for a while. Failures of one task, or
//! of a few at once, do not suffice: one failing vendor channel says nothing about the others.

use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use tokio::time::Instant;

use crate::error::Error;
use crate::request::key::Caller;

/// The window in which polls are counted, in seconds.
const WINDOW: u64 = 10;

/// The same, as a number of buckets.
const SECONDS: usize = 10;

/// The fewest failures within the window that open a circuit. A task counts twice at most, so these are four tasks.
pub(super) const FEWEST_FAILURES: u32 = 8;

/// The window in which polls that passed are counted, in seconds: an outage is noticed after this time at the latest.
const LATELY: u64 = 3;

/// The same where no failure can be due to a channel: nobody can connect.
const LATELY_ON_THE_WAY: u64 = 2;

/// The circuit stays closed while at least one poll in this many passes.
const ONE_IN: u32 = 20;

/// How long a streak of failures lasts before it opens a circuit, however few polls there are.
const STREAK: Duration = Duration::from_secs(20);

/// The fewest failures of such a streak; and the fewest tasks, where they may be due to a channel.
const STREAK_FAILURES: u32 = 3;

/// See [`STREAK_FAILURES`].
const STREAK_TASKS: usize = 3;

/// The longest time between two failures of one streak.
const STREAK_GAP: Duration = Duration::from_mins(1);

/// The time between two probes of an upstream that is down; up to twice that, at random, so that many gateways do not
/// probe in step.
const PROBE: Duration = Duration::from_millis(1250);

/// The time until the first probe, up to twice that; doubled for each further one: a blip is soon over.
pub(super) const FIRST_PROBE: Duration = Duration::from_millis(100);

/// How long after a probe was due every poll passes as one: nobody has polled since, and new polls must not be refused
/// because of an old outage.
const IDLE_AFTER: Duration = Duration::from_secs(10);

/// How long after a probe was due a circuit becomes stale: a further failure is another outage.
const STALE_AFTER: Duration = Duration::from_mins(5);

/// The first pause after a 429 that does not say how long; doubled with every further one.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause, whatever upstream says: a mistaken answer must not silence a caller for hours.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// The longest pause where upstream does not say how long.
const LONGEST_GUESS: Duration = Duration::from_secs(30);

/// The state of a circuit, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CircuitStatus {
    /// Polls pass.
    Closed {
        /// The failures that count within the window.
        failed: u32,
        /// The polls within the window that upstream answered.
        passed: u32,
    },
    /// Upstream is down; only probes pass.
    Open {
        /// When the circuit opened.
        since: Instant,
        /// Why the last poll failed.
        reason: Arc<str>,
        /// The time until the next probe.
        probe_in: Duration,
    },
    /// Upstream asked for a pause.
    Paused {
        /// When the pause began.
        since: Instant,
        /// The time until the first probe.
        probe_in: Duration,
    },
    /// Upstream was down when it was last polled, some time ago.
    Stale,
}

/// How a poll was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admission {
    /// The circuit is closed.
    Normal,
    /// The poll is a probe.
    Probe,
}

/// What a poll can expect of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outlook {
    /// It passes.
    Passes,
    /// It may be the probe that is due.
    Probes,
    /// It is refused.
    Refuses,
}

/// What a failure may be due to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The way to upstream: no connection could be made, or it broke before an answer.
    Way,
    /// The way to upstream, or only the task's channel: a timeout, a gateway error, a page that is not JSON.
    Channel,
}

/// A failure that counts.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) caller: Caller,
    pub(super) scope: Scope,
    pub(super) reason: Arc<str>,
    /// A digest of its task.
    pub(super) task: u64,
    /// Whether its task has not failed too often yet to count.
    pub(super) counts: bool,
}

/// What a poll's result changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// The circuit opened, after this share of the polls failed within this time.
    Opened {
        failed: u32,
        passed: u32,
        within: Duration,
    },
    /// A pause began.
    Paused(Duration),
    /// The outage or pause that began then is over.
    Closed(Instant),
}

#[derive(Debug)]
pub(super) enum Circuit {
    Closed(Box<Window>),
    Open {
        since: Instant,
        reason: Arc<str>,
        /// The one caller whose polls failed, where nobody else polled: others may still try.
        only: Option<Caller>,
        probes: u32,
        probe_at: Instant,
    },
    Paused {
        since: Instant,
        times: u32,
        probe_at: Instant,
    },
}

impl Default for Circuit {
    fn default() -> Self {
        Self::Closed(Box::default())
    }
}

impl Circuit {
    /// Lets every poll pass, or only a probe when it is due. A probe that never completes does not block the next one.
    pub(super) fn admit(
        &mut self,
        caller: Caller,
        now: Instant,
        chance: f64,
    ) -> Result<Admission, Error> {
        if self.is_idle(now) {
            return Ok(Admission::Probe);
        }
        match self {
            Self::Closed(_) => Ok(Admission::Normal),
            Self::Open {
                only: Some(only), ..
            } if *only != caller => Ok(Admission::Normal),
            Self::Open {
                probes, probe_at, ..
            } if now >= *probe_at => {
                *probes += 1;
                *probe_at = now + pace(*probes, chance);
                Ok(Admission::Probe)
            }
            Self::Paused { probe_at, .. } if now >= *probe_at => {
                *probe_at = now + PROBE.mul_f64(1.0 + chance);
                Ok(Admission::Probe)
            }
            Self::Open { .. } => Err(Error::UpstreamDown),
            Self::Paused { probe_at, .. } => Err(Error::RateLimited(*probe_at - now)),
        }
    }

    pub(super) fn outlook(&self, caller: Caller, now: Instant) -> Outlook {
        match self {
            Self::Closed(_) => Outlook::Passes,
            Self::Open {
                only: Some(only), ..
            } if *only != caller => Outlook::Passes,
            Self::Open { probe_at, .. } | Self::Paused { probe_at, .. } => {
                if self.is_idle(now) {
                    Outlook::Passes
                } else if now >= *probe_at {
                    Outlook::Probes
                } else {
                    Outlook::Refuses
                }
            }
        }
    }

    pub(super) fn status(&self, now: Instant) -> CircuitStatus {
        match self {
            Self::Closed(window) => {
                let (failed, passed) = window.counts(now);
                CircuitStatus::Closed { failed, passed }
            }
            _ if self.is_stale(now) => CircuitStatus::Stale,
            Self::Open {
                since,
                reason,
                probe_at,
                ..
            } => CircuitStatus::Open {
                since: *since,
                reason: Arc::clone(reason),
                probe_in: probe_at.saturating_duration_since(now),
            },
            Self::Paused {
                since, probe_at, ..
            } => CircuitStatus::Paused {
                since: *since,
                probe_in: probe_at.saturating_duration_since(now),
            },
        }
    }

    /// Whether nobody has polled for so long that every poll passes.
    fn is_idle(&self, now: Instant) -> bool {
        match self {
            Self::Closed(_) => false,
            Self::Open { probe_at, .. } | Self::Paused { probe_at, .. } => {
                now >= *probe_at + IDLE_AFTER
            }
        }
    }

    /// Whether it says too little of now. A pause says nothing once it has passed.
    fn is_stale(&self, now: Instant) -> bool {
        match self {
            Self::Open { probe_at, .. } => now >= *probe_at + STALE_AFTER,
            Self::Closed(_) | Self::Paused { .. } => self.is_idle(now),
        }
    }

    /// A closed circuit that knows of the polls that passed here, and of no failure.
    pub(super) fn passes(&self) -> Self {
        match self {
            Self::Closed(window) => Self::Closed(Box::new(window.passes())),
            Self::Open { .. } | Self::Paused { .. } => Self::default(),
        }
    }

    /// Upstream answered. An answer that was in progress when a pause began says nothing about its end.
    pub(super) fn pass(&mut self, admission: Admission, now: Instant) -> Option<Change> {
        match self {
            Self::Closed(window) => {
                window.pass(now);
                None
            }
            Self::Paused { .. } if admission == Admission::Normal => None,
            Self::Open { since, .. } | Self::Paused { since, .. } => {
                let since = *since;
                *self = Self::default();
                Some(Change::Closed(since))
            }
        }
    }

    /// Ends a pause that began before `at`, when upstream answered elsewhere.
    pub(super) fn end_pause(&mut self, at: Instant) -> Option<Change> {
        match *self {
            Self::Paused { since, .. } if since < at => {
                *self = Self::default();
                Some(Change::Closed(since))
            }
            _ => None,
        }
    }

    /// When the outage began, where upstream is down for whoever asks.
    pub(super) fn down_since(&self) -> Option<Instant> {
        match self {
            Self::Open {
                since, only: None, ..
            } => Some(*since),
            _ => None,
        }
    }

    /// Ends what was part of an outage for everyone that began then and is over.
    pub(super) fn end_outage(&mut self, began: Instant) {
        let earlier = Duration::from_secs(WINDOW);
        if self
            .down_since()
            .is_some_and(|since| since + earlier >= began)
        {
            *self = Self::default();
        }
    }

    /// Upstream did not answer. `alone` is whether the circuit stands for one caller.
    pub(super) fn fail(
        &mut self,
        failure: Failure,
        alone: bool,
        now: Instant,
        chance: f64,
    ) -> Option<Change> {
        if matches!(self, Self::Paused { .. }) && self.is_stale(now) {
            *self = Self::default();
        }
        let is_another = self.is_stale(now);
        match self {
            Self::Closed(window) => {
                let opened = window.fail(&failure, now)?;
                let only = (!alone).then(|| window.only(failure.caller, now)).flatten();
                *self = Self::Open {
                    since: now,
                    reason: failure.reason,
                    only,
                    probes: 0,
                    probe_at: now + pace(0, chance),
                };
                Some(opened)
            }
            Self::Open {
                since,
                reason,
                only,
                probes,
                probe_at,
            } => {
                *reason = failure.reason;
                *probe_at = now + pace(*probes, chance);
                if only.is_some_and(|only| only != failure.caller) {
                    *only = None;
                }
                is_another.then(|| {
                    *since = now;
                    Change::Opened {
                        failed: 1,
                        passed: 0,
                        within: Duration::from_secs(WINDOW),
                    }
                })
            }
            Self::Paused { .. } => None,
        }
    }

    /// Upstream fails elsewhere at `now`: within a while, the first failure opens a closed circuit, unless a poll passes
    /// before.
    pub(super) fn suspect(&mut self, now: Instant) {
        if let Self::Closed(window) = self {
            window.suspected = Some(now);
        }
    }

    /// Upstream asked for a pause.
    pub(super) fn pause(
        &mut self,
        asked: Option<Duration>,
        now: Instant,
        chance: f64,
    ) -> Option<Change> {
        let (since, times) = match &*self {
            Self::Paused { since, times, .. } if !self.is_stale(now) => (*since, *times + 1),
            _ => (now, 0),
        };
        let guess = PAUSE
            .saturating_mul(1 << times.min(10))
            .min(LONGEST_GUESS)
            .mul_f64(1.0 + chance / 4.0);
        let pause = asked
            .filter(|asked| !asked.is_zero())
            .unwrap_or(guess)
            .clamp(Duration::from_millis(1), LONGEST_PAUSE);
        *self = Self::Paused {
            since,
            times,
            probe_at: now + pause,
        };
        (times == 0).then_some(Change::Paused(pause))
    }
}

/// The polls of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Window {
    seconds: [Second; SECONDS],
    start: Option<Instant>,
    /// The latest caller whose poll failed, and whether another one's did before it within the window.
    failing: Option<(Caller, Instant)>,
    another: Option<(Caller, Instant)>,
    /// The failures since a poll last passed.
    streak: Option<Streak>,
    /// When it was heard that upstream fails elsewhere.
    suspected: Option<Instant>,
}

/// Failures without a poll that passed between them.
#[derive(Debug)]
struct Streak {
    since: Instant,
    latest: Instant,
    failed: u32,
    /// Of these, those of [`Scope::Way`].
    on_the_way: u32,
    /// Digests of the first tasks that failed.
    tasks: ArrayVec<u64, STREAK_TASKS>,
}

/// The polls of one second.
#[derive(Debug, Clone, Copy, Default)]
struct Second {
    number: u64,
    passed: u32,
    failed: u32,
    /// Of the failed ones, those of [`Scope::Way`].
    on_the_way: u32,
}

impl Window {
    fn passes(&self) -> Self {
        Self {
            seconds: self.seconds.map(|second| Second {
                failed: 0,
                on_the_way: 0,
                ..second
            }),
            start: self.start,
            ..Self::default()
        }
    }

    fn pass(&mut self, now: Instant) {
        self.streak = None;
        self.suspected = None;
        self.second(now).passed += 1;
    }

    /// Counts a failure, which may open the circuit.
    fn fail(&mut self, failure: &Failure, now: Instant) -> Option<Change> {
        let streak = self
            .streak
            .take_if(|streak| now.saturating_duration_since(streak.latest) <= STREAK_GAP);
        let streak = self
            .streak
            .insert(streak.unwrap_or_else(|| Streak::new(now)));
        streak.fail(failure, now);
        let streak = streak.opens(now);
        if failure.counts {
            match &mut self.failing {
                Some((caller, at)) if *caller == failure.caller => *at = now,
                failing => self.another = failing.replace((failure.caller, now)),
            }
            let second = self.second(now);
            second.failed += 1;
            second.on_the_way += u32::from(failure.scope == Scope::Way);
        }
        let (failed, on_the_way) = self.failures(now);
        let lately = if on_the_way == failed {
            LATELY_ON_THE_WAY
        } else {
            LATELY
        };
        let passed: u32 = self.within(lately, now).map(|second| second.passed).sum();
        let is_suspected = self
            .suspected
            .take_if(|since| now.saturating_duration_since(*since).as_secs() < WINDOW);
        let is_open = is_suspected.is_some()
            || failed >= FEWEST_FAILURES
                && passed.saturating_mul(ONE_IN) < failed.saturating_add(passed);
        let (failed, passed) = self.counts(now);
        let opened = Change::Opened {
            failed,
            passed,
            within: Duration::from_secs(WINDOW),
        };
        is_open.then_some(opened).or(streak)
    }

    /// The one caller whose polls failed, where that may be its own affair.
    fn only(&self, caller: Caller, now: Instant) -> Option<Caller> {
        let recent = |at: &Instant| now.saturating_duration_since(*at).as_secs() < WINDOW;
        let is_shared = self.another.as_ref().is_some_and(|(_, at)| recent(at));
        let is_way = match (self.failures(now), &self.streak) {
            ((0, _), Some(streak)) => streak.is_way(),
            ((failed, on_the_way), _) => on_the_way * 2 >= failed,
        };
        (!is_shared && !is_way).then_some(caller)
    }

    /// The failures that count, and those of them that are of [`Scope::Way`].
    fn failures(&self, now: Instant) -> (u32, u32) {
        self.within(WINDOW, now)
            .fold((0, 0), |(failed, way), second| {
                (failed + second.failed, way + second.on_the_way)
            })
    }

    /// The failures that count, and the polls that passed.
    fn counts(&self, now: Instant) -> (u32, u32) {
        self.within(WINDOW, now)
            .fold((0, 0), |(failed, passed), second| {
                (failed + second.failed, passed + second.passed)
            })
    }

    fn within(&self, seconds: u64, now: Instant) -> impl Iterator<Item = &Second> {
        let number = self.number(now);
        self.seconds
            .iter()
            .filter(move |second| second.number + seconds > number)
    }

    fn second(&mut self, now: Instant) -> &mut Second {
        self.start.get_or_insert(now);
        let number = self.number(now);
        let second = &mut self.seconds[usize::try_from(number % WINDOW).unwrap_or(0)];
        if second.number != number {
            *second = Second {
                number,
                ..Second::default()
            };
        }
        second
    }

    /// Seconds are counted from `WINDOW` on, so that an empty one lies outside of every window.
    fn number(&self, now: Instant) -> u64 {
        let since = self
            .start
            .map_or(Duration::ZERO, |start| now.saturating_duration_since(start));
        WINDOW + since.as_secs()
    }
}

impl Streak {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            latest: now,
            failed: 0,
            on_the_way: 0,
            tasks: ArrayVec::new(),
        }
    }

    fn fail(&mut self, failure: &Failure, now: Instant) {
        self.latest = now;
        self.failed = self.failed.saturating_add(1);
        self.on_the_way = self
            .on_the_way
            .saturating_add((failure.scope == Scope::Way).into());
        if !self.tasks.contains(&failure.task) {
            // One more than are counted makes no difference.
            let _ = self.tasks.try_push(failure.task);
        }
    }

    /// Whether most are of [`Scope::Way`].
    fn is_way(&self) -> bool {
        self.on_the_way >= self.failed.div_ceil(2)
    }

    /// The change if it has lasted for long enough, on the way or on several tasks.
    fn opens(&self, now: Instant) -> Option<Change> {
        let within = now.saturating_duration_since(self.since);
        let is_outage = within >= STREAK
            && self.failed >= STREAK_FAILURES
            && (self.is_way() || self.tasks.is_full());
        is_outage.then_some(Change::Opened {
            failed: self.failed,
            passed: 0,
            within,
        })
    }
}

/// The time until the next probe of an upstream that is down, after this many probes.
pub(super) fn pace(probes: u32, chance: f64) -> Duration {
    let pace = FIRST_PROBE.saturating_mul(1 << probes.min(10)).min(PROBE);
    pace.mul_f64(1.0 + chance)
}
