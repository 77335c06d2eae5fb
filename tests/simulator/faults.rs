//! Faults: error answers, resets, stalls and slow bodies.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use pollgate::simulator::{Fault, Rule, Scope, Settings, Status, StatusRoute};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::world::{EVER, OPENAI, UNIFIED, World};

#[tokio::test(start_paused = true)]
async fn each_fault_with_a_status_answers_as_its_name_says() {
    let world = World::new().await;
    let id = world.held("documented", Status::InProgress);
    let path = format!("{OPENAI}/{id}");
    let right = world.get(&path).await.body;
    for (fault, status, kind, body) in [
        (
            Fault::RateLimited,
            429,
            "application/json",
            Some("当前分组"),
        ),
        (Fault::RateLimitedEmpty, 429, "", None),
        (
            Fault::ServerError,
            500,
            "application/json",
            Some("get_task_failed"),
        ),
        (Fault::BadGateway, 502, "text/html", Some("502 Bad Gateway")),
        (Fault::Unavailable, 503, "text/html", Some("503")),
        (Fault::GatewayTimeout, 504, "text/html", Some("504")),
        (Fault::Html, 200, "text/html", Some("<!doctype html>")),
        (Fault::Empty, 200, "application/json", None),
        (
            Fault::NoData,
            200,
            "application/json",
            Some(r#"{"code":"success","data":null}"#),
        ),
        (
            Fault::TaskNotExist,
            400,
            "application/json",
            Some("task_not_exist"),
        ),
    ] {
        world.simulator.faults().set([Rule::new(fault).next(1)]);
        let answer = world.get(&path).await;
        assert_eq!(answer.status, status, "{fault:?}");
        assert!(answer.header("content-type").starts_with(kind), "{fault:?}");
        let told = String::from_utf8_lossy(&answer.body);
        match body {
            Some(body) => assert!(told.contains(body), "{fault:?}: {told}"),
            None => assert_eq!(told, "", "{fault:?}"),
        }
        let retry_after = if fault == Fault::RateLimited { "1" } else { "" };
        assert_eq!(answer.header("retry-after"), retry_after);
        assert_eq!(world.get(&path).await.body, right);
    }
    world.simulator.faults().set([Fault::Truncated]);
    let cut = world.get(&path).await;
    assert_eq!(cut.body, right.slice(..right.len() / 2));
    assert_eq!(world.simulator.counts().faults[&Fault::Truncated], 1);
}

#[tokio::test(start_paused = true)]
async fn a_fault_applies_only_in_its_scope() {
    let world = World::new().await;
    let id = world.held("documented", Status::Success);
    let codes = async || {
        let mut codes = Vec::new();
        for path in [
            format!("{UNIFIED}/{id}"),
            format!("{OPENAI}/{id}"),
            format!("{OPENAI}/{id}/content"),
        ] {
            codes.push(world.get(&path).await.status.as_u16());
        }
        codes
    };
    for (scope, expected) in [
        (Scope::Status, [503, 503, 200]),
        (Scope::Route(StatusRoute::Unified), [503, 200, 200]),
        (Scope::Route(StatusRoute::Openai), [200, 503, 200]),
        (Scope::All, [503, 503, 503]),
    ] {
        world
            .simulator
            .faults()
            .set([Rule::new(Fault::Unavailable).on(scope)]);
        assert_eq!(codes().await, expected, "{scope:?}");
    }
    world.simulator.faults().clear();
    assert_eq!(codes().await, [200, 200, 200]);
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_a_tcp_reset_before_or_within_the_answer() {
    let world = World::new().await;
    let id = world.held("documented", Status::InProgress);
    for (fault, begun) in [(Fault::Reset, false), (Fault::ResetMidBody, true)] {
        world.simulator.faults().set([fault]);
        let mut stream = TcpStream::connect(world.address)
            .await
            .expect("a connection");
        let request = format!("GET {OPENAI}/{id} HTTP/1.1\r\nHost: x\r\nAuthorization: K\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let error = stream.read_to_end(&mut answer).await.expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(answer.starts_with("HTTP/1.1 200"), begun, "{answer}");
        assert_eq!(answer.contains(r#"{"id":"#), begun, "{answer}");
    }
    assert_eq!(world.simulator.counts().abandoned_polls, 1);
}

#[tokio::test(start_paused = true)]
async fn over_http2_a_reset_ends_one_stream_and_not_the_connection() {
    let world = World::new().await;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<Full<Bytes>>();
    let id = world.held("documented", Status::InProgress);
    let get = || {
        let request = world.request("GET", &format!("{OPENAI}/{id}"));
        client.request(request.body(Full::default()).expect("valid"))
    };
    assert_eq!(get().await.expect("an answer").status(), 200);
    world
        .simulator
        .faults()
        .set([Rule::new(Fault::Reset).next(1)]);
    assert!(get().await.is_err());
    assert_eq!(get().await.expect("an answer").status(), 200);
    world.simulator.faults().set([Fault::ResetMidBody]);
    let half = get().await.expect("a head");
    assert!(half.into_body().collect().await.is_err());
    assert_eq!(world.simulator.counts().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stall_never_ends_by_itself() {
    let world = World::new().await;
    let id = world.held("documented", Status::InProgress);
    let path = format!("{OPENAI}/{id}");
    world.simulator.faults().set([Fault::Stall]);
    {
        let mut stalled = pin!(world.get(&path));
        tokio::select! {
            _ = &mut stalled => panic!("answered"),
            () = world.simulator.await_polls(1) => {}
        }
        assert!(timeout(EVER, &mut stalled).await.is_err());
        assert_eq!(world.simulator.counts().open_polls, 1);
    }
    world
        .counted(|counts| counts.abandoned_polls == 1 && counts.open_polls == 0)
        .await;
    world.simulator.faults().set([Fault::StallMidBody]);
    let request = world
        .request("GET", &path)
        .body(Full::default())
        .expect("valid");
    let mut body = world.open(request).await.expect("a head").into_body();
    assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
    assert!(timeout(EVER, body.frame()).await.is_err());
    assert_eq!(world.simulator.counts().open_polls, 1);
}

#[tokio::test(start_paused = true)]
async fn latency_and_slow_bodies_take_their_time() {
    let world = World::with(Settings {
        latency: Duration::from_secs(3).into(),
        slow_body: Duration::from_secs(10),
        ..Settings::default()
    })
    .await;
    let id = world.held("documented", Status::InProgress);
    let path = format!("{UNIFIED}/{id}");
    let begin = Instant::now();
    let right = world.get(&path).await.body;
    let quick = begin.elapsed();
    assert!((3..5).contains(&quick.as_secs()), "{quick:?}");
    world.simulator.faults().set([Fault::SlowBody]);
    let begin = Instant::now();
    assert_eq!(world.get(&path).await.body, right);
    assert!(
        begin.elapsed() >= Duration::from_secs(12),
        "{:?}",
        begin.elapsed()
    );
}
