//! What the README says and shows holds.

use std::path::Path;
use std::process::Command;

use crate::support::{Gateway, Upstream, binary, row};

fn readme() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    std::fs::read_to_string(path).expect("is there")
}

/// The lines of all blocks of this kind; those that end in a backslash go on in the next.
fn blocks(kind: &str) -> Vec<String> {
    let readme = readme();
    let fence = format!("```{kind}\n");
    readme
        .split(&fence)
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .map(str::to_owned)
        .collect()
}

fn commands() -> Vec<String> {
    blocks("console")
        .iter()
        .flat_map(|block| {
            block
                .replace("\\\n", " ")
                .lines()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn every_command_line_is_one_that_pollgate_takes() {
    let mut seen = 0;
    for command in commands() {
        let Some((_, arguments)) = command
            .split_once("cargo run --release")
            .or_else(|| command.split_once("pollgate "))
        else {
            continue;
        };
        let arguments = arguments.trim().trim_end_matches('&');
        let arguments = arguments.strip_prefix("-- ").unwrap_or(arguments);
        // With --help added nothing runs, but a wrong command or flag is still found out.
        let output = binary()
            .args(arguments.split_whitespace())
            .arg("--help")
            .output()
            .expect("runs");
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        seen += 1;
    }
    assert!(seen >= 6, "only {seen} commands found");
}

#[test]
fn the_commands_about_configuration_run_as_they_stand() {
    let mut seen = 0;
    for command in commands()
        .into_iter()
        .filter(|command| command.contains("pollgate check"))
    {
        let program = env!("CARGO_BIN_EXE_pollgate");
        let command = command.replace("pollgate check", &format!("{program} check"));
        let output = Command::new("sh")
            .args(["-c", &command])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .expect("runs");
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        seen += 1;
    }
    assert_eq!(seen, 2);
}

#[test]
fn files_that_are_named_are_there() {
    for name in [
        "config/pollgate.toml",
        "LICENSE",
        "CHANGELOG.md",
        "benches/cadence.md",
        "tests/run",
    ] {
        assert!(readme().contains(name), "{name} is not named");
        assert!(
            Path::new(env!("CARGO_MANIFEST_DIR")).join(name).exists(),
            "{name} is not there"
        );
    }
}

#[tokio::test]
async fn the_curl_lines_run_against_a_gateway() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let mut seen = 0;
    for command in commands()
        .into_iter()
        .filter(|command| command.starts_with("curl "))
    {
        let command = command.replace("127.0.0.1:8080", &gateway.address.to_string());
        let output = tokio::task::spawn_blocking(move || {
            Command::new("sh")
                .args([
                    "-c",
                    &format!("{} --silent --fail --max-time 10", command.trim()),
                ])
                .envs([("TASK", "task_1"), ("OCTOPUSX_API_KEY", "sk-test")])
                .output()
                .expect("runs")
        });
        let output = output.await.expect("runs");
        assert!(output.status.success(), "{output:?}");
        seen += 1;
    }
    assert_eq!(seen, 5);
    assert_eq!(
        upstream.asked()[0].header("authorization"),
        "Bearer sk-test"
    );
}

#[tokio::test]
async fn the_table_of_what_is_remembered_is_what_the_defaults_say() {
    let output = binary().arg("check").output().expect("runs");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    for (key, setting, told) in [
        ("in_flight_ttl", "2s", "| 2 s | `cache.in_flight_ttl` |"),
        ("in_flight_max", "10s", "`cache.in_flight_max`, 10 s"),
        ("max_wait", "1m", "`limits.max_wait`, 60 s"),
        ("succeeded_ttl", "12h", "| 12 h, but never"),
        ("url_margin", "5m", "less 5 min |"),
        (
            "failed_ttl",
            "10m",
            "| 10 min, since it can flip upstream |",
        ),
        ("missing_ttl", "2s", "| 2 s, since it can be early |"),
        ("credential_ttl", "5m", "accepted in the last 5 min"),
        ("stale_if_error", "10m", "stands in for up to 10 min"),
    ] {
        assert!(shown.contains(&format!("{key} = \"{setting}\"")), "{key}");
        assert!(readme().contains(told), "{told}");
    }
}

#[test]
fn the_figures_of_the_cadence_are_those_that_were_simulated() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/cadence.md");
    let table = std::fs::read_to_string(place).expect("is there");
    let row = |cadence: &str| {
        let start = format!("| {cadence} | ");
        let row = table.lines().find_map(|line| line.strip_prefix(&start));
        let mut cells = row.expect(cadence).split(" | ");
        let polls = cells.next().expect("polls").to_owned();
        let lag = cells.next().expect("a lag").split(" (").next();
        (polls, lag.expect("a mean").to_owned())
    };
    let (polls, lag) = row("adaptive, 2–10 s, 100 ends learnt");
    let (before, lag_before) = row("fixed, 2 s");
    let readme = readme().replace('\n', " ");
    assert!(readme.contains(&format!("{polls} polls instead of {before},")));
    assert!(readme.contains(&format!(
        "{lag} after upstream tells it instead of {lag_before};"
    )));
}
