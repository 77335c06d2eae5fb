//! Upstream fails: what is retried, when an answer is stale-if-error, and how long a circuit stays open or paused.

use std::time::Duration;

use http::StatusCode;
use pollgate::answer::Answer;
use pollgate::answer::outcome::Outcome;
use pollgate::config::{Config, UpstreamDialect};
use pollgate::error::Error;
use pollgate::request::preferences::CacheMode;
use pollgate::task::{Dialect, Form, Rendering};
use tokio::time::{Instant, sleep};

use crate::support::{AT_ONCE, Gateway, Way, error, refused, task};

const SECOND: Duration = Duration::from_secs(1);

/// Every poll goes upstream.
fn nothing_fresh() -> Config {
    let mut config = Config::default();
    config.cache.in_flight_ttl = Duration::ZERO;
    config
}

fn status(result: &Result<Answer, Error>) -> StatusCode {
    match result {
        Ok(answer) => answer.reply.status,
        Err(error) => error.status(),
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_transient_failure_is_retried_and_sent_three_times_at_most() {
    let invalid = || Err(Error::UpstreamInvalid("html".into()));
    let cases: [(&str, Way, usize); 11] = [
        ("refused", refused, 3),
        ("a broken body", invalid, 3),
        ("502", || error(502, &[], ""), 3),
        ("503", || error(503, &[], ""), 3),
        ("504", || error(504, &[], ""), 3),
        ("500", || error(500, &[], "{}"), 1),
        ("429", || error(429, &[], ""), 1),
        ("400", || error(400, &[], "{}"), 1),
        ("401", || error(401, &[], "{}"), 1),
        ("404", || error(404, &[], "{}"), 1),
        ("timeout", || Err(Error::UpstreamTimeout), 1),
    ];
    for (what, failing, tries) in cases {
        let gateway = Gateway::new(&Config::default(), move |_| (AT_ONCE, failing()));
        let started = Instant::now();
        let result = gateway.poll("t").await;
        assert!(status(&result).as_u16() >= 400, "{what}");
        assert_eq!(gateway.upstream.count(), tries, "{what}");
        let waited = started.elapsed();
        let expected = if tries == 1 { 0..1 } else { 70..160 };
        assert!(expected.contains(&waited.as_millis()), "{what}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_blip_is_not_seen_by_the_client() {
    let gateway = Gateway::new(&Config::default(), |_| (AT_ONCE, refused()));
    let upstream = gateway.upstream.clone();
    let end = Instant::now() + Duration::from_millis(60);
    upstream.now(move |fetch| {
        let result = if Instant::now() < end {
            error(502, &[], "<html>")
        } else {
            task(fetch, "queued")
        };
        (AT_ONCE, result)
    });
    assert_eq!(
        gateway.poll("t").await.expect("an answer").reply.status,
        200
    );
}

#[tokio::test(start_paused = true)]
async fn all_attempts_together_stay_within_the_timeout() {
    let mut config = Config::default();
    config.upstream.timeout = 2 * SECOND;
    let gateway = Gateway::new(&config, |_| (Duration::from_millis(900), refused()));
    let started = Instant::now();
    assert!(gateway.poll("t").await.is_err());
    assert!(started.elapsed() <= 2 * SECOND, "{:?}", started.elapsed());
    assert_eq!(gateway.upstream.count(), 3, "the third is cut off");
}

#[tokio::test(start_paused = true)]
async fn retries_have_a_budget() {
    // Every second task fails. The answers in between keep the circuit closed.
    let gateway = Gateway::new(&Config::default(), |fetch| {
        let bad = fetch
            .query
            .key
            .task
            .as_str()
            .ends_with(['1', '3', '5', '7', '9']);
        (
            AT_ONCE,
            if bad {
                refused()
            } else {
                task(fetch, "queued")
            },
        )
    });
    for number in 0..200 {
        let _ = gateway.poll(&format!("t{number}")).await;
    }
    let retries = gateway.upstream.count() - 200;
    assert!(
        (10..=80).contains(&retries),
        "{retries} for 100 failing polls"
    );
}

#[tokio::test(start_paused = true)]
async fn the_last_known_state_is_served_stale_with_its_true_age_up_to_stale_if_error_and_no_longer()
{
    let ways: [Way; 6] = [
        refused,
        || Err(Error::UpstreamInvalid("html".into())),
        || Err(Error::UpstreamTimeout),
        || error(500, &[], "{}"),
        || error(503, &[], "<html>"),
        || error(429, &[], ""),
    ];
    for failing in ways {
        let gateway = Gateway::new(&Config::default(), |fetch| {
            (AT_ONCE, task(fetch, "processing"))
        });
        let known = gateway.poll("t").await.expect("an answer");
        gateway.upstream.now(move |_| (AT_ONCE, failing()));
        // Fresh for 2 s, and usable for 10 min beyond.
        for after in [3, 60, 240, 298] {
            sleep(after * SECOND).await;
            let answer = gateway.poll("t").await.expect("stale-if-error");
            assert_eq!(answer.outcome, Outcome::Stale);
            assert_eq!(answer.received, known.received, "its true age");
            assert_eq!(answer.reply.body, known.reply.body);
        }
        sleep(2 * SECOND).await;
        let result = gateway.poll("t").await;
        assert!(status(&result).as_u16() >= 429, "{result:?}");
        assert!(
            gateway
                .poll("unknown")
                .await
                .map_or(true, |answer| !answer.reply.is_task())
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_known_task_is_waited_for_as_long_as_upstream_usually_takes_and_three_seconds_at_most() {
    // How long upstream takes until it falls silent, and how long a poll then waits.
    let cases = [
        (50, 500..=501),
        (250, 750..=751),
        (900, 1000..=1001),
        (1500, 1501..=1999),
        (2900, 2901..=3001),
        (10_000, 3000..=3001),
    ];
    for (usual, expected) in cases {
        let usual = Duration::from_millis(usual);
        let gateway = Gateway::new(&nothing_fresh(), move |fetch| {
            (usual, task(fetch, "processing"))
        });
        for number in 0..30 {
            let answer = gateway.poll(&format!("t{number}")).await;
            assert_eq!(answer.expect("an answer").outcome, Outcome::Fetched);
        }
        gateway.upstream.close_gate();
        let started = Instant::now();
        let answer = gateway.poll("t0").await.expect("the last known state");
        let waited = started.elapsed();
        assert_eq!(answer.outcome, Outcome::Stale);
        assert!(
            expected.contains(&waited.as_millis()),
            "{usual:?}: {waited:?}"
        );
        // One that is not known is waited for.
        let result = gateway.poll("new").await;
        assert!(matches!(result, Err(Error::UpstreamTimeout)), "{result:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_429_that_names_a_caller_pauses_that_caller_alone_for_retry_after() {
    let gateway = Gateway::new(&nothing_fresh(), |fetch| {
        let mine = fetch.query.credentials.query() == Some("me");
        let slow = || {
            error(
                429,
                &[("retry-after", "7")],
                r#"{"code":"rate_limit","message":"x","data":null}"#,
            )
        };
        (
            AT_ONCE,
            if mine {
                slow()
            } else {
                task(fetch, "processing")
            },
        )
    });
    assert_eq!(status(&gateway.poll("t").await), 429);
    gateway
        .upstream
        .now(|fetch| (AT_ONCE, task(fetch, "processing")));
    for _ in 0..6 {
        let result = gateway.poll("other").await;
        let Err(Error::RateLimited(left)) = result else {
            panic!("{result:?}")
        };
        assert!(left <= 7 * SECOND, "{left:?}");
        let neighbour = gateway
            .ask("you", Dialect::OpenAi, "t", CacheMode::Default)
            .await;
        assert_eq!(status(&neighbour), 200);
        sleep(SECOND).await;
    }
    let asked = gateway.upstream.count();
    assert_eq!(asked, 1 + 6, "nothing was sent for the paused caller");
    sleep(SECOND).await;
    assert_eq!(
        status(&gateway.poll("t").await),
        200,
        "as soon as the pause is over"
    );
    assert_eq!(status(&gateway.poll("other").await), 200, "for everything");
}

#[tokio::test(start_paused = true)]
async fn a_429_that_names_no_caller_pauses_every_caller() {
    let gateway = Gateway::new(&nothing_fresh(), |_| {
        (AT_ONCE, error(429, &[("retry-after", "3")], ""))
    });
    assert_eq!(status(&gateway.poll("t").await), 429);
    for caller in ["me", "you", "they"] {
        let result = gateway
            .ask(caller, Dialect::Unified, "t", CacheMode::Default)
            .await;
        assert!(matches!(result, Err(Error::RateLimited(_))), "{result:?}");
    }
    assert_eq!(gateway.upstream.count(), 1);
    gateway
        .upstream
        .now(|fetch| (AT_ONCE, task(fetch, "processing")));
    sleep(3 * SECOND).await;
    for caller in ["me", "you", "they"] {
        assert_eq!(
            status(
                &gateway
                    .ask(caller, Dialect::Unified, "t", CacheMode::Default)
                    .await
            ),
            200
        );
    }
}

#[tokio::test(start_paused = true)]
async fn without_retry_after_the_pauses_grow_exponentially() {
    let gateway = Gateway::new(&nothing_fresh(), |_| (AT_ONCE, error(429, &[], "")));
    for _ in 0..1200 {
        let _ = gateway.poll("t").await;
        sleep(Duration::from_millis(100)).await;
    }
    let asked = gateway.upstream.asked();
    let pauses: Vec<_> = asked.windows(2).map(|two| two[1].0 - two[0].0).collect();
    // 1, 2, 4, 8, 16, 30, 30 s, with up to a quarter of jitter.
    assert!((5..=8).contains(&pauses.len()), "{pauses:?}");
    assert!(
        pauses[..4]
            .windows(2)
            .all(|two| two[1] > two[0].mul_f64(1.5)),
        "{pauses:?}"
    );
    assert!(
        pauses.iter().all(|pause| *pause <= 38 * SECOND),
        "{pauses:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn during_a_pause_known_tasks_are_answered_stale_and_unknown_ones_with_a_retry_after() {
    let gateway = Gateway::new(&nothing_fresh(), |fetch| {
        (AT_ONCE, task(fetch, "processing"))
    });
    gateway.poll("known").await.expect("an answer");
    gateway
        .upstream
        .now(|_| (AT_ONCE, error(429, &[("retry-after", "20")], "")));
    for _ in 0..10 {
        let answer = gateway.poll("known").await.expect("stale-if-error");
        assert_eq!(answer.outcome, Outcome::Stale);
        let error = gateway
            .poll("unknown")
            .await
            .expect_err("nothing is cached");
        assert_eq!(error.status(), 429);
        assert!(error.retry_after().is_some());
        sleep(SECOND).await;
    }
    assert_eq!(gateway.upstream.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_probes_at_a_slow_pace_and_closes_within_one_probe_of_recovery() {
    let gateway = Gateway::new(&nothing_fresh(), |fetch| {
        (AT_ONCE, task(fetch, "processing"))
    });
    let tasks = ["t0", "t1", "t2", "t3", "t4"];
    for task in tasks {
        gateway.poll(task).await.expect("an answer");
    }
    sleep(2 * SECOND).await;
    gateway.upstream.now(|_| (AT_ONCE, refused()));
    let before = gateway.upstream.count();
    for round in 0..6000 {
        let task = tasks[round % tasks.len()];
        assert_eq!(
            gateway.poll(task).await.expect("stale-if-error").outcome,
            Outcome::Stale
        );
        sleep(Duration::from_millis(10)).await;
    }
    let probes = gateway.upstream.count() - before;
    assert!((20..=60).contains(&probes), "{probes} in a minute");
    let asked = gateway.upstream.asked();
    let gaps: Vec<_> = asked[asked.len() - 10..]
        .windows(2)
        .map(|two| two[1].0 - two[0].0)
        .collect();
    assert!(gaps.iter().any(|gap| *gap != gaps[0]), "jittered: {gaps:?}");
    gateway
        .upstream
        .now(|fetch| (AT_ONCE, task(fetch, "succeeded")));
    let back = Instant::now();
    while gateway.poll("t0").await.expect("an answer").outcome == Outcome::Stale {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(
        back.elapsed() <= Duration::from_millis(2600),
        "{:?}",
        back.elapsed()
    );
    assert_eq!(
        gateway.poll("another").await.expect("an answer").outcome,
        Outcome::Fetched
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ended_on_one_path_is_converted_for_the_other() {
    for (known, asked) in [
        (Dialect::Unified, Dialect::OpenAi),
        (Dialect::OpenAi, Dialect::Unified),
    ] {
        let gateway = Gateway::new(&nothing_fresh(), |fetch| {
            let state = if fetch.query.key.task.as_str() == "done" {
                "succeeded"
            } else {
                "processing"
            };
            (AT_ONCE, task(fetch, state))
        });
        for id in ["done", "running"] {
            gateway
                .ask("me", known, id, CacheMode::Default)
                .await
                .expect("an answer");
        }
        gateway.upstream.now(|_| (AT_ONCE, refused()));
        let answer = gateway
            .ask("me", asked, "done", CacheMode::Default)
            .await
            .expect("its end is cached");
        assert_eq!(answer.outcome, Outcome::Stale);
        let rendition = answer
            .reply
            .rendition(Form::Written(asked, Rendering::Faithful));
        let body: serde_json::Value = serde_json::from_slice(&rendition.body).expect("JSON");
        match asked {
            Dialect::OpenAi => assert_eq!(body["status"], "completed"),
            Dialect::Unified => assert_eq!(body["data"]["status"], "succeeded"),
        }
        // A running task is not converted, and another caller gets nothing.
        assert!(
            gateway
                .ask("me", asked, "running", CacheMode::Default)
                .await
                .is_err()
        );
        assert!(
            gateway
                .ask("you", asked, "done", CacheMode::Default)
                .await
                .is_err()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn with_one_upstream_dialect_both_paths_share_the_cache_and_the_flights() {
    for dialect in [UpstreamDialect::Unified, UpstreamDialect::OpenAi] {
        let mut config = Config::default();
        config.upstream.dialect = dialect;
        let gateway = Gateway::new(&config, |fetch| (SECOND, task(fetch, "processing")));
        let polls = [Dialect::Unified, Dialect::OpenAi]
            .map(|path| tokio::spawn(gateway.ask("me", path, "t", CacheMode::Default)));
        for poll in polls {
            poll.await.expect("no panic").expect("an answer");
        }
        let hit = gateway
            .ask("me", Dialect::Unified, "t", CacheMode::Default)
            .await;
        assert_eq!(hit.expect("an answer").outcome, Outcome::Hit);
        assert_eq!(gateway.upstream.count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_running_task_that_is_said_to_be_missing_right_after_another_fault_is_not_lost() {
    let gateway = Gateway::new(&nothing_fresh(), |fetch| {
        (AT_ONCE, task(fetch, "processing"))
    });
    gateway.poll("t").await.expect("an answer");
    let stale_after = async |answer: Way, pause: Duration| {
        gateway.upstream.now(move |_| (AT_ONCE, answer()));
        let before = gateway.upstream.count();
        sleep(pause).await;
        let outcome = gateway.poll("t").await.expect("an answer").outcome;
        assert_eq!(gateway.upstream.count(), before + 1, "upstream was asked");
        outcome == Outcome::Stale
    };
    let fault = || error(500, &[], r#"{"error":{"message":"no"}}"#);
    let missing = || {
        let said = r#"{"code":"task_not_exist","message":"task_not_exist","data":null}"#;
        error(400, &[], said)
    };
    assert!(stale_after(fault, SECOND).await);
    assert!(stale_after(missing, 5 * SECOND).await);
    assert!(!stale_after(missing, 10 * SECOND).await, "said twice");
}
