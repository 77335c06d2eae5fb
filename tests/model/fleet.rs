//! Fleets of two to four gateways on one engine in memory that delays, drops, repeats, freezes, forgets, fills up and
//! crashes. Every answer tells of its caller, its task and the version of the task, by which it is judged:
//!
//! - nobody is given what was made for another caller or another task;
//! - no client of a gateway sees a version and then an earlier one;
//! - no gateway shows what was asked for before a forget that it did itself, and none that hears the others shows what was
//!   asked for before a forget that the engine acknowledged;
//! - every poll ends by its deadline;
//! - where nothing goes wrong, a fleet polls upstream as often as one gateway.

use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode, Uri};
use pollgate::answer::Answer;
use pollgate::answer::outcome::Outcome;
use pollgate::answer::reply::Reply;
use pollgate::config::Config;
use pollgate::error::Error;
use pollgate::fleet::engine::Member;
use pollgate::fleet::memory::{Fault, Lost, MemoryEngine, MemoryLink};
use pollgate::fleet::pulse::Pulse;
use pollgate::fleet::seal::Secret;
use pollgate::fleet::{Ear, Fleet, Forget, Terms};
use pollgate::request::key::{CallerKey, Credentials, TaskKey};
use pollgate::request::preferences::CacheMode;
use pollgate::request::query::{AskedUpstream, TaskFetch, TaskQuery};
use pollgate::route::{RouteId, TaskId};
use pollgate::stack::{PollState, TaskPipeline, task_pipeline};
use pollgate::task::{Dialect, Source, TaskSnapshot};
use pollgate::telemetry::Metrics;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tower::{Service, ServiceExt as _};

use crate::from_environment;

const CALLERS: usize = 2;
const TASKS: usize = 3;

/// How many schedules an ordinary run takes.
const SCHEDULES: u64 = 200;

/// How long news take at most to gateways that nothing keeps from hearing them.
const HEARD: Duration = Duration::from_millis(60);

/// One task upstream: its version grows by the hour, and at some of them a write turns it back to running.
#[derive(Debug, Clone, Copy, Default)]
struct Task {
    version: u64,
    ended: bool,
}

struct World {
    dice: Rng,
    tasks: [Task; TASKS],
    asked: usize,
    /// Whether requests of some gateways fail.
    broken: Vec<bool>,
    fails: bool,
}

#[derive(Clone)]
struct Upstream {
    world: Arc<Mutex<World>>,
    /// The gateway that asks.
    from: usize,
    credentials: Arc<Vec<Credentials>>,
    caller_key: CallerKey,
}

impl Service<TaskFetch> for Upstream {
    type Response = Reply;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, fetch: TaskFetch) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            fetch.query.asked_at.set();
            let key = &fetch.query.key;
            let number: usize = key.task.as_str().parse().unwrap();
            let caller = this
                .credentials
                .iter()
                .position(|of| this.caller_key.caller(of) == key.caller)
                .unwrap();
            let (before, after, fault) = {
                let world = &mut *this.world.lock().unwrap();
                world.asked += 1;
                let latency = world.dice.u64(5..250);
                let before = world.dice.u64(..=latency);
                let fault = world.broken[this.from] || (world.fails && world.dice.u8(..10) == 0);
                (before, latency - before, fault)
            };
            sleep(Duration::from_millis(before)).await;
            if fault {
                return Err(Error::UpstreamUnavailable("cut off".into()));
            }
            // Upstream looks at the task at some moment of the request.
            let Task { version, ended } = this.world.lock().unwrap().tasks[number];
            sleep(Duration::from_millis(after)).await;
            let status = if ended { "succeeded" } else { "processing" };
            let url = if ended {
                "https://cdn.example.com/v"
            } else {
                ""
            };
            let body = format!(
                r#"{{"id":"{number}","object":"video","status":"{status}","progress":{},"model":"{caller}/{number}/{version}","metadata":{{"url":"{url}"}}}}"#,
                version.min(99)
            );
            let source = Source {
                asked_id: key.task.as_str(),
                status: 200,
                body: body.as_bytes(),
                first_seen: fetch.first_seen,
            };
            let snapshot = TaskSnapshot::read(&source).unwrap();
            let headers = HeaderMap::new();
            Ok(Reply::new(
                StatusCode::OK,
                &headers,
                body.into(),
                Some(snapshot),
            ))
        })
    }
}

struct Gateway {
    pipeline: TaskPipeline<Upstream>,
    state: PollState,
    link: Option<MemoryLink>,
}

/// What a schedule found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    polls: usize,
    asked: usize,
    fleet: usize,
    stale: usize,
    failed: usize,
    forgets: usize,
}

