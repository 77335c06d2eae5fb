//! A task's life: the statuses it goes through, when, and how it ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::clock::Clock;

/// Maximum number of steps; the oldest are dropped first.
const MAX_STEPS: usize = 64;

/// A task's status in new-api's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// The row exists; nothing was sent to a vendor yet.
    NotStart,
    /// Sent to the vendor.
    Submitted,
    /// Waiting at the vendor.
    Queued,
    /// In progress at the vendor.
    InProgress,
    /// Ended with a result.
    Success,
    /// Ended without a result.
    Failure,
    /// The vendor's status is unknown to new-api.
    Unknown,
}

/// What a status means to a client that waits for the video.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not started.
    Queued,
    /// Started and not ended.
    Processing,
    /// Ended with a video.
    Succeeded,
    /// Ended without a video.
    Failed,
}

/// How a task ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// With a video.
    #[default]
    #[serde(alias = "success", alias = "completed")]
    Succeeded,
    /// The vendor refuses.
    #[serde(alias = "failure")]
    Failed,
    /// new-api times the task out: the row fails, the vendor's stored document stays unchanged.
    #[serde(alias = "timeout")]
    TimedOut,
}

/// The true state of a task at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Truth {
    /// The status in new-api's terms.
    pub status: Status,
    /// What the status means.
    pub state: State,
    /// Percent.
    pub progress: u8,
    /// When the task entered the status.
    #[serde(skip)]
    pub since: Instant,
}

/// A change of status.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) at: Instant,
    pub(super) status: Status,
    /// Status in the vendor's stored document; differs from `status` only after a timeout.
    pub(super) vendor: Status,
    /// Progress of a forced step; otherwise it follows the time.
    progress: Option<u8>,
}

/// Durations and outcome of a life.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Time in `NOT_START`, before submission.
    pub(super) not_start: Duration,
    /// Time from submission to the end.
    pub(super) lifetime: Duration,
    pub(super) outcome: Outcome,
}

/// The rounds in which new-api polls its vendors; a zero interval means no delay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounds {
    pub(super) every: Duration,
    pub(super) clock: Clock,
}

/// All past and future steps of a task, in order of time; never empty.
#[derive(Debug, Clone)]
pub(super) struct Life {
    steps: Vec<Step>,
    rounds: Rounds,
}

impl Status {
    /// Name in task rows.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NotStart => "NOT_START",
            Self::Submitted => "SUBMITTED",
            Self::Queued => "QUEUED",
            Self::InProgress => "IN_PROGRESS",
            Self::Success => "SUCCESS",
            Self::Failure => "FAILURE",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The state that the status means.
    pub(super) const fn state(self) -> State {
        match self {
            Self::NotStart | Self::Submitted | Self::Queued => State::Queued,
            Self::InProgress | Self::Unknown => State::Processing,
            Self::Success => State::Succeeded,
            Self::Failure => State::Failed,
        }
    }

    /// Whether it is terminal.
    pub(super) const fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Failure)
    }
}

impl State {
    /// Name in lower case: `queued`, `processing`, `succeeded`, `failed`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Processing => "processing",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

impl Rounds {
    /// When new-api notices a change at `at`: in the next round.
    fn noticed(self, at: Instant) -> Instant {
        let past = self.past(at);
        if past.is_zero() {
            at
        } else {
            at - past + self.every
        }
    }

    /// The last round at or before `at`.
    fn last(self, at: Instant) -> Instant {
        at - self.past(at)
    }

