//! The page of the routes: its tables are those of the program, and its example works as it is told.

use std::process::Command;

use pollgate::request::routed::LARGEST_ASKING_BODY;
use pollgate::route::{DEFAULT_PRESETS, Definition, KEYS, LABELS, PollMethod, presets};
use toml::{Table, Value};

use super::{blocks, quoted, read, section, table};
use crate::support::{Gateway, Reply, Upstream};

const PAGE: &str = "docs/routes.md";

/// What the page says of a preset: its paths, where the id is, and its other keys.
fn cells(preset: &Definition) -> [String; 3] {
    let keys = Table::try_from(preset).expect("is TOML");
    let texts = |value: &Value| match value {
        Value::Array(texts) => texts
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        value => vec![value.as_str().expect("a text").to_owned()],
    };
    let quoted = |texts: Vec<String>| {
        let quoted = texts.iter().map(|text| format!("`{text}`"));
        quoted.collect::<Vec<_>>().join(", ")
    };
    let of = |key: &str| keys.get(key).map(|value| quoted(texts(value)));
    let paths = of("path").expect("has a path");
    let is_post = preset.method == Some(PollMethod::Post);
    let known = KEYS.iter().map(|(key, _)| *key);
    let others = known.filter(|key| !["name", "path", "id", "method"].contains(key));
    let others = others.filter_map(|key| {
        let told = of(key)?;
        let told = if told == "``" { "the document" } else { &told };
        Some(format!("{key}: {told}"))
    });
    [
        if is_post {
            format!("POST {paths}")
        } else {
            paths
        },
        of("id").unwrap_or_else(|| "path".into()),
        others.collect::<Vec<_>>().join("; "),
    ]
}

#[test]
fn the_presets_are_told_as_they_are() {
    let told = section(PAGE, "The table");
    let (on, by_name) = told.split_once("turned on by name").expect("both");
    let mut seen = 0;
    for (text, is_on) in [(on, true), (by_name, false)] {
        for row in table(text, "| preset |") {
            let name = quoted(&row[0]).remove(0);
            let preset = presets().iter().find(|preset| preset.name == name);
            let preset = preset.unwrap_or_else(|| panic!("{name} is no preset"));
            assert_eq!(row[2..], cells(preset), "{name}");
            assert_eq!(DEFAULT_PRESETS.contains(&&*name), is_on, "{name}");
            seen += 1;
        }
    }
    assert_eq!(seen, presets().len());
}

#[test]
fn the_keys_are_told_as_they_are() {
    let rows = table(&section(PAGE, "Keys"), "| key |");
    let told: Vec<_> = rows.iter().map(|row| (&*row[0], &*row[2])).collect();
    let known = KEYS.map(|(key, text)| (format!("`{key}`"), text));
    let known: Vec<_> = known.iter().map(|(key, text)| (&**key, *text)).collect();
    assert_eq!(told, known);
}

#[test]
fn the_limits_are_told_as_they_are() {
    let page = read(PAGE);
    for told in [
        format!("at most {} KiB", LARGEST_ASKING_BODY / 1024),
        format!("after {} names", LABELS - 4),
        "At most 64 routes".into(),
    ] {
        assert!(page.contains(&told), "{told}");
    }
    let observing = read("docs/observing.md");
    assert!(observing.contains(&format!("the {}th name", LABELS - 4)));
}

#[test]
fn every_configuration_on_the_page_is_valid() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("it.toml");
    let blocks = blocks(&read(PAGE), "toml");
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        std::fs::write(&file, &block).expect("is written");
        let mut check = crate::support::binary();
        let said = check.arg("check").arg("--config").arg(&file).output();
        let said = said.expect("runs");
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success(), "{block}: {error}");
    }
}

#[tokio::test]
async fn a_route_of_ones_own_is_polled_as_it_is_told() {
    let text = section(PAGE, "A route of your own");
    let only = |kind: &str| -> String {
        let [block] = blocks(&text, kind).try_into().expect("one block");
        block
    };
    let (answer, route, typed, told) = (only("json"), only("toml"), only("console"), only("text"));
    assert!(
        route.lines().count() + typed.lines().count() <= 10,
        "ten lines"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("acme.toml");
    std::fs::write(&file, route).expect("is written");
    let file = file.to_str().expect("is UTF-8");
    let body = answer.clone();
    let upstream = Upstream::start(move |_| Reply::json(body.clone())).await;
    let environment = [("POLLGATE_CONFIG", file)];
    let gateway = Gateway::with_environment(&upstream.url(), &[], &environment).await;
    let (start, polls) = typed.split_once('\n').expect("three lines");
    assert!(start.starts_with("pollgate --config acme.toml"), "{start}");
    let polls = polls.replace("127.0.0.1:8080", &gateway.address.to_string());
    let shell = tokio::task::spawn_blocking(move || {
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &polls]);
        shell.envs([("no_proxy", "*"), ("NO_PROXY", "*")]).output()
    });
    let said = shell.await.expect("ends").expect("runs");
    let said = String::from_utf8(said.stdout).expect("is UTF-8");
    assert_eq!(said.replace('\r', ""), told);
    assert_eq!(upstream.count(), 1);
    let again = gateway.get("/acme/v1/jobs/42").await;
    assert_eq!(again.text(), answer);
}