struct Run {
    world: Arc<Mutex<World>>,
    engine: MemoryEngine,
    gateways: Vec<Gateway>,
    credentials: Arc<Vec<Credentials>>,
    caller_key: CallerKey,
    timeout: Duration,
    /// The latest version that each client of each gateway has seen of each task.
    seen: Vec<Vec<[u64; TASKS]>>,
    /// For each gateway and task, the version at its latest own forget.
    own: Vec<[u64; TASKS]>,
    /// For each task, the version at forgets that were acknowledged, and when.
    acknowledged: [Vec<(u64, Instant)>; TASKS],
    /// When something was last wrong with the engine or a link.
    trouble: Option<Instant>,
    found: Found,
    /// What happened, for people.
    story: Vec<String>,
    start: Instant,
}

impl Run {
    /// A fleet, or a single gateway without one.
    fn new(dice: Rng, gateways: usize, in_fleet: bool) -> Self {
        let mut config = Config::default();
        config.cache.adaptive = false;
        let secret = Secret::new(b"a secret that all the members share").unwrap();
        let caller_key = CallerKey::new(secret.caller_key());
        let credentials: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let target: Uri = format!("/?{caller}").parse().unwrap();
                Credentials::new(HeaderMap::new(), target)
            })
            .collect();
        let credentials = Arc::new(credentials);
        let world = Arc::new(Mutex::new(World {
            dice,
            tasks: Default::default(),
            asked: 0,
            broken: vec![false; gateways],
            fails: false,
        }));
        let engine = MemoryEngine::new();
        let gateways = (0..gateways)
            .map(|from| {
                let metrics = Arc::new(Metrics::new().unwrap());
                let mut state = PollState::new(config.cache.capacity.bytes(), &metrics);
                let link = in_fleet.then(|| {
                    let member = Member(from as u64 + 1);
                    let ear = Arc::new(Ear::default());
                    let link = engine.connect(member, ear.pushes());
                    let terms = Terms::of(&config.fleet);
                    let engine = Arc::new(link.clone());
                    let counted = metrics.fleet().unwrap();
                    let fleet = Fleet::new(member, secret.clone(), terms, ear, engine, counted);
                    let pulse = Pulse {
                        fleet: Arc::clone(&fleet),
                        store: Arc::clone(&state.store),
                        cadence: Arc::clone(&state.cadence),
                        breakers: Arc::clone(&state.breakers),
                    };
                    tokio::spawn(pulse.run());
                    state.fleet = Some(fleet);
                    link
                });
                let upstream = Upstream {
                    world: Arc::clone(&world),
                    from,
                    credentials: Arc::clone(&credentials),
                    caller_key: caller_key.clone(),
                };
                Gateway {
                    pipeline: task_pipeline(&state, &config, upstream),
                    state,
                    link,
                }
            })
            .collect::<Vec<_>>();
        Self {
            seen: vec![vec![[0; TASKS]; CALLERS]; gateways.len()],
            own: vec![[0; TASKS]; gateways.len()],
            world,
            engine,
            gateways,
            credentials,
            caller_key,
            timeout: config.upstream.timeout,
            acknowledged: Default::default(),
            trouble: None,
            found: Found::default(),
            story: Vec::new(),
            start: Instant::now(),
        }
    }

    fn tell(&mut self, what: std::fmt::Arguments<'_>) {
        let at = self.start.elapsed().as_secs_f64();
        self.story.push(format!("{at:8.3} {what}"));
    }

    fn query(&self, caller: usize, task: usize, cache_mode: CacheMode) -> TaskQuery {
        let now = Instant::now();
        TaskQuery {
            key: TaskKey {
                caller: self.caller_key.caller(&self.credentials[caller]),
                route: RouteId::of(Dialect::OpenAi),
                task: TaskId::new(&task.to_string()),
            },
            resource: None,
            credentials: self.credentials[caller].clone(),
            cache_mode,
            at: now,
            deadline: now + self.timeout,
            wait: None,
            asked: AskedUpstream::default(),
            asked_at: pollgate::request::query::AskedAt::default(),
        }
    }

    fn poll(&mut self, at: usize, caller: usize, task: usize, mode: CacheMode) -> Polling {
        self.found.polls += 1;
        self.tell(format_args!(
            "caller {caller} polls task {task} at {at}, {mode:?}"
        ));
        let query = self.query(caller, task, mode);
        let deadline = query.deadline + Duration::from_millis(1);
        let polling = self.gateways[at].pipeline.clone().oneshot(query);
        let start = Instant::now();
        // What is certain of it when it starts.
        let fleet = self.gateways[at].state.fleet.as_ref();
        let is_together = fleet.is_some_and(|fleet| fleet.health.is_together());
        let heard = |since: Instant| {
            is_together
                && since + HEARD < start
                && self.trouble.is_none_or(|trouble| trouble < since)
        };
        let acknowledged = self.acknowledged[task]
            .iter()
            .filter(|(_, at)| heard(*at))
            .map(|(version, _)| *version)
            .max();
        Polling {
            at,
            caller,
            task,
            seen: self.seen[at][caller][task],
            forgotten: self.own[at][task].max(acknowledged.unwrap_or(0)),
            answer: tokio::spawn(async move { timeout_at(deadline, polling).await.ok() }),
        }
    }

    async fn judge(&mut self, polling: Polling) -> Result<(), String> {
        let Polling {
            at,
            caller,
            task,
            seen,
            forgotten,
            answer,
        } = polling;
        let answer = answer.await.map_err(|error| error.to_string())?;
        let who = format!("caller {caller} of gateway {at} on task {task}");
        let Some(answer) = answer else {
            return Err(format!("{who}: has no answer by its deadline"));
        };
        let Ok(answer) = answer else {
            self.found.failed += 1;
            return Ok(());
        };
        match answer.outcome {
            Outcome::Fleet => self.found.fleet += 1,
            Outcome::Stale => self.found.stale += 1,
            _ => {}
        }
        let version =
            version_of(&answer, caller, task).ok_or(format!("{who}: a foreign answer"))?;
        let what = format!("{who}: version {version} as {:?}", answer.outcome);
        self.tell(format_args!("{what}"));
        if version < seen {
            return Err(format!("{what}, after it has seen {seen}"));
        }
        if version < forgotten {
            return Err(format!("{what}, although forgotten at {forgotten}"));
        }
        let latest = &mut self.seen[at][caller][task];
        *latest = version.max(*latest);
        Ok(())
    }

    /// A write to a task through one of the gateways, or an operator's forget.
    async fn forget(&mut self, at: usize, task: usize) {
        self.found.forgets += 1;
        let id = TaskId::new(&task.to_string());
        let state = &self.gateways[at].state;
        let (store, fleet) = (Arc::clone(&state.store), state.fleet.clone());
        let version = {
            let task = &mut self.world.lock().unwrap().tasks[task];
            task.version += 1;
            task.ended = false;
            task.version
        };
        self.tell(format_args!(
            "task {task} is forgotten at {at}, at version {version}"
        ));
        store.purge_task(&id);
        self.own[at][task] = version;
        if let Some(fleet) = fleet
            && fleet.forget(Forget::Task(id)).await
        {
            self.tell(format_args!("which the engine acknowledges"));
            self.acknowledged[task].push((version, Instant::now()));
        }
    }
}

