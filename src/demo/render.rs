//! The live picture: draws a view for a terminal of a given size.

use super::endpoints::Endpoints;
use super::paint::{Line, Style, bar, number, sparkline};
use super::view::{TaskRow, View, time};
use crate::simulator::State;

/// The column where values begin.
const LABEL: usize = 18;
/// Columns of a total and a rate, before a sparkline or a bar.
const FIGURES: usize = 24;
/// No picture is wider.
const WIDEST: usize = 120;
/// From this width on, the task table has a channel column.
const WITH_CHANNEL: usize = 80;

/// Draws the picture in at most `height` lines. From 60 columns on every line fits; in a narrower terminal painting
/// cuts it.
pub(super) fn frame(view: &View, endpoints: &Endpoints, width: usize, height: usize) -> Vec<Line> {
    let width = width.min(WIDEST);
    let mut lines = vec![title(view, width), Line::new()];
    lines.extend(polls(view, width));
    lines.push(Line::new());
    lines.extend(answers(view, width));
    lines.push(Line::new());
    let end = footer(view, endpoints, width);
    let room = height.saturating_sub(lines.len() + end.len() + 1);
    let table = task_table(view, width, room);
    if !table.is_empty() {
        lines.extend(table);
        lines.push(Line::new());
    }
    lines.extend(end);
    lines.truncate(height);
    lines
}

fn title(view: &View, width: usize) -> Line {
    let clock = |seconds: u64| format!("{}:{:02}", seconds / 60, seconds % 60);
    let elapsed = clock(view.elapsed.as_secs());
    let clock = match view.seconds {
        Some(seconds) => format!("{elapsed} of {} · Ctrl-C ends", clock(seconds)),
        None => format!("{elapsed} · Ctrl-C ends"),
    };
    let name = Line::new().then(Style::Bold, " pollgate demo");
    let motto = name
        .clone()
        .then(Style::Dim, "  many pollers, one upstream poll");
    let fits = motto.width() + 1 + clock.chars().count() < width;
    let title = if fits { motto } else { name };
    title.right(width.saturating_sub(1), Style::Dim, &clock)
}

/// Client polls against upstream polls, to one scale.
fn polls(view: &View, width: usize) -> [Line; 3] {
    let (client, upstream) = view.rates.now();
    let top = view.rates.seconds().map(|(client, _)| client).max();
    let top = top.unwrap_or_default();
    let room = width.saturating_sub(LABEL + FIGURES + 1);
    let skip = view.rates.seconds().len().saturating_sub(room);
    let line = |label, style, total, rate, values: Vec<u64>| {
        labelled(label)
            .then(Style::Bold, format!("{:>13}", number(total)))
            .text(format!("{:>7}/s  ", number(rate)))
            .then(style, sparkline(values.into_iter(), top))
    };
    let seconds = || view.rates.seconds().skip(skip);
    let (avoided, remainder) = bar(view.avoided, view.client, room);
    [
        line(
            "client polls",
            Style::Cyan,
            view.client,
            client,
            seconds().map(|(client, _)| client).collect(),
        ),
        line(
            "upstream polls",
            Style::Yellow,
            view.upstream,
            upstream,
            seconds().map(|(_, upstream)| upstream).collect(),
        ),
        labelled("avoided")
            .then(Style::Bold, format!("{:>13}", number(view.avoided)))
            .text(format!("{:>9}  ", view.share_avoided()))
            .then(Style::Green, avoided)
            .then(Style::Dim, remainder),
    ]
}

