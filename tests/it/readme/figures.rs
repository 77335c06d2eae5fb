//! The figures: those of settings are the defaults, those of benchmarks what the benchmarks wrote, all others stand in
//! the code as they are told.

use std::collections::BTreeSet;
use std::time::Duration;

use toml::{Table, Value};

use super::{pages, read, section};
use crate::support::binary;

fn defaults() -> Table {
    let output = binary().arg("check").output().expect("runs");
    let text = String::from_utf8(output.stdout).expect("is UTF-8");
    text.parse().expect("TOML")
}

/// The sections of the configuration.
const SECTIONS: [&str; 7] = [
    "listen", "upstream", "answers", "fleet", "cache", "limits", "log",
];

/// What has no default.
const OPTIONAL: [&str; 8] = [
    "listen.tls",
    "upstream.ca_file",
    "fleet.ca_file",
    "fleet.cert",
    "fleet.key",
    "fleet.password_file",
    "fleet.secret_file",
    "fleet.sentinel",
];

/// The settings that a page names, each with what stands before and behind.
fn named(page: &str) -> Vec<(String, String, String)> {
    let parts: Vec<_> = page.split('`').collect();
    let mut found = Vec::new();
    for place in (1..parts.len().saturating_sub(1)).step_by(2) {
        let key = parts[place].split(" = ").next().unwrap_or_default();
        let is_setting = key.split_once('.').is_some_and(|(section, name)| {
            let is_word = |letter: char| letter.is_ascii_lowercase() || letter == '_';
            SECTIONS.contains(&section) && !name.is_empty() && name.chars().all(is_word)
        });
        if is_setting {
            let around = |text: &str| text.replace('\n', " ");
            found.push((
                key.to_owned(),
                around(parts[place - 1]),
                around(parts[place + 1]),
            ));
        }
    }
    found
}

/// A figure as settings are written: `10 min` is `10m`; none where the words are no figure.
fn figure(words: &[&str]) -> Option<String> {
    let is_number = |word: &&str| word.chars().all(|letter| letter.is_ascii_digit());
    match words {
        [number, word] if is_number(number) => {
            let unit = match *word {
                "min" => "m",
                "ms" | "s" | "h" | "MiB" => word,
                _ => return None,
            };
            Some(format!("{number}{unit}"))
        }
        _ => None,
    }
}

/// What is told of a setting: `key (10 s)`, `key, 10 s`, `10 s (key)`.
fn told(before: &str, after: &str) -> Option<String> {
    let behind = after
        .strip_prefix(" (")
        .or_else(|| after.strip_prefix(", "));
    let behind: Vec<_> = behind
        .unwrap_or_default()
        .split([' ', ',', ')', '.', ';', ':'])
        .take(2)
        .collect();
    if let Some(number) = after
        .strip_prefix(" (")
        .and_then(|text| text.split(')').next())
        && number.parse::<u64>().is_ok()
    {
        return Some(number.to_owned());
    }
    figure(&behind).or_else(|| {
        let mut words: Vec<_> = before.strip_suffix(" (")?.rsplit(' ').take(2).collect();
        words.reverse();
        figure(&words)
    })
}

fn means_the_same(told: &str, value: &Value) -> bool {
    let text = value.to_string().trim_matches('"').to_owned();
    let span = |text: &str| humantime::parse_duration(text).ok();
    text == told || (span(told).is_some() && span(&text) == span(told))
}

#[test]
fn settings_that_are_named_exist_and_have_the_defaults_that_are_told() {
    let defaults = defaults();
    let mut checked = BTreeSet::new();
    for page in pages() {
        for (key, before, after) in named(&read(&page)) {
            if OPTIONAL.contains(&key.as_str()) {
                continue;
            }
            let (section, name) = key.split_once('.').expect("has a section");
            let value = defaults.get(section).and_then(|section| section.get(name));
            let value = value.unwrap_or_else(|| panic!("{page}: there is no {key}"));
            if let Some(told) = told(&before, &after) {
                assert!(
                    means_the_same(&told, value),
                    "{page}: {key}: {told}, {value}"
                );
                checked.insert(key);
            }
        }
    }
    assert!(checked.len() >= 14, "{checked:?}");
}

#[test]
fn the_table_of_what_is_remembered_is_what_the_defaults_say() {
    let defaults = defaults();
    let reference = read("docs/reference.md");
    for (key, setting, told) in [
        ("in_flight_ttl", "2s", "| 2 s | `cache.in_flight_ttl` |"),
        ("in_flight_max", "10s", "2 s, up to 10 s where"),
        ("succeeded_ttl", "12h", "| 12 h, but never"),
        ("url_margin", "5m", "less 5 min |"),
        (
            "failed_ttl",
            "10m",
            "| 10 min, since it can flip upstream |",
        ),
        ("missing_ttl", "2s", "| 2 s, since it can be early |"),
    ] {
        let value = &defaults["cache"][key];
        assert!(means_the_same(setting, value), "{key}: {value}");
        assert!(reference.contains(told), "{told}");
    }
}

