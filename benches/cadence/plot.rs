//! The picture: polls against lag, and below it the interval over a task's life, as SVG.

use std::fmt::Write as _;
use std::time::Duration;

use pollgate::cache::cadence::{Bounds, Cadence, Running};
use tokio::time::Instant;

use crate::optimum::{self, Known};
use crate::shared::{Life, Run, mean};
use crate::simulation::{Dice, Rule, Sum, WORLDS, follow, usual};
use crate::{LEAST, LONGEST, MOST, Reached};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 1430.0;
const INK: &str = "#24292f";
const FAINT: &str = "#6e7781";
const FIXED: &str = "#8c959f";
const ADAPTIVE: &str = "#0969da";
const LEARNING: &str = "#d4580b";

/// A panel and its axes.
struct Panel {
    top: f64,
    height: f64,
    across: f64,
    up: f64,
}

impl Panel {
    const LEFT: f64 = 70.0;
    const RIGHT: f64 = WIDTH - 30.0;

    fn x(&self, value: f64) -> f64 {
        Self::LEFT + (Self::RIGHT - Self::LEFT) * value / self.across
    }

    fn y(&self, value: f64) -> f64 {
        self.top + self.height * (1.0 - value / self.up)
    }

    fn points(&self, values: impl IntoIterator<Item = (f64, f64)>) -> String {
        values
            .into_iter()
            .fold(String::new(), |mut points, (x, y)| {
                let _ = write!(points, "{:.1},{:.1} ", self.x(x), self.y(y));
                points
            })
    }

    fn axes(&self, svg: &mut String, steps: (f64, f64), names: (&str, &str)) {
        let (left, right, floor) = (Self::LEFT, Self::RIGHT, self.y(0.0));
        let mut value = 0.0;
        while value <= self.up {
            let y = self.y(value);
            let _ = writeln!(
                svg,
                r##"<path d="M{left} {y:.1}H{right}" stroke="#eaeef2"/>"##
            );
            label(svg, left - 10.0, y + 4.0, "end", FAINT, &format!("{value}"));
            value += steps.1;
        }
        value = 0.0;
        while value <= self.across {
            label(
                svg,
                self.x(value),
                floor + 18.0,
                "middle",
                FAINT,
                &format!("{value}"),
            );
            value += steps.0;
        }
        let _ = writeln!(
            svg,
            r#"<path d="M{left} {floor:.1}H{right}" stroke="{FAINT}"/>"#
        );
        label(svg, right, floor + 36.0, "end", INK, names.0);
        label(svg, left - 40.0, self.top - 14.0, "start", INK, names.1);
    }
}

fn label(svg: &mut String, x: f64, y: f64, anchor: &str, colour: &str, text: &str) {
    let _ = writeln!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}">{text}</text>"#
    );
}

fn dot(svg: &mut String, x: f64, y: f64, radius: f64, colour: &str) {
    let _ = writeln!(
        svg,
        r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius}" fill="{colour}" stroke="white" stroke-width="1.5"/>"#
    );
}

fn line(svg: &mut String, points: &str, colour: &str) {
    let _ = writeln!(
        svg,
        r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5" stroke-linejoin="round"/>"#
    );
}

/// The whole picture.
pub(crate) fn picture(
    fixed: &[(f64, Sum)],
    stretched: &[(f64, Sum)],
    learning: &[(&str, Sum)],
    scenes: &[Reached],
) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"system-ui, 'Helvetica Neue', Arial, \
         sans-serif\" font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    heading(
        &mut svg,
        34.0,
        "Fewer polls for the same lag",
        "tasks of 83–253 s, median 105 s; upstream asks its vendor every 15 s",
    );
    curves(&mut svg, fixed, stretched, learning);
    heading(
        &mut svg,
        574.0,
        "Rare looks while an end is unlikely, frequent ones when it is near",
        "the same tasks; 100 ends learnt, in_flight_ttl 2 s, in_flight_max 10 s",
    );
    lives(&mut svg);
    heading(
        &mut svg,
        954.0,
        "Fewer still where upstream's rounds are known",
        "the same tasks, 20 at once; upstream sleeps 15 s, then looks for up to 3 s; by what its documents tell",
    );
    rounds(&mut svg, scenes);
    svg.push_str("</svg>\n");
    svg
}

fn heading(svg: &mut String, y: f64, title: &str, under: &str) {
    let _ = writeln!(
        svg,
        r#"<text x="30" y="{y}" font-size="19" font-weight="600" fill="{INK}">{title}</text>"#
    );
    label(svg, 30.0, y + 21.0, "start", FAINT, under);
}