/// Latency, answers by origin, faults and their cost, tasks by state, and polls by route.
fn answers(view: &View, width: usize) -> Vec<Line> {
    let quantile = |name: &str, value| {
        Line::new()
            .then(Style::Dim, name)
            .then(Style::Bold, time(value))
    };
    let count = |name: &str, style, count| {
        Line::new()
            .then(Style::Dim, name)
            .then(if count > 0 { style } else { Style::Dim }, number(count))
    };
    let quantiles = [quantile("p50 ", view.p50), quantile("p99 ", view.p99)];
    let [hit, shared, fetched, stale] = view.origins;
    let origins = [
        count("hit ", Style::Green, hit),
        count("shared ", Style::Cyan, shared),
        count("fetched ", Style::Yellow, fetched),
        count("stale ", Style::Blue, stale),
    ];
    let faults = [count("upstream ", Style::Yellow, view.injected())];
    let estimate = format!("≈ {} (estimated)", number(view.failed_without_gateway()));
    let failed = [
        count("clients saw ", Style::Red, view.failed),
        Line::new()
            .then(Style::Dim, "without pollgate ")
            .text(estimate),
    ];
    let [queued, processing, succeeded, failures] = view.states;
    let states = [
        count("queued ", Style::Plain, queued),
        count("processing ", Style::Yellow, processing),
        count("succeeded ", Style::Green, succeeded),
        count("failed ", Style::Red, failures),
    ];
    let mut lines = flow("answered in", quantiles, width);
    lines.extend(flow("answers", origins, width));
    lines.extend(flow("injected faults", faults, width));
    lines.extend(flow("failed polls", failed, width));
    lines.extend(flow("tasks", states, width));
    let routes = view.routes.iter().map(|route| {
        let polls = format!("{} → {}", number(route.client), number(route.upstream));
        let name = format!("{} ", route.name);
        Line::new().then(Style::Dim, name).text(polls)
    });
    if !view.routes.is_empty() {
        lines.extend(flow("other routes", routes, width));
    }
    lines
}

/// A label and its items, wrapped between items.
fn flow(label: &str, items: impl IntoIterator<Item = Line>, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = labelled(label);
    for item in items {
        if line.width() == LABEL {
            line = line.join(item);
        } else if line.width() + 2 + item.width() > width {
            lines.push(std::mem::replace(&mut line, labelled("").join(item)));
        } else {
            line = line.text("  ").join(item);
        }
    }
    lines.push(line);
    lines
}

/// As many of the tasks that are being polled as there is room for.
fn task_table(view: &View, width: usize, room: usize) -> Vec<Line> {
    if room < 2 || view.tasks.is_empty() {
        return Vec::new();
    }
    let rows = room - 1;
    let all = view.tasks.len();
    let shown = if all <= rows { all } else { rows - 1 };
    let channel = if width < WITH_CHANNEL {
        String::new()
    } else {
        let heading = if view.routes.is_empty() {
            "channel"
        } else {
            "channel or route"
        };
        format!("{heading:<19}")
    };
    let head = Line::new()
        .then(Style::Dim, format!(" task           {channel}state"))
        .right(
            width.saturating_sub(1),
            Style::Dim,
            "client polls → upstream",
        );
    let mut lines = vec![head];
    lines.extend(
        view.tasks
            .iter()
            .take(shown)
            .map(|task| task_row(task, width)),
    );
    if shown < all {
        let more = format!(" … and {} more tasks", all - shown);
        lines.push(Line::new().then(Style::Dim, more));
    }
    lines
}

fn task_row(task: &TaskRow, width: usize) -> Line {
    let style = match task.state {
        State::Queued => Style::Plain,
        State::Processing => Style::Yellow,
        State::Succeeded => Style::Green,
        State::Failed => Style::Red,
    };
    let (sign, progress) = match task.state {
        State::Queued => ("·", String::new()),
        State::Processing => ("▸", format!("{} %", task.progress)),
        State::Succeeded => ("✓", String::new()),
        State::Failed => ("✗", String::new()),
    };
    let id: String = task.id.chars().take(10).collect();
    let channel = if width < WITH_CHANNEL {
        String::new()
    } else {
        format!("{:<19}", task.documents)
    };
    let polls = format!("{} → {:>4}", number(task.client), number(task.upstream));
    let row = Line::new()
        .then(style, format!(" {sign} {id}…  "))
        .text(channel)
        .then(style, format!("{:<10}", task.state.name()))
        .then(Style::Dim, format!(" {progress:>5} "));
    // Up to `125,000 → 1,000`, and a space on either side.
    let room = width.saturating_sub(row.width() + 17).min(30);
    let (done, remainder) = bar(u64::from(task.progress), 100, room);
    row.then(style, done).then(Style::Dim, remainder).right(
        width.saturating_sub(1),
        Style::Plain,
        &polls,
    )
}

