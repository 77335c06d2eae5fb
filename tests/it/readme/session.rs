//! The tutorial, as it is typed, against the simulator.

use std::process::Command;
use std::time::Duration;

use pollgate::simulator::{Settings, Simulator};
use tokio::net::TcpListener;

use super::{blocks, read, table};
use crate::support::{Client, Gateway, eventually};

struct Session {
    simulator: String,
    gateway: Gateway,
}

impl Session {
    async fn start(in_flight_ttl: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let simulator = listener.local_addr().expect("is bound").to_string();
        let running = Simulator::new(Settings::default());
        tokio::spawn(async move { running.run(listener, std::future::pending()).await });
        let settings = [("cache.in_flight_ttl", in_flight_ttl)];
        let gateway = Gateway::start(&format!("http://{simulator}"), &settings).await;
        Self { simulator, gateway }
    }

    /// What a shell prints.
    async fn types(&self, script: &str) -> String {
        let script = script
            .replace("127.0.0.1:8080", &self.gateway.address.to_string())
            .replace("127.0.0.1:8090", &self.simulator)
            .replace("127.0.0.1:9090", &self.gateway.admin.to_string());
        let shell = tokio::task::spawn_blocking(move || {
            Command::new("sh")
                .args(["-e", "-c", &script])
                .envs([("no_proxy", "*"), ("NO_PROXY", "*")])
                .output()
        });
        let output = shell.await.expect("ends").expect("runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("is UTF-8")
    }
}

/// The blocks that are typed into the third terminal: making a task and polling, the metrics, breaking the upstream.
/// The SDK's in between is run by `tests/clients/run`.
fn typed() -> [String; 3] {
    let blocks = blocks(&read("docs/tutorial.md"), "console");
    let [_, first, _, metrics, broken] = blocks.try_into().expect("five blocks");
    [first, metrics, broken]
}

#[tokio::test]
async fn both_dialects_are_asked_once_and_then_remembered() {
    let session = Session::start("1h").await;
    let [first, metrics, _] = typed();
    let said = session.types(&format!("{first}\n{metrics}")).await;
    let how: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("cache-status: pollgate; "))
        .filter_map(|status| status.split(';').next())
        .collect();
    assert_eq!(how, ["fwd=miss", "hit", "fwd=miss", "hit"], "{said}");
    assert!(said.contains(r#""object":"video""#), "{said}");
    assert!(said.contains(r#""code":"success""#), "{said}");
    assert!(
        said.contains("pollgate_upstream_polls_avoided_total 2"),
        "{said}"
    );
}

#[tokio::test]
async fn a_broken_upstream_looks_as_the_table_says() {
    let session = Session::start("1ms").await;
    let [first, _, broken] = typed();
    // The wait is for what is remembered to stop being fresh: here it is at once.
    assert!(broken.contains("sleep 3\n"));
    let broken = broken.replace("sleep 3\n", "");
    let said = session.types(&format!("{first}\n{broken}")).await;
    let answers: Vec<_> = said.split("HTTP/1.1 ").skip(1).collect();
    let [.., known, unknown] = answers[..] else {
        panic!("{said}");
    };
    assert!(known.starts_with("200 "), "{known}");
    assert!(
        known.contains("cache-status: pollgate; fwd=stale; ttl="),
        "{known}"
    );
    assert!(known.contains("; detail=stale_if_error\r\n"), "{known}");
    assert!(known.contains("\nage: "), "{known}");
    assert!(unknown.starts_with("503 "), "{unknown}");
    assert!(unknown.contains("retry-after: 2\r\n"), "{unknown}");
    assert!(unknown.contains(r#""code":"upstream_error""#), "{unknown}");

    let rows = table(&read("docs/tutorial.md"), "| seen in |");
    let log = |cell: &str| cell.trim_matches('`').to_owned();
    for cell in [&rows[2][1], &rows[2][2]] {
        let wanted = log(cell);
        eventually(&wanted, async || {
            session
                .gateway
                .log()
                .iter()
                .any(|line| line.contains(&wanted))
        })
        .await;
    }
    let admin = Client::new(session.gateway.admin);
    let metrics = admin.get("/metrics", "", &[]).await;
    for cell in [&rows[3][1], &rows[3][2]] {
        for series in super::quoted(cell) {
            let start = series.trim_end_matches('}').trim_end_matches('…');
            assert!(metrics.text().contains(start), "{series}");
        }
    }
    let page = admin.get("/", "", &[("accept", "text/html")]).await;
    for cell in [&rows[4][1], &rows[4][2]] {
        let (_, words) = cell.split_once('"').expect("words of the page");
        let words = words.trim_end_matches('"');
        assert!(page.text().contains(words), "{words}");
    }
}

#[test]
fn what_a_hit_says_at_the_defaults_is_what_is_told() {
    let fresh = pollgate::config::Cache::default().in_flight_ttl;
    assert_eq!(fresh, Duration::from_secs(2));
    let told = read("docs/tutorial.md");
    assert!(told.contains("`pollgate; hit; ttl=2`"));
}