#[test]
fn the_figures_of_the_cadence_are_those_that_were_simulated() {
    let table = read("benches/cadence.md");
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
    let reference = read("docs/reference.md").replace('\n', " ");
    assert!(reference.contains(&format!("{polls} polls instead of {before},")));
    assert!(reference.contains(&format!(
        "{lag} after upstream reports it instead of {lag_before}."
    )));
    let rounds = super::table(&table, "| upstream | optimum without rounds |");
    let usual = rounds
        .iter()
        .find(|row| row[0] == "usual rounds; state and progress");
    let (reached, _) = usual.expect("a row")[5].split_once(':').expect("shares");
    let (polls, lag) = reached.split_once(" at ").expect("a lag");
    assert!(reference.contains(&format!("it costs {polls} polls, at {lag}.")));
}

#[test]
fn the_figure_beside_nginx_is_the_one_of_the_table() {
    let speed = section("docs/performance.md", "Speed");
    let hit = super::table(&speed, "| server | CPU per hit |");
    let ours = hit.iter().find(|row| row[0] == "pollgate").expect("a row");
    let (cpu, beside_nginx) = (&ours[1], &ours[3]);
    let readme = read("README.md").replace('\n', " ");
    let told = format!("{cpu} of CPU on a hit: {beside_nginx} × what nginx spends");
    assert!(readme.contains(&told), "{told}");
}

#[test]
fn the_figures_of_a_fleet_are_those_that_were_measured() {
    let measured = read("benches/fleet.md");
    let scenes = super::table(&measured, "| scene | upstream polls |");
    let fleet = read("docs/fleet.md");
    let told = super::table(&fleet, "| 20 s, and what happens | upstream polls |");
    assert_eq!(told.len(), scenes.len());
    for (told, scene) in told.iter().zip(&scenes) {
        let [name, polls, _, _, _, failed, backward, _, p99] = &scene[..] else {
            panic!("{scene:?}")
        };
        assert_eq!(
            told,
            &[name, polls, failed, backward, p99].map(String::as_str)
        );
    }
    let polls = |name: &str| {
        let scene = scenes.iter().find(|scene| scene[0] == name);
        scene.expect(name)[1].clone()
    };
    let readme = read("README.md").replace('\n', " ");
    let told = format!(
        "poll upstream {} times in 20 s instead of {}: as often as one does",
        polls("50 in a fleet"),
        polls("50 without a fleet"),
    );
    assert_eq!(polls("50 in a fleet"), polls("one sidecar"));
    assert!(readme.contains(&told), "{told}");
    let (_, many) = measured.split_once("### 1000 tasks").expect("a part");
    let many = super::table(many, "| scene | upstream polls |");
    let fleet = fleet.replace('\n', " ");
    let told = format!("cost upstream {} × the polls", many[1][2]);
    assert!(fleet.contains(&told), "{told}");
    let again = super::table(&measured, "| | upstream polls |");
    assert_eq!(again[1], ["the same after all were started anew", "0"]);
    let costs = super::table(&measured, "| | figure |");
    let memory = costs
        .iter()
        .find(|row| row[0].starts_with("memory of the engine per task"));
    let told = format!("took {} of the engine's memory", memory.expect("a row")[1]);
    assert!(fleet.contains(&told), "{told}");
}

