//! The live picture: one view, drawn for a terminal of a given size.

use super::endpoints::Endpoints;
use super::paint::{Line, Style, bar, number, sparkline};
use super::view::{Actor, View, time};
use crate::simulator::State;

/// The column where values begin.
const LABEL: usize = 17;
/// The widest that anything is drawn.
const WIDEST: usize = 120;

/// The lines of a picture, at most `height`, each to be cut to `width` when it is painted.
pub(super) fn frame(view: &View, endpoints: &Endpoints, width: usize, height: usize) -> Vec<Line> {
    let width = width.min(WIDEST);
    let mut lines = vec![title(view, width), Line::new()];
    lines.extend(polls(view, width));
    lines.push(Line::new());
    lines.extend(answers(view, width));
    lines.push(Line::new());
    let end = footer(view, endpoints, width);
    let room = height.saturating_sub(lines.len() + end.len() + 1);
    let stage = stage(view, width, room);
    if !stage.is_empty() {
        lines.extend(stage);
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
        Some(seconds) => format!("{elapsed} of {}", clock(seconds)),
        None => elapsed,
    };
    Line::new()
        .then(Style::Bold, " pollgate demo")
        .then(Style::Dim, "  many pollers, one upstream poll")
        .right(width - 1, Style::Dim, &format!("{clock} · Ctrl-C ends"))
}

/// Client polls against upstream polls, to one scale.
fn polls(view: &View, width: usize) -> [Line; 3] {
    let (client, upstream) = view.rates.now();
    let top = view.rates.seconds().map(|(client, _)| client).max();
    let top = top.unwrap_or_default();
    let start = LABEL + 22;
    let room = width.saturating_sub(start + 1);
    let skip = view.rates.seconds().len().saturating_sub(room);
    let line = |label, style, total, rate, values: Vec<u64>| {
        labelled(label)
            .then(Style::Bold, format!("{:>10}", number(total)))
            .text(format!("{:>8}/s  ", number(rate)))
            .then(style, sparkline(values.into_iter(), top))
    };
    let seconds = || view.rates.seconds().skip(skip);
    let (saved, rest) = bar(view.saved(), view.client, room);
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
            .then(Style::Bold, format!("{:>10}", view.avoided()))
            .text(" ".repeat(start - LABEL - 10))
            .then(Style::Green, saved)
            .then(Style::Dim, rest),
    ]
}

/// How the answers came about, how fast, and where the tasks stand.
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
        count("errors ", Style::Red, view.errors),
    ];
    let [queued, processing, succeeded, failed] = view.states;
    let states = [
        count("queued ", Style::Plain, queued),
        count("processing ", Style::Yellow, processing),
        count("succeeded ", Style::Green, succeeded),
        count("failed ", Style::Red, failed),
    ];
    let mut lines = flow("answered in", quantiles, width);
    lines.extend(flow("answers", origins, width));
    lines.extend(flow("tasks", states, width));
    lines
}

/// A label and what belongs to it, on as many lines as that takes.
fn flow(label: &str, items: impl IntoIterator<Item = Line>, width: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = labelled(label);
    for item in items {
        if line.width() > LABEL && line.width() + item.width() > width {
            lines.push(std::mem::replace(&mut line, labelled("")));
        }
        line = line.join(item).text("  ");
    }
    lines.push(line);
    lines
}

/// The tasks on stage, as many as there is room for.
fn stage(view: &View, width: usize, room: usize) -> Vec<Line> {
    if room < 2 || view.tasks.is_empty() {
        return Vec::new();
    }
    let rows = room - 1;
    let all = view.tasks.len();
    let shown = if all <= rows { all } else { rows - 1 };
    let head = Line::new()
        .then(Style::Dim, " task           channel            state")
        .right(width - 1, Style::Dim, "client polls → upstream");
    let mut lines = vec![head];
    lines.extend(view.tasks.iter().take(shown).map(|task| actor(task, width)));
    if shown < all {
        let more = format!(" … and {} more tasks", all - shown);
        lines.push(Line::new().then(Style::Dim, more));
    }
    lines
}

fn actor(task: &Actor, width: usize) -> Line {
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
    let polls = format!("{} → {:>4}", number(task.client), number(task.upstream));
    let room = width.saturating_sub(66).min(30);
    let (done, rest) = bar(u64::from(task.progress), 100, room);
    Line::new()
        .then(style, format!(" {sign} {id}…"))
        .text(format!("  {:<18} ", task.channel))
        .then(style, format!("{:<11}", task.state.name()))
        .then(Style::Dim, format!("{progress:>4} "))
        .then(style, done)
        .then(Style::Dim, rest)
        .right(width - 1, Style::Plain, &polls)
}

/// What the referee says, and where to look on one's own.
fn footer(view: &View, endpoints: &Endpoints, width: usize) -> Vec<Line> {
    let answers = format!("{} answers", number(view.checked));
    let words = if view.violations == 0 {
        let said = format!("{answers} checked:");
        let said = Line::new().then(Style::Green, "✓ ").text(said);
        [said, Line::new().text("none wrong, backward or foreign")]
    } else {
        let found = format!("✗ {} of {answers}", number(view.violations));
        let found = Line::new().then(Style::Red, found);
        [
            found,
            Line::new().then(Style::Red, "wrong, backward or foreign"),
        ]
    };
    let mut lines = flow("referee", words, width);
    lines.push(Line::new());
    let gateway = Line::new().text(endpoints.gateway.as_str());
    let admin = endpoints.admin.as_ref();
    let admin = admin.map(|admin| Line::new().then(Style::Dim, "admin ").text(admin.as_str()));
    lines.extend(flow("gateway", [gateway].into_iter().chain(admin), width));
    if let Some(task) = view.tasks.first() {
        let [first, second] = endpoints.curl(task.key, &task.id);
        lines.push(labelled("try").text(first));
        lines.push(Line::new().text(second));
    }
    lines
}

fn labelled(label: &str) -> Line {
    let label = format!(" {label:<0$}", LABEL - 1);
    Line::new().then(Style::Dim, label)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tally::Rates;
    use super::*;

    fn endpoints() -> Endpoints {
        Endpoints {
            gateway: "http://127.0.0.1:41234".into(),
            admin: Some("http://127.0.0.1:41235".into()),
        }
    }

    fn view(tasks: usize) -> View {
        let mut rates = Rates::default();
        for second in 0..200 {
            rates.note(second * 500, second * 18);
        }
        let task = Actor {
            id: "task_0123456789abcdefghijklmnopqrstuv".into(),
            key: "sk-alice",
            channel: "openai-on-unified",
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
            rates,
            origins: [95_000, 900, 3_500, 50],
            errors: 50,
            p50: Some(Duration::from_micros(310)),
            p99: Some(Duration::from_millis(101)),
            states: [3, 17, 80, 9],
            tasks: vec![task; tasks],
            checked: 99_450,
            violations: 0,
        }
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
            "99,500     500/s",
            "3,582      18/s",
            "96.4 %",
            "p50 0.31 ms",
            "p99 101 ms",
            "hit 95,000",
            "errors 50",
            "processing 17",
            "task_01234…  openai-on-unified  processing 42 %",
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
    fn a_tall_terminal_shows_every_task() {
        let lines = painted(&view(20), 120, 40);
        let tasks = lines.iter().filter(|line| line.contains("▸")).count();
        assert_eq!(tasks, 20);
        assert!(!lines.join("\n").contains("more tasks"));
    }

    #[test]
    fn no_line_is_wider_nor_any_picture_higher_than_the_terminal() {
        for view in [view(20), view(1), View::default()] {
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
