//! Whether upstream may be asked right now: one circuit for everyone, and one for each caller whose polls fail.
//!
//! A circuit opens for two reasons. Either upstream asked for a pause (429): for one caller if the answer names its key,
//! for everyone if it names nobody, since upstream then limits by address. Or upstream cannot be reached. Either way a
//! probe is let through now and then to find out whether it is over.
//!
//! A failing task is not an outage: any answer that can be parsed shows that upstream can be reached, and each task
//! counts at most twice until it succeeds again.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use ahash::{HashMap, RandomState};
use http::StatusCode;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

pub use super::circuit::{Admission, CircuitStatus, Outlook, Scope};
use super::circuit::{Change, Circuit, Failure, LONGEST_PAUSE};
use crate::answer::reply::Reply;
use crate::error::Error;
use crate::request::key::{Caller, TaskKey};
use crate::sync::lock;

/// The number of callers whose circuits are kept.
const CALLERS: u64 = 65_536;

/// How often a task counts as a failure until it succeeds again.
const TASK_COUNTS: u8 = 2;

/// The number of failing tasks that are kept apart; beyond it all of them count anew.
const FAILING_TASKS: usize = 16_384;

/// The circuits of everyone and of each caller.
#[derive(Debug)]
pub struct CircuitBreakers {
    everyone: Mutex<Circuit>,
    /// Of callers whom upstream asked for a pause, or whose polls fail.
    callers: Cache<Caller, Arc<Mutex<Circuit>>, RandomState>,
    /// Whether there was one ever.
    has_callers: AtomicBool,
    failing: FailingTasks,
    /// Told of trouble that others may want to hear of.
    troubles: OnceLock<Troubles>,
}

/// Trouble that other sidecars may want to hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Upstream asked a caller for a pause, by name.
    Paused(Caller, Duration),
    /// Upstream answers that caller again.
    Over(Caller),
    /// Upstream is down from here, or asked this address for a pause.
    Everyone,
}

/// Hears of trouble; must not block.
pub type OnTrouble = Box<dyn Fn(Trouble) + Send + Sync>;

struct Troubles(OnTrouble);

impl std::fmt::Debug for Troubles {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("Troubles")
    }
}

/// What the result of a poll says about upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// Upstream answered, whatever it said.
    Answered,
    /// There was no answer from upstream itself; and why.
    Failed(Scope, Arc<str>),
    /// Upstream asked this caller for a pause.
    Paused(Option<Duration>),
    /// Upstream asked everyone at this address for a pause.
    PausedAll(Option<Duration>),
}

impl Observation {
    /// Classifies the result of a poll; `None` where upstream was not asked.
    #[must_use]
    pub fn of(result: &Result<Reply, Error>) -> Option<Self> {
        match result {
            Ok(reply) if reply.status == StatusCode::TOO_MANY_REQUESTS => {
                Some(if reply.is_json() {
                    Self::Paused(reply.retry_after())
                } else {
                    Self::PausedAll(reply.retry_after())
                })
            }
            Ok(reply) if is_gateway_failure(reply.status) || reply.is_page() => {
                Some(Self::Failed(Scope::Channel, reply.reason().into()))
            }
            Ok(_) => Some(Self::Answered),
            Err(error @ (Error::UpstreamUnavailable(_) | Error::UpstreamClosed)) => {
                Some(Self::Failed(Scope::Way, error.reason().into()))
            }
            Err(error @ (Error::UpstreamTimeout | Error::UpstreamInvalid(_))) => {
                Some(Self::Failed(Scope::Channel, error.reason().into()))
            }
            // Upstream said so itself.
            Err(Error::NotATask(_) | Error::Redirected(_) | Error::TooLarge) => {
                Some(Self::Answered)
            }
            Err(_) => None,
        }
    }
}

