//! The adaptive cadence keeps its promise: in the simulation that its published curve is made with, and in the real
//! pipeline.

#![cfg(test)]

#[allow(dead_code, clippy::cast_precision_loss)]
#[path = "../benches/cadence/simulation.rs"]
mod simulation;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Ready, join_all, ready};
use http::{HeaderMap, StatusCode, Uri};
use pollgate::answer::Answer;
use pollgate::answer::reply::Reply;
use pollgate::cache::cadence::{Bounds, Cadence};
use pollgate::config::Config;
use pollgate::error::Error;
use pollgate::request::key::{CallerKey, Credentials, TaskKey};
use pollgate::request::preferences::CacheMode;
use pollgate::request::query::{TaskFetch, TaskQuery, Wait};
use pollgate::request::route::TaskId;
use pollgate::stack::{PollState, task_pipeline};
use pollgate::task::{Dialect, Rendering, State, TaskSnapshot};
use pollgate::telemetry::Metrics;
use tokio::time::Instant;
use tower::{Service, ServiceExt as _};

use self::simulation::{Dice, Rule, Sum, WORLDS, World, follow, measure, usual};

const FIXED: Rule = Rule::Fixed(2.0);
const ADAPTIVE: Rule = Rule::Adaptive(2.0, 10.0);

/// Polls and lag of the adaptive cadence as shares of the fixed one's.
fn shares(world: World, tasks: std::ops::Range<usize>) -> (f64, f64) {
    let [fixed, adaptive]: [Sum; 2] =
        [FIXED, ADAPTIVE].map(|rule| measure(world, rule, tasks.clone(), 20));
    (adaptive.polls / fixed.polls, adaptive.lag / fixed.lag)
}

#[test]
fn polls_fall_well_below_the_fixed_cadence_while_the_lag_stays_within_its_promise() {
    for world in WORLDS
        .into_iter()
        .filter(|world| !world.name.contains("fails"))
    {
        let (polls, lag) = shares(world, 30..100);
        assert!(polls <= 0.6 && lag <= 1.25, "{}: {polls} {lag}", world.name);
    }
    let (polls, lag) = shares(WORLDS[0], 30..100);
    assert!(polls <= 0.52 && lag <= 1.15, "{polls} {lag}");
}

#[test]
fn failures_at_any_time_cost_polls_but_not_the_promise() {
    let fails = WORLDS
        .into_iter()
        .find(|world| world.name.contains("fails"))
        .unwrap();
    let (polls, lag) = shares(fails, 30..200);
    assert!(polls <= 0.7 && lag <= 1.25, "{polls} {lag}");
}

#[test]
fn three_ends_save_less_and_keep_the_promise() {
    let [fixed, adaptive] = [FIXED, ADAPTIVE].map(|rule| measure(WORLDS[0], rule, 3..4, 500));
    let (polls, lag) = (adaptive.polls / fixed.polls, adaptive.lag / fixed.lag);
    assert!(polls <= 0.85 && lag <= 1.25, "{polls} {lag}");
}

#[test]
fn a_model_that_becomes_faster_or_slower_is_learnt_anew() {
    for world in WORLDS
        .into_iter()
        .filter(|world| world.name.contains("twice"))
    {
        let (_, during) = shares(world, 100..200);
        assert!(during <= 1.3, "{}: {during}", world.name);
        let (polls, after) = shares(world, 200..300);
        assert!(
            polls <= 0.6 && after <= 1.25,
            "{}: {polls} {after}",
            world.name
        );
    }
}

#[test]
fn with_nothing_learnt_it_is_the_fixed_cadence_exactly() {
    for world in WORLDS {
        for seed in 0..50 {
            let [fixed, adaptive] =
                [FIXED, ADAPTIVE].map(|rule| follow(world, rule, 1, seed, &Cadence::new())[0]);
            assert_eq!((fixed.polls, fixed.lag), (adaptive.polls, adaptive.lag));
        }
    }
}

