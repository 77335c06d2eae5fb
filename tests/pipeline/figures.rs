//! The figures that the gateway promises, on paused time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pollgate::answer::outcome::Outcome;
use pollgate::config::Config;
use pollgate::request::preferences::CacheMode;
use pollgate::request::query::TaskFetch;
use pollgate::task::Dialect;
use tokio::time::{Instant, interval, sleep, sleep_until};

use crate::support::{AT_ONCE, Gateway, Said, error, refused, task};

#[tokio::test(start_paused = true)]
async fn a_hundred_pollers_at_a_second_on_a_task_of_a_minute_are_at_most_32_upstream_polls() {
    let done = Instant::now() + Duration::from_mins(1);
    let gateway = Gateway::new(&Config::default(), move |fetch| {
        let status = if Instant::now() < done {
            "processing"
        } else {
            "succeeded"
        };
        (Duration::from_millis(80), task(fetch, status))
    });
    let pollers: Vec<_> = (0..100)
        .map(|number| {
            let gateway = gateway.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(10 * number)).await;
                let mut ticks = interval(Duration::from_secs(1));
                for polls in 1.. {
                    ticks.tick().await;
                    if gateway
                        .poll("t")
                        .await
                        .expect("an answer")
                        .reply
                        .is_terminal()
                    {
                        return polls;
                    }
                }
                unreachable!("the task ends")
            })
        })
        .collect();
    let mut polls = 0;
    for poller in pollers {
        polls += poller.await.expect("no panic");
    }
    assert!(polls >= 6000, "{polls}");
    assert!(
        gateway.upstream.count() <= 32,
        "{}",
        gateway.upstream.count()
    );
}

/// Sends 500 polls a second over 50 known tasks: five seconds with upstream, so many without, and five with it again.
/// Returns the upstream requests of the time without, and how long after the recovery every task was fresh again.
async fn outage(failing: fn(&TaskFetch) -> Said, seconds: u64) -> (usize, Duration) {
    let gone = Instant::now() + Duration::from_secs(5);
    let back = gone + Duration::from_secs(seconds);
    let gateway = Gateway::new(&Config::default(), move |fetch| {
        if (gone..back).contains(&Instant::now()) {
            failing(fetch)
        } else {
            (Duration::from_millis(50), task(fetch, "processing"))
        }
    });
    // For each task, when its state after the recovery was first seen.
    let fresh = Arc::new(Mutex::new(vec![None; 50]));
    let mut polls = Vec::new();
    let start = Instant::now();
    for number in 0..500 * (5 + seconds + 5) {
        sleep_until(start + Duration::from_millis(2 * number)).await;
        let (gateway, fresh) = (gateway.clone(), Arc::clone(&fresh));
        let one = usize::try_from(number % 50).unwrap();
        // The tasks start one after another.
        if number < 20 * (number % 50) {
            continue;
        }
        polls.push(tokio::spawn(async move {
            let poll = gateway.ask(
                "me",
                Dialect::OpenAi,
                &format!("t{one}"),
                CacheMode::Default,
            );
            let answer = poll.await.expect("no poll fails");
            assert!(answer.reply.is_task(), "no poll fails");
            if answer.outcome != Outcome::Stale && answer.received >= back {
                fresh.lock().unwrap()[one].get_or_insert(Instant::now() - back);
            }
        }));
    }
    for poll in polls {
        poll.await.expect("no panic");
    }
    let asked = gateway.upstream.asked();
    let probes = asked
        .iter()
        .filter(|(at, _)| (gone..back).contains(at))
        .count();
    let fresh = fresh.lock().unwrap();
    let last = fresh
        .iter()
        .map(|fresh| fresh.expect("is fresh again"))
        .max();
    (probes, last.expect("fifty of them"))
}

#[tokio::test(start_paused = true)]
async fn a_minute_without_upstream_fails_no_poll_costs_150_polls_and_is_over_3_seconds_after_its_end()
 {
    let ways: [fn(&TaskFetch) -> Said; 3] = [
        |_| (AT_ONCE, refused()),
        |_| (Duration::from_millis(300), refused()),
        |_| (Duration::from_millis(20), error(502, &[], "<html>")),
    ];
    // Until nothing has passed for two seconds, or three if the failures could be one channel's, polls go on as before.
    let most = [120, 120, 150];
    for (way, failing) in ways.into_iter().enumerate() {
        let (probes, fresh) = outage(failing, 60).await;
        println!("way {way}: {probes} upstream requests, fresh after {fresh:?}");
        assert!(probes <= most[way], "way {way}: {probes}");
        assert!(fresh <= Duration::from_secs(3), "way {way}: {fresh:?}");
    }
}

/// Accepts requests and never answers.
const NEVER: fn(&TaskFetch) -> Said = |_| (Duration::from_mins(1), refused());

#[tokio::test(start_paused = true)]
async fn a_short_silence_delays_news_by_no_more_than_itself() {
    for seconds in [1, 2, 3, 5, 8, 13] {
        let (asked, fresh) = outage(NEVER, seconds).await;
        println!("silent for {seconds} s: {asked} upstream requests, fresh after {fresh:?}");
        // One for each task, and one of them again every two seconds.
        assert!(asked <= 50 + 8, "{seconds} s: {asked}");
        assert!(fresh <= Duration::from_secs(3), "{seconds} s: {fresh:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_minute_of_an_upstream_that_accepts_requests_and_never_answers_fails_no_poll_either() {
    let (asked, fresh) = outage(NEVER, 60).await;
    println!("silent: {asked} upstream requests, fresh after {fresh:?}");
    // One for each task before the first one times out; only then the circuit opens.
    assert!(asked <= 50 + 40, "{asked}");
    // A probe from before the recovery is sent once more as soon as upstream answers another.
    assert!(fresh <= Duration::from_secs(3), "{fresh:?}");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_clients_at_once_on_one_uncached_task_are_one_upstream_request() {
    let gateway = Gateway::new(&Config::default(), |fetch| {
        (Duration::from_millis(200), task(fetch, "queued"))
    });
    let polls: Vec<_> = (0..10_000)
        .map(|_| tokio::spawn(gateway.ask("me", Dialect::OpenAi, "t", CacheMode::Default)))
        .collect();
    for poll in polls {
        assert!(
            poll.await
                .expect("no panic")
                .expect("an answer")
                .reply
                .is_task()
        );
    }
    assert_eq!(gateway.upstream.count(), 1);
}