/// The referee's verdict, and where to send requests of one's own.
fn footer(view: &View, endpoints: &Endpoints, width: usize) -> Vec<Line> {
    let answers = format!("{} answers", number(view.checked));
    let verdict = if view.violations == 0 {
        let checked = format!("{answers} checked:");
        let checked = Line::new().then(Style::Green, "✓ ").text(checked);
        [checked, Line::new().text("none wrong, backward or foreign")]
    } else {
        let found = format!("✗ {} of {answers}", number(view.violations));
        let found = Line::new().then(Style::Red, found);
        [
            found,
            Line::new().then(Style::Red, "wrong, backward or foreign"),
        ]
    };
    let mut lines = flow("referee", verdict, width);
    lines.push(Line::new());
    let gateway = Line::new().text(endpoints.gateways.join(" ").as_str());
    let admin = endpoints.admin.as_ref();
    let admin = admin.map(|admin| Line::new().then(Style::Dim, "admin ").text(admin.as_str()));
    lines.extend(flow("gateway", [gateway].into_iter().chain(admin), width));
    if let Some(task) = view.tasks.first() {
        let [first, second] = endpoints.curl(task.key, &task.target);
        let command = [labelled("try").text(first), Line::new().text(second)];
        // A command that is cut is of no use.
        if command.iter().all(|line| line.width() <= width) {
            lines.extend(command);
        }
    }
    lines
}

