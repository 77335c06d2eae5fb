//! One schedule: what clients, upstream and time do, at random.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{HeaderMap, Uri};
use pollgate::answer::Answer;
use pollgate::answer::outcome::Outcome;
use pollgate::cache::Store;
use pollgate::config::{Config, UpstreamDialect};
use pollgate::error::Error;
use pollgate::request::key::{CallerKey, Credentials, TaskKey};
use pollgate::request::preferences::CacheMode;
use pollgate::request::query::TaskQuery;
use pollgate::route::{RouteId, TaskId};
use pollgate::stack::{PollState, TaskPipeline, task_pipeline};
use pollgate::task::{Dialect, State};
use pollgate::telemetry::{Exposition, Metrics};
use pollgate::upstream::breakers::CircuitStatus;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep};
use tower::ServiceExt as _;

use crate::rules;
use crate::upstream::{self, Upstream};
use crate::world::{Asked, CALLERS, Keys, Moment, Poll, Shared, TASKS, Url, Weather, World, lock};

/// Counts what occurred in one or more schedules.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Summary(BTreeMap<&'static str, u64>);

impl Summary {
    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Whether every way to answer and every disturbance has occurred.
    pub(crate) fn is_varied(&self) -> bool {
        let all = [
            "poll",
            "fetch",
            "hit",
            "shared",
            "fetched",
            "stale",
            "error",
            "hang-up",
            "purge",
            "refusal",
            "silence",
            "write",
            "goodbye",
            "sent again",
            "crowd",
        ];
        all.iter()
            .all(|what| self.0.get(what).is_some_and(|count| *count > 10))
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        for (what, count) in other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }
}

/// Runs the schedule of this seed. If it fails, runs it again to record its story.
///
/// # Errors
/// The story up to the forbidden answer.
pub(crate) fn run(seed: u64) -> Result<Summary, String> {
    run_once(seed, false).map_err(|problem| run_once(seed, true).err().unwrap_or(problem))
}

fn run_once(seed: u64, recording: bool) -> Result<Summary, String> {
    // The pipeline's own randomness: backoff and probes.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut schedule = Schedule::new(fastrand::Rng::with_seed(seed));
        lock(&schedule.world).recording = recording;
        if schedule.dice.u8(..8) == 0 {
            schedule.crowd().await;
        }
        for _ in 0..schedule.dice.usize(20..120) {
            schedule.step().await;
        }
        schedule.end().await
    })
}

struct Schedule {
    dice: fastrand::Rng,
    world: Shared,
    polls: PollState,
    metrics: Arc<Metrics>,
    pipeline: TaskPipeline<Upstream>,
    config: Config,
    /// The numbers of callers and tasks: the fewer, the more often they meet.
    callers: usize,
    tasks: usize,
    waiting: Vec<JoinHandle<()>>,
    /// Writes in progress: the task is invalidated again when they end.
    writes: Vec<usize>,
    summary: Arc<Mutex<Summary>>,
}

impl Schedule {
    fn new(mut dice: fastrand::Rng) -> Self {
        let mut config = Config::default();
        config.cache.adaptive = false;
        config.upstream.dialect = [
            UpstreamDialect::Match,
            UpstreamDialect::Match,
            UpstreamDialect::Unified,
            UpstreamDialect::OpenAi,
        ][dice.usize(..4)];
        if dice.u8(..4) == 0 {
            config.cache.credential_ttl = Duration::from_secs(dice.u64(..10));
        }
        if dice.u8(..4) == 0 {
            config.cache.in_flight_ttl = Duration::ZERO;
            config.cache.missing_ttl = Duration::ZERO;
        }
        let evicts = dice.u8(..6) == 0;
        let capacity = if evicts { 6000 } else { 1 << 20 };
        let metrics = Arc::new(Metrics::new().expect("one of each name"));
        let polls = PollState::new(capacity, &metrics);
        let keys = keys(&polls.store);
        let world = World::new(dice.fork(), config.cache.clone(), evicts, keys);
        let world = Arc::new(Mutex::new(world));
        let upstream = Upstream {
            world: Arc::clone(&world),
            lost: Arc::clone(&polls.lost),
            response_time: Arc::clone(&polls.response_time),
        };
        let pipeline = task_pipeline(&polls, &config, upstream);
        let (callers, tasks) = (dice.usize(1..=CALLERS), dice.usize(1..=TASKS));
        Self {
            dice,
            callers,
            tasks,
            world,
            polls,
            metrics,
            pipeline,
            config,
            waiting: Vec::new(),
            writes: Vec::new(),
            summary: Arc::default(),
        }
    }

