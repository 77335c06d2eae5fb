//! Fills the page: one document with its style and script inside, which a nonce lets run and nothing else.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::html::Escaped;
use super::lookup::Found;
use super::view::{Cell, Row, STATES, View};
use crate::answer::outcome::Outcome;

const TEMPLATE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A page, and the policy that it is served with.
#[derive(Debug)]
pub(super) struct Page {
    pub html: String,
    pub policy: String,
}

/// Writes the page; `typed` stands in the form again, with what was found below it.
///
/// # Errors
/// The system gave no random bytes.
pub(super) fn write(view: &View, looked_up: Option<(&str, &Found)>) -> std::io::Result<Page> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(std::io::Error::other)?;
    let nonce = STANDARD.encode(nonce);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'"
    );
    let html = fill(TEMPLATE, |to, name| match name {
        "nonce" => to.push_str(&nonce),
        "style" => to.push_str(STYLE),
        "script" => to.push_str(SCRIPT),
        "typed" => put(to, looked_up.map_or("", |(typed, _)| typed)),
        "found" => {
            if let Some((_, found)) = looked_up {
                to.push_str(&found.to_html());
            }
        }
        "outcomes" => outcomes(to, view),
        "states" => states(to, view),
        name => match name.strip_prefix("rows ") {
            Some(table) => rows(to, view.tables.get(table).map_or(&[], Vec::as_slice)),
            None => put(to, cell(view, name)),
        },
    });
    Ok(Page { html, policy })
}

/// Puts something in every place `{{name}}`.
fn fill(template: &str, mut put: impl FnMut(&mut String, &str)) -> String {
    let mut html = String::with_capacity(2 * template.len() + STYLE.len() + SCRIPT.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        html.push_str(before);
        put(&mut html, name);
        rest = after;
    }
    html.push_str(rest);
    html
}

fn put(to: &mut String, text: &str) {
    let _ = write!(to, "{}", Escaped(text));
}

fn cell<'p>(view: &'p View, name: &str) -> &'p str {
    view.cells.get(name).map_or("", String::as_str)
}

/// A table cell that the script keeps up to date.
fn live_cell(to: &mut String, view: &View, name: &str) {
    let _ = write!(
        to,
        "<td data-cell=\"{name}\">{}</td>",
        Escaped(cell(view, name))
    );
}

fn outcomes(to: &mut String, view: &View) {
    for outcome in Outcome::ALL {
        let (word, gloss) = (outcome.as_str(), gloss(outcome));
        let _ = write!(
            to,
            "<tr data-kind=\"{word}\"><th scope=\"row\"><svg class=\"mark\" aria-hidden=\"true\"><use href=\"#mark-{word}\"/></svg>\
             {word}<small>{gloss}</small></th>"
        );
        live_cell(to, view, &format!("{word}.rate"));
        let _ = write!(
            to,
            "<td class=\"spark\"><svg data-spark=\"{word}\" aria-hidden=\"true\"></svg></td>"
        );
        for name in ["p50", "p99", "total"] {
            live_cell(to, view, &format!("{word}.{name}"));
        }
        to.push_str("</tr>");
    }
}

const fn gloss(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Hit => "from memory, fresh",
        Outcome::Shared => "by another client’s poll",
        Outcome::Fetched => "by a poll of its own",
        Outcome::Stale => "last known state, upstream failing",
        Outcome::Forwarded => "passed on unread",
        Outcome::Shed => "refused here",
        Outcome::Failed => "not answered as asked",
    }
}

fn states(to: &mut String, view: &View) {
    for state in STATES {
        let word = if state == "missing" {
            "no such task"
        } else {
            state
        };
        let _ = write!(to, "<tr><th scope=\"row\">{word}</th>");
        live_cell(to, view, &format!("tasks.{state}"));
        live_cell(to, view, &format!("tasks.{state}.fresh"));
        to.push_str("</tr>");
    }
}

/// As the script makes them.
fn rows(to: &mut String, rows: &[Row]) {
    for Row { kind, cells } in rows {
        let _ = write!(to, "<tr data-kind=\"{kind}\" role=\"row\">");
        for (place, cell) in cells.iter().enumerate() {
            let (from, end) = match place {
                0 => ("<th scope=\"row\" role=\"rowheader\">", "</th>"),
                _ => ("<td role=\"cell\">", "</td>"),
            };
            to.push_str(from);
            match cell {
                Cell::Text(text) => put(to, text),
                Cell::Task { task } => {
                    let query = utf8_percent_encode(task, NON_ALPHANUMERIC);
                    let _ = write!(to, "<a href=\"/?task={query}#why\">{}</a>", Escaped(task));
                }
            }
            to.push_str(end);
        }
        to.push_str("</tr>");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::admin::history::History;
    use crate::admin::view::Counted;
    use crate::config::Config;
    use crate::gateway::Gateway;

    #[tokio::test]
    async fn every_place_of_the_page_is_filled_and_every_text_has_a_place() {
        let gateway = Gateway::new(&Config::default()).unwrap();
        let now = Instant::now();
        let history = History::new(now - Duration::from_secs(1));
        let view = View::draw(&gateway, now, &history, &Counted::default(), now);
        let mut page = String::new();
        let mut places = BTreeSet::new();
        fill(TEMPLATE, |_, name| {
            places.insert(name.to_owned());
        });
        outcomes(&mut page, &view);
        states(&mut page, &view);
        for name in view.cells.keys() {
            let there = places.contains(name) || page.contains(&format!("data-cell=\"{name}\""));
            assert!(there, "{name} is shown nowhere");
        }
        let special = [
            "nonce", "style", "script", "typed", "found", "outcomes", "states",
        ];
        for place in places {
            let table = place
                .strip_prefix("rows ")
                .map(|table| view.tables.contains_key(table));
            assert!(
                table.unwrap_or_else(
                    || special.contains(&&*place) || view.cells.contains_key(&place)
                ),
                "nothing for {place}"
            );
        }
    }

    #[test]
    fn what_comes_from_outside_is_escaped() {
        let evil = r#"<img src=x onerror="alert('1')">&"#;
        let mut html = String::new();
        let cells = vec![Cell::Text(evil.into()), Cell::Task { task: evil.into() }];
        rows(
            &mut html,
            &[Row {
                kind: "client",
                cells,
            }],
        );
        let escaped = "&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;&amp;";
        assert_eq!(html.matches(escaped).count(), 2);
        assert!(
            html.contains("href=\"/?task=%3Cimg%20src%3Dx%20onerror%3D%22")
                && !html.contains("<img")
        );
    }
}
