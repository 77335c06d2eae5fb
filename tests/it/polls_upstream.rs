//! A poll is the client's request, as far as upstream needs it; and what upstream says to browsers reaches them.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::{Gateway, Reply, Upstream, eventually, row};

const NEVER: (&str, &str) = ("cache.in_flight_ttl", "0s");

#[tokio::test]
async fn a_poll_carries_the_user_agent_and_the_headers_that_are_named_and_asks_for_no_coding() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(
        &upstream.url(),
        &[NEVER, ("callers.headers", "cf-access-client-id,x-tenant")],
    )
    .await;
    let headers = [
        ("user-agent", "my-app/1.0"),
        ("cf-access-client-id", "id1.access"),
        ("x-tenant", "blue"),
        ("x-hidden-thing", "hidden"),
        ("accept-encoding", "gzip, br"),
        ("cookie", "cdn=1"),
    ];
    gateway
        .client
        .get("/v1/videos/t", "sk-test", &headers)
        .await;
    let asked = upstream.asked().remove(0);
    assert_eq!(asked.header("user-agent"), "my-app/1.0");
    assert_eq!(asked.header("cf-access-client-id"), "id1.access");
    assert_eq!(asked.header("x-tenant"), "blue");
    assert_eq!(asked.header("accept-encoding"), "identity");
    assert_eq!(asked.header("x-hidden-thing"), "");
    assert_eq!(asked.header("cookie"), "", "a credential is there");
}

#[tokio::test]
async fn the_credentials_of_cloudflare_access_reach_upstream_and_separate_callers_by_default() {
    let upstream = Upstream::start(|asked| {
        let [id, secret] =
            ["cf-access-client-id", "cf-access-client-secret"].map(|name| asked.header(name));
        match (id, secret) {
            ("id1.access", "s1") => Reply::json(row("IN_PROGRESS")),
            _ => Reply::new(403, "text/html", "<html>forbidden</html>"),
        }
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let poll = async |secret: &str| {
        let headers = [
            ("cf-access-client-id", "id1.access"),
            ("cf-access-client-secret", secret),
        ];
        let answer = gateway.client.get("/v1/videos/t", "sk-test", &headers);
        answer.await.status.as_u16()
    };
    assert_eq!(poll("s1").await, 200);
    assert_eq!(
        poll("s2").await,
        403,
        "nothing is shared with another caller"
    );
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn headers_that_are_named_are_part_of_the_caller() {
    let upstream = Upstream::start(|asked| {
        let tenant = asked.header("x-tenant");
        Reply::json(format!(
            r#"{{"code":"success","data":{{"task_id":"{tenant}","status":"SUCCESS"}}}}"#
        ))
    })
    .await;
    let settings = [("callers.headers", "x-tenant")];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    for tenant in ["blue", "red", "blue"] {
        let path = "/v1/video/generations/t";
        let answer = gateway
            .client
            .get(path, "sk-test", &[("x-tenant", tenant)])
            .await;
        assert_eq!(answer.json()["data"]["task_id"], tenant);
        assert_eq!(answer.header("vary"), "authorization, x-tenant");
    }
    assert_eq!(upstream.count(), 2);
}

#[tokio::test]
async fn a_header_that_is_not_passed_is_logged_once_by_name_and_harmless_ones_never() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[NEVER]).await;
    let headers = [
        ("x-tenant", "blue"),
        ("accept-language", "en"),
        ("x-stainless-lang", "python"),
        ("sec-fetch-mode", "cors"),
    ];
    for task in ["a", "b", "c"] {
        let path = format!("/v1/videos/{task}");
        gateway.client.get(&path, "sk-test", &headers).await;
    }
    let told = || {
        let log = gateway.log();
        log.into_iter()
            .filter(|line| line.contains("is not passed on"))
            .collect::<Vec<_>>()
    };
    eventually("it is logged", async || !told().is_empty()).await;
    let told = told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("WARN") && told[0].contains("header x-tenant "),
        "{told:?}"
    );
    assert!(!told[0].contains("blue"), "{told:?}");
}

#[tokio::test]
async fn an_answer_that_upstream_compresses_unasked_is_read_all_the_same() {
    let upstream = Upstream::start(|_| {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(row("SUCCESS").as_bytes()).unwrap();
        Reply::json(gzip.finish().unwrap()).with("content-encoding", "gzip")
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for path in ["/v1/videos/t", "/v1/video/generations/t"] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-encoding"), "");
        assert!(answer.json().is_object());
    }
}

#[tokio::test]
async fn cors_headers_come_back_on_fetched_remembered_stale_and_error_answers() {
    let cors = |reply: Reply, origin: &str| {
        reply
            .with("access-control-allow-origin", origin)
            .with("access-control-expose-headers", "x-request-id")
    };
    let upstream =
        Upstream::start(move |asked| cors(Reply::json(row("IN_PROGRESS")), asked.header("origin")))
            .await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.in_flight_ttl", "300ms")]).await;
    let poll = async |origin: &str, task: &str| {
        let path = format!("/v1/videos/{task}");
        let headers = [("origin", origin)];
        let answer = gateway.client.get(&path, "sk-test", &headers).await;
        assert_eq!(
            answer.header("access-control-allow-origin"),
            origin,
            "{answer:?}"
        );
        assert_eq!(
            answer.header("access-control-expose-headers"),
            "x-request-id"
        );
        answer
    };
    let (one, other) = ("https://one.example", "https://other.example");
    assert!(
        poll(one, "t")
            .await
            .header("cache-status")
            .contains("fwd=miss")
    );
    assert!(poll(one, "t").await.header("cache-status").contains("hit"));
    let fetched = poll(other, "t").await;
    assert!(
        fetched.header("cache-status").contains("fwd=miss"),
        "per origin"
    );
    assert_eq!(fetched.header("vary"), "authorization, origin");
    upstream.now(|_| Reply::new(503, "text/html", "<html>"));
    eventually("it is stale", async || {
        poll(one, "t")
            .await
            .header("cache-status")
            .contains("stale_if_error")
    })
    .await;
    let error = poll(one, "unknown").await;
    assert_eq!(
        (error.status.as_u16(), error.header("vary")),
        (503, "authorization, origin")
    );
    upstream.now(move |asked| {
        let error = Reply::new(400, "application/json", r#"{"error":{"message":"no"}}"#);
        cors(error, asked.header("origin"))
    });
    eventually("upstream's own error", async || {
        let error = poll(one, "another").await;
        error.status == 400 && error.header("vary") == "authorization, origin"
    })
    .await;
    upstream.now(|_| Reply::json(r#"{"note":"neither id nor status"}"#));
    let made_here = poll(one, "third").await;
    assert_eq!(made_here.status, 502);
    assert_eq!(made_here.header("vary"), "origin");
}
