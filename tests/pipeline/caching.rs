//! What must not be served although it is cached or in flight, and how few requests that takes.

use std::time::Duration;

use pollgate::answer::outcome::Outcome;
use pollgate::config::{Config, Size};
use pollgate::error::Error;
use pollgate::request::preferences::CacheMode;
use pollgate::route::TaskId;
use pollgate::task::{Dialect, State};
use tokio::time::sleep;

use crate::support::{AT_ONCE, Gateway, error, refused, settle, task, task_with_url};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_cached_answer_needs_a_credential_accepted_within_credential_ttl_and_one_poll_checks_it()
{
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (AT_ONCE, task(fetch, "succeeded"))
    });
    for id in ["a", "b", "c"] {
        gateway.poll(id).await.expect("an answer");
    }
    sleep(300 * SECOND).await;
    assert_eq!(
        gateway.poll("a").await.expect("an answer").outcome,
        Outcome::Hit,
        "within"
    );
    sleep(SECOND).await;
    assert_eq!(
        gateway.poll("a").await.expect("an answer").outcome,
        Outcome::Fetched,
        "checked"
    );
    for id in ["a", "b", "c"] {
        assert_eq!(
            gateway.poll(id).await.expect("an answer").outcome,
            Outcome::Hit
        );
    }
    assert_eq!(
        gateway.upstream.count(),
        4,
        "one poll checked it for all tasks"
    );
    // A refused check drops all of the caller's answers.
    gateway.upstream.now(|_| (AT_ONCE, error(401, &[], "{}")));
    sleep(301 * SECOND).await;
    for id in ["a", "b", "c"] {
        assert_eq!(
            gateway
                .poll(id)
                .await
                .expect("upstream's error, passed through")
                .reply
                .status,
            401
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_poll_after_a_refusal_does_not_join_an_earlier_flight() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        let slow = fetch.query.key.task.as_str() == "slow";
        let result = if slow {
            task(fetch, "succeeded")
        } else {
            error(401, &[], "{}")
        };
        (if slow { 5 * SECOND } else { AT_ONCE }, result)
    });
    let early = tokio::spawn(gateway.ask("me", Dialect::OpenAi, "slow", CacheMode::Default));
    settle().await;
    assert_eq!(
        gateway
            .poll("refused")
            .await
            .expect("upstream's error, passed through")
            .reply
            .status,
        401
    );
    gateway.upstream.now(|_| (AT_ONCE, error(401, &[], "{}")));
    assert_eq!(
        gateway
            .poll("slow")
            .await
            .expect("upstream's error, passed through")
            .reply
            .status,
        401
    );
    assert!(!early.await.expect("no panic").expect("an answer").stored);
    assert_eq!(
        gateway
            .poll("slow")
            .await
            .expect("upstream's error, passed through")
            .reply
            .status,
        401
    );
}

#[tokio::test(start_paused = true)]
async fn a_poll_after_a_write_does_not_join_an_earlier_flight() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (5 * SECOND, task(fetch, "succeeded"))
    });
    let early = tokio::spawn(gateway.ask("me", Dialect::OpenAi, "t", CacheMode::Default));
    settle().await;
    gateway.state.store.invalidate(&TaskId::new("t"));
    gateway
        .upstream
        .now(|fetch| (AT_ONCE, task(fetch, "queued")));
    let late = gateway.poll("t").await.expect("an answer");
    assert_eq!(late.outcome, Outcome::Fetched);
    // It asks again when the early flight has finished, which has not replaced the later answer.
    let early = early.await.expect("no panic").expect("an answer");
    assert_eq!(early.reply.state(), late.reply.state(), "never backward");
    sleep(3 * SECOND).await;
    gateway.upstream.now(|_| (AT_ONCE, refused()));
    let known = gateway.poll("t").await.expect("stale-if-error");
    let state = known.reply.state().expect("a task");
    assert_eq!((known.outcome, state), (Outcome::Stale, State::Queued));
}