    async fn step(&mut self) {
        match self.dice.u8(..100) {
            0..=39 => {
                for _ in 0..self.dice.usize(1..5) {
                    self.poll();
                }
            }
            40..=47 => self.hang_up(),
            48..=57 => self.change(),
            58..=62 => self.weather(),
            63..=66 => self.refuse(),
            67..=70 => self.write(),
            71 => self.write_in_vain(),
            72 => self.purge(),
            73 | 74 => self.goodbye(),
            75..=84 => {
                for _ in 0..self.dice.u8(1..6) {
                    yield_now().await;
                }
            }
            _ => self.wait().await,
        }
        self.count_failures();
    }

    /// Checks that nothing counts as a failure that was none.
    fn count_failures(&self) {
        let mut world = lock(&self.world);
        let most = rules::most_failed(&world);
        if let CircuitStatus::Closed { failed, .. } = self.polls.breakers.status(Instant::now())
            && failed as usize > most
        {
            world.report(format_args!(
                "{failed} failures count, and there were {most}"
            ));
        }
    }

    async fn wait(&mut self) {
        let millis = match self.dice.u8(..20) {
            0..=7 => self.dice.u64(1..100),
            8..=14 => self.dice.u64(100..3000),
            15 | 16 => self.dice.u64(3000..20_000),
            17 | 18 => self.dice.u64(20_000..700_000),
            _ => self.dice.u64(700_000..50_000_000),
        };
        lock(&self.world).tell(format_args!("{millis} ms pass"));
        sleep(Duration::from_millis(millis)).await;
    }

    fn poll(&mut self) {
        let path = [Dialect::Unified, Dialect::OpenAi][self.dice.usize(..2)];
        let asked = Asked {
            caller: self.dice.usize(..self.callers),
            task: self.dice.usize(..self.tasks),
            dialect: path,
        };
        let cache_mode = match self.dice.u8(..8) {
            0 => CacheMode::NoCache,
            1 => CacheMode::OnlyIfCached,
            _ => CacheMode::Default,
        };
        let patience = if self.dice.u8(..4) == 0 {
            Duration::from_millis(self.dice.u64(1..5000))
        } else {
            self.config.upstream.timeout
        };
        let client = self.client(asked, path, cache_mode, patience);
        self.waiting.push(tokio::spawn(async move {
            let _ = client.await;
        }));
    }

