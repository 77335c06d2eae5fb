//! The commands: each one is run, or at least one that pollgate takes.

use std::process::Command;

use super::{blocks, file, pages, read, section};
use crate::support::{Gateway, Upstream, binary, row};

/// All lines to be typed; those that end in a backslash go on in the next.
fn commands() -> Vec<String> {
    pages()
        .iter()
        .flat_map(|page| blocks(&read(page), "console"))
        .flat_map(|block| {
            let block = block.replace("\\\n", " ");
            block.lines().map(str::to_owned).collect::<Vec<_>>()
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
            .filter(|(before, _)| !before.contains("curl"))
        else {
            continue;
        };
        let arguments = arguments.split('>').next().unwrap_or_default().trim();
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
    assert!(seen >= 8, "only {seen} commands found");
}

fn runs(command: &str) -> bool {
    let program = env!("CARGO_BIN_EXE_pollgate");
    let output = Command::new("sh")
        .args(["-c", &command.replace("pollgate ", &format!("{program} "))])
        .current_dir(file(""))
        .output()
        .expect("runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
    true
}

#[test]
fn the_commands_about_configuration_run_as_they_stand() {
    let checks = commands()
        .into_iter()
        .filter(|command| command.contains("pollgate check"));
    assert_eq!(checks.filter(|command| runs(command)).count(), 3);
}

#[test]
fn completions_and_the_manual_are_printed() {
    let printing = commands()
        .into_iter()
        .filter(|command| command.contains(" > "));
    let to_nowhere = printing.map(|command| {
        let (command, _) = command.split_once(" > ").expect("was looked for");
        format!("{command} > /dev/null")
    });
    assert_eq!(to_nowhere.filter(|command| runs(command)).count(), 2);
}

#[tokio::test]
async fn the_curl_lines_run_against_a_gateway() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let pages = [
        section("README.md", "Use it"),
        section("docs/reference.md", "Waiting instead of polling"),
        read("docs/observing.md"),
    ];
    let mut seen = 0;
    for command in pages.iter().flat_map(|page| blocks(page, "console")) {
        for command in command.lines().filter(|line| line.starts_with("curl ")) {
            let command = command
                .replace("127.0.0.1:8080", &gateway.address.to_string())
                .replace("127.0.0.1:9090", &gateway.admin.to_string());
            let output = tokio::task::spawn_blocking(move || {
                Command::new("sh")
                    .args([
                        "-c",
                        &format!("{command} --silent --fail --max-time 10 --noproxy '*'"),
                    ])
                    .envs([("TASK", "task_1"), ("OCTOPUSX_API_KEY", "sk-test")])
                    .output()
                    .expect("runs")
            });
            let output = output.await.expect("runs");
            assert!(output.status.success(), "{output:?}");
            seen += 1;
        }
    }
    assert_eq!(seen, 7);
    assert_eq!(
        upstream.asked()[0].header("authorization"),
        "Bearer sk-test"
    );
}