#[tokio::test(start_paused = true)]
async fn a_no_cache_poll_never_gets_an_answer_that_another_flight_found_in_the_cache() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (AT_ONCE, task(fetch, "succeeded"))
    });
    gateway.poll("t").await.expect("an answer");
    // The credential has to be checked. A poll of another task does so between this poll's lookup and its flight's.
    sleep(301 * SECOND).await;
    let check = tokio::spawn(gateway.ask("me", Dialect::OpenAi, "other", CacheMode::Default));
    let lookup = tokio::spawn(gateway.ask("me", Dialect::OpenAi, "t", CacheMode::Default));
    let no_cache = tokio::spawn(gateway.ask("me", Dialect::OpenAi, "t", CacheMode::NoCache));
    let begun = tokio::time::Instant::now();
    check.await.expect("no panic").expect("an answer");
    lookup.await.expect("no panic").expect("an answer");
    let fetched = no_cache.await.expect("no panic").expect("an answer");
    assert!(fetched.received >= begun, "{fetched:?}");
}

#[tokio::test(start_paused = true)]
async fn a_success_that_cannot_be_cached_is_never_followed_by_an_earlier_state() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (AT_ONCE, task(fetch, "processing"))
    });
    gateway.poll("t").await.expect("an answer");
    sleep(3 * SECOND).await;
    // The signature expires within `url_margin`.
    gateway.upstream.now(|fetch| {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let url = format!(
            "https://cdn.example.com/v.mp4?Expires={}",
            now.as_secs() + 100
        );
        (AT_ONCE, task_with_url(fetch, "succeeded", &url))
    });
    let done = gateway.poll("t").await.expect("an answer");
    assert!(done.reply.is_terminal() && !done.stored);
    gateway.upstream.now(|_| (AT_ONCE, refused()));
    let after = gateway.poll("t").await;
    assert!(after.is_err(), "it was done, and now: {after:?}");
}

#[tokio::test(start_paused = true)]
async fn only_if_cached_is_answered_from_the_cache_or_not_at_all_and_sends_nothing() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (AT_ONCE, task(fetch, "processing"))
    });
    let only_if_cached = || gateway.ask("me", Dialect::OpenAi, "t", CacheMode::OnlyIfCached);
    assert_eq!(
        only_if_cached().await.expect_err("nothing is cached"),
        Error::NotCached
    );
    gateway.poll("t").await.expect("an answer");
    assert_eq!(
        only_if_cached().await.expect("an answer").outcome,
        Outcome::Hit
    );
    sleep(2 * SECOND).await;
    assert_eq!(
        only_if_cached().await.expect_err("no longer fresh"),
        Error::NotCached
    );
    assert_eq!(gateway.upstream.count(), 1);
    assert_eq!(Error::NotCached.status(), 504);
}

#[tokio::test(start_paused = true)]
async fn no_cache_polls_are_coalesced_too() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (SECOND, task(fetch, "succeeded"))
    });
    gateway.poll("t").await.expect("an answer");
    let polls: Vec<_> = (0..50)
        .map(|_| tokio::spawn(gateway.ask("me", Dialect::OpenAi, "t", CacheMode::NoCache)))
        .collect();
    for poll in polls {
        poll.await.expect("no panic").expect("an answer");
    }
    assert_eq!(gateway.upstream.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failed_task_that_later_succeeds_is_seen_within_failed_ttl() {
    let gateway = Gateway::new(&Config::default(), |fetch| (AT_ONCE, task(fetch, "failed")));
    gateway.poll("t").await.expect("an answer");
    gateway
        .upstream
        .now(|fetch| (AT_ONCE, task(fetch, "succeeded")));
    // Other tasks keep the credential checked.
    for minute in 0..10 {
        gateway
            .poll(&format!("other{minute}"))
            .await
            .expect("an answer");
        assert_eq!(
            gateway.poll("t").await.expect("an answer").outcome,
            Outcome::Hit
        );
        sleep(60 * SECOND).await;
    }
    let state = gateway.poll("t").await.expect("an answer").reply.state();
    assert_eq!(state, Some(State::Succeeded));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_one_callers_tasks_stays_within_capacity() {
    let mut config = Config::default();
    config.cache.capacity = Size::mebibytes(1);
    let gateway = Gateway::new(&config, |fetch| (AT_ONCE, task(fetch, "succeeded")));
    let store = &gateway.state.store;
    for number in 0..4000 {
        gateway
            .poll(&format!("t{number}"))
            .await
            .expect("an answer");
        if number % 100 == 99 {
            store.flush();
            assert!(store.bytes() <= 1 << 20, "{}", store.bytes());
        }
    }
    assert!(store.len() >= 200);
}
