//! The example configuration files load, and what they say of the defaults is true.

use std::fs;
use std::path::Path;

use toml::{Table, Value};

use crate::support::binary;

fn shipped(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("config")
        .join(name);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// The output of `pollgate check` for a file.
fn effective(text: &str) -> Table {
    let folder = tempfile::tempdir().unwrap();
    // The files that an example names exist on another machine.
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).expect("a certificate");
    let mut text = text.to_owned();
    for (name, content) in [
        ("cert.pem", made.cert.pem()),
        ("key.pem", made.signing_key.serialize_pem()),
        ("ca.pem", made.cert.pem()),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, content).unwrap();
        let file = file.to_str().unwrap();
        text = text
            .replace(&format!("\"/etc/pollgate/{name}\""), &format!("\"{file}\""))
            .replace(&format!("\"{name}\""), &format!("\"{file}\""));
    }
    let file = folder.path().join("it.toml");
    fs::write(&file, text).unwrap();
    let output = binary()
        .arg("check")
        .arg("--config")
        .arg(&file)
        .output()
        .expect("runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout)
        .unwrap()
        .parse()
        .expect("TOML")
}

fn defaults() -> Table {
    effective("")
}

/// The same text with every commented setting in force.
fn uncommented(text: &str) -> String {
    let is_setting = |line: &str| {
        line.split_once(" = ").is_some_and(|(key, _)| {
            !key.is_empty()
                && key
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        })
    };
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if is_setting(rest) || rest.starts_with("[[") => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Section, key and value of every setting; routes are a list of their own.
fn settings(table: &Table) -> impl Iterator<Item = (&str, &str, &Value)> {
    let sections = table.iter().filter(|(section, _)| *section != "route");
    sections.flat_map(|(section, keys)| {
        let keys = keys.as_table().expect("a section");
        keys.iter()
            .map(move |(key, value)| (section.as_str(), key.as_str(), value))
    })
}

fn value_of<'t>(table: &'t Table, section: &str, key: &str) -> Option<&'t Value> {
    table.get(section)?.get(key)
}

#[test]
fn the_example_configuration_is_the_defaults_key_for_key() {
    let (text, defaults) = (shipped("pollgate.toml"), defaults());
    assert_eq!(effective(&text), defaults);
    let named: Table = text.parse().expect("TOML");
    for (section, key, _) in settings(&defaults) {
        let is_named = value_of(&named, section, key).is_some();
        assert!(is_named, "{section}.{key}");
    }
    // A setting without a default stands as a comment, and is valid.
    let all = effective(&uncommented(&text));
    let optional: Vec<_> = settings(&all)
        .filter(|(section, key, _)| value_of(&defaults, section, key).is_none())
        .map(|(section, key, _)| format!("{section}.{key}"))
        .collect();
    let routes = all["route"].as_array().expect("a list");
    assert_eq!(routes[0]["path"][0].as_str(), Some("/acme/v1/jobs/{id}"));
    assert_eq!(routes.len(), 1);
    let fleet = [
        "ca_file",
        "cert",
        "key",
        "password_file",
        "secret_file",
        "sentinel",
    ];
    let fleet = fleet.map(|key| format!("fleet.{key}"));
    let others = ["listen.tls", "upstream.ca_file"].map(str::to_owned);
    assert_eq!(optional, [&fleet[..], &others[..]].concat());
}

#[test]
fn every_key_of_the_example_configuration_has_a_comment() {
    for line in shipped("pollgate.toml").lines() {
        if line.contains(" = ") {
            let word = line.rsplit_once(" # ").map_or("", |(_, word)| word);
            assert!(word.len() > 10, "{line}");
        }
    }
}

#[test]
fn examples_load_and_say_only_what_differs_from_the_defaults() {
    let defaults = defaults();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut seen = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if name == "pollgate.toml" || Path::new(&name).extension() != Some("toml".as_ref()) {
            continue;
        }
        let text = shipped(&name);
        let said: Table = text.parse().expect("TOML");
        let in_force = effective(&text);
        for (section, key, _) in settings(&said) {
            assert_ne!(
                value_of(&in_force, section, key),
                value_of(&defaults, section, key),
                "{name}: {section}.{key} is the default"
            );
        }
        let everything = uncommented(&text);
        let in_force = effective(&everything);
        let everything: Table = everything.parse().expect("TOML");
        for (section, key, _) in settings(&everything) {
            if value_of(&said, section, key).is_none() {
                assert_eq!(
                    value_of(&in_force, section, key),
                    value_of(&defaults, section, key),
                    "{name}: {section}.{key} is commented out as if it were the default"
                );
            }
        }
        seen.push(name);
    }
    seen.sort();
    assert_eq!(seen, ["shared.toml", "sidecar.toml", "strict.toml"]);
}
