//! The demo as a newcomer runs it: piped, in a terminal, stopped, and misused.

use std::process::{Command, Output, Stdio};

use crate::support::{binary, eventually};

const VERDICT: &str = "✓ No poller saw a wrong, backward or foreign state (";

fn text(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(error, "", "standard error");
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// The number behind a label of the summary.
fn number(text: &str, label: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix(label))
        .unwrap_or_else(|| panic!("no {label} in\n{text}"));
    let number = line.split_whitespace().next().expect("a number");
    number.replace(',', "").parse().expect("a number")
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
    let lines = text
        .lines()
        .filter(|line| line.contains("s  client polls "));
    assert!(lines.count() >= 2, "{text}");

    let (client, upstream) = (
        number(&text, "client polls"),
        number(&text, "upstream polls"),
    );
    let avoided = number(&text, "avoided");
    assert!(client >= 40.0 && upstream >= 3.0, "{text}");
    assert!(avoided > 50.0, "{text}");
    let expected = 100.0 * (1.0 - upstream / client);
    assert!((expected - avoided).abs() < 0.11, "{text}");
    assert!(
        text.contains("polls with another's key, turned away"),
        "{text}"
    );
    let outcome = text.lines().last().expect("lines");
    assert!(outcome.starts_with(VERDICT), "{text}");
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
        let mut child = binary()
            .args(["demo", "--tasks", "2", "--pollers", "4", "--admin", "off"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stdout = child.stdout.take().expect("is piped");
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
        // Until every task has its first answer, even after a fault on the first poll.
        let mut moments = lines
            .by_ref()
            .map_while(Result::ok)
            .filter(|line| line.contains("client polls"));
        let polling = moments.nth(2);
        assert!(polling.is_some(), "it never polled");
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .expect("kill runs")
                .success()
        );
        let rest: Vec<_> = lines.map_while(Result::ok).collect();
        assert!(
            rest.last().is_some_and(|line| line.starts_with(VERDICT)),
            "{rest:?}"
        );
        eventually("the end", async || {
            child.try_wait().expect("is ours").is_some()
        })
        .await;
        assert!(child.wait().expect("is ours").success());
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