    /// One client's poll, from its start to its judgement.
    fn client(
        &self,
        asked: Asked,
        path: Dialect,
        cache_mode: CacheMode,
        patience: Duration,
    ) -> impl Future<Output = Result<Answer, Error>> + Send + 'static {
        let (world, pipeline) = (Arc::clone(&self.world), self.pipeline.clone());
        let (summary, dialect) = (Arc::clone(&self.summary), self.config.upstream.dialect);
        async move {
            let (poll, query) = begin(&world, dialect, asked, path, cache_mode, patience);
            summary.lock().unwrap().count("poll");
            let result = pipeline.oneshot(query).await;
            let mut world = lock(&world);
            match &result {
                Ok(answer) => {
                    let (fetch, outcome) = (rules::number(answer), answer.outcome);
                    world.tell(format_args!("{} {outcome:?} {fetch:?}", poll.start.place));
                }
                Err(error) => world.tell(format_args!("{} {error:?}", poll.start.place)),
            }
            rules::judge(&mut world, &poll, &result);
            if let Ok(answer) = &result {
                rules::judge_passed_on(&mut world, &poll, answer);
            }
            let mut summary = summary.lock().unwrap();
            summary.count(
                result
                    .as_ref()
                    .map_or("error", |answer| answer.outcome.as_str()),
            );
            drop(summary);
            result
        }
    }

    fn hang_up(&mut self) {
        self.waiting.retain(|poll| !poll.is_finished());
        if !self.waiting.is_empty() {
            let one = self.dice.usize(..self.waiting.len());
            self.waiting.swap_remove(one).abort();
            self.summary.lock().unwrap().count("hang-up");
            lock(&self.world).tell(format_args!("one hangs up"));
        }
    }

    fn change(&mut self) {
        let mut world = lock(&self.world);
        let one = self.dice.usize(..TASKS);
        let task = &mut world.tasks[one];
        task.version += 1;
        task.state = match (task.state, self.dice.u8(..6)) {
            (Some(State::Queued), 0..5) => Some(State::Processing),
            (Some(State::Processing | State::Failed), 0..3) => Some(State::Succeeded),
            (Some(State::Processing), 3) => Some(State::Failed),
            (Some(State::Succeeded), 0) => None,
            // Its first state, or the state of another task with its id.
            (None, _) | (Some(State::Succeeded), 1) => Some(State::Queued),
            (state, _) => state,
        };
        task.url = match self.dice.u8(..4) {
            0 => Url::None,
            1 => Url::Plain,
            _ => Url::Signed(Duration::from_secs(self.dice.u64(..1000))),
        };
        let task = *task;
        world.tell(format_args!("task {one} is now {task:?}"));
    }

    fn weather(&mut self) {
        let mut world = lock(&self.world);
        world.weather = [
            Weather::Fair,
            Weather::Fair,
            Weather::Mixed,
            Weather::Gone,
            Weather::Silent,
            Weather::Refusing,
        ][self.dice.usize(..6)];
        if world.weather == Weather::Silent {
            self.summary.lock().unwrap().count("silence");
        }
        let weather = world.weather;
        world.tell(format_args!("the weather is {weather:?}"));
    }

    /// The peer leaves: of the requests that are in progress it still processes those up to one of them.
    fn goodbye(&mut self) {
        let mut world = lock(&self.world);
        let last = world.streams - self.dice.usize(..=world.streams.min(8));
        world.tell(format_args!("goodbye, after stream {last}"));
        world.goodbyes.send_replace(last);
        self.summary.lock().unwrap().count("goodbye");
    }

    /// Upstream is silent from the start, and clients with short time-outs give up on tasks of which nothing is known.
    /// Then nobody waits for upstream any more.
    async fn crowd(&mut self) {
        let mut dice = self.dice.fork();
        lock(&self.world).weather = Weather::Silent;
        let everyone =
            || (0..CALLERS).flat_map(|caller| (0..TASKS).map(move |task| (caller, task)));
        let timeout = self.config.upstream.timeout;
        let poll = |(caller, task)| {
            let path = Dialect::Unified;
            let asked = Asked {
                caller,
                task,
                dialect: path,
            };
            tokio::spawn(self.client(asked, path, CacheMode::Default, timeout))
        };
        let mut clients: Vec<_> = everyone().map(poll).collect();
        // In any order, within two seconds.
        dice.shuffle(&mut clients);
        sleep(rules::SILENT).await;
        for client in clients {
            sleep(Duration::from_millis(dice.u64(..200))).await;
            client.abort();
        }
        yield_now().await;
        let mut clients: Vec<_> = everyone().map(poll).collect();
        for _ in 0..20 {
            yield_now().await;
        }
        clients.retain(|client| !client.is_finished());
        // One of them may be the probe that is due.
        if clients.len() > 1 {
            let waiting = clients.len();
            lock(&self.world).report(format_args!(
                "a crowd gave up on a silent upstream, and {waiting} others wait for it"
            ));
        }
        clients.iter().for_each(JoinHandle::abort);
        self.summary.lock().unwrap().count("crowd");
    }

    fn refuse(&mut self) {
        let mut world = lock(&self.world);
        let caller = self.dice.usize(..CALLERS);
        world.refused[caller] = !world.refused[caller] && self.dice.bool();
        let refused = world.refused[caller];
        world.tell(format_args!("caller {caller} is refused: {refused}"));
    }

    /// A write through the gateway: it invalidates the task when it starts and when it ends.
    fn write(&mut self) {
        let one = match self.writes.pop() {
            Some(one) if self.dice.bool() => one,
            earlier => {
                self.writes.extend(earlier);
                let one = self.dice.usize(..TASKS);
                self.writes.push(one);
                one
            }
        };
        let mut world = lock(&self.world);
        self.polls.store.invalidate(&world.keys.tasks[one]);
        let when = world.moment();
        world.purges.push((when, one));
        world.tasks[one].version += 1;
        self.summary.lock().unwrap().count("purge");
        world.tell(format_args!("a write to task {one}"));
    }

    /// A write through the gateway that upstream refuses or does not answer: it invalidates the task for its caller.
    fn write_in_vain(&mut self) {
        let mut world = lock(&self.world);
        let (caller, task) = (self.dice.usize(..CALLERS), self.dice.usize(..TASKS));
        let who = world.keys.callers[caller].0;
        self.polls
            .store
            .invalidate_for(&world.keys.tasks[task], who);
        let when = world.moment();
        world.writes.push((when, caller, task));
        self.summary.lock().unwrap().count("write");
        world.tell(format_args!(
            "caller {caller} writes to task {task} in vain"
        ));
    }

    fn purge(&mut self) {
        let mut world = lock(&self.world);
        let which = if self.dice.bool() {
            self.polls.store.purge_all();
            0..TASKS
        } else {
            let one = self.dice.usize(..TASKS);
            self.polls.store.purge_task(&world.keys.tasks[one]);
            one..one + 1
        };
        let when = world.moment();
        for one in which {
            world.purges.push((when, one));
            world.tell(format_args!("task {one} is purged"));
        }
    }

    /// Lets every client hang up or get an answer. Then nothing may be left, upstream recovers, and answers everyone.
    async fn end(mut self) -> Result<Summary, String> {
        let leave = self.dice.bool();
        for poll in std::mem::take(&mut self.waiting) {
            if leave {
                poll.abort();
            }
            if let Err(error) = poll.await
                && error.is_panic()
            {
                lock(&self.world).report(format_args!(
                    "the pipeline panicked in the client's own task"
                ));
            }
        }
        // Flights whose clients were answered from memory go on to their end.
        sleep(self.config.upstream.timeout + upstream::LATE).await;
        for _ in 0..10 {
            yield_now().await;
        }
        self.nothing_is_left();
        self.all_is_well_again().await;
        let mut summary = self.summary.lock().unwrap().clone();
        let world = lock(&self.world);
        world.fetches.iter().for_each(|_| summary.count("fetch"));
        let again = world.fetches.iter().filter(|fetch| fetch.sent > 1);
        again.for_each(|_| summary.count("sent again"));
        world.refusals.iter().for_each(|_| summary.count("refusal"));
        match world.problems.first() {
            None => Ok(summary),
            Some(first) => Err(format!("{}\n\n{first}", world.story())),
        }
    }

    fn nothing_is_left(&self) {
        let metrics = self.metrics.expose(Exposition::Prometheus, 0, 0, 0);
        let mut world = lock(&self.world);
        if !self.polls.flights.is_empty() {
            world.report(format_args!("a flight that nobody waits for"));
        }
        if !world.under_way.is_empty() {
            world.report(format_args!("a fetch that nobody waits for"));
        }
        if !metrics.lines().any(|line| line == "pollgate_waiters 0") {
            world.report(format_args!("someone is still counted as waiting"));
        }
    }

    async fn all_is_well_again(&self) {
        {
            let mut world = lock(&self.world);
            world.tell(format_args!("all is well again"));
            world.weather = Weather::Fair;
            world.refused = [false; CALLERS];
            for task in &mut world.tasks {
                task.state = Some(State::Processing);
                task.version += 1;
            }
        }
        // Longer than any pause, followed by the one poll that may be needed as a probe.
        sleep(Duration::from_mins(6)).await;
        let timeout = self.config.upstream.timeout;
        let mut answered = false;
        for _ in 0..5 {
            let asked = Asked {
                caller: 0,
                task: 0,
                dialect: Dialect::Unified,
            };
            let result = self
                .client(asked, Dialect::Unified, CacheMode::NoCache, timeout)
                .await;
            answered |= result
                .is_ok_and(|answer| answer.outcome == Outcome::Fetched && answer.reply.is_task());
            sleep(Duration::from_secs(16)).await;
        }
        if !answered {
            lock(&self.world).report(format_args!(
                "upstream is well, and five polls did not notice"
            ));
        }
    }
}

