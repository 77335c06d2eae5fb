//! Metrics: all of the contract's, changing with traffic, in both formats, with a bounded number of series.

use std::collections::BTreeSet;

use http::Request;
use http_body_util::Full;

use crate::support::{Client, Gateway, Reply, Upstream, eventually, get, row, text_format};

#[tokio::test]
async fn every_metric_of_the_contract_moves() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    upstream.close_gate();
    let polls: Vec<_> = (0..2)
        .map(|_| {
            let client = Client::new(gateway.address);
            tokio::spawn(async move { client.get("/v1/videos/t", "sk-test", &[]).await })
        })
        .collect();
    eventually("both wait", async || {
        gateway.metric("pollgate_waiters ").await == 2.0
    })
    .await;
    assert_eq!(gateway.metric("pollgate_flights ").await, 1.0);
    assert_eq!(gateway.metric("pollgate_connections ").await, 2.0);
    upstream.let_pass(1000);
    for poll in polls {
        assert_eq!(poll.await.unwrap().status, 200);
    }
    gateway.get("/v1/videos/t").await;
    gateway.get("/v1/video/generations/forgotten").await;
    gateway.get("/v1/models").await;
    let admin = Client::new(gateway.admin);
    let purge = Request::delete(admin.url("/cache/forgotten")).body(Full::default());
    admin.send(purge.unwrap()).await;

    let metrics = get(gateway.admin, "/metrics").await;
    assert_eq!(
        metrics.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = metrics.text();
    text_format::read(text.lines()).expect("a valid document");
    let version = env!("CARGO_PKG_VERSION");
    for series in [
        r#"pollgate_requests_total{code="200",outcome="fetched",route="openai"} 1"#,
        r#"pollgate_requests_total{code="200",outcome="shared",route="openai"} 1"#,
        r#"pollgate_requests_total{code="200",outcome="hit",route="openai"} 1"#,
        r#"pollgate_requests_total{code="200",outcome="fetched",route="unified"} 1"#,
        r#"pollgate_requests_total{code="200",outcome="forwarded",route="forward"} 1"#,
        r#"pollgate_request_duration_seconds_count{outcome="hit",route="openai"} 1"#,
        r#"pollgate_request_duration_seconds_bucket{outcome="hit",route="openai",le="+Inf"} 1"#,
        r#"pollgate_upstream_requests_total{code="200",kind="poll"} 2"#,
        r#"pollgate_upstream_requests_total{code="200",kind="forward"} 1"#,
        r#"pollgate_upstream_requests_total{code="error",kind="poll"} 0"#,
        r#"pollgate_upstream_duration_seconds_count{kind="poll"} 2"#,
        r#"pollgate_upstream_duration_seconds_count{kind="forward"} 1"#,
        r#"pollgate_cache_evictions_total{cause="forgotten"} 1"#,
        r#"pollgate_cache_evictions_total{cause="expired"} 0"#,
        "pollgate_upstream_polls_avoided_total 2",
        "pollgate_cache_entries 1",
        "pollgate_flights 0",
        "pollgate_waiters 0",
        "pollgate_log_lines_dropped_total 0",
        &format!(r#"pollgate_build_info{{version="{version}"}} 1"#),
        "# TYPE pollgate_requests_total counter",
        "# TYPE pollgate_request_duration_seconds histogram",
    ] {
        assert!(
            text.lines().any(|line| line == series),
            "{series} is not in\n{text}"
        );
    }
    assert!(gateway.metric("pollgate_cache_bytes").await > 100.0);
}

/// The identity of each series: name and labels.
async fn series(gateway: &Gateway) -> BTreeSet<String> {
    let metrics = get(gateway.admin, "/metrics").await;
    text_format::read(metrics.text().lines())
        .expect("a valid document")
        .into_iter()
        .map(|sample| format!("{}{:?}", sample.name, sample.labels))
        .collect()
}

/// Forwards requests for every status code there can be, with unknown methods and paths.
async fn hammer(gateway: &Gateway, round: u16) {
    for code in 200..1000_u16 {
        let method = format!("METHOD{}", code % 7 + round);
        let request = Request::builder()
            .method(method.as_str())
            .uri(gateway.client.url(&format!("/{round}/{code}?{round}")))
            .header("host", format!("host-{round}-{code}"))
            .header("x-code", code)
            .body(Full::default());
        let answer = gateway.client.send(request.unwrap()).await;
        assert_eq!(answer.status.as_u16(), code);
    }
    for task in 0..50 {
        let key = format!("sk-{round}-{task}");
        let path = format!("/v1/videos/task-{round}-{task}");
        gateway.client.get(&path, &key, &[]).await;
    }
}

#[tokio::test]
async fn the_number_of_series_is_bounded_whatever_clients_send() {
    let upstream = Upstream::start(|asked| match asked.headers.get("x-code") {
        Some(code) => Reply::new(code.to_str().unwrap().parse().unwrap(), "text/plain", ""),
        None => Reply::json(row("SUCCESS")),
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[("log.requests", "off")]).await;
    hammer(&gateway, 0).await;
    let before = series(&gateway).await;
    // The registered codes and the classes, once for requests and once for upstream; the rest does not vary.
    assert!(before.len() < 300, "{before:#?}");
    hammer(&gateway, 1).await;
    assert_eq!(series(&gateway).await, before);
}

#[tokio::test]
async fn open_metrics_is_served_on_request_and_has_exemplars() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    for (path, flags) in [("/v1/videos/t", "01"), ("/v1/models", "00")] {
        let parent = format!("00-{trace}-b7ad6b7169203331-{flags}");
        let parent = [("traceparent", parent.as_str())];
        gateway.client.get(path, "sk-test", &parent).await;
    }
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
    // A bucket has an exemplar, but none of an unsampled trace.
    let examples: Vec<_> = text.lines().filter(|line| line.contains(" # {")).collect();
    assert_eq!(examples.len(), 1, "{text}");
    let (bucket, example) = examples[0].split_once(" # ").unwrap();
    assert!(
        bucket.starts_with(
            "pollgate_request_duration_seconds_bucket{outcome=\"fetched\",route=\"openai\",le=\""
        ),
        "{bucket}"
    );
    assert!(
        example.starts_with(&format!("{{trace_id=\"{trace}\"}} 0.")),
        "{example}"
    );
    let plain = get(gateway.admin, "/metrics").await;
    assert!(!plain.text().contains(trace) && plain.text().contains("le=\"1.0\""));
}
