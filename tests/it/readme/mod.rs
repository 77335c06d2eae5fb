//! The README and `docs/` are held to the truth: every command, table, figure and link.

mod commands;
mod figures;
mod routes;
mod session;
mod tables;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Every page for users: three beside the code, and all of `docs/`.
fn pages() -> Vec<String> {
    let docs = std::fs::read_dir(file("docs")).expect("a folder");
    let names = docs.map(|entry| entry.expect("an entry").file_name());
    let names = names.map(|name| name.into_string().expect("is UTF-8"));
    let mut pages: Vec<_> = names
        .filter(|name| Path::new(name).extension().is_some_and(|end| end == "md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    pages.extend(["README.md", "SECURITY.md", "deploy/README.md"].map(str::to_owned));
    pages.sort();
    pages
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What stands below a heading, up to the next.
fn section(page: &str, heading: &str) -> String {
    let text = read(page);
    let start = format!("\n## {heading}\n");
    let (_, rest) = text.split_once(&start).expect(heading);
    rest.split("\n## ").next().unwrap_or_default().to_owned()
}

/// What stands in the fenced blocks of this kind.
fn blocks(text: &str, kind: &str) -> Vec<String> {
    let fence = format!("```{kind}\n");
    text.split(&fence)
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .map(str::to_owned)
        .collect()
}

/// The cells of a table's rows, found by how its first line begins; neither head nor rule.
fn table(text: &str, head: &str) -> Vec<Vec<String>> {
    text.lines()
        .skip_while(|line| !line.starts_with(head))
        .take_while(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let inner = line
                .strip_prefix('|')
                .and_then(|line| line.strip_suffix('|'));
            let cells = inner.expect("a row").split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// What stands in backquotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// GitHub's name for a heading.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter))
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut seen = BTreeSet::new();
    for page in pages() {
        for link in read(&page).split("](").skip(1) {
            let link = link.split(')').next().expect("a link");
            if link.starts_with("http") {
                continue;
            }
            let (name, place) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(&page).parent().expect("a folder");
            let target = match name {
                "" => PathBuf::from(&page),
                name => folder.join(name),
            };
            let target = target.to_str().expect("is UTF-8");
            assert!(file(target).exists(), "{page}: {link}");
            let anchored = place.is_empty()
                || read(target)
                    .lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| anchor(line) == place);
            assert!(anchored, "{page}: {link}");
            seen.insert(link.to_owned());
        }
    }
    assert!(seen.len() >= 20, "{seen:?}");
}

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let readme = read("README.md");
    let lines = readme.lines().count();
    assert!(lines <= 150, "{lines} lines");
    for page in pages().iter().filter(|page| *page != "README.md") {
        assert!(readme.contains(&format!("]({page})")), "{page}");
    }
}

#[test]
fn the_supported_versions_are_those_of_this_release() {
    let (major, minor) = (
        env!("CARGO_PKG_VERSION_MAJOR"),
        env!("CARGO_PKG_VERSION_MINOR"),
    );
    let told = section("SECURITY.md", "Supported versions");
    assert!(
        told.contains(&format!("the {major}.{minor} line")),
        "{told}"
    );
}

#[test]
fn programs_and_files_that_are_named_are_there() {
    for name in [
        "benches/compare/run",
        "deploy/build",
        "deploy/systemd/pollgate.socket",
        "tests/run",
    ] {
        let short = Path::new(name).file_name().and_then(|name| name.to_str());
        let named = pages()
            .iter()
            .any(|page| read(page).contains(name) || read(page).contains(short.expect("a name")));
        assert!(named && file(name).exists(), "{name}");
    }
    let benches = read("Cargo.toml");
    for page in pages() {
        for command in quoted(&read(&page)) {
            if let Some(bench) = command.strip_prefix("cargo bench --bench ") {
                assert!(benches.contains(&format!("name = \"{bench}\"")), "{bench}");
            }
        }
    }
}
