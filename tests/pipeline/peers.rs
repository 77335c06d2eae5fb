//! What the gateway promises where a known proxy, cache or library fails. Each test names the peer that fails.

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

/// Nothing is fresh or usable after a failure, so that no answer is served from the cache.
fn uncacheable() -> Config {
    let mut config = Config::default();
    config.cache.in_flight_ttl = Duration::ZERO;
    config.cache.stale_if_error = Duration::ZERO;
    config
}

/// nginx's followers look again every half second.
#[tokio::test(start_paused = true)]
async fn followers_are_answered_as_soon_as_the_answer_arrives() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (Duration::from_millis(777), task(fetch, "queued"))
    });
    let started = Instant::now();
    for poll in crowd(&gateway, 100) {
        poll.await.expect("no panic").expect("an answer");
        assert_eq!(started.elapsed().as_millis(), 777);
    }
}

/// nginx's followers go upstream themselves after five seconds.
#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_still_one_upstream_request() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (Duration::from_secs(14), task(fetch, "queued"))
    });
    for poll in crowd(&gateway, 100) {
        poll.await.expect("no panic").expect("an answer");
    }
    assert_eq!(gateway.upstream.count(), 1);
}

/// nginx sends one request per follower, one after another.
#[tokio::test(start_paused = true)]
async fn an_uncacheable_answer_is_shared_with_all_its_followers_at_once() {
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

/// Varnish before 8 serialises its waiting list on an error.
#[tokio::test(start_paused = true)]
async fn an_error_is_shared_with_all_its_followers_at_once() {
    let gateway = Gateway::new(&Config::default(), |_| {
        (Duration::from_millis(200), error(404, &[], "{}"))
    });
    let started = Instant::now();
    for poll in crowd(&gateway, 1000) {
        let answer = poll
            .await
            .expect("no panic")
            .expect("upstream's error, passed through");
        assert_eq!(answer.reply.status, 404);
    }
    assert_eq!(
        (started.elapsed().as_millis(), gateway.upstream.count()),
        (200, 1)
    );
}

/// The waiting list of Varnish before 8 has neither limit.
#[tokio::test(start_paused = true)]
async fn followers_are_limited_in_number_and_by_a_deadline() {
    let mut config = Config::default();
    config.limits.max_waiters = 10.try_into().unwrap();
    config.upstream.timeout = Duration::from_secs(3);
    let gateway = Gateway::new(&config, |fetch| (AT_ONCE, task(fetch, "queued")));
    gateway.upstream.close_gate();
    let started = Instant::now();
    let mut overloaded = 0;
    for poll in crowd(&gateway, 12) {
        match poll.await.expect("no panic") {
            Err(Error::Overloaded(_)) => overloaded += 1,
            Err(Error::UpstreamTimeout) => {
                let waited = started.elapsed().as_millis();
                assert!((2_900..=3_000).contains(&waited), "{waited}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(overloaded, 2);
    assert_eq!(gateway.waiters(), 0);
}

/// Pingora leaves its lock behind when a lookup is cancelled.
#[tokio::test(start_paused = true)]
async fn a_leader_that_hangs_up_leaves_no_lock_behind() {
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

/// Pingora's followers then all fetch at once.
#[tokio::test(start_paused = true)]
async fn followers_of_an_uncacheable_answer_do_not_fetch_it_again() {
    let gateway = Gateway::new(&uncacheable(), |_| {
        (Duration::from_millis(200), error(400, &[], "{}"))
    });
    for poll in crowd(&gateway, 1000) {
        poll.await
            .expect("no panic")
            .expect("upstream's error, passed through");
    }
    assert_eq!(gateway.upstream.count(), 1);
    // Shared with the followers of that flight, and with no later poll.
    gateway
        .poll("t")
        .await
        .expect("upstream's error, passed through");
    assert_eq!(gateway.upstream.count(), 2);
}

/// Souin fails the followers and caches a blank page.
#[tokio::test(start_paused = true)]
async fn a_leader_that_hangs_up_fails_no_follower_and_caches_no_blank_page() {
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

/// Apache Traffic Server answers its followers with 502.
#[tokio::test(start_paused = true)]
async fn followers_of_a_slow_answer_get_it_and_no_502() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (Duration::from_secs(1), task(fetch, "failed"))
    });
    let answers = crowd(&gateway, 50);
    for poll in answers {
        assert_eq!(
            poll.await
                .expect("no panic")
                .expect("the answer of the leader")
                .reply
                .status,
            200
        );
    }
}

/// moka's `get_with` lets its followers race again, and panics after 200 times.
#[tokio::test(start_paused = true)]
async fn leaders_may_be_dropped_any_number_of_times_without_a_second_request() {
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

/// Followers in moka's `get_with` hang.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_no_longer_polled_does_not_block_its_followers() {
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

/// tower-resilience returns an error to them.
#[tokio::test(start_paused = true)]
async fn followers_get_the_answer_when_the_leader_is_dropped() {
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

/// Portkey, Helicone and nginx reuse an answer for another credential.
#[tokio::test(start_paused = true)]
async fn callers_never_share_answers() {
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
            let url = answer.reply.snapshot().expect("a task").url();
            assert_eq!(
                url.expect("is done"),
                format!("https://cdn.example.com/{caller}.mp4")
            );
        }
    }
    assert_eq!(gateway.upstream.count(), 3);
}

/// appstrate caches a 429 and replays it.
#[tokio::test(start_paused = true)]
async fn a_429_is_never_cached() {
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
    let answer = gateway
        .poll("t")
        .await
        .expect("upstream's error, passed through");
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

/// gotosocial serves presigned URLs past their expiry.
#[tokio::test(start_paused = true)]
async fn a_signed_url_is_never_served_after_it_expires() {
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
    assert!(gateway.poll("t").await.is_err(), "nor is it stale-if-error");
}
