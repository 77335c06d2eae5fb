//! Sidecars of a fleet on one engine in memory, to which everything happens that can happen to a real one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use pollgate::answer::Answer;
use pollgate::answer::outcome::Outcome;
use pollgate::config::{Alone, Config, Shared};
use pollgate::error::Error;
use pollgate::fleet::engine::{Ask, Push};
use pollgate::fleet::memory::{Fault, Lost, MemoryEngine, MemoryLink};
use pollgate::request::preferences::CacheMode;
use pollgate::request::query::{TaskFetch, TaskQuery};
use pollgate::route::TaskId;
use pollgate::task::{Dialect, State};
use tokio::time::{Instant, advance, sleep};

use super::support::{AT_ONCE, Gateway, Upstream, document, error, refused, task};

const LATENCY: Duration = Duration::from_millis(120);

/// The sidecars of a fleet, their links, their engine and their upstream.
struct Scene {
    engine: MemoryEngine,
    upstream: Upstream,
    sidecars: Vec<(Gateway, MemoryLink)>,
    config: Config,
}

impl Scene {
    /// Sidecars that have all heard from the engine, before an upstream whose tasks run.
    async fn new(sidecars: usize) -> Self {
        let running = |fetch: &_| (LATENCY, task(fetch, "processing"));
        Self::before(Upstream::new(running), sidecars).await
    }

    async fn before(upstream: Upstream, sidecars: usize) -> Self {
        fastrand::seed(7);
        let mut config = Config::default();
        config.cache.adaptive = false;
        let mut scene = Self {
            engine: MemoryEngine::new(),
            upstream,
            sidecars: Vec::new(),
            config,
        };
        for _ in 0..sidecars {
            scene.join();
        }
        sleep(Duration::from_millis(100)).await;
        scene
    }

    /// Adds a sidecar.
    fn join(&mut self) {
        let number = self.sidecars.len() as u64 + 1;
        let sidecar = Gateway::in_fleet(&self.config, &self.upstream, &self.engine, number);
        self.sidecars.push(sidecar);
    }

    fn gateway(&self, number: usize) -> &Gateway {
        &self.sidecars[number].0
    }

    fn link(&self, number: usize) -> &MemoryLink {
        &self.sidecars[number].1
    }

    fn query_of(&self, number: usize, task: &str) -> TaskQuery {
        self.gateway(number)
            .query("me", Dialect::OpenAi, task, CacheMode::Default)
    }

    async fn poll(&self, number: usize, task: &str) -> Result<Answer, Error> {
        self.gateway(number).poll(task).await
    }

    /// One poll of a task at every sidecar, all at once.
    async fn poll_all(&self, task: &str) -> Vec<Answer> {
        let polls = self.sidecars.iter().map(|(gateway, _)| gateway.poll(task));
        let answers = join_all(polls).await;
        answers
            .into_iter()
            .map(|answer| answer.expect("an answer"))
            .collect()
    }
}

/// Delays what is asked for by `wanted`.
fn delayed(wanted: fn(&Ask) -> bool, fault: Fault) -> impl FnMut(&Ask) -> Fault + Send {
    move |ask| {
        if wanted(ask) { fault } else { Fault::default() }
    }
}

fn is_board(ask: &Ask) -> bool {
    matches!(ask, Ask::Board(_))
}

