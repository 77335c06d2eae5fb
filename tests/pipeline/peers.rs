//! Each way in which coalescing or caching fails elsewhere.

use std::time::Duration;

use pollgate::answer::Answer;
use pollgate::answer::outcome::Outcome;
use pollgate::config::Config;
use pollgate::error::Error;
use pollgate::request::preferences::CacheMode;
use pollgate::task::Dialect;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::support::{AT_ONCE, Gateway, error, refused, settle, task, task_with_url};

fn crowd(gateway: &Gateway, count: usize) -> Vec<JoinHandle<Result<Answer, Error>>> {
    (0..count)
        .map(|_| tokio::spawn(gateway.ask("me", Dialect::OpenAi, "t", CacheMode::Default)))
        .collect()
}

/// Nothing is ever fresh, so that every answer is one that may not be served again.
fn uncacheable() -> Config {
    let mut config = Config::default();
    config.cache.in_flight_ttl = Duration::ZERO;
    config.cache.stale_if_error = Duration::ZERO;
    config
}

// nginx

#[tokio::test(start_paused = true)]
async fn waiters_look_again_every_half_second_instead_of_being_told() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (Duration::from_millis(777), task(fetch, "queued"))
    });
    let started = Instant::now();
    for poll in crowd(&gateway, 100) {
        poll.await.expect("no panic").expect("an answer");
        assert_eq!(started.elapsed().as_millis(), 777);
    }
}