/// An upstream in memory: each task with the moment of its end.
#[derive(Debug, Clone, Default)]
struct Vendor {
    ends: Arc<Mutex<HashMap<String, Instant>>>,
    polls: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Service<TaskFetch> for Vendor {
    type Response = Reply;
    type Error = Error;
    type Future = Ready<Result<Reply, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, fetch: TaskFetch) -> Self::Future {
        let task = fetch.query.key.task.as_str().to_owned();
        let now = Instant::now();
        let over = now >= self.ends.lock().unwrap()[&task];
        self.polls.lock().unwrap().push((task.clone(), now));
        let status = if over { "completed" } else { "in_progress" };
        let url = if task == "bare" {
            ""
        } else {
            "https://h/v.mp4"
        };
        let body = Bytes::from(format!(
            r#"{{"id":"{task}","object":"video","model":"m","status":"{status}","progress":50,"video_url":"{url}"}}"#
        ));
        let snapshot = TaskSnapshot::read(&task, &body, fetch.first_seen).ok();
        ready(Ok(Reply::new(
            StatusCode::OK,
            &HeaderMap::new(),
            body,
            snapshot,
        )))
    }
}

/// A gateway's inner half, and what its clients do.
struct Scene {
    vendor: Vendor,
    state: PollState,
    config: Config,
    caller: CallerKey,
}

impl Scene {
    fn new(adaptive: bool) -> Self {
        let mut config = Config::default();
        config.cache.adaptive = adaptive;
        Self {
            vendor: Vendor::default(),
            state: PollState::new(1 << 26, &Arc::new(Metrics::new().unwrap())),
            config,
            caller: CallerKey::random().unwrap(),
        }
    }

    fn query(&self, task: &str, wait: Option<Duration>, cache_mode: CacheMode) -> TaskQuery {
        let credentials = Credentials::new(HeaderMap::new(), Uri::from_static("/"));
        let now = Instant::now();
        TaskQuery {
            key: TaskKey {
                caller: self.caller.caller(&credentials),
                dialect: Dialect::OpenAi,
                task: TaskId::new(task),
            },
            credentials,
            cache_mode,
            at: now,
            deadline: now + Duration::from_secs(15),
            wait: wait.map(|wait| Wait {
                known: None,
                until: now + wait,
                dialect: Dialect::OpenAi,
                rendering: Rendering::Faithful,
            }),
            asked: pollgate::request::query::AskedUpstream::default(),
        }
    }

    async fn ask(&self, query: TaskQuery) -> Answer {
        let pipeline = task_pipeline(&self.state, &self.config, self.vendor.clone());
        pipeline.oneshot(query).await.unwrap()
    }

    /// A task that ends in 100 s.
    fn begin(&self, task: &str) {
        let end = Instant::now() + Duration::from_secs(100);
        self.vendor
            .ends
            .lock()
            .unwrap()
            .insert(task.to_owned(), end);
    }

    /// How long a task of this model that was just made need not be looked at again.
    fn chosen(&self, model: &str) -> Duration {
        let bounds = Bounds {
            least: self.config.cache.in_flight_ttl,
            most: self.config.cache.in_flight_max,
        };
        self.state
            .cadence
            .interval(model, Duration::ZERO, 50, bounds)
    }

    /// Waits again and again, thirty seconds at a time; how long after its end the task's end was seen.
    async fn wait(&self, task: &str) -> Duration {
        loop {
            let answer = self
                .ask(self.query(task, Some(Duration::from_secs(30)), CacheMode::Default))
                .await;
            if answer.reply.is_terminal() {
                let end = self.vendor.ends.lock().unwrap()[task];
                return Instant::now() - end;
            }
        }
    }