fn is_land(ask: &Ask) -> bool {
    matches!(ask, Ask::Land(_))
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[tokio::test(start_paused = true)]
async fn a_fleet_asks_upstream_once_for_all_who_wait() {
    let scene = Scene::new(5).await;
    for round in 1..=3 {
        let answers = scene.poll_all("t").await;
        assert_eq!(scene.upstream.count(), round);
        let count = |outcome| {
            answers
                .iter()
                .filter(|answer| answer.outcome == outcome)
                .count()
        };
        assert_eq!((count(Outcome::Fetched), count(Outcome::Fleet)), (1, 4));
        // Nobody takes the answer for younger than it is, and all ask again together.
        let oldest = answers.iter().map(|answer| answer.received).min();
        let youngest = answers.iter().map(|answer| answer.received).max();
        assert!(youngest.unwrap() - oldest.unwrap() <= millis(1));
        sleep(millis(2_001)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_sidecar_knows_the_others_need_not_ask_for() {
    let scene = Scene::new(3).await;
    scene.poll(0, "t").await.expect("an answer");
    sleep(millis(500)).await;
    let answer = scene.poll(1, "t").await.expect("an answer");
    assert_eq!(answer.outcome, Outcome::Fleet);
    assert_eq!(answer.reply.state(), Some(State::Processing));
    assert!(answer.received.elapsed() >= millis(500));
    let key = scene.query_of(1, "t").key;
    let leader = scene.gateway(1).fleet().leader(&key, answer.received);
    assert_eq!(leader, Some(scene.gateway(0).fleet().member));
    // It is in this one's own memory now.
    let hit = scene.poll(1, "t").await.expect("an answer");
    assert_eq!(hit.outcome, Outcome::Hit);
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_restarts_asks_upstream_for_nothing_that_the_fleet_knows() {
    let mut scene = Scene::new(1).await;
    scene
        .upstream
        .now(|fetch| (LATENCY, task(fetch, "succeeded")));
    for number in 0..10 {
        scene
            .poll(0, &format!("t{number}"))
            .await
            .expect("an answer");
    }
    scene.join();
    sleep(millis(100)).await;
    for number in 0..10 {
        let answer = scene
            .poll(1, &format!("t{number}"))
            .await
            .expect("an answer");
        assert_eq!(answer.outcome, Outcome::Fleet);
    }
    assert_eq!(scene.upstream.count(), 10);
}

#[tokio::test(start_paused = true)]
async fn callers_of_a_fleet_never_share_answers() {
    let scene = Scene::new(2).await;
    scene.poll(0, "t").await.expect("an answer");
    let other = scene
        .gateway(1)
        .ask("other", Dialect::OpenAi, "t", CacheMode::Default)
        .await
        .expect("an answer");
    assert_eq!(other.outcome, Outcome::Fetched);
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_demands_a_new_answer_gets_one_that_was_asked_for_since() {
    let scene = Scene::new(2).await;
    scene.poll(0, "t").await.expect("an answer");
    sleep(millis(100)).await;
    let demanded = Instant::now();
    let answer = scene
        .gateway(1)
        .ask("me", Dialect::OpenAi, "t", CacheMode::NoCache)
        .await
        .expect("an answer");
    assert!(answer.received >= demanded);
    assert_eq!(answer.outcome, Outcome::Fetched);
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_push_that_overtakes_the_reply_is_heard() {
    let scene = Scene::new(2).await;
    // The board's answer comes after the landing's push.
    let late = Fault {
        back: millis(15),
        ..Fault::default()
    };
    scene.link(1).set_faults(delayed(is_board, late));
    scene
        .upstream
        .now(|fetch| (millis(5), task(fetch, "processing")));
    let (first, second) = tokio::join!(scene.poll(0, "t"), scene.poll(1, "t"));
    assert_eq!(first.expect("an answer").outcome, Outcome::Fetched);
    assert_eq!(second.expect("an answer").outcome, Outcome::Fleet);
    assert_eq!(
        scene
            .gateway(1)
            .metric("pollgate_fleet_waits_total{end=\"lease\"}"),
        0
    );
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lead_that_comes_late_is_flown_with_the_lonely_poll() {
    let scene = Scene::new(2).await;
    // Of a task that the engine has never heard of, it believes nothing that was asked for before the lead.
    scene.poll(0, "t").await.expect("an answer");
    sleep(millis(2_100)).await;
    let late = Fault {
        back: millis(21),
        ..Fault::default()
    };
    scene.link(0).set_faults(delayed(is_board, late));
    let (alone, waited) = tokio::join!(scene.poll(0, "t"), async {
        sleep(millis(10)).await;
        scene.poll(1, "t").await
    });
    assert_eq!(alone.expect("an answer").outcome, Outcome::Fetched);
    assert_eq!(waited.expect("an answer").outcome, Outcome::Fleet);
    assert_eq!(scene.upstream.count(), 2);
    assert_eq!(
        scene
            .gateway(0)
            .metric("pollgate_fleet_alone_total{why=\"timeout\"}"),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_lead_that_comes_after_the_lonely_answer_hands_that_answer_in() {
    let scene = Scene::new(2).await;
    // Of a task that the engine has never heard of, it believes nothing that was asked for before the lead.
    scene.poll(0, "t").await.expect("an answer");
    sleep(millis(2_100)).await;
    let late = Fault {
        back: millis(200),
        ..Fault::default()
    };
    scene.link(0).set_faults(delayed(is_board, late));
    scene
        .upstream
        .now(|fetch| (millis(5), task(fetch, "processing")));
    let start = Instant::now();
    let (alone, waited) = tokio::join!(scene.poll(0, "t"), async {
        sleep(millis(10)).await;
        scene.poll(1, "t").await
    });
    assert_eq!(alone.expect("an answer").outcome, Outcome::Fetched);
    assert_eq!(waited.expect("an answer").outcome, Outcome::Fleet);
    assert!(start.elapsed() < millis(250), "{:?}", start.elapsed());
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lead_that_nobody_waits_for_any_more_is_given_back() {
    let scene = Scene::new(2).await;
    let late = Fault {
        back: millis(15),
        ..Fault::default()
    };
    scene.link(0).set_faults(delayed(is_board, late));
    let poll = tokio::spawn(
        scene
            .gateway(0)
            .ask("me", Dialect::OpenAi, "t", CacheMode::Default),
    );
    sleep(millis(5)).await;
    // Its only client hangs up before the engine has answered.
    poll.abort();
    sleep(millis(50)).await;
    let start = Instant::now();
    let answer = scene.poll(1, "t").await.expect("an answer");
    assert_eq!(answer.outcome, Outcome::Fetched);
    assert!(start.elapsed() < millis(200), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn clients_that_hang_up_cost_those_who_wait_elsewhere_nothing() {
    let scene = Scene::new(2).await;
    let leading = tokio::spawn(scene.gateway(0).ask(
        "me",
        Dialect::OpenAi,
        "t",
        CacheMode::Default,
    ));
    sleep(millis(10)).await;
    let waiting = tokio::spawn(scene.gateway(1).ask(
        "me",
        Dialect::OpenAi,
        "t",
        CacheMode::Default,
    ));
    sleep(millis(10)).await;
    leading.abort();
    let answer = waiting.await.expect("ends").expect("an answer");
    assert_eq!(answer.outcome, Outcome::Fleet);
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn clients_that_come_and_hang_up_wait_for_one_poll() {
    let scene = Scene::new(2).await;
    scene
        .upstream
        .now(|fetch| (Duration::from_secs(8), task(fetch, "processing")));
    let start = Instant::now();
    for _ in 0..5 {
        let poll = scene.poll(0, "t");
        let hung_up = tokio::time::timeout(Duration::from_secs(1), poll).await;
        assert!(hung_up.is_err());
    }
    let answer = scene.poll(0, "t").await.expect("an answer");
    assert_eq!(answer.reply.state(), Some(State::Processing));
    assert!(start.elapsed() < millis(8_100), "{:?}", start.elapsed());
    assert_eq!(scene.upstream.count(), 1);
    // After a write the poll under way is not waited for.
    sleep(millis(2_100)).await;
    let start = Instant::now();
    let before = tokio::time::timeout(Duration::from_secs(1), scene.poll(0, "t"));
    assert!(before.await.is_err());
    let query = scene.query_of(0, "t");
    scene
        .gateway(0)
        .state
        .store
        .invalidate_for(&query.key.task, query.key.caller);
    scene.poll(0, "t").await.expect("an answer");
    assert!(start.elapsed() >= Duration::from_secs(9));
    assert_eq!(scene.upstream.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_lands_behind_a_later_one_takes_nothing_back() {
    let scene = Scene::new(2).await;
    // The first one goes on without its lead, which comes too late.
    let late = Fault {
        back: millis(21),
        ..Fault::default()
    };
    scene.link(0).set_faults(delayed(is_board, late));
    scene
        .upstream
        .now(|fetch| (millis(1_800), task(fetch, "processing")));
    let first = tokio::time::timeout(millis(500), scene.poll(0, "t"));
    assert!(first.await.is_err());
    scene.link(0).set_faults(|_| Fault::default());
    scene
        .upstream
        .now(|fetch| (millis(5), task(fetch, "succeeded")));
    let state = async |number: usize| {
        let answer = scene.poll(number, "t").await.expect("an answer");
        answer.reply.state()
    };
    assert_eq!(state(0).await, Some(State::Succeeded));
    for _ in 0..8 {
        sleep(millis(400)).await;
        assert_eq!(state(0).await, Some(State::Succeeded));
    }
    assert_eq!(state(1).await, Some(State::Succeeded));
    assert_eq!(scene.upstream.count(), 2, "both have landed");
}

#[tokio::test(start_paused = true)]
async fn a_forget_reaches_a_task_however_its_id_is_encoded() {
    let mut scene = Scene::new(1).await;
    scene
        .upstream
        .now(|fetch| (LATENCY, task(fetch, "succeeded")));
    scene.poll(0, "a%3Db").await.expect("an answer");
    let fleet = scene.gateway(0).fleet();
    fleet
        .forget(pollgate::fleet::Forget::Task(TaskId::new("a=b")))
        .await;
    // Longer than news are told, so that the engine's own mark counts.
    sleep(Duration::from_secs(90)).await;
    scene.join();
    sleep(millis(100)).await;
    let answer = scene.poll(1, "a%3Db").await.expect("an answer");
    assert_eq!(answer.outcome, Outcome::Fetched);
}

#[tokio::test(start_paused = true)]
async fn a_landing_whose_reply_is_lost_is_sent_again_and_changes_nothing() {
    let scene = Scene::new(2).await;
    let mut lost = 2;
    scene.link(0).set_faults(move |ask| {
        if !is_land(ask) || lost == 0 {
            return Fault::default();
        }
        lost -= 1;
        // The first try is lost, and of the second one only the answer.
        let lost = if lost == 1 {
            Lost::Command
        } else {
            Lost::Reply
        };
        Fault {
            lost,
            ..Fault::default()
        }
    });
    let start = Instant::now();
    let (first, second) = tokio::join!(scene.poll(0, "t"), async {
        sleep(millis(10)).await;
        scene.poll(1, "t").await
    });
    assert_eq!(first.expect("an answer").outcome, Outcome::Fetched);
    assert_eq!(second.expect("an answer").outcome, Outcome::Fleet);
    assert!(
        start.elapsed() < LATENCY + millis(200),
        "{:?}",
        start.elapsed()
    );
    sleep(millis(400)).await;
    assert_eq!(scene.upstream.count(), 1);
    assert_eq!(
        scene
            .gateway(0)
            .metric("pollgate_fleet_landings_total{result=\"kept\"}"),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_upstream_is_asked_once_however_long_it_takes() {
    let scene = Scene::new(3).await;
    scene
        .upstream
        .now(|fetch| (millis(6_300), task(fetch, "processing")));
    scene.poll_all("t").await;
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_whose_way_to_upstream_is_broken_is_served_by_the_others() {
    let upstream = Upstream::new(|fetch| (LATENCY, task(fetch, "processing")));
    let mut scene = Scene::before(upstream, 3).await;
    let broken = Upstream::new(|_| (millis(2), refused()));
    let sidecar = Gateway::in_fleet(&scene.config, &broken, &scene.engine, 77);
    scene.sidecars.push(sidecar);
    sleep(millis(100)).await;
    for round in 1..=20 {
        let answers = scene.poll_all("t").await;
        assert!(answers.iter().all(|answer| answer.reply.is_task()));
        assert_eq!(scene.upstream.count(), round);
        sleep(millis(2_100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_is_to_probe_lets_the_others_lead() {
    let upstream = Upstream::new(|fetch| (LATENCY, task(fetch, "processing")));
    let mut scene = Scene::before(upstream, 0).await;
    let broken = Upstream::new(|_| (millis(400), refused()));
    let sidecar = Gateway::in_fleet(&scene.config, &broken, &scene.engine, 77);
    scene.sidecars.push(sidecar);
    scene.join();
    scene.join();
    sleep(millis(100)).await;
    let fail = (0..20).map(|id| scene.gateway(0).send(scene.query_of(0, &format!("f{id}"))));
    join_all(fail).await;
    scene.poll(1, "t").await.expect("an answer");
    for round in 2..=20 {
        sleep(millis(2_100)).await;
        let polls = (0..3).map(|number| {
            let scene = &scene;
            async move {
                let start = Instant::now();
                let answer = scene.poll(number, "t").await;
                (start.elapsed(), answer.is_ok())
            }
        });
        for (took, is_answered) in join_all(polls).await {
            assert!(
                is_answered && took < LATENCY + millis(30),
                "{round}: {took:?}"
            );
        }
        assert_eq!(scene.upstream.count(), round);
    }
    // Where nobody else asks, it does.
    scene.upstream.now(|_| (LATENCY, refused()));
    let before = broken.count();
    for id in 0..20 {
        let _ = scene.poll(0, &format!("g{id}")).await;
        sleep(millis(300)).await;
    }
    assert!(broken.count() > before);
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_fails_for_three_members_is_left_alone_for_a_while() {
    let scene = Scene::new(6).await;
    scene.poll_all("t").await;
    sleep(millis(2_100)).await;
    scene.upstream.now(|_| (millis(5), error(502, &[], "")));
    let before = scene.upstream.count();
    let answers = scene.poll_all("t").await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.outcome == Outcome::Stale)
    );
    // Three members, with the retries of each.
    let asked = scene.upstream.count() - before;
    assert!((3..=9).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_frozen_costs_three_polls_their_budget_and_then_nothing() {
    let scene = Scene::new(2).await;
    scene.engine.freeze();
    for number in 0..3 {
        let start = Instant::now();
        scene
            .poll(0, &format!("t{number}"))
            .await
            .expect("an answer");
        assert_eq!(start.elapsed(), LATENCY + millis(20));
    }
    assert!(!scene.gateway(0).fleet().health.is_together());
    for number in 3..10 {
        let start = Instant::now();
        scene
            .poll(0, &format!("t{number}"))
            .await
            .expect("an answer");
        assert_eq!(start.elapsed(), LATENCY);
    }
    scene.engine.thaw();
    sleep(millis(1_000)).await;
    assert!(scene.gateway(0).fleet().health.is_together());
    let answers = scene.poll_all("new").await;
    assert!(
        answers
            .iter()
            .any(|answer| answer.outcome == Outcome::Fleet)
    );
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_held_up_reads_what_has_come_before_it_polls_for_itself() {
    let scene = Scene::new(2).await;
    scene.poll(0, "t").await.expect("an answer");
    let slow = Fault {
        back: millis(10),
        ..Fault::default()
    };
    scene.link(1).set_faults(delayed(is_board, slow));
    let gateway = scene.gateway(1);
    let poll = tokio::spawn(gateway.send(scene.query_of(1, "t")));
    tokio::task::yield_now().await;
    // Both the answer and the end of the poll's patience are long past when it goes on.
    advance(millis(50)).await;
    let answer = poll.await.expect("no panic").expect("an answer");
    assert_eq!(answer.outcome, Outcome::Fleet);
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn commands_of_a_frozen_time_do_nothing_when_it_is_over() {
    let scene = Scene::new(2).await;
    scene.engine.freeze();
    for number in 0..3 {
        scene
            .poll(0, &format!("t{number}"))
            .await
            .expect("an answer");
    }
    sleep(Duration::from_mins(1)).await;
    scene.engine.thaw();
    sleep(millis(500)).await;
    assert!(scene.gateway(1).fleet().health.is_together());
    // A lead that was granted to a board of a minute ago would let this one wait for its end.
    for number in 0..3 {
        let start = Instant::now();
        scene
            .poll(1, &format!("t{number}"))
            .await
            .expect("an answer");
        assert_eq!(start.elapsed(), LATENCY);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_frozen_past_its_lease_lands_last_and_changes_nothing() {
    let upstream = Upstream::new(|fetch| (LATENCY, task(fetch, "succeeded")));
    let mut scene = Scene::before(upstream, 2).await;
    // Asks upstream, is told of an early state, and then its commands take long: renewals and the landing.
    let early = Upstream::new(|fetch| (LATENCY, task(fetch, "queued")));
    let frozen = Gateway::in_fleet(&scene.config, &early, &scene.engine, 77);
    scene.sidecars.push(frozen);
    sleep(millis(100)).await;
    let slow = Fault {
        there: millis(1_400),
        ..Fault::default()
    };
    scene.link(2).set_faults(delayed(is_land, slow));
    let first = scene.poll(2, "t").await.expect("an answer");
    assert_eq!(first.reply.state(), Some(State::Queued));
    let later = scene.poll(0, "t").await.expect("an answer");
    assert_eq!(later.reply.state(), Some(State::Succeeded));
    sleep(millis(2_000)).await;
    // The early state has landed, and is not what the engine has.
    let last = scene.poll(1, "t").await.expect("an answer");
    assert_eq!(last.reply.state(), Some(State::Succeeded));
    assert_eq!(last.outcome, Outcome::Fleet);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_forgets_everything_costs_polls_and_nothing_else() {
    let scene = Scene::new(3).await;
    let polls = scene.poll_all("t");
    let flush = async {
        // Between lead and land.
        sleep(millis(60)).await;
        scene.engine.flush();
        // The clock of the engine that takes over is an hour behind.
        scene.engine.step_clock(-3_600_000_000);
    };
    let (answers, ()) = tokio::join!(polls, flush);
    assert!(answers.iter().all(|answer| answer.reply.is_task()));
    for _ in 0..3 {
        sleep(millis(2_100)).await;
        let before = scene.upstream.count();
        let answers = scene.poll_all("t").await;
        assert!(
            answers
                .iter()
                .all(|answer| answer.outcome != Outcome::Stale)
        );
        assert!(scene.upstream.count() <= before + 1);
    }
    // Fences are an hour behind those of before, and count all the same.
    sleep(millis(2_100)).await;
    scene.poll(0, "t").await.expect("an answer");
    sleep(millis(500)).await;
    let told = scene.poll(1, "t").await.expect("an answer");
    assert_eq!(told.outcome, Outcome::Fleet);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_forgets_who_waits_lets_nobody_wait_longer() {
    let scene = Scene::new(4).await;
    let start = Instant::now();
    let polls = scene.poll_all("t");
    let flush = async {
        sleep(millis(30)).await;
        // All have heard of this one.
        let fleet = scene.gateway(2).fleet();
        let other = TaskId::new("other");
        fleet.forget(pollgate::fleet::Forget::Task(other)).await;
        sleep(millis(60)).await;
        scene.engine.flush();
    };
    let (answers, ()) = tokio::join!(polls, flush);
    assert!(start.elapsed() < LATENCY + millis(25));
    assert!(answers.iter().all(|answer| answer.reply.is_task()));
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_lands_on_an_engine_without_memory_is_not_shown_over_a_forget() {
    // The news are heard after the flush, when they are lost: before the answer lands, or after it.
    for delay in [millis(10), millis(400)] {
        let scene = Scene::new(3).await;
        scene
            .upstream
            .now(|fetch| (LATENCY, task(fetch, "succeeded")));
        let polls = scene.poll_all("t");
        let forget = async {
            sleep(millis(60)).await;
            scene
                .upstream
                .now(|fetch| (LATENCY, task(fetch, "processing")));
            let is_beat = |ask: &Ask| matches!(ask, Ask::Beat { .. });
            let late = Fault {
                there: delay,
                ..Fault::default()
            };
            scene.link(1).set_faults(delayed(is_beat, late));
            let task = TaskId::new("t");
            scene.gateway(2).state.store.purge_task(&task);
            let fleet = scene.gateway(2).fleet();
            assert!(fleet.forget(pollgate::fleet::Forget::Task(task)).await);
            scene.engine.flush();
        };
        let (answers, ()) = tokio::join!(polls, forget);
        for answer in &answers[1..] {
            assert_eq!(answer.reply.state(), Some(State::Processing));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_full_still_says_what_it_knows() {
    let scene = Scene::new(3).await;
    scene.poll(0, "t").await.expect("an answer");
    scene.engine.fill(true);
    let known = scene.poll(1, "t").await.expect("an answer");
    assert_eq!(known.outcome, Outcome::Fleet);
    // No leads: each for itself, and the engine is asked again the next time.
    let answers = scene.poll_all("new").await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.outcome == Outcome::Fetched)
    );
    assert!(scene.gateway(0).fleet().health.is_together());
    // Full exactly at the landing: those who wait get it all the same.
    scene.engine.fill(false);
    let polls = scene.poll_all("at land");
    let fill = async {
        sleep(millis(60)).await;
        scene.engine.fill(true);
    };
    let before = scene.upstream.count();
    let (answers, ()) = tokio::join!(polls, fill);
    assert_eq!(scene.upstream.count(), before + 1);
    assert_eq!(
        answers
            .iter()
            .filter(|answer| answer.outcome == Outcome::Fleet)
            .count(),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_task_is_not_brought_back_by_a_poll_from_before() {
    let scene = Scene::new(3).await;
    scene
        .upstream
        .now(|fetch| (LATENCY, task(fetch, "succeeded")));
    let polls = scene.poll_all("t");
    let forget = async {
        // Between lead and land, and by another sidecar than the leader.
        sleep(millis(60)).await;
        scene
            .upstream
            .now(|fetch| (LATENCY, task(fetch, "processing")));
        let task = TaskId::new("t");
        scene.gateway(2).state.store.purge_task(&task);
        let fleet = scene.gateway(2).fleet();
        fleet.forget(pollgate::fleet::Forget::Task(task)).await;
    };
    let (_, ()) = tokio::join!(polls, forget);
    sleep(millis(50)).await;
    for answer in scene.poll_all("t").await {
        assert_eq!(answer.reply.state(), Some(State::Processing));
    }
}

#[tokio::test(start_paused = true)]
async fn a_forget_that_the_engine_did_not_hear_is_told_when_it_is_back() {
    let scene = Scene::new(2).await;
    scene
        .upstream
        .now(|fetch| (LATENCY, task(fetch, "succeeded")));
    scene.poll_all("t").await;
    scene.link(1).sever();
    sleep(millis(10)).await;
    scene
        .upstream
        .now(|fetch| (LATENCY, task(fetch, "processing")));
    let id = TaskId::new("t");
    scene.gateway(1).state.store.purge_task(&id);
    scene
        .gateway(1)
        .fleet()
        .forget(pollgate::fleet::Forget::Task(id))
        .await;
    // While it is cut off it asks for itself, and never adopts what it knows to be forgotten.
    let own = scene.poll(1, "t").await.expect("an answer");
    assert_eq!(own.reply.state(), Some(State::Processing));
    scene.link(1).mend();
    sleep(millis(1_000)).await;
    for answer in scene.poll_all("t").await {
        assert_eq!(answer.reply.state(), Some(State::Processing));
    }
}

#[tokio::test(start_paused = true)]
async fn news_that_were_lost_while_cut_off_drop_what_is_remembered() {
    let scene = Scene::new(2).await;
    scene
        .upstream
        .now(|fetch| (LATENCY, task(fetch, "succeeded")));
    scene.poll_all("t").await;
    scene.poll_all("other").await;
    scene.link(1).sever();
    sleep(millis(10)).await;
    let fleet = scene.gateway(0).fleet();
    for id in ["t", "x", "y"] {
        let id = TaskId::new(id);
        scene.gateway(0).state.store.purge_task(&id);
        fleet.forget(pollgate::fleet::Forget::Task(id)).await;
    }
    scene.engine.trim_journal(1);
    scene.link(1).mend();
    sleep(millis(1_000)).await;
    scene
        .upstream
        .now(|fetch| (LATENCY, task(fetch, "processing")));
    let answer = scene.poll(1, "t").await.expect("an answer");
    assert_eq!(answer.reply.state(), Some(State::Processing));
    // The engine refills what was right, without a poll.
    let before = scene.upstream.count();
    let other = scene.poll(1, "other").await.expect("an answer");
    assert_eq!(
        (other.outcome, scene.upstream.count()),
        (Outcome::Fleet, before)
    );
    assert_eq!(
        scene.gateway(1).metric("pollgate_fleet_journal_gaps_total"),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_credential_is_forgotten_by_all_members() {
    const REFUSAL: &str = r#"{"error":{"message":"invalid token"}}"#;
    let scene = Scene::new(2).await;
    scene
        .upstream
        .now(|fetch| (LATENCY, task(fetch, "succeeded")));
    scene.poll_all("known").await;
    scene.poll(0, "engine's").await.expect("an answer");
    scene.upstream.now(|_| (LATENCY, error(401, &[], REFUSAL)));
    let refused = scene.poll(0, "new").await.expect("an answer");
    assert_eq!(refused.reply.status, 401);
    // Neither what the other remembers nor what the engine does is shown again.
    sleep(millis(5)).await;
    for id in ["known", "engine's"] {
        let answer = scene.poll(1, id).await.expect("an answer");
        assert_eq!(answer.reply.status, 401);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_while_another_member_adopts_leaves_nothing_adopted() {
    const REFUSAL: &str = r#"{"error":{"message":"invalid token"}}"#;
    let scene = Scene::new(2).await;
    scene
        .upstream
        .now(|fetch| (LATENCY, task(fetch, "succeeded")));
    scene.poll(0, "t").await.expect("an answer");
    scene.upstream.now(|_| (AT_ONCE, error(401, &[], REFUSAL)));
    // The board is decided before the refusal, and its answer comes after it.
    let slow = Fault {
        back: millis(15),
        ..Fault::default()
    };
    scene.link(1).set_faults(delayed(is_board, slow));
    let (adopting, refused) = tokio::join!(scene.poll(1, "t"), async {
        sleep(millis(2)).await;
        scene.poll(0, "new").await
    });
    assert_eq!(refused.expect("an answer").reply.status, 401);
    assert_eq!(adopting.expect("an answer").reply.status, 401);
    scene.link(1).clear_faults();
    assert_eq!(
        scene.poll(1, "t").await.expect("an answer").reply.status,
        401
    );
}

#[tokio::test(start_paused = true)]
async fn after_going_alone_an_older_answer_of_the_fleet_is_not_adopted() {
    let scene = Scene::new(2).await;
    // The first one leads, and upstream's answer to it comes late and is of an early state.
    let polls = Arc::new(AtomicUsize::new(0));
    scene.upstream.now(move |fetch| {
        if polls.fetch_add(1, Ordering::Relaxed) == 0 {
            (millis(300), task(fetch, "queued"))
        } else {
            (millis(50), task(fetch, "processing"))
        }
    });
    let leading = tokio::spawn(scene.gateway(0).ask(
        "me",
        Dialect::OpenAi,
        "t",
        CacheMode::Default,
    ));
    sleep(millis(10)).await;
    // The other one is cut off for a moment, and goes alone.
    scene.link(1).cut();
    let alone = scene.poll(1, "t").await.expect("an answer");
    assert_eq!(alone.reply.state(), Some(State::Processing));
    leading.await.expect("ends").expect("an answer");
    sleep(millis(1_760)).await;
    // Its own answer is stale now, and that of the fleet is fresh, and older.
    let later = scene.poll(1, "t").await.expect("an answer");
    assert_eq!(later.reply.state(), Some(State::Processing));
    assert_eq!(
        scene
            .gateway(1)
            .metric("pollgate_fleet_adoptions_refused_total{why=\"older\"}"),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn members_with_other_settings_keep_answers_as_long_as_their_own_allow() {
    let upstream = Upstream::new(|fetch| (LATENCY, task(fetch, "processing")));
    let mut scene = Scene::before(upstream, 0).await;
    scene.config.cache.in_flight_ttl = Duration::from_secs(10);
    scene.join();
    scene.config.cache.in_flight_ttl = Duration::from_secs(1);
    scene.join();
    sleep(millis(100)).await;
    scene.poll(0, "t").await.expect("an answer");
    sleep(millis(500)).await;
    let young = scene.poll(1, "t").await.expect("an answer");
    assert_eq!(young.outcome, Outcome::Fleet);
    sleep(millis(600)).await;
    let fetched = scene.poll(1, "t").await.expect("an answer");
    assert_eq!(fetched.outcome, Outcome::Fetched);
    sleep(millis(5_000)).await;
    // The one that keeps it for longer does.
    assert_eq!(
        scene.poll(0, "t").await.expect("an answer").outcome,
        Outcome::Hit
    );
    assert_eq!(scene.upstream.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_tampered_with_is_refused_and_counted() {
    let scene = Scene::new(2).await;
    for id in ["a", "b"] {
        scene.poll(0, id).await.expect("an answer");
    }
    let all = std::sync::Mutex::new(Vec::new());
    scene.engine.tamper(|_, sealed| {
        all.lock().unwrap().push(sealed.clone());
        sealed.clone()
    });
    let all = all.into_inner().unwrap();
    // Swapped.
    scene
        .engine
        .tamper(|_, sealed| all.iter().find(|other| *other != sealed).unwrap().clone());
    for id in ["a", "b"] {
        let answer = scene.poll(1, id).await.expect("an answer");
        assert_eq!(answer.outcome, Outcome::Fetched);
    }
    let unsealed = "pollgate_fleet_adoptions_refused_total{why=\"unsealed\"}";
    assert_eq!(scene.gateway(1).metric(unsealed), 2);
    // Replayed under a later fence, and cut short.
    sleep(millis(2_100)).await;
    scene.poll(1, "a").await.expect("an answer");
    for tampered in [all[0].clone(), all[1].clone()] {
        scene.engine.tamper(move |_, _| tampered.clone());
        scene.gateway(0).state.store.drop_all();
        let answer = scene.poll(0, "a").await.expect("an answer");
        assert_eq!(answer.outcome, Outcome::Fetched);
    }
    scene
        .engine
        .tamper(|_, sealed| pollgate::fleet::engine::Sealed(sealed.0.slice(..20)));
    scene.gateway(0).state.store.drop_all();
    let answer = scene.poll(0, "a").await.expect("an answer");
    assert_eq!(answer.outcome, Outcome::Fetched);
    assert!(scene.gateway(0).metric(unsealed) >= 3);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_forged_pushes_costs_polls_and_nothing_else() {
    let scene = Scene::new(3).await;
    let fleet = scene.gateway(0).fleet();
    let query = scene.query_of(0, "t");
    let key = fleet.entry(&query).expect("asks for one task");
    let storm = async {
        for _ in 0..1_000 {
            let fence = pollgate::fleet::engine::Fence(u64::MAX);
            scene.engine.forge(&Push::Vacant { key, fence });
            scene.engine.forge(&Push::Bell);
            sleep(millis(1)).await;
        }
    };
    let (answers, ()) = tokio::join!(scene.poll_all("t"), storm);
    assert!(answers.iter().all(|answer| answer.reply.is_task()));
    assert_eq!(scene.upstream.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn connections_lost_all_at_once_spread_the_polls_that_follow() {
    let scene = Scene::new(20).await;
    let asked_before =
        |tasks: usize| -> Vec<String> { (0..tasks).map(|n| format!("t{n}")).collect() };
    let tasks = asked_before(50);
    // The first sidecar leads for all of them, and upstream takes its time.
    scene
        .upstream
        .now(|fetch| (millis(600), task(fetch, "processing")));
    let polls = tasks.iter().flat_map(|id| {
        scene
            .sidecars
            .iter()
            .map(move |(gateway, _)| gateway.ask("me", Dialect::OpenAi, id, CacheMode::Default))
    });
    let polls: Vec<_> = polls.map(tokio::spawn).collect();
    sleep(millis(100)).await;
    let cut = Instant::now();
    scene.engine.crash();
    scene.engine.start();
    for poll in polls {
        poll.await.expect("ends").expect("an answer");
    }
    let after: Vec<_> = scene
        .upstream
        .asked()
        .into_iter()
        .map(|(at, _)| at)
        .filter(|at| *at >= cut)
        .collect();
    // Never more than each for itself, and not in one moment.
    assert!(after.len() <= 20 * 50, "{}", after.len());
    let first = after.iter().filter(|at| **at < cut + millis(10)).count();
    assert!(first < after.len() / 5, "{first} of {}", after.len());
    assert!(
        scene
            .sidecars
            .iter()
            .all(|(gateway, _)| gateway.fleet().waits() == 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_names_a_caller_holds_for_all_members() {
    const LIMITED: &str = r#"{"error":{"message":"rate limited"}}"#;
    let scene = Scene::new(4).await;
    scene.poll_all("t").await;
    sleep(millis(2_100)).await;
    scene
        .upstream
        .now(|_| (AT_ONCE, error(429, &[("retry-after", "10")], LIMITED)));
    scene.poll_all("t").await;
    sleep(millis(50)).await;
    let before = scene.upstream.count();
    for id in ["t", "u", "v"] {
        let polls = scene.sidecars.iter().map(|(gateway, _)| gateway.poll(id));
        join_all(polls).await;
    }
    assert_eq!(scene.upstream.count(), before);
    // When it is over, one of them probes.
    scene
        .upstream
        .now(|_| (AT_ONCE, error(429, &[("retry-after", "10")], LIMITED)));
    sleep(millis(11_000)).await;
    let polls = scene.sidecars.iter().map(|(gateway, _)| gateway.poll("w"));
    join_all(polls).await;
    assert_eq!(scene.upstream.count(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_is_over_for_one_member_is_over_for_all() {
    const LIMITED: &str = r#"{"error":{"message":"rate limited"}}"#;
    let scene = Scene::new(5).await;
    scene
        .upstream
        .now(|_| (AT_ONCE, error(429, &[("retry-after", "1")], LIMITED)));
    let _ = scene.poll(0, "t").await;
    scene
        .upstream
        .now(|fetch| (AT_ONCE, task(fetch, "processing")));
    sleep(millis(500)).await;
    for number in 0..5 {
        let refused = scene.poll(number, &format!("early-{number}")).await;
        assert!(refused.is_err(), "{number}: {refused:?}");
    }
    sleep(millis(1_000)).await;
    scene.poll(1, "first").await.expect("it probes");
    sleep(millis(50)).await;
    for number in 0..5 {
        let answer = scene.poll(number, &format!("of-{number}")).await;
        assert!(answer.is_ok(), "{number}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_lets_nobody_wait_for_a_member_that_may_not_ask() {
    const LIMITED: &str = r#"{"error":{"message":"rate limited"}}"#;
    let scene = Scene::new(5).await;
    let polls = Arc::new(AtomicUsize::new(0));
    scene.upstream.now(move |fetch| {
        if polls.fetch_add(1, Ordering::Relaxed) == 7 {
            (LATENCY, error(429, &[], LIMITED))
        } else {
            (LATENCY, task(fetch, "processing"))
        }
    });
    let poller = |number: usize, id: usize| {
        let scene = &scene;
        async move {
            let mut longest = Duration::ZERO;
            sleep(millis(37 * (number + 5 * id) as u64 % 900)).await;
            for _ in 0..40 {
                let start = Instant::now();
                let _ = scene.poll(number, &format!("t{id}")).await;
                longest = longest.max(start.elapsed());
                sleep(millis(200)).await;
            }
            longest
        }
    };
    let pollers = (0..5).flat_map(|number| (0..5).map(move |id| (number, id)));
    let times = join_all(pollers.map(|(number, id)| poller(number, id))).await;
    let longest = times.into_iter().max().unwrap();
    assert!(longest < LATENCY + millis(60), "{longest:?}");
}

/// Twenty tasks of a model that take a hundred seconds each, polled at the first sidecar.
async fn learn(scene: &Scene) {
    let start = Instant::now();
    let status = move |fetch: &_| {
        let status = if start.elapsed() < Duration::from_secs(100) {
            "processing"
        } else {
            "succeeded"
        };
        let body = format!(
            r#"{{"id":"{}","object":"video","model":"m","status":"{status}","metadata":{{"url":"https://cdn.example.com/v.mp4"}}}}"#,
            id_of(fetch)
        );
        (LATENCY, document(fetch, body))
    };
    scene.upstream.now(status);
    let ids: Vec<_> = (0..20).map(|number| format!("t{number}")).collect();
    while start.elapsed() < Duration::from_secs(103) {
        join_all(ids.iter().map(|id| scene.poll(0, id))).await;
        sleep(millis(500)).await;
    }
    sleep(millis(100)).await;
    scene.upstream.now(|fetch| {
        let body = format!(
            r#"{{"id":"{}","object":"video","model":"m","status":"processing"}}"#,
            id_of(fetch)
        );
        (LATENCY, document(fetch, body))
    });
}

/// For how long this sidecar has a young task of that model fresh. It meets the model with a first task, and knows of its ends
/// with the second.
async fn young(scene: &Scene, number: usize) -> Duration {
    let first = scene.poll(number, &format!("first-{number}")).await;
    first.expect("an answer");
    sleep(millis(50)).await;
    let second = scene.poll(number, &format!("second-{number}")).await;
    let second = second.expect("an answer");
    second.fresh_until - second.received
}

#[tokio::test(start_paused = true)]
async fn what_one_member_learns_of_ends_all_know() {
    let upstream = Upstream::new(|fetch| (LATENCY, task(fetch, "processing")));
    let mut scene = Scene::before(upstream, 0).await;
    scene.config.cache.adaptive = true;
    scene.join();
    scene.join();
    sleep(millis(100)).await;
    learn(&scene).await;
    // Both stretch the time to the next poll of a young task; and so does one that starts now.
    scene.join();
    sleep(millis(100)).await;
    for number in 0..3 {
        let fresh = young(&scene, number).await;
        assert!(fresh > Duration::from_secs(4), "{number}: {fresh:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_shares_no_cadence_neither_tells_of_ends_nor_hears_of_them() {
    let (all, answers) = (Config::default().fleet.share, vec![Shared::Answers]);
    for [first, other] in [[&answers, &all], [&all, &answers]] {
        let running = |fetch: &_| (LATENCY, task(fetch, "processing"));
        let mut scene = Scene::before(Upstream::new(running), 0).await;
        scene.config.cache.adaptive = true;
        for share in [first, other] {
            scene.config.fleet.share.clone_from(share);
            scene.join();
        }
        sleep(millis(100)).await;
        learn(&scene).await;
        // And one that asks the engine for what it has.
        scene.join();
        sleep(millis(100)).await;
        assert!(young(&scene, 0).await > Duration::from_secs(4), "its own");
        for number in 1..3 {
            assert_eq!(young(&scene, number).await, millis(2_000), "{number}");
        }
    }
}

fn id_of(fetch: &TaskFetch) -> String {
    fetch.query.key.task.decoded().into_owned()
}

#[tokio::test(start_paused = true)]
async fn whoever_reads_the_engine_learns_nothing() {
    let scene = Scene::new(2).await;
    scene
        .upstream
        .now(|fetch| (LATENCY, task(fetch, "succeeded")));
    for number in 0..50 {
        scene.poll_all(&format!("task-secret-{number}")).await;
    }
    let task = TaskId::new("task-secret-1");
    scene.gateway(0).state.store.purge_task(&task);
    scene
        .gateway(0)
        .fleet()
        .forget(pollgate::fleet::Forget::Task(task))
        .await;
    let dump = scene.engine.dump();
    assert!(dump.len() > 5_000);
    for word in ["secret", "cdn.example", "succeeded", "video", "task-"] {
        let found = dump
            .windows(word.len())
            .any(|window| window == word.as_bytes());
        assert!(!found, "{word}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_large_is_not_shared() {
    let scene = Scene::new(2).await;
    scene.upstream.now(|fetch| {
        let filler = "x".repeat(300 << 10);
        let body = format!(
            r#"{{"id":"{}","object":"video","status":"processing","prompt":"{filler}"}}"#,
            id_of(fetch)
        );
        (AT_ONCE, document(fetch, body))
    });
    scene.poll_all("t").await;
    assert_eq!(scene.upstream.count(), 2);
    assert_eq!(
        scene
            .gateway(0)
            .metric("pollgate_fleet_landings_total{result=\"too_large\"}"),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_too_large_to_push_is_fetched() {
    let scene = Scene::new(3).await;
    scene.upstream.now(|fetch| {
        let filler = "x".repeat(20 << 10);
        let body = format!(
            r#"{{"id":"{}","object":"video","status":"processing","prompt":"{filler}"}}"#,
            id_of(fetch)
        );
        (LATENCY, document(fetch, body))
    });
    let answers = scene.poll_all("t").await;
    assert_eq!(scene.upstream.count(), 1);
    assert_eq!(
        answers
            .iter()
            .filter(|answer| answer.outcome == Outcome::Fleet)
            .count(),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_never_there_costs_nothing() {
    let scene = Scene::new(0).await;
    scene.engine.crash();
    let (gateway, _link) = Gateway::in_fleet(&scene.config, &scene.upstream, &scene.engine, 1);
    advance(millis(10)).await;
    let start = Instant::now();
    let answer = gateway.poll("t").await.expect("an answer");
    assert_eq!(answer.outcome, Outcome::Fetched);
    assert_eq!(start.elapsed(), LATENCY);
}

/// Sidecars of which each shares what is listed for it.
async fn sharing(each: &[&[Shared]]) -> Scene {
    let running = |fetch: &_| (LATENCY, task(fetch, "processing"));
    let mut scene = Scene::before(Upstream::new(running), 0).await;
    for share in each {
        scene.config.fleet.share = share.to_vec();
        scene.join();
    }
    sleep(millis(100)).await;
    scene
}

#[tokio::test(start_paused = true)]
async fn a_member_that_shares_no_answers_polls_for_itself_and_still_forgets() {
    let all = Config::default().fleet.share;
    let scene = sharing(&[&all, &[Shared::Pauses], &[]]).await;
    scene.poll_all("t").await;
    assert_eq!(scene.upstream.count(), 3);
    let boards = "pollgate_fleet_command_seconds_count{command=\"board\"}";
    let counts = [0, 1, 2].map(|number| scene.gateway(number).metric(boards));
    assert_eq!(counts, [1, 0, 0]);
    let id = TaskId::new("t");
    scene.gateway(0).state.store.purge_task(&id);
    let fleet = scene.gateway(0).fleet();
    assert!(fleet.forget(pollgate::fleet::Forget::Task(id)).await);
    sleep(millis(50)).await;
    scene.poll_all("t").await;
    assert_eq!(scene.upstream.count(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_shares_no_pauses_neither_tells_of_them_nor_hears_of_them() {
    const LIMITED: &str = r#"{"error":{"message":"rate limited"}}"#;
    let (all, answers) = (Config::default().fleet.share, [Shared::Answers]);
    // Who is asked for a pause, and how many of three are then asked by others of upstream.
    for (paused, asks) in [(0, [false, false, true]), (2, [true, true, false])] {
        let scene = sharing(&[&all, &all, &answers]).await;
        scene
            .upstream
            .now(|_| (AT_ONCE, error(429, &[("retry-after", "10")], LIMITED)));
        let _ = scene.poll(paused, "t").await;
        sleep(millis(50)).await;
        scene
            .upstream
            .now(|fetch| (AT_ONCE, task(fetch, "processing")));
        for (number, asks) in asks.into_iter().enumerate() {
            let before = scene.upstream.count();
            let _ = scene.poll(number, &format!("of-{number}")).await;
            assert_eq!(
                scene.upstream.count() > before,
                asks,
                "{number} of {paused}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_modest_member_polls_the_less_often_the_more_members_were_seen() {
    let all = Config::default().fleet.share;
    for (alone, share, members, expected) in [
        (Alone::Same, &all, 4, millis(2_000)),
        (Alone::Modest, &all, 1, millis(2_000)),
        (Alone::Modest, &all, 4, millis(8_000)),
        // Not beyond cache.in_flight_max.
        (Alone::Modest, &all, 8, millis(10_000)),
        // It polls no more than before.
        (Alone::Modest, &vec![], 4, millis(2_000)),
    ] {
        let running = |fetch: &_| (AT_ONCE, task(fetch, "processing"));
        let mut scene = Scene::before(Upstream::new(running), 0).await;
        scene.config.fleet.alone = alone;
        scene.config.fleet.share.clone_from(share);
        for _ in 0..members {
            scene.join();
        }
        // A beat later, all have seen all.
        sleep(millis(1_500)).await;
        let answer = scene.poll(0, "together").await.expect("an answer");
        let fresh = answer.fresh_until - answer.received;
        assert_eq!(fresh, millis(2_000), "{alone:?}, {members}, together");
        scene.engine.crash();
        sleep(millis(1_000)).await;
        let answer = scene.poll(0, "alone").await.expect("an answer");
        let fresh = answer.fresh_until - answer.received;
        assert_eq!(fresh, expected, "{alone:?}, {members}, alone");
        // What cannot change any more is kept as ever.
        scene
            .upstream
            .now(|fetch| (AT_ONCE, task(fetch, "succeeded")));
        let answer = scene.poll(0, "done").await.expect("an answer");
        assert!(answer.fresh_until - answer.received > Duration::from_hours(1));
    }
}
