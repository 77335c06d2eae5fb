//! One circuit breaker: whether what it stands for may be asked right now. Pure: time and chance are arguments.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;

/// How much must fail in a row, further tries included, before it is upstream's affair and not a task's.
pub(super) const FAILURES: u32 = 40;

/// No answer at all: eight of these.
pub(super) const UNREACHABLE: u32 = 5;

/// How long between two probes of an upstream that is down; up to twice that, by chance, so that many gateways do
/// not probe in step.
const PROBE: Duration = Duration::from_millis(1250);

/// The first probe comes this soon, or twice that, and every further one after twice as long: a blip is soon over.
pub(super) const FIRST_PROBE: Duration = Duration::from_millis(100);

/// How long after the time for a probe what is known of upstream says nothing any more: nobody asked for that long.
/// Polls that come then are not to be refused for the sake of an outage of last night.
const OUTDATED: Duration = Duration::from_secs(10);

/// The first pause after a 429 that does not say how long; doubled with every further one.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest pause, whatever upstream says: a mistaken answer must not silence a caller for hours.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// The longest pause that is made up here.
const LONGEST_GUESS: Duration = Duration::from_secs(30);

/// How upstream is doing, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitStatus {
    /// Everyone may ask.
    Closed {
        /// How much failed in a row lately.
        failures: u32,
        /// With how much it is taken to be down.
        limit: u32,
    },
    /// It is down, and only probed.
    Open {
        /// How long until the next probe may go.
        probe_in: Duration,
    },
    /// It asked everyone for a pause.
    Paused {
        /// How long until the first poll may go again.
        probe_in: Duration,
    },
    /// It failed when it was last asked, which was some time ago.
    Stale,
}

/// As what a poll may go to upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admission {
    /// As any other.
    Normal,
    /// To find out whether it is over.
    Probe,
}

/// One circuit breaker: closed, or open with a time for the next probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Circuit {
    Closed { failures: u32 },
    Open { probes: u32, probe_at: Instant },
    Paused { times: u32, probe_at: Instant },
}

impl Default for Circuit {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Circuit {
    /// Lets everything through, or only a probe when it is due. A probe that never comes back does not keep the next
    /// one from being made.
    pub(super) fn admit(&mut self, now: Instant, chance: f64) -> Result<Admission, Error> {
        match *self {
            // One more failure, and it is down again.
            Self::Open { probe_at, .. } if now >= probe_at + OUTDATED => {
                let failures = FAILURES - UNREACHABLE;
                *self = Self::Closed { failures };
            }
            Self::Paused { probe_at, .. } if now >= probe_at + OUTDATED => *self = Self::default(),
            _ => {}
        }
        match self {
            Self::Closed { .. } => Ok(Admission::Normal),
            Self::Open { probes, probe_at } if now >= *probe_at => {
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

    pub(super) fn status(&self, now: Instant) -> CircuitStatus {
        match *self {
            Self::Closed { failures } => CircuitStatus::Closed {
                failures,
                limit: FAILURES,
            },
            Self::Open { probe_at, .. } | Self::Paused { probe_at, .. }
                if now >= probe_at + OUTDATED =>
            {
                CircuitStatus::Stale
            }
            Self::Open { probe_at, .. } => CircuitStatus::Open {
                probe_in: probe_at.saturating_duration_since(now),
            },
            Self::Paused { probe_at, .. } => CircuitStatus::Paused {
                probe_in: probe_at.saturating_duration_since(now),
            },
        }
    }

    /// An answer that was under way when the pause began says nothing of its end.
    pub(super) fn close(&mut self, admission: Admission) {
        if !matches!(self, Self::Paused { .. }) || admission == Admission::Probe {
            *self = Self::default();
        }
    }

    pub(super) fn fail(&mut self, weight: u32, now: Instant, chance: f64) {
        let down = |probes| Self::Open {
            probes,
            probe_at: now + pace(probes, chance),
        };
        *self = match *self {
            Self::Closed { failures } if failures + weight < FAILURES => Self::Closed {
                failures: failures + weight,
            },
            Self::Closed { .. } => down(0),
            Self::Open { probes, .. } => down(probes),
            paused @ Self::Paused { .. } => paused,
        };
    }

    pub(super) fn pause(&mut self, asked: Option<Duration>, now: Instant, chance: f64) {
        let times = match self {
            Self::Paused { times, .. } => *times + 1,
            Self::Closed { .. } | Self::Open { .. } => 0,
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
            times,
            probe_at: now + pause,
        };
    }
}

/// How long until the next probe of an upstream that is down, after so many.
fn pace(probes: u32, chance: f64) -> Duration {
    let pace = FIRST_PROBE.saturating_mul(1 << probes.min(10)).min(PROBE);
    pace.mul_f64(1.0 + chance)
}