fn labelled(label: &str) -> Line {
    let label = format!(" {label:<0$}", LABEL - 1);
    Line::new().then(Style::Dim, label)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::super::route::OTHERS;
    use super::super::tally::Rates;
    use super::super::view::RouteRow;
    use super::*;

    pub(in super::super) fn endpoints() -> Endpoints {
        Endpoints {
            engine: None,
            gateways: vec!["http://127.0.0.1:41234".into()],
            admin: Some("http://127.0.0.1:41235".into()),
        }
    }

    pub(in super::super) fn view(tasks: usize) -> View {
        let mut rates = Rates::default();
        for second in 0..200 {
            rates.note(second * 500, second * 18);
        }
        let task = TaskRow {
            id: "task_0123456789abcdefghijklmnopqrstuv".into(),
            key: "sk-alice",
            target: "/v1/videos/task_0123456789abcdefghijklmnopqrstuv".into(),
            documents: "openai-on-unified",
            state: State::Processing,
            progress: 42,
            client: 1321,
            upstream: 36,
        };
        View {
            elapsed: Duration::from_secs(75),
            seconds: Some(120),
            client: 99_500,
            upstream: 3_582,
            avoided: 95_950,
            rates,
            origins: [95_000, 900, 3_500, 50],
            failed: 5,
            faults: vec![("429", 40), ("502", 31), ("html", 25)],
            fault_rate: 0.0297,
            p50: Some(Duration::from_micros(310)),
            p99: Some(Duration::from_millis(101)),
            states: [3, 17, 80, 9],
            routes: Vec::new(),
            tasks: vec![task; tasks],
            checked: 99_450,
            violations: 0,
        }
    }

    /// Polls on every other route, each with these counts.
    pub(in super::super) fn routes(client: u64, upstream: u64, failed: u64) -> Vec<RouteRow> {
        let rows = OTHERS.iter().map(|route| RouteRow {
            name: route.name(),
            client,
            upstream,
            failed,
        });
        rows.collect()
    }

    /// A day with 1,000 tasks of 1,000 pollers, more than a machine can run.
    pub(in super::super) fn busiest() -> View {
        let mut view = view(20);
        view.elapsed = Duration::from_hours(24);
        view.seconds = Some(86_400);
        view.client = 1_728_000_000;
        view.upstream = 17_280_000;
        view.avoided = 1_711_000_000;
        view.rates.note(view.client - 20_000, view.upstream - 200);
        view.rates.note(view.client, view.upstream);
        view.origins = [1_500_000_000, 211_000_000, 17_000_000, 1_000_000];
        view.failed = 1_000_000;
        view.faults = vec![("429", 171_000), ("502", 171_000), ("html", 171_000)];
        view.states = [300, 700, 4_000_000, 500_000];
        view.routes = routes(288_000_000, 2_880_000, 160_000);
        view.checked = 1_728_000_000;
        for (task, state) in view.tasks.iter_mut().zip([
            State::Queued,
            State::Processing,
            State::Succeeded,
            State::Failed,
        ]) {
            (task.state, task.progress) = (state, 100);
            (task.client, task.upstream) = (125_000, 1_000);
        }
        view
    }

    /// Whether each character takes one column: ASCII, or one of the few others that the demo draws with.
    pub(in super::super) fn is_narrow(text: &str) -> bool {
        let drawn = "█░▁▂▃▄▅▆▇·▸✓✗…→–≈×";
        text.chars()
            .all(|c| matches!(c, ' '..='~') || drawn.contains(c))
    }

    fn painted(view: &View, width: usize, height: usize) -> Vec<String> {
        frame(view, &endpoints(), width, height)
            .iter()
            .map(|line| line.paint(width, false))
            .collect()
    }

    #[test]
    fn everything_that_counts_is_in_a_small_terminal() {
        let lines = painted(&view(20), 80, 23);
        let text = lines.join("\n");
        for part in [
            "1:15 of 2:00",
            "99,500    500/s",
            "3,582     18/s",
            "95,950   96.4 %",
            "p50 0.31 ms",
            "p99 101 ms",
            "hit 95,000",
            " injected faults  upstream 96",
            "clients saw 5  without pollgate ≈ 2,955 (estimated)",
            "processing 17",
            "task_01234…  openai-on-unified  processing  42 %",
            "1,321 →   36",
            "more tasks",
            "✓ 99,450 answers checked:  none wrong, backward or foreign",
            "curl -H 'Authorization: Bearer sk-alice'",
            "http://127.0.0.1:41234/v1/videos/task_0123456789abcdefghijklmnopqrstuv",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert_eq!(lines.len(), 23);
    }

    #[test]
    fn polls_on_the_other_routes_are_in_a_small_terminal() {
        let mut view = view(20);
        view.routes = routes(12_345, 678, 0);
        let lines = painted(&view, 80, 23);
        let text = lines.join("\n");
        for part in [
            " other routes     octopus 12,345 → 678  mj 12,345 → 678  kling 12,345 → 678",
            "ark 12,345 → 678",
            "channel or route",
            "more tasks",
            "none wrong, backward or foreign",
            "curl -H",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert_eq!(lines.len(), 23);
    }

    #[test]
    fn nothing_is_cut_at_80_or_60_columns() {
        let mut violated = busiest();
        violated.violations = 1_000_000;
        for view in [view(20), view(1), View::default(), busiest(), violated] {
            for width in [60, 80, 120] {
                for line in frame(&view, &endpoints(), width, 60) {
                    let whole = line.paint(usize::MAX, false);
                    assert!(line.width() <= width, "{width}: {whole}");
                    assert!(is_narrow(&whole), "{whole}");
                }
            }
        }
    }

    #[test]
    fn at_60_columns_the_clock_and_each_tasks_polls_are_still_there() {
        let text = painted(&busiest(), 60, 40).join("\n");
        for part in ["1440:00 of 1440:00", "125,000 → 1,000", "Ctrl-C ends"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("curl"), "{text}");
    }

    #[test]
    fn a_tall_terminal_shows_every_task() {
        let lines = painted(&view(20), 120, 40);
        let tasks = lines.iter().filter(|line| line.contains("▸")).count();
        assert_eq!(tasks, 20);
        assert!(!lines.join("\n").contains("more tasks"));
    }

    #[test]
    fn no_line_is_wider_nor_any_picture_higher_than_the_terminal() {
        for view in [view(20), view(1), View::default(), busiest()] {
            for (width, height) in [(1, 1), (20, 5), (40, 12), (60, 20), (80, 24), (300, 90)] {
                let lines = painted(&view, width, height);
                assert!(lines.len() <= height);
                assert!(lines.iter().all(|line| line.chars().count() <= width));
            }
        }
    }

    #[test]
    fn a_violation_is_not_hidden() {
        let mut view = view(3);
        view.violations = 2;
        let text = painted(&view, 80, 24).join("\n");
        assert!(text.contains("✗ 2 of 99,450 answers  wrong, backward or foreign"));
    }
}