fn curves(
    svg: &mut String,
    fixed: &[(f64, Sum)],
    stretched: &[(f64, Sum)],
    learning: &[(&str, Sum)],
) {
    let panel = Panel {
        top: 100.0,
        height: 380.0,
        across: 140.0,
        up: 2.75,
    };
    let promised = fixed
        .iter()
        .find(|(interval, _)| *interval == LEAST)
        .map(|(_, sum)| *sum);
    let Some(two) = promised else { return };
    let (top, floor) = (panel.y(1.25 * two.lag), panel.y(0.0));
    let (left, wide) = (Panel::LEFT, Panel::RIGHT - Panel::LEFT);
    let _ = writeln!(
        svg,
        r##"<rect x="{left}" y="{top:.1}" width="{wide}" height="{:.1}" fill="#dafbe1" fill-opacity="0.6"/>"##,
        floor - top
    );
    panel.axes(
        svg,
        (20.0, 0.5),
        (
            "upstream polls per task",
            "mean seconds from “done” upstream to “seen”",
        ),
    );
    label(
        svg,
        Panel::RIGHT - 8.0,
        top - 7.0,
        "end",
        "#1a7f37",
        "promised: within 1.25 × the lag of the fixed 2 s",
    );

    let shown = || fixed.iter().filter(|(_, sum)| sum.lag <= panel.up);
    line(
        svg,
        &panel.points(shown().map(|(_, sum)| (sum.polls, sum.lag))),
        FIXED,
    );
    for (interval, sum) in shown() {
        let (x, y) = (panel.x(sum.polls), panel.y(sum.lag));
        dot(svg, x, y, 4.5, FIXED);
        label(
            svg,
            x + 9.0,
            y - 7.0,
            "start",
            FAINT,
            &format!("{interval} s"),
        );
    }
    label(
        svg,
        panel.x(43.0),
        panel.y(2.0),
        "start",
        FAINT,
        "fixed cadence",
    );
    adaptive(svg, &panel, two, stretched, learning);
}

fn adaptive(
    svg: &mut String,
    panel: &Panel,
    two: Sum,
    stretched: &[(f64, Sum)],
    learning: &[(&str, Sum)],
) {
    // From nothing learnt, which is the fixed cadence, to much.
    let learnt = learning.iter().map(|(_, sum)| sum);
    let path = [&two]
        .into_iter()
        .chain(learnt)
        .map(|sum| (sum.polls, sum.lag));
    let _ = writeln!(
        svg,
        r#"<polyline points="{}" fill="none" stroke="{LEARNING}" stroke-width="1.5" stroke-dasharray="5 4"/>"#,
        panel.points(path)
    );
    let highest = stretched.iter().filter(|(most, _)| *most <= MOST);
    line(
        svg,
        &panel.points(highest.clone().map(|(_, sum)| (sum.polls, sum.lag))),
        ADAPTIVE,
    );
    for (most, sum) in highest {
        let (x, y) = (panel.x(sum.polls), panel.y(sum.lag));
        let default = *most == MOST;
        dot(svg, x, y, if default { 8.0 } else { 4.5 }, ADAPTIVE);
        let word = if default {
            format!("{most} s, the default")
        } else {
            format!("{most} s")
        };
        let (x, anchor) = if default {
            (x - 12.0, "end")
        } else {
            (x + 4.0, "start")
        };
        label(
            svg,
            x,
            y + if default { 5.0 } else { -9.0 },
            anchor,
            ADAPTIVE,
            &word,
        );
    }
    label(
        svg,
        panel.x(20.0),
        panel.y(0.72),
        "start",
        ADAPTIVE,
        "adaptive: 2 s, stretched to at most …, with 100 ends learnt",
    );
    for (word, sum) in learning.iter().filter(|(word, _)| *word != "100 ends") {
        let (x, y) = (panel.x(sum.polls), panel.y(sum.lag));
        dot(svg, x, y, 4.5, LEARNING);
        let (x, y, anchor) = if *word == "1 end" {
            (x, y - 10.0, "end")
        } else {
            (x + 9.0, y + 15.0, "start")
        };
        label(svg, x, y, anchor, LEARNING, word);
    }
    label(
        svg,
        panel.x(20.0),
        panel.y(0.55),
        "start",
        LEARNING,
        "adaptive: 2 s, stretched to at most 10 s, with so many ends learnt",
    );
}