    fn past(self, at: Instant) -> Duration {
        let nanos = at
            .saturating_duration_since(self.clock.started())
            .as_nanos()
            .checked_rem(self.every.as_nanos())
            .unwrap_or(0);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Life {
    /// Plans a life from `birth` on: 10 % of the lifetime submitted, 15 % queued, 75 % in progress.
    pub(super) fn planned(birth: Instant, plan: Plan, rounds: Rounds) -> Self {
        let mut life = Self {
            steps: Vec::with_capacity(4),
            rounds,
        };
        let submitted = birth + plan.not_start;
        let end = submitted + plan.lifetime;
        if !plan.not_start.is_zero() {
            life.push(birth, Status::NotStart, Status::NotStart);
        }
        life.push(submitted, Status::Submitted, Status::Submitted);
        let queued = rounds.noticed(submitted + plan.lifetime.mul_f64(0.10));
        life.push(queued, Status::Queued, Status::Queued);
        let started = rounds.noticed(submitted + plan.lifetime.mul_f64(0.25));
        life.push(started, Status::InProgress, Status::InProgress);
        let end = rounds.noticed(end);
        match plan.outcome {
            Outcome::Succeeded => life.push(end, Status::Success, Status::Success),
            Outcome::Failed => life.push(end, Status::Failure, Status::Failure),
            Outcome::TimedOut => life.push(end, Status::Failure, Status::InProgress),
        }
        life
    }

    /// A life in one status until it is forced into another.
    pub(super) fn frozen(birth: Instant, status: Status, rounds: Rounds) -> Self {
        let mut life = Self {
            steps: Vec::new(),
            rounds,
        };
        life.push(birth, status, status);
        life
    }

    /// Drops all future steps and stays in `status` from `now` on.
    pub(super) fn force(&mut self, now: Instant, status: Status, progress: Option<u8>) {
        let progress = progress.unwrap_or_else(|| self.progress(now, status));
        self.steps.retain(|step| step.at <= now);
        self.push(now, status, status);
        if let Some(step) = self.steps.last_mut() {
            step.progress = Some(progress.min(100));
        }
        if self.steps.len() > MAX_STEPS {
            self.steps.remove(0);
        }
    }

    /// The step in force at `now`.
    pub(super) fn at(&self, now: Instant) -> &Step {
        let upto = self.steps.partition_point(|step| step.at <= now);
        &self.steps[upto.saturating_sub(1)]
    }

    pub(super) fn truth(&self, now: Instant) -> Truth {
        let step = self.at(now);
        Truth {
            status: step.status,
            state: step.status.state(),
            progress: self.progress(now, step.status),
            since: step.at,
        }
    }

    /// Every state that the task had between `from` and `to`, in order.
    pub(super) fn states_between(&self, from: Instant, to: Instant) -> Vec<State> {
        let first = self.at(from).at;
        let mut states: Vec<_> = self
            .steps
            .iter()
            .filter(|step| step.at >= first && step.at <= to)
            .map(|step| step.status.state())
            .collect();
        states.dedup();
        states
    }

    /// The past steps, oldest first.
    pub(super) fn history(&self, now: Instant) -> impl Iterator<Item = &Step> {
        self.steps.iter().take_while(move |step| step.at <= now)
    }

    /// When processing started, if it has.
    pub(super) fn started(&self, now: Instant) -> Option<Instant> {
        self.steps
            .iter()
            .find(|step| step.at <= now && step.status.state() > State::Queued)
            .map(|step| step.at)
    }

    /// When the row last changed.
    pub(super) fn updated(&self, now: Instant) -> Instant {
        let step = self.at(now);
        if step.status.is_final() || self.rounds.every.is_zero() {
            step.at
        } else {
            self.rounds.last(now).max(step.at)
        }
    }

    /// Progress in percent at `now` of a task in `status`.
    fn progress(&self, now: Instant, status: Status) -> u8 {
        let here = self.steps.partition_point(|step| step.at <= now);
        let step = &self.steps[here.saturating_sub(1)];
        let running = || match self.steps.get(here) {
            Some(next) => {
                let seen = self.rounds.last(now).max(step.at);
                let gone = seen.duration_since(step.at).as_millis() * 98;
                let all = next.at.duration_since(step.at).as_millis();
                1 + u8::try_from(gone.checked_div(all).unwrap_or(0)).unwrap_or(98)
            }
            None => 50,
        };
        match status {
            _ if step.status == status && step.progress.is_some() => step.progress.unwrap_or(0),
            Status::NotStart | Status::Submitted | Status::Queued => 0,
            Status::InProgress | Status::Unknown if step.status.is_final() => 50,
            Status::InProgress | Status::Unknown => running(),
            Status::Success | Status::Failure => 100,
        }
    }

    /// Adds a step; it replaces a step that is not before it.
    fn push(&mut self, at: Instant, status: Status, vendor: Status) {
        let step = Step {
            at,
            status,
            vendor,
            progress: None,
        };
        match self.steps.last_mut() {
            Some(last) if last.at >= at => *last = step,
            _ => self.steps.push(step),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn rounds(every: u64) -> Rounds {
        Rounds {
            every: seconds(every),
            clock: Clock::start(),
        }
    }

    fn plan(lifetime: u64) -> Plan {
        Plan {
            not_start: Duration::ZERO,
            lifetime: seconds(lifetime),
            outcome: Outcome::Succeeded,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn state_and_progress_never_go_backward() {
        let birth = Instant::now();
        let life = Life::planned(birth, plan(100), rounds(0));
        let mut before = life.truth(birth);
        assert_eq!(before.status, Status::Submitted);
        for second in 0..=101 {
            let truth = life.truth(birth + seconds(second));
            assert!(truth.state >= before.state && truth.progress >= before.progress);
            before = truth;
        }
        assert_eq!(life.truth(birth + seconds(24)).status, Status::Queued);
        assert_eq!(life.truth(birth + seconds(26)).status, Status::InProgress);
        assert_eq!(life.truth(birth + seconds(100)).status, Status::Success);
        assert_eq!(before.progress, 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_noticed_only_in_rounds() {
        let rounds = rounds(15);
        let birth = Instant::now() + seconds(1);
        let life = Life::planned(birth, plan(20), rounds);
        let at = |second| life.truth(birth + seconds(second));
        assert_eq!(at(13).status, Status::Submitted);
        assert_eq!(at(14).status, Status::InProgress);
        assert_eq!(at(28).progress, at(14).progress);
        assert_eq!(at(29).status, Status::Success);
    }

    #[tokio::test(start_paused = true)]
    async fn a_forced_task_stays_in_its_status() {
        let birth = Instant::now();
        let mut life = Life::planned(birth, plan(10), rounds(0));
        life.force(birth + seconds(5), Status::Failure, None);
        let states = life.states_between(birth, birth + seconds(1000));
        assert_eq!(states, [State::Queued, State::Processing, State::Failed]);
        life.force(birth + seconds(6), Status::InProgress, Some(7));
        let truth = life.truth(birth + seconds(1000));
        assert_eq!((truth.status, truth.progress), (Status::InProgress, 7));
        let late = life.states_between(birth + seconds(7), birth + seconds(8));
        assert_eq!(late, [State::Processing]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_with_no_lifetime_ends_at_once() {
        let birth = Instant::now();
        let life = Life::planned(birth, plan(0), rounds(0));
        assert_eq!(life.truth(birth).status, Status::Success);
        assert_eq!(life.states_between(birth, birth), [State::Succeeded]);
    }
}