/// The poll as the reference sees it, and as the pipeline sees it.
fn begin(
    world: &Shared,
    dialect: UpstreamDialect,
    asked: Asked,
    path: Dialect,
    cache_mode: CacheMode,
    patience: Duration,
) -> (Poll, TaskQuery) {
    let mut world = lock(world);
    let asked = Asked {
        dialect: match dialect {
            UpstreamDialect::Match => path,
            UpstreamDialect::Unified => Dialect::Unified,
            UpstreamDialect::OpenAi => Dialect::OpenAi,
        },
        ..asked
    };
    let start: Moment = world.moment();
    // Every poll has a unique deadline, which identifies the leader of a fetch.
    let deadline = Instant::now() + patience + Duration::from_nanos(start.place);
    let poll = Poll {
        asked,
        path,
        cache_mode,
        start,
        deadline,
        must_hit: rules::must_hit(&world, asked, start),
        is_known: rules::is_known(&world, asked, start),
    };
    world.polls.push(poll);
    world.tell(format_args!(
        "{} polls: {asked:?} on {path:?}, {cache_mode:?}, {patience:?}",
        start.place
    ));
    let (caller, credentials) = world.keys.callers[asked.caller].clone();
    let query = TaskQuery {
        key: TaskKey {
            caller,
            route: RouteId::of(asked.dialect),
            task: world.keys.tasks[asked.task].clone(),
        },
        resource: None,
        credentials,
        cache_mode,
        at: Instant::now(),
        deadline,
        wait: None,
        asked: pollgate::request::query::AskedUpstream::default(),
        asked_at: pollgate::request::query::AskedAt::default(),
    };
    (poll, query)
}

fn keys(store: &Store) -> Keys {
    let caller_key = CallerKey::random().expect("random bytes");
    let callers = (0..CALLERS)
        .map(|number| {
            let uri: Uri = format!("/?key={number}").parse().expect("a target");
            let credentials = Credentials::new(HeaderMap::new(), uri);
            (caller_key.caller(&credentials), credentials)
        })
        .collect();
    // Tasks in different slots of the store, which counts changes per slot; the slot of an id is random.
    let mut tasks: Vec<TaskId> = Vec::new();
    for number in 0.. {
        let next = TaskId::new(&format!("t{number}"));
        let before: Vec<_> = tasks.iter().map(|task| store.epoch(task)).collect();
        store.invalidate(&next);
        if tasks.iter().map(|task| store.epoch(task)).eq(before) {
            tasks.push(next);
        }
        if tasks.len() == TASKS {
            break;
        }
    }
    Keys {
        callers,
        tasks,
        caller_key,
    }
}
