//! Writes the page: one document with its style and script inside, which run by a nonce. Nothing else runs.

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

/// The page, and its content security policy.
#[derive(Debug)]
pub(super) struct Page {
    pub html: String,
    pub policy: String,
}

/// Writes the page. With a look-up, the form keeps the text that was typed, and the findings stand below it.
///
/// # Errors
/// The system provides no random bytes.
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
        "all settings" => rows(to, &view.settings),
        "all routes" => rows(to, &view.routes),
        name => match name.strip_prefix("rows ") {
            Some(table) => rows(to, view.tables.get(table).map_or(&[], Vec::as_slice)),
            None => put(to, cell(view, name)),
        },
    });
    Ok(Page { html, policy })
}

/// Replaces every `{{name}}` in the template.
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

fn cell<'v>(view: &'v View, name: &str) -> &'v str {
    view.cells.get(name).map_or("", String::as_str)
}

/// Writes a table cell that the script keeps current.
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
        Outcome::Fetched => "by its own upstream poll",
        Outcome::Fleet => "by another sidecar of the fleet",
        Outcome::Stale => "last known state while upstream fails",
        Outcome::Forwarded => "passed through unread",
        Outcome::Shed => "refused here",
        Outcome::Failed => "no usable answer",
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

/// Writes rows like the script does.
fn rows(to: &mut String, rows: &[Row]) {
    for Row { kind, cells } in rows {
        let _ = write!(to, "<tr data-kind=\"{kind}\" role=\"row\">");
        for (column, cell) in cells.iter().enumerate() {
            let (start, end) = match column {
                0 => ("<th scope=\"row\" role=\"rowheader\">", "</th>"),
                _ => ("<td role=\"cell\">", "</td>"),
            };
            to.push_str(start);
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
    use crate::admin::recorder::Recorder;
    use crate::admin::totals::Totals;
    use crate::admin::view::Counted;
    use crate::config::Config;
    use crate::gateway::Gateway;

    #[tokio::test]
    async fn every_placeholder_has_a_cell_and_every_cell_is_shown() {
        let gateway = Gateway::new(&Config::default()).unwrap();
        let now = Instant::now();
        let history = History::new(now - Duration::from_secs(1));
        let report = Recorder::start(gateway.clone()).report(&Totals::none(now));
        let view = View::draw(&gateway, now, &history, &Counted::default(), &report, now);
        let mut page = String::new();
        let mut placeholders = BTreeSet::new();
        fill(TEMPLATE, |_, name| {
            placeholders.insert(name.to_owned());
        });
        outcomes(&mut page, &view);
        states(&mut page, &view);
        for name in view.cells.keys() {
            let is_shown =
                placeholders.contains(name) || page.contains(&format!("data-cell=\"{name}\""));
            assert!(is_shown, "{name} is shown nowhere");
        }
        let special = [
            "nonce",
            "style",
            "script",
            "typed",
            "found",
            "outcomes",
            "states",
            "all settings",
            "all routes",
        ];
        for name in placeholders {
            let table = name
                .strip_prefix("rows ")
                .map(|table| view.tables.contains_key(table));
            assert!(
                table
                    .unwrap_or_else(|| special.contains(&&*name) || view.cells.contains_key(&name)),
                "nothing for {name}"
            );
        }
    }

    #[test]
    fn text_from_outside_is_escaped() {
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
