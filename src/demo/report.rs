//! Plain lines: progress where there is no terminal, and the summary at the end. Nothing is wider than 80 columns.

use std::fmt::Write as _;

use super::endpoints::Endpoints;
use super::paint::number;
use super::route::{OTHERS, Route};
use super::tally::Tally;
use super::view::{View, time};

/// No line is wider, except for a single word that is.
const WIDTH: usize = 80;
/// The column where the details of the summary begin.
const DETAIL: usize = 35;

/// The first lines: what the demo runs, which faults it injects, and where it listens.
pub(super) fn opening(
    endpoints: &Endpoints,
    tasks: usize,
    pollers: usize,
    others: usize,
    faults: &[&str],
    fault_rate: &str,
) -> String {
    let mut text = String::new();
    let mut line = |line: &str| push(&mut text, line, 2);
    line(&format!(
        "pollgate demo: {tasks} tasks with {pollers} pollers each, against a simulated OctopusX"
    ));
    if others > 0 {
        let names: Vec<_> = OTHERS.iter().map(Route::name).collect();
        line(&format!(
            "  and {others} tasks at a time on other routes: {}",
            names.join(", ")
        ));
    }
    line(&format!(
        "  injected faults: {fault_rate} of upstream polls fail on purpose ({})",
        faults.join(", ")
    ));
    for gateway in &endpoints.gateways {
        line(&format!("  gateway {gateway}"));
    }
    if let Some(engine) = &endpoints.engine {
        line(&format!("  a fleet over {engine}"));
    }
    line(&format!(
        "  admin   {}",
        endpoints.admin.as_deref().unwrap_or("off")
    ));
    text
}

/// A command that polls a task, once there is one.
pub(super) fn invitation(view: &View, endpoints: &Endpoints) -> Option<String> {
    let task = view.tasks.first()?;
    let [first, second] = endpoints.curl(task.key, &task.target);
    Some(format!("try: {first}\n{second}\n"))
}

/// The head of the table of [`moment`]s.
pub(super) fn head() -> String {
    row([
        "time",
        "client polls",
        "per s",
        "upstream",
        "per s",
        "avoided",
        "share",
        "p99",
    ])
}

/// One moment, in one line.
pub(super) fn moment(view: &View) -> String {
    let (client, upstream) = view.rates.now();
    row([
        &format!("{}s", view.elapsed.as_secs()),
        &number(view.client),
        &number(client),
        &number(view.upstream),
        &number(upstream),
        &number(view.avoided),
        &view.share_avoided(),
        &time(view.p99),
    ])
}

fn row(
    [
        at,
        client,
        per_second,
        upstream,
        upstream_per_second,
        avoided,
        share,
        p99,
    ]: [&str; 8],
) -> String {
    format!(
        "{at:>6}{client:>15}{per_second:>8}{upstream:>12}{upstream_per_second:>7}{avoided:>15}{share:>8}{p99:>9}\n"
    )
}

/// The final counts and the verdict.
pub(super) fn summary(view: &View, tally: &Tally) -> String {
    let [hit, shared, fetched, stale] = view.origins.map(number);
    let [_, _, succeeded, failed] = view.states;
    let mut text = String::from("\n");
    let mut line = |label: &str, value: &str, detail: &str| {
        push(
            &mut text,
            &format!("  {label:<17}{value:>13}   {detail}"),
            DETAIL,
        );
    };
    line(
        "client polls",
        &number(view.client),
        &format!("in {:.0} s", view.elapsed.as_secs_f64()),
    );
    line(
        "upstream polls",
        &number(view.upstream),
        "counted by the simulated OctopusX",
    );
    line(
        "avoided",
        &number(view.avoided),
        &format!(
            "client polls without an upstream poll: {}",
            view.share_avoided()
        ),
    );
    line(
        "answers",
        &number(view.checked),
        &format!("{hit} hit, {shared} shared, {fetched} fetched, {stale} stale"),
    );
    line(
        "answered in",
        &time(view.p50),
        &format!("median; p99 {}", time(view.p99)),
    );
    line(
        "tasks",
        &number(tally.created),
        &format!(
            "{} succeeded, {} failed, {} unfinished",
            number(succeeded),
            number(failed),
            number(tally.created.saturating_sub(succeeded + failed))
        ),
    );
    line(
        "injected faults",
        &number(view.injected()),
        &format!("upstream, on purpose: {}", list(&view.faults)),
    );
    let errors: Vec<_> = tally.errors.iter().map(|(&code, &n)| (code, n)).collect();
    line(
        "failed polls",
        &number(view.failed),
        &format!("seen by clients: {}", list(&errors)),
    );
    line(
        "without pollgate",
        &format!("about {}", number(view.failed_without_gateway())),
        &format!(
            "estimated: {} of client polls would have failed, had each gone upstream",
            view.fault_percent()
        ),
    );
    line(
        "foreign keys",
        &number(tally.refused),
        "polls of another key's task, refused",
    );
    for route in &view.routes {
        line(
            &format!("on {}", route.name),
            &number(route.client),
            &format!(
                "client polls, {} upstream, {} failed",
                number(route.upstream),
                number(route.failed)
            ),
        );
    }
    if tally.unanswered + tally.not_created > 0 {
        line(
            "unanswered",
            &number(tally.unanswered),
            &format!("polls; {} tasks not created", number(tally.not_created)),
        );
    }
    text.push('\n');
    text.push_str(&verdict(tally));
    text
}