#[tokio::test(start_paused = true)]
async fn after_five_seconds_waiters_go_upstream_one_by_one() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (Duration::from_secs(14), task(fetch, "queued"))
    });
    for poll in crowd(&gateway, 100) {
        poll.await.expect("no panic").expect("an answer");
    }
    assert_eq!(gateway.upstream.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn answers_that_may_not_be_cached_are_handed_out_one_at_a_time() {
    let gateway = Gateway::new(&uncacheable(), |fetch| {
        (Duration::from_millis(200), task(fetch, "queued"))
    });
    let started = Instant::now();
    for poll in crowd(&gateway, 1000) {
        poll.await.expect("no panic").expect("an answer");
    }
    assert_eq!(
        (started.elapsed().as_millis(), gateway.upstream.count()),
        (200, 1)
    );
}

// Varnish before 8

#[tokio::test(start_paused = true)]
async fn an_error_serialises_the_waiting_list() {
    let gateway = Gateway::new(&Config::default(), |_| {
        (Duration::from_millis(200), error(404, &[], "{}"))
    });
    let started = Instant::now();
    for poll in crowd(&gateway, 1000) {
        let answer = poll.await.expect("no panic").expect("upstream's own word");
        assert_eq!(answer.reply.status, 404);
    }
    assert_eq!(
        (started.elapsed().as_millis(), gateway.upstream.count()),
        (200, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn the_waiting_list_has_no_cap_and_no_deadline() {
    let mut config = Config::default();
    config.limits.max_waiters = 10.try_into().unwrap();
    config.upstream.timeout = Duration::from_secs(3);
    let gateway = Gateway::new(&config, |fetch| (AT_ONCE, task(fetch, "queued")));
    gateway.upstream.close_gate();
    let started = Instant::now();
    let mut refused = 0;
    for poll in crowd(&gateway, 12) {
        match poll.await.expect("no panic") {
            Err(Error::Overloaded(_)) => refused += 1,
            Err(Error::UpstreamTimeout) => {
                let waited = started.elapsed().as_millis();
                assert!((2_900..=3_000).contains(&waited), "{waited}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 2);
    assert_eq!(gateway.waiters(), 0);
}

// Pingora

#[tokio::test(start_paused = true)]
async fn a_cancelled_look_up_leaves_the_lock_behind() {
    let gateway = Gateway::new(&Config::default(), |fetch| (AT_ONCE, task(fetch, "queued")));
    gateway.upstream.close_gate();
    for poll in crowd(&gateway, 10) {
        settle().await;
        poll.abort();
        let _ = poll.await;
    }
    settle().await;
    assert!(gateway.state.flights.is_empty());
    assert_eq!(gateway.waiters(), 0);
    gateway.upstream.let_pass(100);
    assert_eq!(
        gateway.poll("t").await.expect("an answer").outcome,
        Outcome::Fetched
    );
}

#[tokio::test(start_paused = true)]
async fn waiters_of_an_uncacheable_answer_all_fetch_at_once() {
    let gateway = Gateway::new(&uncacheable(), |_| {
        (Duration::from_millis(200), error(400, &[], "{}"))
    });
    for poll in crowd(&gateway, 1000) {
        poll.await.expect("no panic").expect("upstream's own word");
    }
    assert_eq!(gateway.upstream.count(), 1);
    // Shared with those who waited for that flight, and only them.
    gateway.poll("t").await.expect("upstream's own word");
    assert_eq!(gateway.upstream.count(), 2);
}

// Souin

#[tokio::test(start_paused = true)]
async fn the_first_clients_hang_up_poisons_everyone_and_a_blank_page_is_cached() {
    let gateway = Gateway::new(&Config::default(), |fetch| (AT_ONCE, task(fetch, "queued")));
    gateway.upstream.close_gate();
    let mut polls = crowd(&gateway, 10);
    settle().await;
    polls.remove(0).abort();
    settle().await;
    gateway.upstream.let_pass(1);
    for poll in polls {
        let answer = poll.await.expect("no panic").expect("an answer");
        assert!(answer.reply.is_task());
    }
    let hit = gateway.poll("t").await.expect("an answer");
    assert_eq!(hit.outcome, Outcome::Hit);
    assert!(!hit.reply.body.is_empty());
    assert_eq!(gateway.upstream.count(), 1);
}

// Apache Traffic Server

#[tokio::test(start_paused = true)]
async fn followers_are_answered_502() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (Duration::from_secs(1), task(fetch, "failed"))
    });
    let answers = crowd(&gateway, 50);
    for poll in answers {
        assert_eq!(
            poll.await
                .expect("no panic")
                .expect("as the first one")
                .reply
                .status,
            200
        );
    }
}

// moka's get_with

#[tokio::test(start_paused = true)]
async fn followers_race_again_when_the_leader_is_dropped_and_panic_after_200_times() {
    let gateway = Gateway::new(&Config::default(), |fetch| (AT_ONCE, task(fetch, "queued")));
    gateway.upstream.close_gate();
    let mut polls = crowd(&gateway, 300);
    settle().await;
    for leader in polls.drain(..299) {
        leader.abort();
        settle().await;
    }
    assert_eq!(gateway.upstream.count(), 1);
    gateway.upstream.let_pass(1);
    let last = polls.pop().expect("is left");
    assert!(last.await.expect("no panic").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_no_longer_polled_hangs_its_followers() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (Duration::from_secs(1), task(fetch, "queued"))
    });
    let mut leader = Box::pin(gateway.poll("t"));
    assert!(
        timeout(Duration::from_millis(10), &mut leader)
            .await
            .is_err()
    );
    // Held, but never polled again.
    for follower in crowd(&gateway, 10) {
        assert!(follower.await.expect("no panic").is_ok());
    }
    assert!(leader.await.is_ok());
}

// tower-resilience

#[tokio::test(start_paused = true)]
async fn followers_get_an_error_when_the_leader_is_dropped() {
    let gateway = Gateway::new(&Config::default(), |fetch| (AT_ONCE, task(fetch, "queued")));
    gateway.upstream.close_gate();
    let mut polls = crowd(&gateway, 5);
    settle().await;
    let leader = polls.remove(0);
    leader.abort();
    assert!(leader.await.expect_err("was aborted").is_cancelled());
    gateway.upstream.let_pass(1);
    for poll in polls {
        assert!(poll.await.expect("no panic").is_ok());
    }
}

// Portkey, Helicone, nginx

#[tokio::test(start_paused = true)]
async fn an_answer_is_reused_for_another_credential() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        let caller = fetch
            .query
            .credentials
            .query()
            .unwrap_or_default()
            .to_owned();
        (
            Duration::from_millis(50),
            task_with_url(
                fetch,
                "succeeded",
                &format!("https://cdn.example.com/{caller}.mp4"),
            ),
        )
    });
    for _ in 0..2 {
        let polls = ["a", "b", "c"].map(|caller| {
            (
                caller,
                tokio::spawn(gateway.ask(caller, Dialect::OpenAi, "t", CacheMode::Default)),
            )
        });
        for (caller, poll) in polls {
            let answer = poll.await.expect("no panic").expect("an answer");
            let body = std::str::from_utf8(&answer.reply.body).expect("text");
            let url = format!("\"https://cdn.example.com/{caller}.mp4\"");
            assert!(body.contains(&url), "{caller}: {body}");
        }
    }
    assert_eq!(gateway.upstream.count(), 3);
}

// appstrate

#[tokio::test(start_paused = true)]
async fn a_429_is_cached_and_replayed() {
    let gateway = Gateway::new(&Config::default(), |_| {
        (
            AT_ONCE,
            error(
                429,
                &[("retry-after", "1")],
                r#"{"code":"rate_limit","message":"x","data":null}"#,
            ),
        )
    });
    let answer = gateway.poll("t").await.expect("upstream's own word");
    assert!(!answer.stored);
    gateway
        .upstream
        .now(|fetch| (AT_ONCE, task(fetch, "queued")));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(
        gateway.poll("t").await.expect("an answer").reply.status,
        200
    );
}

// gotosocial

#[tokio::test(start_paused = true)]
async fn a_presigned_link_is_served_after_it_died() {
    let mut config = Config::default();
    config.cache.url_margin = Duration::from_mins(1);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let expires = now.as_secs() + 300;
    let gateway = Gateway::new(&config, move |fetch| {
        let url = format!("https://cdn.example.com/v.mp4?Expires={expires}");
        (AT_ONCE, task_with_url(fetch, "succeeded", &url))
    });
    gateway.poll("t").await.expect("an answer");
    sleep(Duration::from_secs(235)).await;
    assert_eq!(
        gateway.poll("t").await.expect("an answer").outcome,
        Outcome::Hit
    );
    gateway.upstream.now(|_| (AT_ONCE, refused()));
    sleep(Duration::from_secs(6)).await;
    assert!(gateway.poll("t").await.is_err(), "nor does it stand in");
}
