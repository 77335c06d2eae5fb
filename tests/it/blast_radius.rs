//! What goes wrong with tasks, and what something on the way says, harms neither other tasks nor other callers.

use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::support::{Gateway, Reply, Upstream, row};

const NEVER: (&str, &str) = ("cache.in_flight_ttl", "0s");

/// All the odd things that upstream, vendors and proxies say about one task.
fn odd(number: usize) -> Reply {
    let task_error = |code: &str| format!(r#"{{"code":"{code}","message":"no","data":null}}"#);
    match number % 9 {
        0 => Reply::json(r#"{"request_id":"r-1","note":"neither id nor status"}"#),
        1 => Reply::new(501, "application/json", task_error("not_implemented")),
        2 => Reply::new(500, "application/json", task_error("get_task_failed")),
        3 => Reply::new(503, "application/json", task_error("channel_down")),
        4 => Reply::new(404, "text/plain", "404 page not found\n"),
        5 => Reply::new(403, "text/html", "<html>Just a moment...</html>"),
        6 => Reply::json(r#"{"code":"success","data":null}"#),
        7 => Reply::new(302, "text/html", "").with("location", "http://127.0.0.1:1/login"),
        _ => Reply::json("{\"code\":\"succ"),
    }
}

fn number_of(target: &str) -> Option<usize> {
    target.rsplit_once("/bad")?.1.parse().ok()
}

#[tokio::test]
async fn one_callers_odd_tasks_cost_another_callers_healthy_polls_nothing() {
    let upstream = Upstream::start(|asked| match number_of(&asked.target) {
        Some(number) => odd(number),
        None => Reply::json(row("IN_PROGRESS")),
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
    let client = gateway.client.clone();
    let noise = tokio::spawn(async move {
        for _ in 0..4 {
            let polls: Vec<_> = (0..200)
                .map(|number| {
                    let client = client.clone();
                    tokio::spawn(async move {
                        let path = format!("/v1/videos/bad{number}");
                        client.get(&path, "sk-noisy", &[]).await;
                    })
                })
                .collect();
            for poll in polls {
                poll.await.expect("is answered");
            }
        }
    });
    let mut pace = interval(Duration::from_millis(20));
    let mut healthy = 0;
    while !noise.is_finished() || healthy < 50 {
        pace.tick().await;
        let started = Instant::now();
        let path = format!("/v1/videos/good{}", healthy % 3);
        let answer = gateway.client.get(&path, "sk-quiet", &[]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("age"), "", "fresh: {answer:?}");
        assert!(started.elapsed() < Duration::from_secs(3), "on time");
        healthy += 1;
    }
    noise.await.expect("polls on");
}

#[tokio::test]
async fn a_task_on_which_upstream_fails_is_asked_for_no_more_often_than_any_other() {
    let upstream = Upstream::start(|_| odd(1)).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for _ in 0..20 {
        let answer = gateway.get("/v1/videos/t").await;
        assert_eq!(answer.status, 501, "{answer:?}");
        assert_ne!(answer.header("retry-after"), "");
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn an_error_page_means_neither_that_the_task_is_gone_nor_that_the_key_is_refused() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
    upstream.now(|_| Reply::json(row("SUCCESS")));
    let done = gateway.get("/v1/videos/done").await;
    upstream.now(|_| Reply::json(row("IN_PROGRESS")));
    let running = gateway.get("/v1/videos/run").await;
    for (status, kind, page) in [
        (
            403,
            "text/html",
            "<html><title>Just a moment...</title></html>",
        ),
        (404, "text/plain", "404 page not found\n"),
        (401, "text/html", "<html>log in</html>"),
    ] {
        upstream.now(move |_| Reply::new(status, kind, page));
        let stale = gateway.get("/v1/videos/run").await;
        assert_eq!((stale.status.as_u16(), &stale.body), (200, &running.body));
        let hit = gateway.get("/v1/videos/done").await;
        assert_eq!((hit.status.as_u16(), &hit.body), (200, &done.body));
        assert!(hit.header("cache-status").contains("; hit"), "{hit:?}");
        let unknown = gateway.get(&format!("/v1/videos/unknown{status}")).await;
        assert_eq!(unknown.status.as_u16(), status);
        let error = unknown.json()["error"].clone();
        assert_eq!(error["code"], "upstream_error");
        let message = error["message"].as_str().unwrap();
        let says = ["CDN or firewall", "no such route", "not JSON"];
        assert!(
            says.iter().any(|words| message.contains(words)),
            "{message}"
        );
        assert!(
            message.contains("says nothing about the task or the key"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_running_task_that_is_said_not_to_exist_is_lost_only_when_it_is_said_again() {
    let missing = r#"{"code":"task_not_exist","message":"task_not_exist","data":null}"#;
    let not_found = r#"{"error":{"message":"Video not found","code":"video_not_found"}}"#;
    for (status, body) in [(400, missing), (404, not_found)] {
        let upstream = Upstream::saying(row("IN_PROGRESS")).await;
        let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
        let running = gateway.get("/v1/videos/t").await;
        upstream.now(move |_| Reply::new(status, "application/json", body));
        let doubted = gateway.get("/v1/videos/t").await;
        assert_eq!(
            (doubted.status.as_u16(), &doubted.body),
            (200, &running.body)
        );
        assert_eq!(gateway.get("/v1/videos/t").await.status, 404, "said again");
        // A task that was never seen is believed at once.
        assert_eq!(gateway.get("/v1/videos/never").await.status, 404);
    }
}

#[tokio::test]
async fn a_403_in_json_is_about_one_task_and_a_401_about_the_caller() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let poll = async |task: &str, headers: &[(&str, &str)]| {
        let path = format!("/v1/videos/{task}");
        gateway.client.get(&path, "sk-test", headers).await
    };
    let again = [("cache-control", "no-cache")];
    for task in ["one", "other"] {
        poll(task, &[]).await;
    }
    let refused = r#"{"error":{"message":"no","type":"new_api_error"}}"#;
    upstream.now(move |_| Reply::new(403, "application/json", refused));
    assert_eq!(poll("one", &again).await.status, 403);
    assert_eq!(poll("one", &[]).await.status, 403, "is not shown again");
    assert_eq!(poll("other", &[]).await.status, 200, "stays");
    upstream.now(move |_| Reply::new(401, "application/json", refused));
    assert_eq!(poll("one", &again).await.status, 401);
    assert_eq!(poll("other", &[]).await.status, 401);
}

#[tokio::test]
async fn known_tasks_are_answered_within_patience_while_upstream_is_silent_and_the_flight_lands() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let settings = [NEVER, ("upstream.patience", "300ms")];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    let known = gateway.get("/v1/videos/t").await;
    upstream.close_gate();
    let started = Instant::now();
    let stale = gateway.get("/v1/videos/t").await;
    assert_eq!((stale.status.as_u16(), &stale.body), (200, &known.body));
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(300), "{waited:?}");
    upstream.was_asked(2).await;
    upstream.now(|_| Reply::json(row("SUCCESS")));
    upstream.let_pass(1);
    crate::support::eventually("the flight has landed", async || {
        let cached = [("cache-control", "only-if-cached")];
        let answer = gateway.client.get("/v1/videos/t", "sk-test", &cached).await;
        answer.status == 200
    })
    .await;
    assert_eq!(upstream.count(), 2, "nobody asked again");
}

#[tokio::test]
async fn a_client_with_one_second_gets_a_known_task_from_a_silent_upstream_that_is_usually_fast() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
    let known = gateway.get("/v1/videos/t").await;
    upstream.close_gate();
    for _ in 0..2 {
        let poll = gateway.get("/v1/videos/t");
        let answer = tokio::time::timeout(Duration::from_secs(1), poll).await;
        let answer = answer.expect("in time");
        assert_eq!((answer.status.as_u16(), &answer.body), (200, &known.body));
    }
    assert_eq!(upstream.count(), 2, "the flight goes on");
}

#[tokio::test]
async fn clients_that_give_up_early_do_not_hide_that_upstream_is_silent() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
    upstream.close_gate();
    // Longer than a poll counts as silence; the clients have no last known state and go away.
    let polls = (0..10).map(|number| {
        let client = gateway.client.clone();
        async move {
            let path = format!("/v1/videos/t{number}");
            let poll = client.get(&path, "sk-test", &[]);
            let _ = tokio::time::timeout(Duration::from_millis(2300), poll).await;
        }
    });
    futures_util::future::join_all(polls).await;
    crate::support::eventually("the circuit is open", async || {
        let answer = gateway.get("/v1/videos/other").await;
        answer.status == 503 && answer.text().contains("has been failing")
    })
    .await;
}

#[tokio::test]
async fn polls_that_are_given_up_in_the_own_queue_say_nothing_of_upstream() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let settings = [NEVER, ("limits.max_upstream", "1")];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    upstream.close_gate();
    // The first one is upstream all the time; the others wait for its place.
    let first = gateway.get("/v1/videos/first");
    let others = async {
        upstream.was_asked(1).await;
        let polls = (0..20).map(|number| {
            let client = gateway.client.clone();
            async move {
                let path = format!("/v1/videos/t{number}");
                let poll = client.get(&path, "sk-test", &[]);
                let _ = tokio::time::timeout(Duration::from_millis(2300), poll).await;
            }
        });
        futures_util::future::join_all(polls).await;
        upstream.let_pass(10);
    };
    let (first, ()) = tokio::join!(first, others);
    assert_eq!(first.status, 200);
    assert_eq!(gateway.get("/v1/videos/other").await.status, 200);
    let down = |line: &String| line.contains("upstream is down");
    assert!(!gateway.log().iter().any(down));
}
