//! The tables: what they list is what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pollgate::answer::outcome::Outcome;
use pollgate::error::{Error, retry_after_seconds};

use super::{file, quoted, read, section, table};
use crate::support::{Client, Gateway, Upstream, eventually, get, row, text_format};

/// One of each; a new one does not compile before it is listed here.
fn errors() -> Vec<Error> {
    let all = vec![
        Error::UpstreamUnavailable("".into()),
        Error::UpstreamClosed,
        Error::OutcomeUnknown("".into()),
        Error::UpstreamDown,
        Error::UpstreamTimeout,
        Error::UpstreamInvalid("".into()),
        Error::NotATask("".into()),
        Error::Redirected("".into()),
        Error::TooLarge,
        Error::Overloaded(""),
        Error::RateLimited(Duration::from_secs(7)),
        Error::Draining,
        Error::NotCached,
        Error::BadRequest(""),
        Error::HeadTooLarge,
        Error::UriTooLong,
        Error::RequestTimeout,
        Error::Panicked,
    ];
    match all[0] {
        Error::UpstreamUnavailable(_)
        | Error::UpstreamClosed
        | Error::OutcomeUnknown(_)
        | Error::UpstreamDown
        | Error::UpstreamTimeout
        | Error::UpstreamInvalid(_)
        | Error::NotATask(_)
        | Error::Redirected(_)
        | Error::TooLarge
        | Error::Overloaded(_)
        | Error::RateLimited(_)
        | Error::Draining
        | Error::NotCached
        | Error::BadRequest(_)
        | Error::HeadTooLarge
        | Error::UriTooLong
        | Error::RequestTimeout
        | Error::Panicked => all,
    }
}

#[test]
fn errors_have_the_codes_statuses_and_pauses_that_are_listed() {
    let rows = table(&section("docs/reference.md", "Errors"), "| code |");
    let codes: BTreeSet<_> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    let errors = errors();
    let mut known: BTreeSet<_> = errors.iter().map(|error| error.code().to_owned()).collect();
    // Made of an upstream's error, with its status.
    known.insert("upstream_error".to_owned());
    assert_eq!(codes, known);
    let mut met = BTreeSet::new();
    for error in errors {
        let status = error.status().as_u16().to_string();
        let pause = match &error {
            Error::RateLimited(_) => "the rest of the pause, at most 60 s".to_owned(),
            error => error.retry_after().map_or(String::new(), |pause| {
                format!("{} s", retry_after_seconds(pause))
            }),
        };
        let is_row = |row: &Vec<String>| {
            quoted(&row[0]) == [error.code()]
                && row[1].split(", ").any(|told| told == status)
                && row.get(3).map_or("", String::as_str) == pause
        };
        let row = rows.iter().position(is_row);
        met.insert(row.unwrap_or_else(|| panic!("{error:?}, {status}, {pause:?}")));
    }
    let is_met = |row: usize| met.contains(&row) || quoted(&rows[row][0]) == ["upstream_error"];
    assert!((0..rows.len()).all(is_met), "{met:?}");
}

#[test]
fn outcomes_are_the_verdicts() {
    let rows = table(&section("docs/observing.md", "Outcomes"), "| outcome |");
    let told: Vec<_> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(told, Outcome::ALL.map(Outcome::as_str));
}

#[tokio::test]
async fn status_answers_have_the_headers_that_are_listed_and_no_others() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.in_flight_ttl", "1h")]).await;
    let client = &gateway.client;
    let fetched = client.get("/v1/videos/t", "sk-test", &[]).await;
    let etag = fetched.header("etag").to_owned();
    let known = [("if-none-match", etag.as_str())];
    let same = client.get("/v1/videos/t", "sk-test", &known).await;
    assert_eq!(same.status, 304);
    for name in ["etag", "cache-control", "vary"] {
        assert_eq!(same.header(name), fetched.header(name));
    }
    let waited = client
        .get("/v1/videos/t", "sk-test", &[("prefer", "wait=0")])
        .await;
    let unheard_of = [("cache-control", "only-if-cached")];
    let refused = client.get("/v1/videos/new", "sk-test", &unheard_of).await;
    assert_eq!(refused.status, 504);
    drop(upstream);
    let gone = Upstream::start(|_| crate::support::Reply::new(200, "text/html", "<html>")).await;
    let other = Gateway::start(&gone.url(), &[]).await;
    let failed = other.get("/v1/videos/t").await;
    assert_eq!(failed.status, 502);

    let answers = [&fetched, &same, &waited, &refused, &failed];
    let seen: BTreeSet<_> = answers
        .iter()
        .flat_map(|answer| answer.headers.keys().map(ToString::to_string))
        .filter(|name| !["content-type", "content-length", "date"].contains(&name.as_str()))
        .collect();
    let rows = table(&section("docs/reference.md", "Headers"), "| header |");
    let told: BTreeSet<_> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(seen, told);
}

/// The kind and the labels of each metric.
type Families = BTreeMap<String, (String, BTreeSet<String>)>;

