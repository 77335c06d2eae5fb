//! The crowd: tasks are made through the gateway and polled by many until they are over; then comes the next.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http::StatusCode;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::client::{Answer, Client, Path};
use super::referee::{Allowance, Origin, Violation, is_over, judge};
use super::tally::Tally;
use super::workload::{Job, Workload, chance};
use crate::simulator::{Simulator, State};
use crate::sync::lock;

/// How often a poller asks again after the end, as front ends do that learn of it late.
const LATE_POLLS: u32 = 3;
/// How long a task's next owner waits after one that could not be made.
const PAUSE: Duration = Duration::from_millis(500);

/// Everyone who polls, and what they share.
#[derive(Debug)]
pub(super) struct Crowd {
    gateway: String,
    simulator: Simulator,
    allowance: Allowance,
    workload: Workload,
    tally: Arc<Mutex<Tally>>,
    stop: CancellationToken,
}

impl Crowd {
    /// A crowd that polls the gateway at this base URL, and checks what it is told with the simulator behind it.
    pub(super) fn new(
        gateway: String,
        simulator: Simulator,
        allowance: Allowance,
        workload: Workload,
        tally: Arc<Mutex<Tally>>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            gateway,
            simulator,
            allowance,
            workload,
            tally,
            stop,
        }
    }

    /// Keeps so many tasks on stage, each with so many pollers, until told to stop; polls under way get their answer.
    pub(super) async fn poll(self, tasks: usize, pollers: usize) {
        let crowd = Arc::new(self);
        let mut slots = JoinSet::new();
        for slot in 0..tasks {
            let crowd = Arc::clone(&crowd);
            let entrance = crowd.workload.entrance(slot, tasks);
            slots.spawn(async move {
                crowd.pause(entrance).await;
                crowd.fill(slot, pollers).await;
            });
        }
        while slots.join_next().await.is_some() {}
    }

    /// One task after the other.
    async fn fill(self: Arc<Self>, slot: usize, pollers: usize) {
        let client = Client::new(&self.gateway);
        while !self.stop.is_cancelled() {
            let job = self.workload.next();
            let Ok(id) = client.make(&job, Path::of(slot)).await else {
                self.tally().not_made += 1;
                self.pause(PAUSE).await;
                continue;
            };
            self.tally().enters(slot, job.clone(), id.clone());
            let mut group = JoinSet::new();
            for number in 0..pollers {
                let poller = Poller {
                    crowd: Arc::clone(&self),
                    client: client.clone(),
                    slot,
                    path: Path::of(number),
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
                self.pry(&client, slot, &job, &id).await;
            }
            self.tally().leaves(slot, end);
        }
    }

    /// Polls a finished task, which the gateway remembers for its owner, with a key that it does not belong to.
    async fn pry(&self, client: &Client, slot: usize, job: &Job, id: &str) {
        let path = Path::of(slot);
        let Some(answer) = self.status(client, slot, path, job.stranger, id).await else {
            return;
        };
        // new-api says 400 where OpenAI says 404.
        match answer.status.as_u16() {
            200 => {
                let violation = Violation::Foreign("another key's task was shown".into());
                let place = || place(job, path, id, answer.cache_status());
                self.tally().violated(&violation, place);
            }
            400 | 404 => self.tally().turned_away += 1,
            code => *self.tally().errors.entry(code).or_default() += 1,
        }
    }

    /// One status poll; `None` where no answer came.
    async fn status(
        &self,
        client: &Client,
        slot: usize,
        path: Path,
        key: &str,
        id: &str,
    ) -> Option<Answer> {
        let answer = client.status(path, key, id).await;
        match &answer {
            Ok(answer) => self.tally().answered(slot, answer.asked.elapsed()),
            Err(_) => self.tally().unanswered += 1,
        }
        answer.ok()
    }

    /// Waits, but not beyond the end of the demo.
    async fn pause(&self, pause: Duration) {
        let _ = timeout(pause, self.stop.cancelled()).await;
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }
}

/// One client that wants to know when its video is ready.
struct Poller {
    crowd: Arc<Crowd>,
    client: Client,
    slot: usize,
    path: Path,
    job: Job,
    id: String,
    seen: Option<State>,
}

impl Poller {
    /// Polls about once a second until the task is over, and a few times more; gives what it saw last.
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
            .status(&self.client, self.slot, self.path, self.job.key, &self.id)
            .await;
        let Some(answer) = answer else { return };
        if answer.status != StatusCode::OK {
            let code = answer.status.as_u16();
            *crowd.tally().errors.entry(code).or_default() += 1;
            return;
        }
        let cache_status = answer.cache_status();
        let origin = Origin::read(cache_status);
        let age = answer.age();
        let since = crowd.allowance.since(answer.asked, origin, age);
        let truth = crowd
            .simulator
            .states_between(&self.id, since, Instant::now())
            .unwrap_or_default();
        let judged = judge(&self.id, self.path, &answer.body, &truth, self.seen);
        let mut tally = crowd.tally();
        tally.came_from(origin);
        tally.checked += 1;
        match judged {
            Ok(state) => self.seen = Some(state),
            Err(violation) => tally.violated(&violation, || {
                place(&self.job, self.path, &self.id, cache_status)
            }),
        }
    }
}

/// Where a violation was seen.
fn place(job: &Job, path: Path, id: &str, cache_status: &str) -> String {
    let (base, channel) = (path.base(), job.channel.name());
    format!("{base}/{id}, channel {channel}, cache-status: {cache_status}")
}