/// Which file has which figure in its code, and which page tells of it how.
const FIGURES: &[(&str, &str, &str, &str)] = &[
    (
        "upstream/circuit",
        "const WINDOW: u64 = 10;",
        "docs/reference",
        "failed on the way within 10 s",
    ),
    (
        "upstream/circuit",
        "const FEWEST_FAILURES: u32 = 8;",
        "docs/reference",
        "when at least 8 polls failed",
    ),
    (
        "upstream/circuit",
        "const ONE_IN: u32 = 20;",
        "docs/reference",
        "fewer than one in 20 got through",
    ),
    (
        "upstream/breakers",
        "const TASK_COUNTS: u8 = 2;",
        "docs/reference",
        "Each task counts twice at most",
    ),
    (
        "cache/failures",
        "const LONGEST: Duration = Duration::from_secs(30);",
        "docs/reference",
        "twice as long each time, 30 s at most",
    ),
    (
        "cache/freshness",
        "const EARLY: Duration = Duration::from_secs(30);",
        "docs/reference",
        "was running less than 30 s ago",
    ),
    (
        "cache/freshness",
        "const URL_FOLLOWS: Duration = Duration::from_mins(1);",
        "docs/reference",
        "without a URL, for a minute, since it may follow",
    ),
    (
        "upstream/lost",
        "pub const SILENT: Duration = Duration::from_secs(2);",
        "docs/reference",
        "abandoned after two seconds without an answer",
    ),
    (
        "stack/fetch",
        "const HANGING_SHARE: usize = 4;",
        "docs/reference",
        "share a quarter of `limits.max_upstream`",
    ),
    (
        "upstream/circuit",
        "PROBE: Duration = Duration::from_millis(1250);",
        "docs/reference",
        "at least every 2.5 s while",
    ),
    (
        "upstream/circuit",
        "FIRST_PROBE: Duration = Duration::from_millis(100);",
        "docs/reference",
        "the first after 0.1 to 0.2 s",
    ),
    (
        "upstream/circuit",
        "LONGEST_PAUSE: Duration = Duration::from_mins(5);",
        "docs/reference",
        "at most 5 min",
    ),
    (
        "stack/retry",
        "const TRIES: u32 = 3;",
        "docs/reference",
        "up to three tries",
    ),
    (
        "stack/retry",
        "BACKOFF: Duration = Duration::from_millis(50);",
        "docs/reference",
        "0.15 s at most in all",
    ),
    (
        "upstream/resend",
        "pub const TRIES: usize = 5;",
        "docs/reference",
        "up to five times in all",
    ),
    (
        "upstream/response_time",
        "pub const LEAST: Duration = Duration::from_millis(500);",
        "docs/reference",
        "is silent, and not yet known to be | 0.5 to 3 s",
    ),
    (
        "upstream/lost",
        "pub const SILENT: Duration = Duration::from_secs(2);",
        "docs/reference",
        "that upstream has not answered within two seconds",
    ),
    (
        "message/replay",
        "const MOST: usize = 64 << 10;",
        "docs/reference",
        "more than 64 KiB of its body were read",
    ),
    (
        "stack/state",
        "TpsBudget::new(Duration::from_secs(10), 1, 0.2)",
        "docs/reference",
        "a fifth of all polls and one a second",
    ),
    (
        "server/guard/head",
        "const MAX_TARGET: usize = 16 * 1024;",
        "docs/security",
        "A target over 16 KiB",
    ),
    (
        "server/guard/head",
        "const MAX_HEAD: usize = 64 * 1024;",
        "docs/security",
        "over 64 KiB or with more than",
    ),
    (
        "server/guard/head",
        "const MAX_HEADERS: usize = 100;",
        "docs/security",
        "100 headers with 431",
    ),
    (
        "stack/observe",
        "const MAX_REQUEST_ID: usize = 128;",
        "docs/reference",
        "the client's, cut to 128 bytes",
    ),
    (
        "admin/live",
        "const WATCHERS: usize = 16;",
        "docs/observing",
        "for 16 watchers at once",
    ),
    (
        "admin/hour",
        "const BUCKETS: usize = 120;",
        "docs/observing",
        "120 half minutes",
    ),
    (
        "telemetry/demand",
        "const CALLERS: usize = 64;",
        "docs/observing",
        "counted for 64 callers",
    ),
    (
        "telemetry/demand",
        "const SAMPLES: f64 = 250.0;",
        "docs/observing",
        "up to 250 a second",
    ),
    (
        "telemetry/non_blocking",
        "const ROOM: usize = 4 << 20;",
        "docs/observing",
        "up to 4 MiB wait",
    ),
    (
        "telemetry/non_blocking",
        "const GATHER: Duration = Duration::from_millis(10);",
        "docs/performance",
        "leave together every 10 ms at most",
    ),
    (
        "message/flatten",
        "const SMALL: usize = 4096;",
        "docs/performance",
        "of up to 4 KiB leave in one plain write",
    ),
    (
        "cache/index",
        "const SHARDS: u64 = 64;",
        "docs/performance",
        "An index of 64 parts",
    ),
    (
        "server/on_demand",
        "const BUSY_WINDOW: Duration = Duration::from_secs(1);",
        "docs/performance",
        "that ask again within a second",
    ),
    (
        "cli/health",
        "TIMEOUT: Duration = Duration::from_secs(2);",
        "docs/operations",
        "up to two seconds for each step",
    ),
];

#[test]
fn figures_that_are_no_settings_stand_in_the_code() {
    for (source, code, page, told) in FIGURES {
        assert!(read(&format!("src/{source}.rs")).contains(code), "{code}");
        let page = read(&format!("{page}.md"))
            .replace('\n', " ")
            .replace("   ", " ");
        assert!(page.replace("  ", " ").contains(told), "{told}");
    }
    assert_eq!(pollgate::error::UPSTREAM_RECOVERY, Duration::from_secs(2));
}