    /// Each of these tasks, a second apart, with ten who wait for it: polls per task, and the mean lag in seconds.
    async fn live(&self, tasks: std::ops::Range<usize>) -> (f64, f64) {
        let mut dice = Dice::new(7);
        let count = f64::from(u32::try_from(tasks.len()).unwrap());
        let before = self.vendor.polls.lock().unwrap().len();
        let lives = tasks.clone().map(|n| {
            let lifetime = Duration::from_secs_f64(usual(&mut dice, n));
            let start = Duration::from_millis(1000 * (n - tasks.start) as u64);
            async move {
                tokio::time::sleep(start).await;
                let task = format!("t{n}");
                self.vendor
                    .ends
                    .lock()
                    .unwrap()
                    .insert(task.clone(), Instant::now() + lifetime);
                let lags = join_all((0..10).map(|_| self.wait(&task))).await;
                lags.iter().map(Duration::as_secs_f64).sum::<f64>() / 10.0
            }
        });
        let lag = join_all(lives).await.iter().sum::<f64>() / count;
        let polls = self.vendor.polls.lock().unwrap().len() - before;
        (f64::from(u32::try_from(polls).unwrap()) / count, lag)
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_who_wait_on_a_hundred_tasks_cost_less_than_a_hundred_pollers() {
    let [fixed, adaptive] = [false, true].map(Scene::new);
    adaptive.live(0..40).await;
    let (fixed_polls, fixed_lag) = fixed.live(100..200).await;
    let (polls, lag) = adaptive.live(100..200).await;
    assert!(fixed_polls < 65.0, "{fixed_polls}");
    assert!(polls <= 0.6 * fixed_polls, "{polls} of {fixed_polls}");
    assert!(lag <= 1.25 * fixed_lag, "{lag} of {fixed_lag}");
}

#[tokio::test(start_paused = true)]
async fn the_first_task_of_a_process_is_asked_about_at_the_fixed_cadence() {
    let scene = Scene::new(true);
    scene.live(0..1).await;
    let polls = scene.vendor.polls.lock().unwrap();
    assert!(polls.len() > 40);
    for pair in polls.windows(2) {
        let gap = pair[1].1 - pair[0].1;
        assert!(gap <= Duration::from_millis(2100), "{gap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_how_long_it_was_chosen_to_be_fresh_and_a_refetch_asks_all_the_same() {
    let scene = Scene::new(true);
    scene.live(0..40).await;
    scene.begin("t");
    let asked = || scene.vendor.polls.lock().unwrap().len();
    let before = asked();
    let first = scene.ask(scene.query("t", None, CacheMode::Default)).await;
    let state = first.reply.state();
    assert_eq!(state, Some(State::Processing));
    let fresh = first.fresh_until - first.received;
    assert!(fresh > Duration::from_secs(4), "{fresh:?}");
    assert_eq!(fresh, scene.chosen("m"));
    tokio::time::advance(fresh.saturating_sub(Duration::from_millis(1))).await;
    scene.ask(scene.query("t", None, CacheMode::Default)).await;
    assert_eq!(asked(), before + 1);
    scene.ask(scene.query("t", None, CacheMode::NoCache)).await;
    assert_eq!(asked(), before + 2);
    tokio::time::advance(Duration::from_secs(90).saturating_sub(fresh)).await;
    let late = scene.ask(scene.query("t", None, CacheMode::Default)).await;
    let fresh = late.fresh_until - late.received;
    assert!(fresh < Duration::from_secs(4), "{fresh:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_learnt_outlives_a_change_of_settings_and_is_of_its_model_alone() {
    let mut scene = Scene::new(true);
    scene.live(0..40).await;
    scene.begin("t");
    scene.config.cache.in_flight_max = Duration::from_secs(3);
    let answer = scene.ask(scene.query("t", None, CacheMode::Default)).await;
    let fresh = answer.fresh_until - answer.received;
    assert_eq!(fresh, Duration::from_secs(3));
    assert_eq!(scene.chosen("another"), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_success_without_a_url_is_looked_at_as_often_as_ever() {
    let scene = Scene::new(true);
    scene.live(0..40).await;
    scene
        .vendor
        .ends
        .lock()
        .unwrap()
        .insert("bare".to_owned(), Instant::now());
    let answer = scene
        .ask(scene.query("bare", None, CacheMode::Default))
        .await;
    assert!(answer.reply.is_terminal());
    assert_eq!(answer.fresh_until - answer.received, Duration::from_secs(2));
}