/// Why the demo failed, if it did.
pub(super) fn failure(tally: &Tally) -> Option<&'static str> {
    if tally.violations.count() > 0 {
        Some("the demo's own check failed: pollers got wrong answers")
    } else if tally.checked == 0 {
        Some("the demo's own check failed: no poller got an answer to check")
    } else {
        None
    }
}

fn verdict(tally: &Tally) -> String {
    let violations = &tally.violations;
    if tally.checked == 0 {
        return "✗ No poller got an answer that could be checked.\n".to_owned();
    }
    let checked = number(tally.checked);
    if violations.count() == 0 {
        return format!(
            "✓ No poller saw a wrong, backward or foreign state ({checked} checked).\n"
        );
    }
    let mut text = String::new();
    push(
        &mut text,
        &format!(
            "✗ Of {checked} answers checked, {} were wrong, {} backward, {} foreign. The first:",
            number(violations.wrong),
            number(violations.backward),
            number(violations.foreign)
        ),
        2,
    );
    for example in &violations.examples {
        push(&mut text, &format!("  {example}"), 4);
    }
    text
}

/// `2 × 429, 1 × 502`, or `none`.
fn list<T: std::fmt::Display>(counts: &[(T, u64)]) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    let items = counts
        .iter()
        .map(|(name, count)| format!("{} × {name}", number(*count)));
    items.collect::<Vec<_>>().join(", ")
}

