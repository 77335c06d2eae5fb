//! Whether upstream may be asked right now: how it has been doing, for everyone and for each caller.
//!
//! Two things stop polls. Upstream asked for a pause (429): the caller whose key it named stands back, or everyone
//! where the answer names no one, since then it counts by address. Or upstream is down: several polls in a row came
//! to nothing. Either way one poll is let through now and then, to find out whether it is over.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::StatusCode;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

pub use super::circuit::{Admission, CircuitStatus};
use super::circuit::{Circuit, LONGEST_PAUSE, UNREACHABLE};
use crate::answer::reply::Reply;
use crate::error::Error;
use crate::request::key::Caller;
use crate::sync::lock;

/// The word of something in front of upstream that cannot reach it: twenty of these.
const UNREACHED: u32 = 2;

/// An error or a document that may be one task's alone: forty of these.
const UNWELL: u32 = 1;

/// How many callers' pauses are kept at once.
const CALLERS: u64 = 65_536;

/// How upstream is doing.
#[derive(Debug)]
pub struct CircuitBreakers {
    everyone: Mutex<Circuit>,
    /// Only those whom upstream asked for a pause.
    callers: Cache<Caller, Arc<Mutex<Circuit>>>,
}

/// What came of a poll, as far as upstream's breakers goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// Upstream answered, whatever it said.
    Answered,
    /// Nothing usable came back; how much that says of upstream as a whole.
    Failed(u32),
    /// Upstream asked this caller for a pause.
    Paused(Option<Duration>),
    /// Upstream asked whoever is at this address for a pause.
    PausedAll(Option<Duration>),
}

impl Observation {
    /// Reads it off what a poll came to; `None` where that says nothing of upstream's breakers.
    #[must_use]
    pub fn of(result: &Result<Reply, Error>) -> Option<Self> {
        match result {
            Ok(reply) if reply.status == StatusCode::TOO_MANY_REQUESTS && reply.names_a_fault() => {
                Some(Self::Paused(reply.retry_after()))
            }
            Ok(reply) if reply.status == StatusCode::TOO_MANY_REQUESTS => {
                Some(Self::PausedAll(reply.retry_after()))
            }
            Ok(reply) if is_gateway_failure(reply.status) => Some(Self::Failed(UNREACHED)),
            Ok(reply) if reply.status.is_server_error() => Some(Self::Failed(UNWELL)),
            Ok(_) => Some(Self::Answered),
            Err(Error::UpstreamUnavailable(_) | Error::UpstreamClosed | Error::UpstreamTimeout) => {
                Some(Self::Failed(UNREACHABLE))
            }
            Err(Error::UpstreamInvalid(_)) => Some(Self::Failed(UNWELL)),
            // It was not asked.
            Err(_) => None,
        }
    }
}

