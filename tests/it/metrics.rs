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

/// Polls that were answered, and those of them that made no upstream request.
async fn polls(gateway: &Gateway) -> (f64, f64) {
    let metrics = get(gateway.admin, "/metrics").await;
    let samples = text_format::read(metrics.text().lines()).expect("a valid document");
    let is_poll = |labels: &std::collections::BTreeMap<String, String>| {
        labels.get("route").is_some_and(|route| route != "forward")
    };
    let of = |name: &'static str| samples.iter().filter(move |sample| sample.name == name);
    let all = of("pollgate_requests_total").filter(|sample| is_poll(&sample.labels));
    let avoided = of("pollgate_upstream_polls_avoided_total");
    (
        all.map(|sample| sample.value).sum(),
        avoided.map(|sample| sample.value).sum(),
    )
}

async fn counted(gateway: &Gateway, what: &str, expected: (f64, f64)) {
    eventually(what, async || polls(gateway).await.0 >= expected.0).await;
    assert_eq!(polls(gateway).await, expected, "{what}");
}

#[tokio::test]
async fn a_poll_is_avoided_where_it_made_no_upstream_request_however_it_was_answered() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let settings = [
        ("cache.in_flight_ttl", "50ms"),
        ("cache.adaptive", "false"),
        ("log.requests", "all"),
    ];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    let client = gateway.client.clone();
    let poll = |headers: &'static [(&'static str, &'static str)]| {
        let client = client.clone();
        tokio::spawn(async move { client.get("/v1/videos/t", "sk-test", headers).await })
    };
    let waiting = async |count: f64| {
        eventually("they wait", async || {
            gateway.metric("pollgate_waiters ").await == count
        })
        .await;
    };

    // One asks, two share; one of these goes away before there is an answer.
    upstream.close_gate();
    let asking = poll(&[]);
    upstream.was_asked(1).await;
    let (staying, leaving) = (poll(&[]), poll(&[]));
    waiting(3.0).await;
    leaving.abort();
    counted(&gateway, "the one that left", (1.0, 1.0)).await;
    upstream.let_pass(1);
    for answer in [asking, staying] {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    counted(&gateway, "the one that shared", (3.0, 2.0)).await;
    // Refused by its own header.
    let new = [("cache-control", "only-if-cached")];
    client.get("/v1/videos/new", "sk-test", &new).await;
    counted(&gateway, "the one not cached", (4.0, 3.0)).await;

    // Upstream fails: one asks in vain, the other waited for it; both get the last known state.
    let no_cache: &[_] = &[("cache-control", "no-cache")];
    upstream.now(|_| Reply::new(500, "application/json", "{}"));
    let asking = poll(no_cache);
    upstream.was_asked(2).await;
    let sharing = poll(no_cache);
    waiting(2.0).await;
    upstream.let_pass(1);
    for answer in [asking, sharing] {
        let answer = answer.await.unwrap();
        assert!(answer.header("cache-status").contains("stale_if_error"));
    }
    counted(&gateway, "stale", (6.0, 4.0)).await;

    // A held poll asks more than once, and is one poll that did.
    upstream.let_pass(1000);
    upstream.now(|_| Reply::json(row("IN_PROGRESS")));
    let asked = upstream.count();
    let held = poll(&[("prefer", "wait=60"), ("cache-control", "no-cache")]);
    upstream.was_asked(asked + 3).await;
    assert_eq!(polls(&gateway).await, (6.0, 4.0), "it is not over");
    upstream.now(|_| Reply::json(row("SUCCESS")));
    assert_eq!(held.await.unwrap().json()["status"], "completed");
    counted(&gateway, "the held one", (7.0, 4.0)).await;
}

#[tokio::test]
async fn requests_that_upstream_never_answers_are_counted_as_errors_and_as_499_where_the_client_left_first()
 {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    upstream.close_gate();
    let counted = async |gateway: &Gateway, kind, code| {
        let labels = format!("{{code=\"{code}\",kind=\"{kind}\"}} ");
        let counted = format!("pollgate_upstream_requests_total{labels}");
        let took = format!("pollgate_upstream_duration_seconds_count{{kind=\"{kind}\"}} ");
        eventually(&counted, async || {
            let metrics = get(gateway.admin, "/metrics").await;
            let text = metrics.text();
            [&counted, &took].iter().all(|series| {
                text.lines()
                    .filter_map(|line| line.strip_prefix(series.as_str()))
                    .any(|value| value == "1")
            })
        })
        .await;
    };
    let gateway = Gateway::start(&upstream.url(), &[("upstream.timeout", "100ms")]).await;
    assert_eq!(gateway.get("/v1/videos/t").await.status, 504);
    counted(&gateway, "poll", "error").await;

    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for (kind, path) in [("poll", "/v1/videos/t"), ("forward", "/v1/models")] {
        let asked = upstream.count();
        let client = Client::new(gateway.address);
        let request = tokio::spawn(async move { client.get(path, "sk-test", &[]).await });
        upstream.was_asked(asked + 1).await;
        request.abort();
        counted(&gateway, kind, "499").await;
    }
}

#[tokio::test]
async fn an_upstream_that_is_down_or_asked_for_a_pause_shows_in_a_gauge() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.in_flight_ttl", "0s")]).await;
    let gauges = async || {
        let up = gateway.metric("pollgate_upstream_up ").await;
        (up, gateway.metric("pollgate_upstream_paused ").await)
    };
    assert_eq!(gauges().await, (1.0, 0.0));
    // Names no caller: it is for everyone.
    upstream.now(|_| Reply::new(429, "text/html", "slow down").with("retry-after", "60"));
    gateway.get("/v1/videos/t").await;
    assert_eq!(gauges().await, (1.0, 1.0));
    says(
        &gateway,
        "WARN pollgate upstream asked all callers for a pause (429): 1 min 0 s, until 2",
    )
    .await;

    let upstream = Upstream::start(|_| Reply::new(502, "text/html", "<html>")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    // One task that fails is no outage.
    let task = std::cell::Cell::new(0);
    eventually("it is down", async || {
        task.set(task.get() + 1);
        gateway.get(&format!("/v1/videos/t{}", task.get())).await;
        gateway.metric("pollgate_upstream_up ").await == 0.0
    })
    .await;
    says(
        &gateway,
        "WARN pollgate upstream is down: the video API answered 502",
    )
    .await;
    upstream.now(|_| Reply::json(row("SUCCESS")));
    eventually("it is up again", async || {
        gateway.get("/v1/videos/t").await;
        gateway.metric("pollgate_upstream_up ").await == 1.0
    })
    .await;
    says(&gateway, "INFO pollgate upstream answers again, after ").await;
}

async fn says(gateway: &Gateway, words: &str) {
    eventually(words, async || {
        gateway.log().iter().any(|line| line.contains(words))
    })
    .await;
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