fn lives(svg: &mut String) {
    let panel = Panel {
        top: 640.0,
        height: 210.0,
        across: 280.0,
        up: 12.0,
    };
    panel.axes(
        svg,
        (20.0, 2.0),
        ("age of the task in seconds", "seconds to the next look"),
    );

    // How the ends lie, in steps of five seconds, as upstream tells them.
    let mut dice = Dice::new(0);
    let mut ends = [0.0_f64; 56];
    for n in 0..50_000 {
        let end = usual(&mut dice, n) + 15.0 * dice.unit();
        let place = ends
            .iter()
            .enumerate()
            .position(|(place, _)| end < 5.0 * (place + 1) as f64);
        if let Some(place) = place {
            ends[place] += 1.0;
        }
    }
    let most = ends.iter().copied().fold(0.0, f64::max);
    let tops = ends
        .iter()
        .enumerate()
        .map(|(place, count)| (5.0 * place as f64 + 2.5, 9.0 * count / most));
    let outline = panel.points(
        [(70.0, 0.0)]
            .into_iter()
            .chain(tops.skip(14))
            .chain([(280.0, 0.0)]),
    );
    let _ = writeln!(svg, r##"<polygon points="{outline}" fill="#fff1c2"/>"##);
    label(
        svg,
        panel.x(140.0),
        panel.y(0.9),
        "start",
        "#9a6700",
        "where tasks end",
    );

    let cadence = Cadence::new();
    follow(WORLDS[0], Rule::Adaptive(LEAST, MOST), 100, 1, &cadence);
    let bounds = Bounds {
        least: Duration::from_secs_f64(LEAST),
        most: Duration::from_secs_f64(MOST),
    };
    let at = |age: f64| {
        let task = Running {
            at: Instant::now(),
            age: Duration::from_secs_f64(age),
            progress: 50,
            has_changed: false,
        };
        cadence.next("model", task, bounds).lasts.as_secs_f64()
    };
    let path = (0..=560).map(|half| f64::from(half) / 2.0);
    line(svg, &panel.points(path.map(|age| (age, at(age)))), ADAPTIVE);
    let mut age = 1.0;
    while age < 280.0 {
        dot(svg, panel.x(age), panel.y(at(age)), 4.0, ADAPTIVE);
        age += at(age);
    }
    label(
        svg,
        panel.x(4.0),
        panel.y(10.7),
        "start",
        ADAPTIVE,
        "each dot a poll",
    );
}

/// What the usual scenes reach, beside the optimum with and without known rounds.
fn rounds(svg: &mut String, scenes: &[Reached]) {
    let panel = Panel {
        top: 1020.0,
        height: 330.0,
        across: 50.0,
        up: 2.5,
    };
    panel.axes(
        svg,
        (5.0, 0.5),
        (
            "upstream polls per task",
            "mean seconds from “done” upstream to “seen”",
        ),
    );
    let usual = &scenes[0];
    let lags = || (2..=12).map(|fifth| f64::from(fifth) / 5.0);
    let without: Vec<_> = lags()
        .map(|lag| optimum::without_rounds(&usual.ends, lag))
        .collect();
    let with = |turns: bool| -> Vec<_> {
        let known = usual.known(false).map(|known| Known { turns, ..known });
        let optimum = |lag| Some(optimum::with_rounds(&usual.ends, known?, LONGEST, lag));
        lags().filter_map(optimum).collect()
    };
    for (costs, at, colour, name) in [
        (&without, (33.0, 1.32), FIXED, "the optimum without rounds"),
        (
            &with(true),
            (20.5, 2.2),
            LEARNING,
            "the optima with the last round known; left, where polls show turns",
        ),
        (&with(false), (0.0, 0.0), LEARNING, ""),
    ] {
        let shown = costs.iter().filter(|cost| cost.polls <= panel.across);
        line(
            svg,
            &panel.points(shown.map(|cost| (cost.polls, cost.lag))),
            colour,
        );
        label(svg, panel.x(at.0), panel.y(at.1), "start", colour, name);
    }
    let [polls, lag]: [fn(&Life) -> f64; 2] = [|life| life.polls, |life| life.lag];
    let place = |runs: &[Run]| (panel.x(mean(runs, polls)), panel.y(mean(runs, lag)));
    let (x, y) = place(&usual.before);
    dot(svg, x, y, 6.0, FAINT);
    label(svg, x + 9.0, y + 4.0, "start", FAINT, "by end times alone");
    let mut usual: Vec<_> = scenes
        .iter()
        .filter(|reached| reached.scene.name.starts_with("usual"))
        .collect();
    usual.sort_by(|one, other| mean(&other.after, polls).total_cmp(&mean(&one.after, polls)));
    for (n, reached) in usual.into_iter().enumerate() {
        let (x, y) = place(&reached.after);
        let told = reached
            .scene
            .name
            .split_once("; ")
            .map_or("", |(_, told)| told);
        let height = panel.y(0.45) + 17.0 * n as f64;
        let beside = panel.x(27.0);
        let _ = writeln!(
            svg,
            r#"<path d="M{x:.1} {y:.1}L{:.1} {:.1}" stroke="{ADAPTIVE}" stroke-opacity="0.4"/>"#,
            beside - 5.0,
            height - 4.0
        );
        dot(svg, x, y, 5.0, ADAPTIVE);
        let figures = format!(
            "{:.1} polls, {:.2} s: {told}",
            mean(&reached.after, polls),
            mean(&reached.after, lag)
        );
        label(
            svg,
            beside,
            height,
            "start",
            ADAPTIVE,
            &figures.replace('`', ""),
        );
    }
}
