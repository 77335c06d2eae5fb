//! The admin listener: health, metrics, forgetting; never on the clients' port.

use http::Request;
use http_body_util::Full;

use crate::support::{Client, Gateway, Upstream, get, row};

#[tokio::test]
async fn health_readiness_and_the_index_are_there_and_other_methods_are_not() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for path in ["/", "/healthz", "/readyz", "/metrics"] {
        assert_eq!(get(gateway.admin, path).await.status, 200, "{path}");
        let admin = Client::new(gateway.admin);
        let post = admin
            .send(
                Request::post(admin.url(path))
                    .body(Full::default())
                    .unwrap(),
            )
            .await;
        assert_eq!(
            (post.status.as_u16(), post.header("allow")),
            (405, "GET, HEAD"),
            "{path}"
        );
    }
    assert_eq!(
        get(gateway.admin, "/v1/videos/t").await.status,
        404,
        "no polls here"
    );
    assert_eq!(upstream.count(), 0);
    // On the clients' port the same paths are upstream's.
    gateway.get("/metrics").await;
    assert_eq!(upstream.asked()[0].target, "/metrics");
}

#[tokio::test]
async fn forgetting_says_how_many_and_the_next_poll_asks_upstream() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let admin = Client::new(gateway.admin);
    let forget = async |path: &str| {
        let answer = admin
            .send(
                Request::delete(admin.url(path))
                    .body(Full::default())
                    .unwrap(),
            )
            .await;
        answer.json()["forgotten"].as_u64().expect("a count")
    };
    for (path, key) in [
        ("/v1/videos/a", "sk-1"),
        ("/v1/video/generations/a", "sk-1"),
        ("/v1/videos/a", "sk-2"),
        ("/v1/videos/b%2F", "sk-1"),
    ] {
        gateway.client.get(path, key, &[]).await;
    }
    assert_eq!(forget("/cache/a").await, 3, "every caller, both paths");
    assert_eq!(forget("/cache/a").await, 0);
    assert_eq!(forget("/cache/b%2F").await, 1);
    gateway.client.get("/v1/videos/a", "sk-1", &[]).await;
    assert_eq!(upstream.count(), 5);
    assert_eq!(forget("/cache").await, 1);
    gateway.client.get("/v1/videos/a", "sk-1", &[]).await;
    assert_eq!(upstream.count(), 6);
}

#[tokio::test]
async fn every_metric_of_the_contract_moves() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    gateway.get("/v1/videos/t").await;
    gateway.get("/v1/videos/t").await;
    gateway.get("/v1/models").await;
    let metrics = get(gateway.admin, "/metrics").await;
    assert_eq!(
        metrics.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    for series in [
        r#"pollgate_requests_total{code="200",outcome="fetched",route="openai"} 1"#,
        r#"pollgate_requests_total{code="200",outcome="hit",route="openai"} 1"#,
        r#"pollgate_requests_total{code="200",outcome="forwarded",route="forward"} 1"#,
        r#"pollgate_request_duration_seconds_count{outcome="hit",route="openai"} 1"#,
        r#"pollgate_upstream_requests_total{code="200",kind="poll"} 1"#,
        r#"pollgate_upstream_requests_total{code="200",kind="forward"} 1"#,
        r#"pollgate_upstream_duration_seconds_count{kind="poll"} 1"#,
        "pollgate_upstream_polls_avoided_total 1",
        "pollgate_cache_entries 1",
        "pollgate_flights 0",
        "pollgate_waiters 0",
        "pollgate_connections 1",
        &format!(
            r#"pollgate_build_info{{version="{}"}} 1"#,
            env!("CARGO_PKG_VERSION")
        ),
        "# TYPE pollgate_requests_total counter",
        "# TYPE pollgate_request_duration_seconds histogram",
    ] {
        assert!(
            metrics.text().lines().any(|line| line == series),
            "{series} is not in\n{}",
            metrics.text()
        );
    }
    assert!(gateway.metric("pollgate_cache_bytes").await > 100.0);
}

#[tokio::test]
async fn open_metrics_is_given_when_asked_for() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    gateway.get("/v1/videos/t").await;
    let admin = Client::new(gateway.admin);
    let accept = [(
        "accept",
        "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
    )];
    let metrics = admin.get("/metrics", "", &accept).await;
    assert!(
        metrics
            .header("content-type")
            .starts_with("application/openmetrics-text; version=1.0.0")
    );
    let text = metrics.text();
    assert!(text.ends_with("# EOF\n"));
    assert!(
        text.contains("# TYPE pollgate_requests counter\n")
            && text.contains("\npollgate_requests_total{"),
        "{text}"
    );
    assert!(
        text.contains("# HELP pollgate_requests Client")
            && !text.contains("# TYPE pollgate_requests_total")
    );
}