/// Appends a line, wrapped at spaces; further lines are indented by `indent`.
fn push(text: &mut String, line: &str, indent: usize) {
    let mut current = String::new();
    for word in line.split_inclusive(' ') {
        let width = current.chars().count() + word.trim_end().chars().count();
        if width > WIDTH && !current.trim().is_empty() {
            let _ = writeln!(text, "{}", current.trim_end());
            current = " ".repeat(indent);
        }
        current.push_str(word);
    }
    let _ = writeln!(text, "{}", current.trim_end());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::referee::Violation;
    use super::super::render::tests::{busiest, endpoints, is_narrow, routes, view as busy};
    use super::super::tally::Failure;
    use super::*;
    use crate::simulator::State;

    fn tally() -> Tally {
        let mut tally = Tally::new(1);
        tally.checked = 1_234;
        tally.created = 12;
        tally.refused = 4;
        tally.errors = [
            (Failure::Status(429), 2),
            (Failure::Status(502), 1),
            (Failure::Page, 1),
        ]
        .into();
        tally
    }

    fn view() -> View {
        View {
            elapsed: Duration::from_secs(30),
            client: 1_240,
            upstream: 64,
            avoided: 1_178,
            origins: [1_100, 70, 60, 4],
            failed: 3,
            faults: vec![("429", 1), ("html", 2)],
            fault_rate: 0.0297,
            p50: Some(Duration::from_micros(350)),
            states: [1, 2, 8, 1],
            checked: 1_234,
            ..View::default()
        }
    }

    #[test]
    fn the_summary_reports_what_was_avoided_and_that_no_answer_was_wrong() {
        let text = summary(&view(), &tally());
        for part in [
            "client polls             1,240   in 30 s",
            "answers                  1,234   1,100 hit, 70 shared, 60 fetched, 4 stale",
            "upstream polls              64   ",
            "avoided                  1,178   client polls without an upstream poll: 95.0 %",
            "8 succeeded, 1 failed, 3 unfinished",
            "foreign keys                 4   polls of another key's task, refused",
            "✓ No poller saw a wrong, backward or foreign state (1,234 checked).",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("unanswered") && !text.contains("on kling"));
        assert_eq!(failure(&tally()), None);
    }

    #[test]
    fn the_summary_reports_each_other_route() {
        let view = View {
            routes: routes(1_234, 56, 2),
            ..view()
        };
        let text = summary(&view, &tally());
        for name in ["octopus", "mj", "kling", "suno", "tasks", "ark"] {
            let label = format!("on {name}");
            let entry =
                format!("  {label:<17}        1,234   client polls, 56 upstream, 2 failed\n");
            assert!(text.contains(&entry), "{entry} is not in\n{text}");
        }
    }

    #[test]
    fn the_summary_says_that_faults_are_injected_and_what_they_would_have_cost() {
        let text = summary(&view(), &tally());
        for part in [
            "injected faults              3   upstream, on purpose: 1 × 429, 2 × html",
            "failed polls                 3   seen by clients: 2 × 429, 1 × 502, 1 × html",
            "without pollgate      about 36   estimated: 2.97 % of client polls would have",
            "   failed, had each gone upstream",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        let text = opening(&endpoints(), 20, 25, 0, &["429", "html"], "2.97 %");
        assert!(
            text.contains("injected faults: 2.97 % of upstream polls fail on purpose (429, html)")
        );
    }

    #[test]
    fn no_line_is_wider_than_80_columns() {
        let mut violated = tally();
        violated.checked = 1_728_000_000;
        violated.unanswered = 1_000_000;
        violated.not_created = 1_000_000;
        violated.errors = [429, 500, 502, 503, 504]
            .map(|code| (Failure::Status(code), 100_000))
            .into();
        let (before, now) = (State::Succeeded, State::Queued);
        violated.violated(&Violation::Backward { before, now }, || {
            "/v1/video/generations/task_0123456789abcdefghijklmnopqrstuv, channel openai-on-unified, \
             cache-status: pollgate; fwd=stale; collapsed; stored; ttl=2"
                .into()
        });
        for view in [View::default(), view(), busy(20), busiest()] {
            for tally in [&tally(), &violated] {
                let texts = [
                    opening(
                        &endpoints(),
                        1000,
                        1000,
                        12,
                        &["429", "502", "html"],
                        "2.97 %",
                    ),
                    invitation(&view, &endpoints()).unwrap_or_default(),
                    head(),
                    moment(&view),
                    summary(&view, tally),
                ];
                for line in texts.iter().flat_map(|text| text.lines()) {
                    assert!(line.chars().count() <= WIDTH, "{line}");
                    assert!(is_narrow(line), "{line}");
                }
            }
        }
    }

    #[test]
    fn a_violation_fails_the_demo_and_is_reported_in_full() {
        let mut tally = tally();
        let (before, now) = (State::Succeeded, State::Queued);
        tally.violated(&Violation::Backward { before, now }, || "task t".into());
        let text = summary(&view(), &tally);
        assert!(text.contains("✗ Of 1,234 answers checked, 0 were wrong, 1 backward, 0 foreign."));
        assert!(text.contains("backward: queued after succeeded (task t)"));
        assert!(failure(&tally).is_some());
    }

    #[test]
    fn a_demo_that_checked_nothing_fails() {
        assert!(failure(&Tally::new(1)).is_some());
        assert!(summary(&View::default(), &Tally::new(1)).contains("✗ No poller got an answer"));
    }

    #[test]
    fn a_moment_is_one_row_of_the_table() {
        let columns: Vec<_> = [head(), moment(&view())]
            .map(|row| {
                assert!(row.ends_with('\n') && row.matches('\n').count() == 1);
                row.chars().count()
            })
            .into();
        assert_eq!(columns[0], columns[1]);
        let row = moment(&view());
        let columns: Vec<_> = row.split_whitespace().collect();
        assert_eq!(
            columns[..7],
            ["30s", "1,240", "0", "64", "0", "1,178", "95.0"]
        );
    }
}
