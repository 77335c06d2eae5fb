//! The adaptive cadence keeps its promise, in the simulation behind its published curve and in the real pipeline.

#[allow(dead_code, clippy::cast_precision_loss)]
#[path = "../../benches/cadence/simulation.rs"]
mod simulation;

#[allow(
    dead_code,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss
)]
#[path = "../../benches/cadence/shared.rs"]
mod shared;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use pollgate::answer::Answer;
use pollgate::answer::reply::Reply;
use pollgate::cache::cadence::{Bounds, Cadence, Running};
use pollgate::config::Config;
use pollgate::error::Error;
use pollgate::request::preferences::CacheMode;
use pollgate::request::query::{TaskFetch, Wait};
use pollgate::task::{Dialect, Form, Rendering, State};
use tokio::time::Instant;

use self::shared::{Run, SCENES, mean};
use self::simulation::{Dice, Rule, Sum, WORLDS, World, follow, measure, usual};
use crate::support::{AT_ONCE, Gateway, document};

const FIXED: Rule = Rule::Fixed(2.0);
const ADAPTIVE: Rule = Rule::Adaptive(2.0, 10.0);

/// Polls and lag of the adaptive cadence, as shares of the fixed cadence's.
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
fn a_model_that_becomes_faster_or_slower_is_learnt_again() {
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

/// Polls and lag where rounds are learnt, as shares of those where they are not.
fn by_rounds(name: &str) -> (f64, f64, Vec<Run>) {
    let scene = SCENES
        .into_iter()
        .find(|scene| scene.name == name)
        .expect("a scene");
    let [before, after] = [false, true].map(|knows| shared::runs(scene, knows, &(50..120), 4));
    let share = |of| mean(&after, of) / mean(&before, of);
    (share(|life| life.polls), share(|life| life.lag), after)
}

#[test]
fn rounds_are_learnt_at_once_and_save_more_than_half_of_the_polls_at_the_same_lag() {
    for (name, promised) in [
        ("usual rounds; documents tell the state", 0.46),
        ("usual rounds; state and progress", 0.36),
        ("usual rounds; state and `updated_at`", 0.44),
        ("usual rounds; all three", 0.34),
    ] {
        let (polls, lag, runs) = by_rounds(name);
        assert!(polls <= promised && lag <= 1.12, "{name}: {polls} {lag}");
        let soon = runs
            .iter()
            .filter(|run| run.learnt_after.is_some_and(|rounds| rounds <= 4));
        assert!(
            soon.count() >= 3,
            "{name}: {:?}",
            runs.iter().map(|run| run.learnt_after).collect::<Vec<_>>()
        );
    }
}

#[test]
fn other_worlds_cost_no_more_than_without_rounds() {
    for name in [
        "no rounds; state",
        "no rounds; all three",
        "rounds of up to 20 s after 15 s of sleep; state",
        "two instances; state",
        "two instances; all three",
        "15 s and 24 s of sleep by turns, 15 min each; all three",
        "one task at a time; state",
    ] {
        let (polls, lag, _) = by_rounds(name);
        // The lag of four runs is no more exact than this.
        assert!(polls <= 1.03 && lag <= 1.12, "{name}: {polls} {lag}");
    }
}

/// When each task ends upstream.
type Ends = Arc<Mutex<HashMap<String, Instant>>>;

/// Upstream's document: in progress until the task ends. The task `bare` succeeds without a URL.
fn report(fetch: &TaskFetch, ends: &Ends) -> Result<Reply, Error> {
    let task = fetch.query.key.task.as_str();
    let over = Instant::now() >= ends.lock().unwrap()[task];
    let status = if over { "completed" } else { "in_progress" };
    let url = if task == "bare" {
        ""
    } else {
        "https://h/v.mp4"
    };
    let body = format!(
        r#"{{"id":"{task}","object":"video","model":"m","status":"{status}","progress":50,"video_url":"{url}"}}"#
    );
    document(fetch, body)
}

/// A pipeline in front of an upstream whose tasks end at set times.
struct Scene {
    gateway: Gateway,
    config: Config,
    ends: Ends,
    /// The first of upstream's rounds, if it looks in rounds.
    rounds: Option<Instant>,
}

impl Scene {
    fn new(adaptive: bool) -> Self {
        let mut config = Config::default();
        config.cache.adaptive = adaptive;
        let ends = Ends::default();
        let script = {
            let ends = Arc::clone(&ends);
            move |fetch: &TaskFetch| (AT_ONCE, report(fetch, &ends))
        };
        Self {
            gateway: Gateway::new(&config, script),
            config,
            ends,
            rounds: None,
        }
    }

    async fn ask(&self, task: &str, cache_mode: CacheMode) -> Answer {
        let poll = self.gateway.ask("me", Dialect::OpenAi, task, cache_mode);
        poll.await.unwrap()
    }

    /// Starts a task that ends after `lifetime`.
    fn begin(&self, task: &str, lifetime: Duration) {
        let end = Instant::now() + lifetime;
        self.ends.lock().unwrap().insert(task.to_owned(), end);
    }

    /// The freshness chosen for a new task of this model.
    fn chosen(&self, model: &str) -> Duration {
        let bounds = Bounds {
            least: self.config.cache.in_flight_ttl,
            most: self.config.cache.in_flight_max,
        };
        let cadence = &self.gateway.state.cadence;
        let task = Running {
            at: Instant::now(),
            age: Duration::ZERO,
            progress: 50,
            has_changed: false,
        };
        cadence.next(model, task, bounds).lasts
    }

    /// Waits in polls of 30 s until the task ends. Returns how long after upstream's word of it the end was seen.
    async fn wait(&self, task: &str) -> Duration {
        loop {
            let mut query = self
                .gateway
                .query("me", Dialect::OpenAi, task, CacheMode::Default);
            query.wait = Some(Wait {
                known: None,
                until: Instant::now() + Duration::from_secs(30),
                form: Form::Written(Dialect::OpenAi, Rendering::Faithful),
            });
            let answer = self.gateway.send(query).await.unwrap();
            if answer.reply.is_terminal() {
                let end = self.ends.lock().unwrap()[task];
                return Instant::now() - self.rounds.map_or(end, |zero| told_by_round(zero, end));
            }
        }
    }

    /// Runs these tasks, started a second apart, with ten waiters each. Returns polls per task and the mean lag in
    /// seconds.
    async fn live(&self, tasks: std::ops::Range<usize>) -> (f64, f64) {
        let mut dice = Dice::new(7);
        let count = f64::from(u32::try_from(tasks.len()).unwrap());
        let before = self.gateway.upstream.count();
        let lives = tasks.clone().map(|n| {
            let lifetime = Duration::from_secs_f64(usual(&mut dice, n));
            let start = Duration::from_millis(1000 * (n - tasks.start) as u64);
            async move {
                tokio::time::sleep(start).await;
                let task = format!("t{n}");
                self.begin(&task, lifetime);
                let lags = join_all((0..10).map(|_| self.wait(&task))).await;
                lags.iter().map(Duration::as_secs_f64).sum::<f64>() / 10.0
            }
        });
        let lag = join_all(lives).await.iter().sum::<f64>() / count;
        let polls = self.gateway.upstream.count() - before;
        (f64::from(u32::try_from(polls).unwrap()) / count, lag)
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_waiters_on_a_hundred_tasks_cost_less_than_a_hundred_pollers() {
    let [fixed, adaptive] = [false, true].map(Scene::new);
    adaptive.live(0..40).await;
    let (fixed_polls, fixed_lag) = fixed.live(100..200).await;
    let (polls, lag) = adaptive.live(100..200).await;
    assert!(fixed_polls < 65.0, "{fixed_polls}");
    assert!(polls <= 0.6 * fixed_polls, "{polls} of {fixed_polls}");
    assert!(lag <= 1.25 * fixed_lag, "{lag} of {fixed_lag}");
}

#[tokio::test(start_paused = true)]
async fn the_first_task_of_a_process_is_polled_at_the_fixed_cadence() {
    let scene = Scene::new(true);
    scene.live(0..1).await;
    let polls = scene.gateway.upstream.asked();
    assert!(polls.len() > 40);
    for pair in polls.windows(2) {
        let gap = pair[1].0 - pair[0].0;
        assert!(gap <= Duration::from_millis(2100), "{gap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_says_how_long_it_was_chosen_to_be_fresh_and_no_cache_polls_all_the_same() {
    let scene = Scene::new(true);
    scene.live(0..40).await;
    scene.begin("t", Duration::from_secs(100));
    let before = scene.gateway.upstream.count();
    let first = scene.ask("t", CacheMode::Default).await;
    let state = first.reply.state();
    assert_eq!(state, Some(State::Processing));
    let fresh = first.fresh_until - first.received;
    assert!(fresh > Duration::from_secs(4), "{fresh:?}");
    assert_eq!(fresh, scene.chosen("m"));
    tokio::time::advance(fresh.saturating_sub(Duration::from_millis(1))).await;
    scene.ask("t", CacheMode::Default).await;
    assert_eq!(scene.gateway.upstream.count(), before + 1);
    scene.ask("t", CacheMode::NoCache).await;
    assert_eq!(scene.gateway.upstream.count(), before + 2);
    tokio::time::advance(Duration::from_secs(90).saturating_sub(fresh)).await;
    let late = scene.ask("t", CacheMode::Default).await;
    let fresh = late.fresh_until - late.received;
    assert!(fresh < Duration::from_secs(4), "{fresh:?}");
}

#[tokio::test(start_paused = true)]
async fn end_times_outlive_a_reload_and_belong_to_their_model_alone() {
    let mut scene = Scene::new(true);
    scene.live(0..40).await;
    scene.begin("t", Duration::from_secs(100));
    scene.config.cache.in_flight_max = Duration::from_secs(3);
    scene.gateway.reload(&scene.config);
    let answer = scene.ask("t", CacheMode::Default).await;
    let fresh = answer.fresh_until - answer.received;
    assert_eq!(fresh, Duration::from_secs(3));
    assert_eq!(scene.chosen("another"), Duration::from_secs(2));
}

/// The seconds from one of upstream's rounds to the next.
const ROUND: u64 = 16;

/// When upstream tells an end, where its rounds begin at `zero`.
fn told_by_round(zero: Instant, end: Instant) -> Instant {
    let rounds = (end - zero)
        .as_nanos()
        .div_ceil(u128::from(ROUND) * 1_000_000_000);
    zero + Duration::from_secs(ROUND * u64::try_from(rounds).unwrap())
}

/// Upstream's document of a task that it looks at in rounds: the progress of the last one, and the end from the next one on.
fn report_by_rounds(fetch: &TaskFetch, ends: &Ends, zero: Instant) -> Result<Reply, Error> {
    let task = fetch.query.key.task.as_str();
    let over = Instant::now() >= told_by_round(zero, ends.lock().unwrap()[task]);
    let (status, progress) = if over {
        ("completed", 100)
    } else {
        ("in_progress", zero.elapsed().as_secs() / ROUND % 90)
    };
    let body = format!(
        r#"{{"id":"{task}","object":"video","model":"m","status":"{status}","progress":{progress},"video_url":"https://h/v.mp4"}}"#
    );
    document(fetch, body)
}

#[tokio::test(start_paused = true)]
async fn waiters_see_the_end_within_a_second_of_the_round_that_tells_it_with_a_fifth_of_the_polls()
{
    let zero = Instant::now();
    let [blind, scene] = [false, true].map(|adaptive| {
        let mut scene = Scene::new(adaptive);
        let ends = Arc::clone(&scene.ends);
        let script = move |fetch: &TaskFetch| (AT_ONCE, report_by_rounds(fetch, &ends, zero));
        scene.gateway.upstream.now(script);
        scene.rounds = Some(zero);
        scene
    });
    scene.live(0..100).await;
    let (fixed_polls, _) = blind.live(100..140).await;
    let rounds = scene.gateway.state.cadence.rounds("m", Instant::now());
    let every = rounds.expect("are known").every.as_secs_f64();
    assert!((15.5..16.5).contains(&every), "{every}");
    let (polls, lag) = scene.live(100..140).await;
    assert!(polls <= 0.2 * fixed_polls, "{polls} of {fixed_polls}");
    assert!(lag <= 1.0, "{lag}");
}

#[tokio::test(start_paused = true)]
async fn a_success_without_a_url_is_polled_at_the_fixed_cadence() {
    let scene = Scene::new(true);
    scene.live(0..40).await;
    scene.begin("bare", Duration::ZERO);
    let answer = scene.ask("bare", CacheMode::Default).await;
    assert!(answer.reply.is_terminal());
    assert_eq!(answer.fresh_until - answer.received, Duration::from_secs(2));
}
