//! Plain lines: the demo's progress where there is no terminal, and what is said at its end.

use std::fmt::Write as _;

use super::endpoints::Endpoints;
use super::paint::number;
use super::tally::Tally;
use super::view::{View, time};

/// The first line, which says what is going to be seen.
pub(super) fn opening(endpoints: &Endpoints, tasks: usize, pollers: usize) -> String {
    let admin = endpoints.admin.as_deref().unwrap_or("off");
    format!(
        "pollgate demo: {tasks} tasks with {pollers} pollers each; gateway {}, admin {admin}\n",
        endpoints.gateway
    )
}

/// How to ask on one's own, once there is a task.
pub(super) fn invitation(view: &View, endpoints: &Endpoints) -> Option<String> {
    let task = view.tasks.first()?;
    Some(format!(
        "try: {}\n",
        endpoints
            .curl(task.key, &task.id)
            .concat()
            .replace("\\  ", "")
    ))
}

/// One moment in one line.
pub(super) fn moment(view: &View) -> String {
    let (client, upstream) = view.rates.now();
    let [queued, processing, succeeded, failed] = view.states;
    format!(
        "{:>4}s  client polls {} ({}/s), upstream {} ({}/s), avoided {}; p50 {}, p99 {}; \
         tasks: {queued} queued, {processing} processing, {succeeded} succeeded, {failed} failed\n",
        view.elapsed.as_secs(),
        number(view.client),
        number(client),
        number(view.upstream),
        number(upstream),
        view.avoided(),
        time(view.p50),
        time(view.p99),
    )
}

/// All that was counted, and the outcome.
pub(super) fn summary(view: &View, tally: &Tally, faults: u64) -> String {
    let [hit, shared, fetched, stale] = view.origins.map(number);
    let mut text = String::from("\n");
    let mut line = |label: &str, value: String, detail: String| {
        let _ = writeln!(
            text,
            "{}",
            format!("  {label:<15}{value:>10}   {detail}").trim_end()
        );
    };
    line(
        "client polls",
        number(view.client),
        format!("in {:.0} s", view.elapsed.as_secs_f64()),
    );
    line(
        "upstream polls",
        number(view.upstream),
        "counted by the simulated OctopusX".into(),
    );
    line(
        "avoided",
        view.avoided(),
        format!("{} polls that never went upstream", number(view.saved())),
    );
    line(
        "answers",
        number(view.checked),
        format!("{hit} hit, {shared} shared, {fetched} fetched, {stale} stale"),
    );
    line(
        "answered in",
        time(view.p50),
        format!("p50; p99 {}", time(view.p99)),
    );
    line(
        "tasks",
        number(tally.made),
        format!(
            "{} succeeded, {} failed, {} still under way",
            tally.succeeded,
            tally.failed,
            tally.made - tally.succeeded - tally.failed
        ),
    );
    line(
        "faults",
        number(faults),
        format!("upstream; pollers got {}", errors(tally)),
    );
    line(
        "strangers",
        number(tally.turned_away),
        "polls with another's key, turned away".into(),
    );
    if tally.unanswered + tally.not_made > 0 {
        line(
            "unanswered",
            number(tally.unanswered),
            format!("and {} tasks could not be made", number(tally.not_made)),
        );
    }
    text.push('\n');
    text.push_str(&outcome(tally));
    text
}

/// Why the demo failed; `None` if it did not.
pub(super) fn failure(tally: &Tally) -> Option<&'static str> {
    if tally.violations.count() > 0 {
        Some("the demo's own check failed: pollers saw what they never should")
    } else if tally.checked == 0 {
        Some("the demo's own check failed: no poller got an answer to check")
    } else {
        None
    }
}

fn outcome(tally: &Tally) -> String {
    let found = &tally.violations;
    if tally.checked == 0 {
        return "✗ No poller got an answer that could be checked.\n".to_owned();
    }
    let checked = number(tally.checked);
    if found.count() == 0 {
        return format!(
            "✓ No poller saw a wrong, backward or foreign state ({checked} answers checked).\n"
        );
    }
    let mut text = format!(
        "✗ Of {checked} answers checked, {} were wrong, {} backward, {} foreign. The first:\n",
        number(found.wrong),
        number(found.backward),
        number(found.foreign)
    );
    for told in &found.told {
        let _ = writeln!(text, "  {told}");
    }
    text
}

/// `no error`, or `3 errors: 2 × 429, 1 × 502`.
fn errors(tally: &Tally) -> String {
    let count: u64 = tally.errors.values().sum();
    if count == 0 {
        return "no error".to_owned();
    }
    let codes: Vec<_> = tally
        .errors
        .iter()
        .map(|(code, count)| format!("{} × {code}", number(*count)))
        .collect();
    let noun = if count == 1 { "error" } else { "errors" };
    format!("{} {noun}: {}", number(count), codes.join(", "))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::referee::Violation;
    use super::*;
    use crate::simulator::State;

    fn tally() -> Tally {
        let mut tally = Tally::new(1);
        tally.checked = 1_234;
        tally.made = 12;
        tally.succeeded = 8;
        tally.failed = 1;
        tally.errors = [(429, 2), (502, 1)].into();
        tally
    }

    fn view() -> View {
        View {
            elapsed: Duration::from_secs(30),
            client: 1_240,
            upstream: 62,
            origins: [1_100, 70, 60, 4],
            p50: Some(Duration::from_micros(350)),
            checked: 1_234,
            ..View::default()
        }
    }

    #[test]
    fn the_summary_tells_what_was_saved_and_that_all_was_well() {
        let text = summary(&view(), &tally(), 3);
        for part in [
            "client polls        1,240   in 30 s",
            "answers             1,234   1,100 hit, 70 shared, 60 fetched, 4 stale",
            "upstream polls         62   ",
            "avoided            95.0 %   1,178 polls",
            "8 succeeded, 1 failed, 3 still under way",
            "upstream; pollers got 3 errors: 2 × 429, 1 × 502",
            "✓ No poller saw a wrong, backward or foreign state (1,234 answers checked).",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("unanswered"));
        assert_eq!(failure(&tally()), None);
    }

    #[test]
    fn a_violation_fails_the_demo_and_is_told_in_full() {
        let mut tally = tally();
        let (before, now) = (State::Succeeded, State::Queued);
        tally.violated(&Violation::Backward { before, now }, || "task t".into());
        let text = summary(&view(), &tally, 0);
        assert!(text.contains("✗ Of 1,234 answers checked, 0 were wrong, 1 backward, 0 foreign."));
        assert!(text.contains("backward: queued after succeeded (task t)"));
        assert!(failure(&tally).is_some());
    }

    #[test]
    fn nothing_checked_is_no_success() {
        assert!(failure(&Tally::new(1)).is_some());
        assert!(summary(&View::default(), &Tally::new(1), 0).contains("✗ No poller got an answer"));
    }

    #[test]
    fn a_moment_is_one_line() {
        let line = moment(&view());
        assert!(
            line.starts_with("  30s  client polls 1,240 (0/s), upstream 62 (0/s), avoided 95.0 %")
        );
        assert_eq!(line.matches('\n').count(), 1);
    }
}
