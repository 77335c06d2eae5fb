//! The log: a Prometheus text document by default, JSON or plain text if wanted, and never a secret.

use crate::support::{Gateway, Reply, Upstream, eventually, row};

const SECRET_URL: &str = r#"{"code":"success","data":{"task_id":"t","status":"SUCCESS","properties":{"input":"secret-prompt"},"result_url":"https://cdn.example.com/secret-path.mp4?X-Amz-Signature=secret-signature"}}"#;

async fn lines_about_requests(gateway: &Gateway, count: usize) -> Vec<String> {
    let requests = || -> Vec<String> {
        gateway
            .log()
            .into_iter()
            .filter(|line| line.contains("route") && line.contains("outcome"))
            .collect()
    };
    eventually("the lines", async || requests().len() >= count).await;
    requests()
}

#[tokio::test]
async fn an_event_is_a_sample_and_all_else_a_comment() {
    let upstream =
        Upstream::start(|_| Reply::json(row("IN_PROGRESS")).with("x-oneapi-request-id", "a\"b\\c"))
            .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    gateway.get("/v1/videos/task%22x").await;
    let line = lines_about_requests(&gateway, 1).await.remove(0);
    let (head, rest) = line.split_once(",caller=\"").expect("a caller");
    assert_eq!(
        head,
        r#"pollgate_request_seconds{route="openai",outcome="fetched",code="200",state="processing",task="task%22x""#
    );
    let (caller, rest) = rest.split_once('"').unwrap();
    assert!(
        caller.len() == 8 && caller.chars().all(|digit| digit.is_ascii_hexdigit()),
        "{caller}"
    );
    let rest = rest
        .strip_prefix(r#",request_id="a\"b\\c"} "#)
        .expect("escaped");
    let (seconds, millis) = rest.split_once(' ').unwrap();
    assert!(
        seconds.parse::<f64>().is_ok_and(|seconds| seconds > 0.0),
        "{line}"
    );
    assert!(
        millis
            .parse::<u64>()
            .is_ok_and(|millis| millis > 1_700_000_000_000),
        "{line}"
    );
    assert!(
        gateway
            .log()
            .iter()
            .all(|line| line.starts_with("# ") || line.starts_with("pollgate_")),
        "{:?}",
        gateway.log()
    );
    let first = &gateway.log()[0];
    assert!(
        first.ends_with(&format!(
            "INFO pollgate listening on {}, upstream {}",
            gateway.address,
            upstream.url()
        )),
        "{first}"
    );
}

#[tokio::test]
async fn which_requests_get_a_line_is_configured() {
    for (setting, lines) in [("upstream", 2), ("all", 4), ("off", 0)] {
        let upstream = Upstream::saying(row("SUCCESS")).await;
        let mut gateway = Gateway::start(
            &upstream.url(),
            &[("log.requests", setting), ("log.snapshot", "off")],
        )
        .await;
        for path in ["/v1/videos/t", "/v1/videos/t", "/v1/videos/t", "/v1/models"] {
            gateway.get(path).await;
        }
        gateway.signal("-TERM");
        gateway.ended().await;
        let told = gateway
            .log()
            .iter()
            .filter(|line| line.starts_with("pollgate_request_seconds"))
            .count();
        assert_eq!(told, lines, "{setting}: {:?}", gateway.log());
    }
}

#[tokio::test]
async fn json_and_text_carry_the_same_fields() {
    for format in ["json", "text"] {
        let upstream = Upstream::saying(row("IN_PROGRESS")).await;
        let gateway = Gateway::start(&upstream.url(), &[("log.format", format)]).await;
        gateway.get("/v1/videos/t").await;
        let line = lines_about_requests(&gateway, 1).await.remove(0);
        for field in [
            "route",
            "outcome",
            "code",
            "state",
            "task",
            "caller",
            "request_id",
            "seconds",
        ] {
            assert!(line.contains(field), "{field}: {line}");
        }
        if format == "json" {
            let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(
                (&json["outcome"], &json["code"]),
                (&"fetched".into(), &200.into())
            );
        }
    }
}

#[tokio::test]
async fn no_secret_is_logged_at_any_level() {
    for format in ["prometheus", "json", "text"] {
        let upstream = Upstream::saying(SECRET_URL).await;
        let settings = [
            ("log.level", "trace"),
            ("log.requests", "all"),
            ("log.format", format),
            ("log.snapshot", "50ms"),
        ];
        let mut gateway = Gateway::start(&upstream.url(), &settings).await;
        let cookie = [("cookie", "secret-cookie"), ("x-api-key", "secret-api-key")];
        for path in [
            "/v1/videos/t?key=secret-query",
            "/v1/video/generations/t",
            "/v1/models?key=secret-query",
        ] {
            gateway.client.get(path, "secret-key", &cookie).await;
        }
        eventually("a snapshot", async || {
            gateway
                .log()
                .iter()
                .any(|line| line.contains("pollgate_build_info"))
        })
        .await;
        gateway.signal("-TERM");
        gateway.ended().await;
        let log = gateway.log().join("\n");
        assert!(log.contains("fetched"), "{log}");
        assert!(!log.contains("secret"), "{format}: {log}");
    }
}

#[tokio::test]
async fn snapshots_of_all_metrics_are_written_with_their_time_and_described_once() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("log.snapshot", "50ms")]).await;
    let samples = |log: &[String]| -> Vec<String> {
        log.iter()
            .filter(|line| line.starts_with("pollgate_build_info{"))
            .cloned()
            .collect()
    };
    eventually("three snapshots", async || {
        samples(&gateway.log()).len() >= 3
    })
    .await;
    let log = gateway.log();
    for sample in samples(&log) {
        let millis = sample
            .rsplit(' ')
            .next()
            .and_then(|time| time.parse::<u64>().ok());
        assert!(
            millis.is_some_and(|millis| millis > 1_700_000_000_000),
            "{sample}"
        );
    }
    let mut types: Vec<_> = log
        .iter()
        .filter(|line| line.starts_with("# TYPE "))
        .collect();
    let all = types.len();
    types.sort();
    types.dedup();
    assert_eq!((all, types.len()), (types.len(), all));
    assert!(
        types
            .iter()
            .any(|line| *line == "# TYPE pollgate_connections gauge")
    );
}