/// Whether this is the word of something in front of upstream that cannot reach it.
#[must_use]
pub fn is_gateway_failure(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

impl CircuitBreakers {
    /// Well, as far as is known.
    #[must_use]
    pub fn new() -> Self {
        Self {
            everyone: Mutex::default(),
            callers: Cache::builder()
                .max_capacity(CALLERS)
                .time_to_idle(2 * LONGEST_PAUSE)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
        }
    }

    /// Whether `caller` may ask upstream at `now`, and as what; `chance` (0 to 1) spreads the probes.
    ///
    /// # Errors
    /// What to tell the client instead.
    pub fn admit(&self, caller: Caller, now: Instant, chance: f64) -> Result<Admission, Error> {
        let own = match self.callers.get(&caller) {
            Some(circuit) => with(&circuit, |circuit| circuit.admit(now, chance))?,
            None => Admission::Normal,
        };
        let everyone = with(&self.everyone, |circuit| circuit.admit(now, chance))?;
        Ok(own.max(everyone))
    }

    /// How upstream is doing, for everyone; changes nothing.
    #[must_use]
    pub fn status(&self, now: Instant) -> CircuitStatus {
        with(&self.everyone, |circuit| circuit.status(now))
    }

    /// How long `caller` itself was asked to stay away; none where it was not.
    #[must_use]
    pub fn pause_of(&self, caller: Caller, now: Instant) -> Option<Duration> {
        let circuit = self.callers.get(&caller)?;
        match with(&circuit, |circuit| circuit.status(now)) {
            CircuitStatus::Paused { probe_in } => Some(probe_in),
            _ => None,
        }
    }

    /// How many callers were asked to stay away right now.
    #[must_use]
    pub fn paused_callers(&self, now: Instant) -> usize {
        let is_paused = |circuit: &Arc<Mutex<Circuit>>| {
            let status = with(circuit, |circuit| circuit.status(now));
            matches!(status, CircuitStatus::Paused { probe_in } if !probe_in.is_zero())
        };
        self.callers
            .iter()
            .filter(|(_, circuit)| is_paused(circuit))
            .count()
    }

    /// Notes what came of a poll. An answer ends a pause only where it was asked for after that pause.
    pub fn record(
        &self,
        caller: Caller,
        admission: Admission,
        observation: Observation,
        now: Instant,
        chance: f64,
    ) {
        let own = match observation {
            Observation::Paused(_) => Some(self.callers.get_with(caller, Arc::default)),
            _ => self.callers.get(&caller),
        };
        if let Some(circuit) = own {
            with(&circuit, |circuit| match observation {
                Observation::Paused(asked) => circuit.pause(asked, now, chance),
                Observation::Answered => circuit.close(admission),
                Observation::Failed(_) | Observation::PausedAll(_) => {}
            });
        }
        with(&self.everyone, |circuit| match observation {
            // A pause of one caller says nothing bad of the way to upstream.
            Observation::Answered | Observation::Paused(_) => circuit.close(admission),
            Observation::Failed(weight) => circuit.fail(weight, now, chance),
            Observation::PausedAll(asked) => circuit.pause(asked, now, chance),
        });
    }
}

impl Default for CircuitBreakers {
    fn default() -> Self {
        Self::new()
    }
}

fn with<T>(circuit: &Mutex<Circuit>, change: impl FnOnce(&mut Circuit) -> T) -> T {
    change(&mut lock(circuit))
}

#[cfg(test)]
mod tests {
    use super::super::circuit::{FAILURES, FIRST_PROBE};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_hours(1);

    fn callers() -> (Caller, Caller) {
        use crate::request::key::{CallerKey, Credentials};
        let key = CallerKey::random().expect("random bytes");
        let caller = |target: &'static str| {
            key.caller(&Credentials::new(
                http::HeaderMap::new(),
                http::Uri::from_static(target),
            ))
        };
        (caller("/?a"), caller("/?b"))
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_is_down_is_probed_at_its_pace_and_open_again_after_one_answer() {
        let (breakers, (caller, other), mut now) =
            (CircuitBreakers::new(), callers(), Instant::now());
        for _ in 0..FAILURES / UNREACHABLE {
            assert_eq!(breakers.admit(caller, now, 0.0), Ok(Admission::Normal));
            breakers.record(
                caller,
                Admission::Probe,
                Observation::Failed(UNREACHABLE),
                now,
                0.0,
            );
        }
        let mut probes = 0;
        for _ in 0..600 {
            now += SECOND / 10;
            probes += u32::from(breakers.admit(other, now, 0.5).is_ok());
        }
        assert_eq!(
            probes, 34,
            "four soon, then one about every 1.9 s, for a minute"
        );
        breakers.record(caller, Admission::Probe, Observation::Answered, now, 0.0);
        assert_eq!(breakers.admit(other, now, 0.0), Ok(Admission::Normal));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_that_nobody_asked_about_since_refuses_no_one() {
        let (breakers, (caller, other), mut now) =
            (CircuitBreakers::new(), callers(), Instant::now());
        for _ in 0..FAILURES / UNREACHABLE {
            breakers.record(
                caller,
                Admission::Probe,
                Observation::Failed(UNREACHABLE),
                now,
                0.0,
            );
        }
        now += Duration::from_hours(8);
        for caller in [caller, other, caller] {
            assert_eq!(breakers.admit(caller, now, 0.0), Ok(Admission::Normal));
        }
        breakers.record(
            caller,
            Admission::Probe,
            Observation::Failed(UNREACHABLE),
            now,
            0.0,
        );
        assert_eq!(
            breakers.admit(other, now, 0.0),
            Err(Error::UpstreamDown),
            "one failure is enough this time"
        );
        breakers.record(
            caller,
            Admission::Probe,
            Observation::PausedAll(None),
            now,
            0.0,
        );
        now += Duration::from_hours(8);
        for caller in [caller, other, caller] {
            assert_eq!(breakers.admit(caller, now, 0.0), Ok(Admission::Normal));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn people_are_told_what_polls_would_find() {
        let (breakers, (caller, other), now) = (CircuitBreakers::new(), callers(), Instant::now());
        let note = |observation| breakers.record(caller, Admission::Probe, observation, now, 0.0);
        note(Observation::Failed(UNREACHABLE));
        let (failures, limit) = (UNREACHABLE, FAILURES);
        assert_eq!(
            breakers.status(now),
            CircuitStatus::Closed { failures, limit }
        );
        note(Observation::Failed(FAILURES));
        let probe_in = FIRST_PROBE;
        assert_eq!(breakers.status(now), CircuitStatus::Open { probe_in });
        assert_eq!(breakers.status(now + HOUR), CircuitStatus::Stale);
        assert_eq!(
            breakers.admit(other, now, 0.0),
            Err(Error::UpstreamDown),
            "nothing changed"
        );
        note(Observation::PausedAll(Some(SECOND)));
        let probe_in = SECOND;
        assert_eq!(breakers.status(now), CircuitStatus::Paused { probe_in });
        note(Observation::Answered);
        assert_eq!(
            breakers.status(now),
            CircuitStatus::Closed { failures: 0, limit }
        );

        note(Observation::Paused(Some(SECOND)));
        let pauses = [caller, other].map(|caller| breakers.pause_of(caller, now));
        assert_eq!(
            (pauses, breakers.paused_callers(now)),
            ([Some(SECOND), None], 1)
        );
        assert_eq!(breakers.paused_callers(now + HOUR), 0);
        assert_eq!(
            breakers.status(now),
            CircuitStatus::Closed { failures: 0, limit }
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failures_between_answers_are_a_tasks_own_affair() {
        let (breakers, (caller, _), now) = (CircuitBreakers::new(), callers(), Instant::now());
        for _ in 0..100 {
            breakers.record(
                caller,
                Admission::Probe,
                Observation::Failed(UNREACHABLE),
                now,
                0.0,
            );
            breakers.record(caller, Admission::Probe, Observation::Answered, now, 0.0);
            assert_eq!(breakers.admit(caller, now, 0.0), Ok(Admission::Normal));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_that_names_a_caller_pauses_that_one_for_as_long_as_it_says() {
        let (breakers, (caller, other), now) = (CircuitBreakers::new(), callers(), Instant::now());
        breakers.record(
            caller,
            Admission::Probe,
            Observation::Paused(Some(7 * SECOND)),
            now,
            0.0,
        );
        assert_eq!(
            breakers.admit(caller, now + 2 * SECOND, 0.0),
            Err(Error::RateLimited(5 * SECOND))
        );
        assert_eq!(breakers.admit(other, now, 0.0), Ok(Admission::Normal));
        assert_eq!(
            breakers.admit(caller, now + 7 * SECOND, 0.0),
            Ok(Admission::Probe)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_that_names_no_one_pauses_everyone_for_longer_each_time() {
        let (breakers, (caller, other), mut now) =
            (CircuitBreakers::new(), callers(), Instant::now());
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            breakers.record(
                caller,
                Admission::Probe,
                Observation::PausedAll(None),
                now,
                0.0,
            );
            assert_eq!(
                breakers.admit(other, now, 0.0),
                Err(Error::RateLimited(seconds * SECOND))
            );
            now += seconds * SECOND;
            assert_eq!(breakers.admit(other, now, 0.0), Ok(Admission::Probe));
            assert!(
                breakers.admit(caller, now, 0.0).is_err(),
                "no more than one"
            );
        }
        breakers.record(other, Admission::Probe, Observation::Answered, now, 0.0);
        breakers.record(
            caller,
            Admission::Probe,
            Observation::PausedAll(None),
            now,
            0.0,
        );
        assert_eq!(
            breakers.admit(caller, now, 0.0),
            Err(Error::RateLimited(SECOND)),
            "starts small again"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_silences_a_caller_for_hours() {
        let (breakers, (caller, _), now) = (CircuitBreakers::new(), callers(), Instant::now());
        breakers.record(
            caller,
            Admission::Probe,
            Observation::Paused(Some(Duration::from_hours(24))),
            now,
            0.0,
        );
        assert_eq!(
            breakers.admit(caller, now + LONGEST_PAUSE, 0.0),
            Ok(Admission::Probe)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_under_way_does_not_end_a_pause() {
        let (breakers, (caller, other), now) = (CircuitBreakers::new(), callers(), Instant::now());
        breakers.record(
            caller,
            Admission::Normal,
            Observation::Paused(Some(30 * SECOND)),
            now,
            0.0,
        );
        breakers.record(caller, Admission::Normal, Observation::Answered, now, 0.0);
        assert_eq!(
            breakers.admit(caller, now, 0.0),
            Err(Error::RateLimited(30 * SECOND))
        );
        breakers.record(
            other,
            Admission::Normal,
            Observation::PausedAll(Some(9 * SECOND)),
            now,
            0.0,
        );
        breakers.record(other, Admission::Normal, Observation::Answered, now, 0.0);
        assert_eq!(
            breakers.admit(other, now, 0.0),
            Err(Error::RateLimited(9 * SECOND))
        );
    }
}