/// Whether this status usually comes from a proxy in front of upstream that cannot reach it.
#[must_use]
pub fn is_gateway_failure(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

impl CircuitBreakers {
    /// All closed.
    #[must_use]
    pub fn new() -> Self {
        Self {
            everyone: Mutex::default(),
            callers: Cache::builder()
                .max_capacity(CALLERS)
                .time_to_idle(2 * LONGEST_PAUSE)
                .eviction_policy(EvictionPolicy::lru())
                .build_with_hasher(RandomState::new()),
            has_callers: AtomicBool::new(false),
            failing: FailingTasks::default(),
            troubles: OnceLock::new(),
        }
    }

    /// Chooses who is told of trouble; once.
    pub fn on_trouble(&self, on_trouble: OnTrouble) {
        // There is one fleet.
        let _ = self.troubles.set(Troubles(on_trouble));
    }

    /// Another sidecar was asked for a pause of `caller`, which has this long left.
    pub fn hear_pause(&self, caller: Caller, left: Duration, now: Instant) {
        let own = self.own(caller);
        let change = lock(&own).pause(Some(left), now, 0.0);
        if let Some(change) = change {
            self.log(&change, Some(caller), now);
        }
    }

    /// Upstream answered `caller` through another sidecar at `at`.
    pub fn hear_over(&self, caller: Caller, at: Instant, now: Instant) {
        let own = self.callers.get(&caller);
        let change = own.and_then(|circuit| lock(&circuit).end_pause(at));
        if let Some(change) = change {
            self.log(&change, Some(caller), now);
        }
    }

    /// Upstream fails for another sidecar: here, the first failure opens the circuit.
    pub fn hear_trouble(&self, now: Instant) {
        lock(&self.everyone).suspect(now);
    }

    /// Whether `caller` may ask upstream at `now`, and how; `chance` (0 to 1) spreads the probes.
    ///
    /// # Errors
    /// What to tell the client instead.
    pub fn admit(&self, caller: Caller, now: Instant, chance: f64) -> Result<Admission, Error> {
        let own = match self.known(caller) {
            Some(circuit) => lock(&circuit).admit(caller, now, chance)?,
            None => Admission::Normal,
        };
        let everyone = lock(&self.everyone).admit(caller, now, chance)?;
        Ok(own.max(everyone))
    }

    /// The state of upstream for everyone; changes nothing.
    #[must_use]
    pub fn status(&self, now: Instant) -> CircuitStatus {
        lock(&self.everyone).status(now)
    }

    /// The state of upstream for one caller, where it has a circuit of its own.
    #[must_use]
    pub fn status_of(&self, caller: Caller, now: Instant) -> Option<CircuitStatus> {
        let circuit = self.known(caller)?;
        let status = lock(&circuit).status(now);
        Some(status)
    }

    /// The remaining pause of `caller` itself; `None` if it has none.
    #[must_use]
    pub fn pause_of(&self, caller: Caller, now: Instant) -> Option<Duration> {
        match self.status_of(caller, now)? {
            CircuitStatus::Paused { probe_in, .. } => Some(probe_in),
            _ => None,
        }
    }

    /// What a poll of `caller` can expect. Changes nothing.
    #[must_use]
    pub fn outlook(&self, caller: Caller, now: Instant) -> Outlook {
        let of = |circuit: &Circuit| circuit.outlook(caller, now);
        let everyone = of(&lock(&self.everyone));
        match self.known(caller) {
            Some(own) => everyone.max(of(&lock(&own))),
            None => everyone,
        }
    }

    /// The number of callers that are paused right now.
    #[must_use]
    pub fn paused_callers(&self, now: Instant) -> usize {
        let is_paused = |circuit: &Arc<Mutex<Circuit>>| {
            let status = lock(circuit).status(now);
            matches!(status, CircuitStatus::Paused { probe_in, .. } if !probe_in.is_zero())
        };
        self.callers
            .iter()
            .filter(|(_, circuit)| is_paused(circuit))
            .count()
    }

    /// Records the result of a poll. An answer ends a pause only where it was asked for after that pause.
    pub fn record(
        &self,
        key: &TaskKey,
        admission: Admission,
        observation: Observation,
        now: Instant,
        chance: f64,
    ) {
        let caller = key.caller;
        let (own, everyone) = match observation {
            Observation::Answered => {
                self.failing.clear(key);
                let own = self.known(caller);
                let own = own.and_then(|circuit| lock(&circuit).pass(admission, now));
                (own, self.pass(admission, now))
            }
            Observation::Failed(scope, reason) => {
                let failure = Failure {
                    caller,
                    scope,
                    reason,
                    task: self.failing.digest(key),
                    counts: self.failing.count(key) <= TASK_COUNTS,
                };
                let own = self.own(caller);
                let own = lock(&own).fail(failure.clone(), true, now, chance);
                let mut shared = lock(&self.everyone);
                let everyone = shared.fail(failure, false, now, chance);
                // It is part of an outage that has been reported.
                (own.filter(|_| shared.down_since().is_none()), everyone)
            }
            // A pause of one caller shows that the way works.
            Observation::Paused(asked) => {
                let own = self.own(caller);
                let own = lock(&own).pause(asked, now, chance);
                (own, self.pass(admission, now))
            }
            Observation::PausedAll(asked) => (None, lock(&self.everyone).pause(asked, now, chance)),
        };
        if let Some(Troubles(tell)) = self.troubles.get() {
            match (&own, &everyone) {
                (Some(Change::Paused(pause)), _) => tell(Trouble::Paused(caller, *pause)),
                (Some(Change::Closed(_)), _) => tell(Trouble::Over(caller)),
                (_, Some(Change::Opened { .. } | Change::Paused(_))) => tell(Trouble::Everyone),
                _ => {}
            }
        }
        if let Some(change) = everyone {
            self.log(&change, None, now);
        } else if let Some(change) = own {
            self.log(&change, Some(caller), now);
        }
    }

    /// Upstream answered, whomever: an outage for everyone is over for every caller.
    fn pass(&self, admission: Admission, now: Instant) -> Option<Change> {
        let mut everyone = lock(&self.everyone);
        let began = everyone.down_since();
        let change = everyone.pass(admission, now);
        drop(everyone);
        if let (Some(began), Some(_)) = (began, &change) {
            for (_, circuit) in &self.callers {
                lock(&circuit).end_outage(began);
            }
        }
        change
    }

    /// The circuit of a caller, if it has one. Where all is well there is none, and nothing is searched.
    fn known(&self, caller: Caller) -> Option<Arc<Mutex<Circuit>>> {
        let any = self.has_callers.load(Ordering::Acquire);
        any.then(|| self.callers.get(&caller)).flatten()
    }

    /// The circuit of a caller. A new one starts with the polls of everyone that passed: which of them were this caller's
    /// is not known, and one that starts from nothing would open sooner than the circuit of everyone.
    fn own(&self, caller: Caller) -> Arc<Mutex<Circuit>> {
        self.has_callers.store(true, Ordering::Release);
        self.callers.get_with(caller, || {
            Arc::new(Mutex::new(lock(&self.everyone).passes()))
        })
    }

    /// Reports a change, once for each.
    fn log(&self, change: &Change, caller: Option<Caller>, now: Instant) {
        let whose = caller.map_or_else(String::new, |caller| format!(" for caller {caller:?}"));
        match change {
            Change::Opened {
                failed,
                passed,
                within,
            } => {
                let status = match caller {
                    Some(caller) => self.status_of(caller, now),
                    None => Some(self.status(now)),
                };
                let reason = match status {
                    Some(CircuitStatus::Open { reason, .. }) => reason,
                    _ => "".into(),
                };
                tracing::warn!(
                    "upstream is down{whose}: {reason}; {failed} of {} polls failed within {} s; last known states stand \
                     in, and upstream is probed",
                    failed + passed,
                    within.as_secs()
                );
            }
            Change::Paused(pause) => {
                let whom = caller.map_or_else(
                    || "all callers".into(),
                    |caller| format!("caller {caller:?}"),
                );
                let until = humantime::format_rfc3339_millis(SystemTime::now() + *pause);
                tracing::warn!(
                    "upstream asked {whom} for a pause (429): {}, until {until}, then a probe; last known states stand in",
                    in_words(*pause)
                );
            }
            Change::Closed(since) => tracing::info!(
                "upstream answers again{whose}, after {}",
                in_words(now.saturating_duration_since(*since))
            ),
        }
    }
}

/// `5.0 s`, `13 min 5 s`.
fn in_words(span: Duration) -> String {
    match span.as_secs() {
        0..60 => format!("{:.1} s", span.as_secs_f64()),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

impl Default for CircuitBreakers {
    fn default() -> Self {
        Self::new()
    }
}

/// How often each task failed since it last succeeded. Bounded, and not touched while nothing fails.
#[derive(Debug, Default)]
struct FailingTasks {
    counts: Mutex<HashMap<u64, u8>>,
    len: AtomicUsize,
    digests: RandomState,
}

impl FailingTasks {
    /// Counts a failure; returns which one of its task it is.
    fn count(&self, key: &TaskKey) -> u8 {
        let counts = &mut *lock(&self.counts);
        if counts.len() >= FAILING_TASKS {
            counts.clear();
        }
        let count = counts.entry(self.digest(key)).or_default();
        *count = count.saturating_add(1);
        let count = *count;
        self.len.store(counts.len(), Ordering::Relaxed);
        count
    }

    fn clear(&self, key: &TaskKey) {
        if self.len.load(Ordering::Relaxed) > 0 {
            let counts = &mut *lock(&self.counts);
            counts.remove(&self.digest(key));
            self.len.store(counts.len(), Ordering::Relaxed);
        }
    }

    fn digest(&self, key: &TaskKey) -> u64 {
        self.digests.hash_one((key.caller, key.task.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::circuit::{FEWEST_FAILURES, FIRST_PROBE};
    use super::*;
    use crate::request::key::{CallerKey, Credentials};
    use crate::route::{RouteId, TaskId};
    use crate::task::Dialect;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_hours(1);

    /// Breakers, two callers, and a moment.
    struct Scene {
        breakers: CircuitBreakers,
        one: Caller,
        other: Caller,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            let key = CallerKey::random().expect("random bytes");
            let caller = |target: &'static str| {
                key.caller(&Credentials::new(
                    http::HeaderMap::new(),
                    http::Uri::from_static(target),
                ))
            };
            Self {
                breakers: CircuitBreakers::new(),
                one: caller("/?a"),
                other: caller("/?b"),
                now: Instant::now(),
            }
        }

        fn record(&self, caller: Caller, task: usize, observation: Observation) {
            self.record_as(Admission::Probe, caller, task, observation);
        }

        fn record_as(
            &self,
            admission: Admission,
            caller: Caller,
            task: usize,
            observation: Observation,
        ) {
            let key = TaskKey {
                caller,
                route: RouteId::of(Dialect::OpenAi),
                task: TaskId::new(&format!("t{task}")),
            };
            self.breakers
                .record(&key, admission, observation, self.now, 0.0);
        }

        fn admit(&self, caller: Caller) -> Result<Admission, Error> {
            self.breakers.admit(caller, self.now, 0.0)
        }

        fn status(&self) -> CircuitStatus {
            self.breakers.status(self.now)
        }

        fn is_open(&self) -> bool {
            matches!(self.status(), CircuitStatus::Open { .. })
        }

        /// As many different tasks fail as open a circuit.
        fn fail(&self, caller: Caller, scope: Scope) {
            for task in 0..usize::try_from(FEWEST_FAILURES).expect("is small") {
                self.record(caller, task, failed(scope));
            }
        }
    }

    fn failed(scope: Scope) -> Observation {
        Observation::Failed(scope, "refused".into())
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_is_down_is_probed_at_its_pace_and_closed_again_after_one_answer() {
        let mut scene = Scene::new();
        scene.fail(scene.one, Scope::Way);
        let mut probes = 0;
        for _ in 0..600 {
            scene.now += SECOND / 10;
            let admitted = scene.breakers.admit(scene.other, scene.now, 0.5);
            probes += u32::from(admitted.is_ok());
        }
        assert_eq!(
            probes, 34,
            "four soon, then one about every 1.9 s, for a minute"
        );
        scene.record(scene.one, 0, Observation::Answered);
        assert_eq!(scene.admit(scene.other), Ok(Admission::Normal));
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_caller_is_not_refused_before_upstream_is_seen_to_be_down() {
        let scene = Scene::new();
        scene.record(scene.one, 100, Observation::Answered);
        scene.fail(scene.one, Scope::Channel);
        assert!(!scene.is_open(), "one poll in nine passed");
        assert_eq!(scene.admit(scene.one), Ok(Admission::Normal));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_counts_twice_at_most_until_it_succeeds() {
        let scene = Scene::new();
        for _ in 0..100 {
            for task in 0..3 {
                scene.record(scene.one, task, failed(Scope::Way));
            }
        }
        let (failed_so_far, passed) = (6, 0);
        let closed = |failed, passed| CircuitStatus::Closed { failed, passed };
        assert_eq!(scene.status(), closed(failed_so_far, passed));
        scene.record(scene.one, 0, Observation::Answered);
        for _ in 0..100 {
            scene.record(scene.one, 0, failed(Scope::Way));
        }
        assert_eq!(scene.status(), closed(failed_so_far + 2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_go_on_failing_show_an_outage_once_no_poll_has_passed_for_three_seconds() {
        let mut scene = Scene::new();
        for task in 0..10 {
            scene.record(scene.one, task, Observation::Answered);
        }
        for second in 0..4 {
            assert!(!scene.is_open(), "after {second} s");
            for task in 0..10 {
                scene.record(scene.one, task, failed(Scope::Channel));
            }
            scene.now += SECOND;
        }
        assert!(scene.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn while_one_poll_in_twenty_gets_through_upstream_is_not_down() {
        let scene = Scene::new();
        for task in 0..1000 {
            if task % 19 == 0 {
                scene.record(scene.other, task, Observation::Answered);
            }
            scene.record(scene.one, task + 5000, failed(Scope::Channel));
            assert!(!scene.is_open(), "{task}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_one_caller_alone_leaves_the_others_their_polls() {
        let scene = Scene::new();
        scene.fail(scene.one, Scope::Channel);
        assert!(scene.is_open());
        assert_eq!(scene.admit(scene.one), Err(Error::UpstreamDown));
        assert_eq!(scene.admit(scene.other), Ok(Admission::Normal));
        // It works for the other one: only the first has a circuit that is open.
        scene.record_as(Admission::Normal, scene.other, 7, Observation::Answered);
        assert!(!scene.is_open());
        assert_eq!(scene.admit(scene.one), Err(Error::UpstreamDown));
        assert_eq!(scene.admit(scene.other), Ok(Admission::Normal));
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_for_everyone_is_over_for_everyone_at_once() {
        let mut scene = Scene::new();
        for caller in [scene.one, scene.other] {
            scene.fail(caller, Scope::Channel);
            assert_eq!(scene.admit(caller), Err(Error::UpstreamDown));
        }
        scene.now += SECOND;
        scene.record(scene.one, 0, Observation::Answered);
        assert_eq!(scene.admit(scene.other), Ok(Admission::Normal));
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_two_callers_or_on_the_way_is_down_for_everyone() {
        let scene = Scene::new();
        scene.fail(scene.one, Scope::Channel);
        scene.record_as(Admission::Normal, scene.other, 7, failed(Scope::Channel));
        assert_eq!(scene.admit(scene.other), Err(Error::UpstreamDown));
        let scene = Scene::new();
        scene.fail(scene.one, Scope::Way);
        assert_eq!(scene.admit(scene.other), Err(Error::UpstreamDown));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_within_ten_seconds() {
        let mut scene = Scene::new();
        for task in 0..100 {
            scene.record(scene.one, task, failed(Scope::Way));
            scene.now += 2 * SECOND;
            assert!(!scene.is_open());
            if task % 5 == 0 {
                scene.record(scene.other, task, Observation::Answered);
            }
        }
    }

    /// After how many seconds of failures, every five seconds, upstream is down: at most a minute.
    fn down_after(scene: &mut Scene, tasks: usize, scope: Scope) -> Option<u64> {
        (0..=60).step_by(5).find(|_| {
            for task in 0..tasks {
                scene.record(scene.one, task, failed(scope));
            }
            let is_open = scene.is_open();
            scene.now += 5 * SECOND;
            is_open
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_with_few_tasks_sees_an_outage_within_half_a_minute() {
        for (tasks, scope, seen) in [
            (1, Scope::Way, Some(20)),
            (3, Scope::Channel, Some(20)),
            (1, Scope::Channel, None),
            (2, Scope::Channel, None),
        ] {
            let mut scene = Scene::new();
            scene.record(scene.one, 0, Observation::Answered);
            assert_eq!(
                down_after(&mut scene, tasks, scope),
                seen,
                "{tasks} {scope:?}"
            );
            // What may be due to one caller's channel leaves the others their polls.
            let is_free = scene.admit(scene.other) == Ok(Admission::Normal);
            assert_eq!(is_free, scope == Scope::Channel, "{tasks} {scope:?}");
        }
        // Two failures within the hour are none.
        let mut scene = Scene::new();
        for _ in 0..10 {
            scene.record(scene.one, 0, failed(Scope::Way));
            scene.now += HOUR;
            assert!(!scene.is_open());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_that_nobody_asked_about_since_refuses_no_one() {
        let mut scene = Scene::new();
        scene.fail(scene.one, Scope::Way);
        scene.now += Duration::from_hours(8);
        assert_eq!(scene.status(), CircuitStatus::Stale);
        for caller in [scene.one, scene.other, scene.one] {
            assert_eq!(scene.admit(caller), Ok(Admission::Probe));
        }
        scene.record(scene.one, 0, failed(Scope::Way));
        assert_eq!(
            scene.admit(scene.other),
            Err(Error::UpstreamDown),
            "one failure is enough this time, of whichever task"
        );
        assert!(
            matches!(scene.status(), CircuitStatus::Open { since, .. } if since == scene.now),
            "it is another outage"
        );
        scene.record(scene.one, 0, Observation::PausedAll(None));
        scene.now += Duration::from_hours(8);
        for caller in [scene.one, scene.other, scene.one] {
            assert_eq!(scene.admit(caller), Ok(Admission::Probe));
        }
        scene.record(scene.one, 0, failed(Scope::Way));
        assert!(!scene.is_open(), "one failure after a pause is no outage");
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_that_is_seldom_asked_about_is_one_and_goes_on_until_an_answer() {
        let mut scene = Scene::new();
        scene.fail(scene.one, Scope::Way);
        let began = scene.now;
        for _ in 0..10 {
            scene.now += Duration::from_mins(1);
            let since = match scene.status() {
                CircuitStatus::Open { since, .. } => Some(since),
                _ => None,
            };
            assert_eq!(since, Some(began));
            assert_eq!(scene.admit(scene.other), Ok(Admission::Probe));
            scene.record(scene.other, 0, failed(Scope::Way));
            assert_eq!(scene.admit(scene.one), Err(Error::UpstreamDown));
        }
        scene.now += Duration::from_mins(1);
        assert_eq!(scene.admit(scene.other), Ok(Admission::Probe));
        let over = lock(&scene.breakers.everyone).pass(Admission::Probe, scene.now);
        assert_eq!(over, Some(Change::Closed(began)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_status_says_what_polls_can_expect_and_changes_nothing() {
        let mut scene = Scene::new();
        let outlooks = |scene: &Scene| {
            [scene.one, scene.other].map(|caller| scene.breakers.outlook(caller, scene.now))
        };
        scene.fail(scene.one, Scope::Way);
        let (since, reason) = (scene.now, "refused".into());
        let probe_in = FIRST_PROBE;
        let open = CircuitStatus::Open {
            since,
            reason,
            probe_in,
        };
        assert_eq!(scene.status(), open);
        assert_eq!(outlooks(&scene), [Outlook::Refuses; 2]);
        scene.now += FIRST_PROBE;
        assert_eq!(outlooks(&scene), [Outlook::Probes; 2]);
        assert_eq!(outlooks(&scene), [Outlook::Probes; 2], "nothing changed");
        scene.now += HOUR;
        assert_eq!(scene.status(), CircuitStatus::Stale);
        assert_eq!(outlooks(&scene), [Outlook::Passes; 2]);

        scene.record(scene.one, 0, Observation::PausedAll(Some(SECOND)));
        let since = scene.now;
        let probe_in = SECOND;
        assert_eq!(scene.status(), CircuitStatus::Paused { since, probe_in });
        scene.record(scene.one, 0, Observation::Answered);
        assert!(matches!(scene.status(), CircuitStatus::Closed { .. }));

        scene.now += HOUR;
        scene.record(scene.one, 0, Observation::Paused(Some(SECOND)));
        let pauses =
            [scene.one, scene.other].map(|caller| scene.breakers.pause_of(caller, scene.now));
        assert_eq!(pauses, [Some(SECOND), None]);
        assert_eq!(scene.breakers.paused_callers(scene.now), 1);
        assert_eq!(scene.breakers.paused_callers(scene.now + HOUR), 0);
        assert_eq!(outlooks(&scene), [Outlook::Refuses, Outlook::Passes]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_that_names_a_caller_pauses_that_one_for_as_long_as_it_says() {
        let mut scene = Scene::new();
        scene.record(scene.one, 0, Observation::Paused(Some(7 * SECOND)));
        scene.now += 2 * SECOND;
        assert_eq!(scene.admit(scene.one), Err(Error::RateLimited(5 * SECOND)));
        assert_eq!(scene.admit(scene.other), Ok(Admission::Normal));
        scene.now += 5 * SECOND;
        assert_eq!(scene.admit(scene.one), Ok(Admission::Probe));
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_that_names_no_one_pauses_everyone_for_longer_each_time() {
        let mut scene = Scene::new();
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            scene.record(scene.one, 0, Observation::PausedAll(None));
            let pause = Err(Error::RateLimited(seconds * SECOND));
            assert_eq!(scene.admit(scene.other), pause);
            scene.now += seconds * SECOND;
            assert_eq!(scene.admit(scene.other), Ok(Admission::Probe));
            assert!(scene.admit(scene.one).is_err(), "no more than one");
        }
        scene.record(scene.other, 0, Observation::Answered);
        scene.record(scene.one, 0, Observation::PausedAll(None));
        let small_again = Err(Error::RateLimited(SECOND));
        assert_eq!(scene.admit(scene.one), small_again);
    }

    #[tokio::test(start_paused = true)]
    async fn no_answer_silences_a_caller_for_hours() {
        let mut scene = Scene::new();
        let day = Duration::from_hours(24);
        scene.record(scene.one, 0, Observation::Paused(Some(day)));
        scene.now += LONGEST_PAUSE;
        assert_eq!(scene.admit(scene.one), Ok(Admission::Probe));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_was_in_progress_does_not_end_a_pause() {
        let scene = Scene::new();
        let answered = |caller| {
            scene.record_as(Admission::Normal, caller, 0, Observation::Answered);
        };
        scene.record(scene.one, 0, Observation::Paused(Some(30 * SECOND)));
        answered(scene.one);
        assert_eq!(scene.admit(scene.one), Err(Error::RateLimited(30 * SECOND)));
        scene.record(scene.other, 0, Observation::PausedAll(Some(9 * SECOND)));
        answered(scene.other);
        assert_eq!(
            scene.admit(scene.other),
            Err(Error::RateLimited(9 * SECOND))
        );
    }
}
