//! The demo as a newcomer runs it: piped, in a terminal, stopped, and misused.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use crate::support::{binary, eventually, get};

const VERDICT: &str = "✓ No poller saw a wrong, backward or foreign state (";

fn text(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(error, "", "standard error");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// Parses a count such as `1,234`.
fn count(text: &str) -> Option<u64> {
    text.replace(',', "").parse().ok()
}

/// The line of the summary with this label.
fn entry<'a>(text: &'a str, label: &str) -> &'a str {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("  "));
    let entry = lines.find_map(|line| line.strip_prefix(label));
    entry.unwrap_or_else(|| panic!("no {label} in\n{text}"))
}

/// The count in the line of the summary with this label.
fn number(text: &str, label: &str) -> u64 {
    let mut words = entry(text, label).split_whitespace();
    let number = words.find_map(count);
    number.unwrap_or_else(|| panic!("no number for {label} in\n{text}"))
}

/// The total of client polls, upstream polls and polls avoided in a row of the table.
fn totals(line: &str) -> Option<[u64; 3]> {
    let columns: Vec<_> = line.split_whitespace().collect();
    columns.first()?.strip_suffix('s')?.parse::<u64>().ok()?;
    let total = |index: usize| count(columns.get(index)?);
    Some([total(1)?, total(3)?, total(5)?])
}

/// A demo that runs until it is stopped, and its output so far.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = binary()
            .arg("demo")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let output = BufReader::new(child.stdout.take().expect("is piped"));
        Self { child, output }
    }

    /// The next line; an empty one at the end.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("text");
        line
    }

    /// The totals of the next row.
    fn row(&mut self) -> [u64; 3] {
        loop {
            let line = self.line();
            assert_ne!(line, "", "it ended");
            if let Some(totals) = totals(&line) {
                return totals;
            }
        }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let kill = Command::new("kill").args([signal, &pid]).status();
        assert!(kill.expect("kill runs").success());
    }

    /// All further lines, once it has exited with 0.
    async fn rest(mut self) -> Vec<String> {
        let lines = self.output.by_ref().lines();
        let rest = lines.map_while(Result::ok).collect();
        eventually("the end", async || {
            self.child.try_wait().expect("is ours").is_some()
        })
        .await;
        assert!(self.child.wait().expect("is ours").success());
        rest
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn piped_it_prints_plain_lines_with_the_savings_and_the_verdict() {
    let demo = ["demo", "--tasks", "3", "--pollers", "5", "--seconds", "4"];
    let output = binary().args(demo).output().expect("it runs");
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains('\x1b'), "{text}");
    assert!(
        text.contains("try: curl -H 'Authorization: Bearer sk-"),
        "{text}"
    );
    assert!(text.lines().filter_map(totals).count() >= 2, "{text}");

    let client = number(&text, "client polls");
    let upstream = number(&text, "upstream polls");
    let avoided = number(&text, "avoided");
    assert!(client >= 40 && upstream >= 3, "{text}");
    assert!(avoided * 2 > client && avoided <= client, "{text}");
    // Every other poll asked upstream, which takes a second request only after a fault; an answer that is stale, or an
    // error, may have taken none.
    let asked = client - avoided;
    let (answers, _) = text.rsplit_once(" stale").expect("answers");
    let stale = answers.split_whitespace().last().and_then(count);
    let without = stale.expect("a count") + number(&text, "failed polls");
    assert!(
        upstream <= asked + number(&text, "injected faults"),
        "{text}"
    );
    assert!(asked <= upstream + without, "{text}");
    let permille = avoided * 1000 / client;
    let share = format!("{}.{} %", permille / 10, permille % 10);
    assert!(entry(&text, "avoided").ends_with(&share), "{text}");
    assert!(
        text.contains("polls of another key's task, refused"),
        "{text}"
    );
    let outcome = text.lines().last().expect("lines");
    assert!(outcome.starts_with(VERDICT), "{text}");
}

#[test]
fn it_says_that_faults_are_injected_and_what_they_would_have_cost() {
    let demo = ["demo", "--tasks", "3", "--pollers", "20", "--seconds", "3"];
    let output = binary().args(demo).output().expect("it runs");
    let text = text(&output);
    let injected = "  injected faults: 2.97 % of upstream polls fail on purpose (429, 502, html)";
    assert_eq!(text.lines().nth(1), Some(injected), "{text}");
    number(&text, "injected faults");
    number(&text, "failed polls");
    // Each of three faults strikes 1 % of the polls: 1 - 0.99³.
    let estimate = number(&text, "client polls") * 29_701 / 1_000_000;
    assert_eq!(number(&text, "without pollgate"), estimate, "{text}");
    assert!(
        entry(&text, "without pollgate").contains("estimated"),
        "{text}"
    );
}

