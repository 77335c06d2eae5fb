//! The crowd: creates tasks through the gateway, polls each from many clients until it ends, then creates the next.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::StatusCode;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::client::{Answer, Client};
use super::referee::{Allowance, Origin, Violation, is_over, judge, may_be_a_page};
use super::route::{Route, Slot};
use super::tally::{Failure, Tally};
use super::workload::{Job, Workload, chance};
use crate::simulator::{Simulator, State};
use crate::sync::lock;

/// Polls after a task's end, as front ends send that notice it late.
const LATE_POLLS: u32 = 3;
/// Pause after a failed create request.
const PAUSE: Duration = Duration::from_millis(500);

/// What all pollers share.
#[derive(Debug)]
pub(super) struct Crowd {
    gateways: Vec<String>,
    simulator: Simulator,
    allowance: Allowance,
    workload: Workload,
    tally: Arc<Mutex<Tally>>,
    stop: CancellationToken,
}

impl Crowd {
    /// Creates a crowd for the gateways at these base URLs; the simulator behind them knows the true states.
    pub(super) fn new(
        gateways: Vec<String>,
        simulator: Simulator,
        allowance: Allowance,
        workload: Workload,
        tally: Arc<Mutex<Tally>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            gateways,
            simulator,
            allowance,
            workload,
            tally,
            stop,
        }
    }

    /// Keeps a task running in each slot, with `pollers` pollers, until `stop` is cancelled. Polls in flight are awaited.
    pub(super) async fn poll(self, slots: Vec<Slot>, pollers: usize) {
        let crowd = Arc::new(self);
        let mut filled = JoinSet::new();
        let count = slots.len();
        for (number, slot) in slots.into_iter().enumerate() {
            let crowd = Arc::clone(&crowd);
            let delay = crowd.workload.start_delay(number, count);
            filled.spawn(async move {
                crowd.pause(delay).await;
                crowd.fill(number, slot, pollers).await;
            });
        }
        while filled.join_next().await.is_some() {}
    }

    /// Runs one task after the other in a slot.
    async fn fill(self: Arc<Self>, number: usize, slot: Slot, pollers: usize) {
        // Each poller keeps to one gateway, as it does beside its sidecar.
        let clients: Vec<_> = self.gateways.iter().map(|url| Client::new(url)).collect();
        let client = &clients[number % clients.len()];
        while !self.stop.is_cancelled() {
            let job = self.workload.next();
            let Ok(id) = client.create(&job, slot.create).await else {
                self.tally().not_created += 1;
                self.pause(PAUSE).await;
                continue;
            };
            self.tally().started(number, slot, job.clone(), id.clone());
            let mut group = JoinSet::new();
            for poller in 0..pollers {
                let poller = Poller {
                    crowd: Arc::clone(&self),
                    client: clients[poller % clients.len()].clone(),
                    slot: number,
                    route: slot.polled(poller),
                    job: job.clone(),
                    id: id.clone(),
                    seen: None,
                };
                group.spawn(poller.watch());
            }
            let mut end = None;
            while let Some(seen) = group.join_next().await {
                end = end.max(seen.unwrap_or_default());
            }
            if end.is_some_and(is_over) {
                self.poll_with_foreign_key(client, number, slot.create, &job, &id)
                    .await;
            }
            let truth = self.simulator.truth(&id).map(|truth| truth.state);
            self.tally().finished(number, truth);
        }
    }

    /// Polls a finished task, which the gateway has cached for its owner, with a key that does not own it.
    async fn poll_with_foreign_key(
        &self,
        client: &Client,
        slot: usize,
        route: &'static Route,
        job: &Job,
        id: &str,
    ) {
        let Some(answer) = self.status(client, slot, route, job.foreign_key, id).await else {
            return;
        };
        // new-api answers 400 where OpenAI answers 404.
        match answer.status.as_u16() {
            200 if answer.is_page() && may_be_a_page(route, answer.cache_status()) => {
                self.tally().poll_failed(route, Failure::Page);
            }
            200 => {
                let violation = Violation::Foreign("another key's task was shown".into());
                let context = || context(job, route, id, answer.cache_status());
                self.tally().violated(&violation, context);
            }
            400 | 404 => self.tally().refused += 1,
            code => self.tally().poll_failed(route, Failure::Status(code)),
        }
    }

    /// Sends one status poll and counts it; `None` if there is no answer.
    async fn status(
        &self,
        client: &Client,
        slot: usize,
        route: &'static Route,
        key: &str,
        id: &str,
    ) -> Option<Answer> {
        let answer = client.status(route, key, id).await;
        match &answer {
            Ok(answer) => self.tally().answered(slot, route, answer.sent.elapsed()),
            Err(_) => self.tally().unanswered(route),
        }
        answer.ok()
    }

    /// Sleeps, but no longer than the demo runs.
    async fn pause(&self, pause: Duration) {
        let _ = timeout(pause, self.stop.cancelled()).await;
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }
}

/// One client that waits for its video.
struct Poller {
    crowd: Arc<Crowd>,
    client: Client,
    slot: usize,
    route: &'static Route,
    job: Job,
    id: String,
    seen: Option<State>,
}

impl Poller {
    /// Polls about once a second until the task ends, and a few times more; returns the last state it saw.
    async fn watch(mut self) -> Option<State> {
        let stop = self.crowd.stop.clone();
        self.crowd
            .pause(Duration::from_secs(1).mul_f64(chance()))
            .await;
        let mut late = 0;
        while late < LATE_POLLS && !stop.is_cancelled() {
            late += u32::from(self.seen.is_some_and(is_over));
            self.poll().await;
            let pause = Duration::from_millis(800) + Duration::from_millis(400).mul_f64(chance());
            self.crowd.pause(pause).await;
        }
        self.seen
    }

    async fn poll(&mut self) {
        let crowd = &self.crowd;
        let answer = crowd
            .status(&self.client, self.slot, self.route, self.job.key, &self.id)
            .await;
        let Some(answer) = answer else { return };
        if answer.status != StatusCode::OK {
            let failure = Failure::Status(answer.status.as_u16());
            crowd.tally().poll_failed(self.route, failure);
            return;
        }
        if answer.is_page() && may_be_a_page(self.route, answer.cache_status()) {
            crowd.tally().poll_failed(self.route, Failure::Page);
            return;
        }
        let cache_status = answer.cache_status();
        let origin = Origin::read(cache_status);
        let age = answer.age();
        let since = crowd.allowance.since(answer.sent, origin, age);
        let truth = crowd
            .simulator
            .states_between(&self.id, since, Instant::now())
            .unwrap_or_default();
        let judged = judge(&self.id, self.route, &answer.body, &truth, self.seen);
        let mut tally = crowd.tally();
        tally.count_origin(origin);
        tally.checked += 1;
        match judged {
            Ok(state) => self.seen = Some(state),
            Err(violation) => tally.violated(&violation, || {
                context(&self.job, self.route, &self.id, cache_status)
            }),
        }
    }
}

/// Describes the answer that a violation was found in.
fn context(job: &Job, route: &Route, id: &str, cache_status: &str) -> String {
    let (target, channel) = (route.target(id), job.channel.name());
    format!("{target}, channel {channel}, cache-status: {cache_status}")
}