struct Polling {
    at: usize,
    caller: usize,
    task: usize,
    seen: u64,
    forgotten: u64,
    answer: JoinHandle<Option<Result<Answer, Error>>>,
}

fn version_of(answer: &Answer, caller: usize, task: usize) -> Option<u64> {
    let snapshot = answer.reply.snapshot()?;
    let own = format!("{caller}/{task}/");
    snapshot.model().strip_prefix(&own)?.parse().ok()
}

/// Faults of one link: how bad it is changes from schedule to schedule.
fn faults(mut dice: Rng) -> impl FnMut(&pollgate::fleet::engine::Ask) -> Fault + Send {
    let worst = [0, 3, 30, 120][dice.usize(..4)];
    let lossy = dice.u8(..4) == 0;
    move |_| Fault {
        there: Duration::from_millis(dice.u64(..=worst)),
        back: Duration::from_millis(dice.u64(..=worst)),
        lost: match dice.u8(..30) {
            0 if lossy => Lost::Command,
            1 if lossy => Lost::Reply,
            _ => Lost::Nothing,
        },
        twice: dice.u8(..10) == 0,
    }
}

impl Run {
    /// An engine loses its memory in some schedules, and in others its clock goes back. One to which both happens while a
    /// poll is under way may take what that brings for newer than a forget in between.
    fn disturb(&mut self, dice: &mut Rng, loses_memory: bool) {
        self.trouble = self.trouble.max(Some(Instant::now()));
        let link = self.gateways[dice.usize(..self.gateways.len())]
            .link
            .clone();
        let link = link.expect("is in a fleet");
        let what = dice.u8(..12);
        self.tell(format_args!("trouble {what} at {link:?}"));
        match what {
            0 => self.engine.freeze(),
            1 | 2 => self.engine.thaw(),
            3 if loses_memory => self.engine.flush(),
            4 if loses_memory => self.engine.crash(),
            5 => self.engine.start(),
            6 => link.cut(),
            7 => link.sever(),
            8 => link.mend(),
            9 => self.engine.fill(dice.bool()),
            10 if !loses_memory => self.engine.step_clock(dice.i64(-5_000_000..5_000_000)),
            11 => self.engine.trim_journal(dice.usize(..3)),
            _ => {}
        }
    }