#[tokio::test]
async fn metrics_are_the_ones_that_are_listed() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    gateway.get("/v1/videos/t").await;
    gateway.get("/v1/models").await;
    let metrics = get(gateway.admin, "/metrics").await;
    let mut seen = Families::new();
    for line in metrics.text().lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').expect("a kind");
            seen.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        }
    }
    for sample in text_format::read(metrics.text().lines()).expect("a valid document") {
        let labels = sample.labels.keys().filter(|name| *name != "le").cloned();
        let family = ["", "_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|end| sample.name.strip_suffix(end))
            .find(|name| seen.contains_key(*name));
        let (_, all) = family
            .and_then(|name| seen.get_mut(name))
            .expect("has a type");
        all.extend(labels);
    }
    let told: Families = table(&read("docs/observing.md"), "| name |")
        .iter()
        .map(|row| {
            let labels = quoted(&row[2]).into_iter().collect();
            (quoted(&row[0]).remove(0), (row[1].clone(), labels))
        })
        .collect();
    assert_eq!(seen, told);

    let bounds: Vec<_> = metrics
        .text()
        .lines()
        .filter_map(|line| line.split_once("le=\"")?.1.split_once('"'))
        .map(|(bound, _)| bound)
        .collect();
    // 10 µs and 60 s, as the page says.
    assert_eq!(bounds[0], "1e-05");
    let last = bounds.iter().position(|bound| *bound == "+Inf").unwrap() - 1;
    assert_eq!(bounds[last], "60.0");
}

#[tokio::test]
async fn a_line_of_the_log_has_the_labels_that_are_shown_and_listed() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let client = Client::new(gateway.address);
    client
        .get("/v1/videos/t", "sk-test", &[("traceparent", trace)])
        .await;
    upstream.now(|_| crate::support::Reply::new(200, "text/html", "<html>"));
    client
        .get("/v1/videos/bad", "sk-test", &[("traceparent", trace)])
        .await;
    let samples = |lines: Vec<String>| {
        let is_sample = |line: &String| line.starts_with("pollgate_request_seconds{");
        lines.into_iter().filter(is_sample).collect::<Vec<_>>()
    };
    let sample = |lines: Vec<String>| samples(lines).into_iter().next();
    eventually("the lines", async || samples(gateway.log()).len() == 2).await;
    let names = |line: &str| -> Vec<String> {
        let ends = line.match_indices("=\"").map(|(end, _)| end);
        let starts = ends.map(|end| {
            line[..end]
                .rfind(['{', ','])
                .map(|start| line[start + 1..end].to_owned())
        });
        starts.flatten().collect()
    };
    let seen = names(&sample(gateway.log()).expect("is there"));
    let page = read("docs/observing.md");
    let shown = page
        .lines()
        .map(str::to_owned)
        .filter(|line| line.contains("trace_id="))
        .collect();
    assert_eq!(names(&sample(shown).expect("a sample")), seen);
    let rows = table(&page, "| label |");
    let listed: Vec<_> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    // Of the two, a line has the state of a task or the code of an error.
    let but = |label: &str| -> Vec<_> { listed.iter().filter(|name| *name != label).collect() };
    assert_eq!(but("error"), seen.iter().collect::<Vec<_>>());
    let failed = names(&samples(gateway.log())[1]);
    assert_eq!(but("state"), failed.iter().collect::<Vec<_>>());
}

#[test]
fn alerts_and_what_they_are_computed_from_are_those_of_the_rules() {
    let rules = read("deploy/prometheus/rules.yaml");
    let alerts: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    let rows = table(&read("docs/operations.md"), "| alert |");
    let told: Vec<_> = rows.iter().flat_map(|row| quoted(&row[0])).collect();
    assert_eq!(told, alerts);
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for query in super::blocks(&read("docs/observing.md"), "promql") {
        assert!(plain(&rules).contains(&plain(&query)), "{query}");
    }
}

#[test]
fn keys_that_wait_for_a_restart_are_listed() {
    let source = std::fs::read_to_string(file("src/config/changes.rs")).expect("is there");
    let (_, fixed) = source.split_once("const FIXED").expect("the list");
    let fixed = fixed.split("];").next().expect("its end");
    let keys: Vec<_> = fixed.split('"').skip(1).step_by(2).collect();
    let told = section("docs/operations.md", "Reloading");
    let (_, list) = told.split_once("wait for a restart:\n").expect("the list");
    let list = list.split("\n\n").find(|part| part.contains('`'));
    assert_eq!(quoted(list.expect("keys")), keys);
}

#[test]
fn the_figures_of_speed_are_what_the_benchmark_wrote() {
    let (written, told) = (
        read("benches/compare.md"),
        section("docs/performance.md", "Speed"),
    );
    let rows: Vec<_> = told.lines().filter(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 10, "the tables are there");
    for row in rows {
        assert!(written.lines().any(|line| line == row), "{row}");
    }
}