#[test]
fn with_routes_it_polls_the_other_routes_too_and_tells_what_each_cost() {
    const ROUTES: [&str; 6] = ["octopus", "mj", "kling", "suno", "tasks", "ark"];
    let demo = ["demo", "--routes", "--tasks", "1", "--pollers", "6"];
    let mut demo = binary().args(demo).args(["--seconds", "6"]).output();
    let output = demo.as_mut().expect("it runs");
    let text = text(output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("\n  and 12 tasks at a time on other routes: octopus, mj, kling, suno"),
        "{text}"
    );
    let client = number(&text, "client polls");
    let mut on_routes = 0;
    for route in ROUTES {
        let entry = entry(&text, &format!("on {route} "));
        let counts: Vec<_> = entry.split_whitespace().filter_map(count).collect();
        let [polls, upstream, failed] = counts[..] else {
            panic!("not three counts in {entry}")
        };
        // Two tasks with six pollers each, for four seconds at least.
        assert!(polls >= 24 && upstream >= 2, "{entry}");
        assert!(upstream * 2 < polls && failed * 4 < polls, "{entry}");
        on_routes += polls;
    }
    assert!(on_routes > client / 2 && on_routes < client, "{text}");
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    // Each task that ended was asked for by a key that does not own it.
    let created = number(&text, "tasks");
    assert!(
        created >= 13 && number(&text, "foreign keys") >= 7,
        "{text}"
    );
    let outcome = text.lines().last().expect("lines");
    assert!(outcome.starts_with(VERDICT), "{text}");
}

#[test]
fn no_count_goes_backward_and_no_line_is_wider_than_80_columns() {
    let demo = ["demo", "--tasks", "6", "--pollers", "5", "--seconds", "5"];
    let output = binary().args(demo).output().expect("it runs");
    let text = text(&output);
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let mut rows: Vec<_> = text.lines().filter_map(totals).collect();
    assert!(rows.len() >= 3, "{text}");
    rows.push(["client polls", "upstream polls", "avoided"].map(|label| number(&text, label)));
    for pair in rows.windows(2) {
        for (before, after) in pair[0].iter().zip(pair[1]) {
            assert!(*before <= after, "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_avoided_are_the_count_of_the_metrics() {
    const NAME: &str = "pollgate_upstream_polls_avoided_total ";
    let mut demo = Running::start(&["--tasks", "2", "--pollers", "10"]);
    let admin = loop {
        let line = demo.line();
        assert_ne!(line, "", "it ended");
        if let Some(url) = line.trim().strip_prefix("admin   http://") {
            break url.parse().expect("an address");
        }
    };
    let [_, _, before] = demo.row();
    let metrics = get(admin, "/metrics").await;
    let mut lines = metrics.text().lines();
    let metric = lines.find_map(|line| line.strip_prefix(NAME));
    let metric = metric.and_then(count).expect("the metric");
    // Two rows at most were written before the metrics were read and wait in the pipe: every row takes a second.
    let after = [demo.row(), demo.row(), demo.row()][2][2];
    assert!(
        before <= metric && metric <= after,
        "{before} {metric} {after}"
    );
    assert!(before < after, "{before} {after}");
    demo.signal("-INT");
    demo.rest().await;
}

#[test]
fn in_a_terminal_it_draws_and_leaves_the_terminal_as_it_was() {
    let program = env!("CARGO_BIN_EXE_pollgate");
    let demo = format!("{program} demo --tasks 2 --pollers 3 --seconds 2");
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--command", &demo, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    // Part of util-linux. Without it only the drawing's unit tests run.
    let Ok(output) = script.output() else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for part in [
        "\x1b[?1049h",
        "\x1b[?25l",
        "\x1b[36m",
        "avoided",
        "Ctrl-C ends",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    let (_, after) = text
        .rsplit_once("\x1b[?25h\x1b[?1049l")
        .expect("the way back");
    assert!(
        after.contains("upstream polls") && after.contains(VERDICT),
        "{after:?}"
    );
    assert!(!after.contains('\x1b'), "{after:?}");
}

#[tokio::test]
async fn stopped_it_prints_a_summary_and_exits_with_0() {
    for signal in ["-INT", "-TERM"] {
        let mut demo = Running::start(&["--tasks", "2", "--pollers", "4", "--admin", "off"]);
        // Until every task has its first answer, even after a fault on the first poll.
        for _ in 0..3 {
            demo.row();
        }
        demo.signal(signal);
        let rest = demo.rest().await;
        assert!(
            rest.last().is_some_and(|line| line.starts_with(VERDICT)),
            "{rest:?}"
        );
    }
}

#[test]
fn a_taken_port_and_an_invalid_number_have_different_messages() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("is bound").to_string();
    let output = binary()
        .args(["demo", "--listen", &address])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains(&address), "{error}");

    let output = binary()
        .args(["demo", "--tasks", "0"])
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
}