    /// Polls, writes, hang-ups, progress and trouble, for a while.
    async fn schedule(&mut self, dice: &mut Rng, fair: bool) -> Result<(), String> {
        sleep(Duration::from_millis(50)).await;
        if !fair {
            for gateway in &self.gateways {
                if let Some(link) = gateway.link.as_ref().filter(|_| dice.bool()) {
                    link.set_faults(faults(Rng::with_seed(dice.u64(..))));
                    self.trouble = Some(Instant::now() + Duration::from_hours(1));
                }
            }
        }
        let mut under_way: Vec<Polling> = Vec::new();
        let loses_memory = dice.bool();
        for _ in 0..dice.usize(30..120) {
            let task = dice.usize(..TASKS);
            let action = dice.u8(..20);
            let (at, caller) = (dice.usize(..4), dice.usize(..CALLERS));
            let (at, pause) = (at % self.gateways.len(), dice.u64(..40));
            let no_cache = dice.u8(..10) == 0;
            let long = dice.u64(..2_500);
            let trouble = dice.u64(..);
            match action {
                0..=10 => {
                    let mode = if no_cache && !fair {
                        CacheMode::NoCache
                    } else {
                        CacheMode::Default
                    };
                    let polling = self.poll(at, caller, task, mode);
                    under_way.push(polling);
                }
                11 | 12 => {
                    let task = &mut self.world.lock().unwrap().tasks[task];
                    if !task.ended {
                        task.version += 1;
                        task.ended = trouble.is_multiple_of(5);
                    }
                }
                13 if !fair && self.gateways[0].link.is_some() => self.forget(at, task).await,
                14 if !fair && !under_way.is_empty() => {
                    under_way
                        .swap_remove(caller % under_way.len())
                        .answer
                        .abort();
                }
                15 | 16 if !fair => {
                    self.disturb(&mut Rng::with_seed(trouble), loses_memory);
                }
                17 if !fair => {
                    let world = &mut *self.world.lock().unwrap();
                    world.broken[at] = trouble.is_multiple_of(3);
                    world.fails = trouble.is_multiple_of(2);
                }
                _ => {
                    for polling in under_way.drain(..) {
                        self.judge(polling).await?;
                    }
                    sleep(Duration::from_millis(long)).await;
                }
            }
            sleep(Duration::from_millis(pause)).await;
        }
        for polling in under_way {
            self.judge(polling).await?;
        }
        self.found.asked = self.world.lock().unwrap().asked;
        Ok(())
    }
}

/// Runs one schedule on paused time.
fn run(seed: u64, gateways: usize, fair: bool) -> Result<Found, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        fastrand::seed(seed);
        let mut dice = Rng::with_seed(seed);
        let mut run = Run::new(Rng::with_seed(seed + 1), gateways, gateways > 1);
        let done = run.schedule(&mut dice, fair).await;
        match done {
            Ok(()) => Ok(run.found),
            Err(problem) => Err(format!("{}\n{problem}", run.story.join("\n"))),
        }
    })
}

#[test]
fn no_schedule_makes_a_fleet_return_what_the_reference_forbids() {
    let seeds = match from_environment("POLLGATE_MODEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("POLLGATE_MODEL_SCHEDULES").unwrap_or(SCHEDULES),
    };
    let many = seeds.end - seeds.start > 1;
    let mut all = Found::default();
    for seed in seeds {
        let gateways = 2 + usize::try_from(seed % 3).unwrap();
        match run(seed, gateways, false) {
            Ok(found) => {
                all.polls += found.polls;
                all.asked += found.asked;
                all.fleet += found.fleet;
                all.stale += found.stale;
                all.failed += found.failed;
                all.forgets += found.forgets;
            }
            Err(problem) => {
                panic!("\n{problem}\nschedule {seed}: see it again with POLLGATE_MODEL_SEED={seed}")
            }
        }
    }
    println!("{all:?}");
    if many {
        let each = [all.fleet, all.stale, all.failed, all.forgets];
        assert!(each.iter().all(|count| *count > 0), "{all:?}");
    }
}

#[test]
fn a_fleet_to_which_nothing_happens_polls_upstream_as_often_as_one_gateway() {
    for seed in 0..40 {
        let one = run(seed, 1, true).unwrap();
        let fleet = run(seed, 4, true).unwrap();
        // Which of those that board at once leads is chance, and so are the latencies of its poll.
        assert!(fleet.asked <= one.asked + 1, "{seed}: {fleet:?} {one:?}");
    }
}
