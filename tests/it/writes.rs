//! What a write changes: nothing where it is safe, only its own caller's memory where upstream refused it, and everyone's
//! where upstream accepted it.

use http::{Method, Request};
use http_body_util::Full;

use crate::support::{Answer, Gateway, Reply, Upstream, row};

const TASK: &str = "/v1/videos/t";

async fn send(gateway: &Gateway, method: Method, key: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(gateway.client.url(TASK))
        .header("authorization", format!("Bearer {key}"));
    gateway
        .client
        .send(request.body(Full::default()).unwrap())
        .await
}

fn polls(upstream: &Upstream) -> usize {
    let asked = upstream.asked();
    asked
        .iter()
        .filter(|asked| asked.method == Method::GET)
        .count()
}

#[tokio::test]
async fn preflights_and_other_safe_requests_cost_no_poll() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for method in ["OPTIONS", "TRACE", "PROPFIND", "REPORT", "SEARCH"].repeat(4) {
        assert_eq!(gateway.client.get(TASK, "sk-owner", &[]).await.status, 200);
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        assert_eq!(send(&gateway, method, "sk-owner").await.status, 200);
    }
    assert_eq!(polls(&upstream), 1);
}

#[tokio::test]
async fn a_write_that_upstream_refuses_or_does_not_answer_harms_only_its_own_caller() {
    let upstream = Upstream::start(|asked| {
        let owner = asked.header("authorization") == "Bearer sk-owner";
        match (&asked.method, owner) {
            (&Method::GET, true) => Reply::json(row("SUCCESS")),
            _ => Reply::new(401, "application/json", r#"{"error":{"message":"no"}}"#),
        }
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let known = gateway.client.get(TASK, "sk-owner", &[]).await;
    for _ in 0..5 {
        assert_eq!(send(&gateway, Method::DELETE, "sk-bogus").await.status, 401);
    }
    let hit = gateway.client.get(TASK, "sk-owner", &[]).await;
    assert_eq!((hit.status.as_u16(), &hit.body), (200, &known.body));
    assert_eq!(polls(&upstream), 1);
    // During an outage too: nobody but the writer loses the last known state.
    upstream.now(|_| Reply::new(503, "text/html", "<html>"));
    assert_eq!(send(&gateway, Method::DELETE, "sk-bogus").await.status, 503);
    let hit = gateway.client.get(TASK, "sk-owner", &[]).await;
    assert_eq!((hit.status.as_u16(), &hit.body), (200, &known.body));
    // The owner's own write is not shown the state from before, even where upstream refuses it.
    upstream.now(|asked| match asked.method {
        Method::GET => Reply::json(row("FAILURE")),
        _ => Reply::new(400, "application/json", r#"{"error":{"message":"no"}}"#),
    });
    assert_eq!(send(&gateway, Method::DELETE, "sk-owner").await.status, 400);
    let fresh = gateway.client.get(TASK, "sk-owner", &[]).await;
    assert_eq!(fresh.json()["status"], "failed");
}

#[tokio::test]
async fn a_write_that_upstream_accepts_is_seen_by_every_caller() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for key in ["sk-one", "sk-other"] {
        gateway.client.get(TASK, key, &[]).await;
    }
    upstream.now(|_| Reply::json(row("FAILURE")));
    assert_eq!(send(&gateway, Method::DELETE, "sk-one").await.status, 200);
    for key in ["sk-one", "sk-other"] {
        let answer = gateway.client.get(TASK, key, &[]).await;
        assert_eq!(answer.json()["status"], "failed", "{key}");
    }
}

#[tokio::test]
async fn a_poll_that_a_write_overtakes_is_never_followed_by_an_earlier_state() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let settings = [("cache.in_flight_ttl", "10s")];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    upstream.close_gate();
    let spawn = |poll: bool| {
        let client = gateway.client.clone();
        let url = gateway.client.url(TASK);
        tokio::spawn(async move {
            if poll {
                return client.get(TASK, "sk-test", &[]).await;
            }
            let request = Request::delete(url).header("authorization", "Bearer sk-test");
            client.send(request.body(Full::default()).unwrap()).await
        })
    };
    // A is held upstream, and then a DELETE; B is told that the task runs, and A lands with a success.
    let a = spawn(true);
    upstream.was_asked(1).await;
    let write = spawn(false);
    upstream.was_asked(2).await;
    let b = spawn(true);
    upstream.was_asked(3).await;
    upstream.now(|asked| match asked.method {
        Method::DELETE => Reply::new(500, "application/json", "{}"),
        _ => Reply::json(row("SUCCESS")),
    });
    upstream.let_pass(10);
    let state = |answer: &Answer| answer.json()["status"].as_str().unwrap().to_owned();
    let (a, b) = (a.await.unwrap(), b.await.unwrap());
    write.await.unwrap();
    let again = gateway.client.get(TASK, "sk-test", &[]).await;
    for answer in [&a, &b] {
        if state(answer) == "completed" {
            assert_eq!(state(&again), "completed", "never backward");
        }
    }
}
