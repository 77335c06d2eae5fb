//! The view model: everything that the page shows at one moment, as text. The same when the page loads and in every
//! event.

mod demand;
mod state;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::history::History;
use super::recorder::Report;
use super::totals::{Buckets, Totals, is_failure};
use super::words::{NOTHING, ago, bytes, count, latency, percent, precise, rate, span};
use crate::answer::outcome::Outcome;
use crate::cache::Census;
use crate::config::Setting;
use crate::gateway::Gateway;
use crate::route::Routes;
use crate::telemetry::{ErrorRecord, SeenBy};

/// Everything that the page shows at one moment.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct View {
    /// Texts, by the name of the element that shows them.
    pub cells: BTreeMap<String, String>,
    /// Rows, by the name of their table.
    pub tables: BTreeMap<&'static str, Vec<Row>>,
    /// Numbers by name, the latest last: rates one a second, and those of `hour.` one every half minute.
    pub charts: BTreeMap<&'static str, Vec<f64>>,
    /// All settings in force: only for the page, since they hardly ever change.
    #[serde(skip)]
    pub settings: Vec<Row>,
    /// All status routes in force, likewise.
    #[serde(skip)]
    pub routes: Vec<Row>,
}

/// A row of a table.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    /// Selects the sign of the row, if it has one.
    pub kind: &'static str,
    /// Its cells; the first is the row's header.
    pub cells: Vec<Cell>,
}

/// A cell of a table.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(super) enum Cell {
    /// Text.
    Text(String),
    /// A task, linked to its look-up.
    Task {
        /// Its raw id.
        task: String,
    },
}

impl Row {
    fn new<const CELLS: usize>(kind: &'static str, cells: [String; CELLS]) -> Self {
        Self {
            kind,
            cells: cells.map(Cell::Text).into(),
        }
    }
}

/// What a scan of the cache counts, which does not happen every second.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    pub census: Census,
    pub paused_callers: usize,
}

/// The names of the five states in [`Census::tasks`].
pub(super) const STATES: [&str; 5] = ["queued", "processing", "succeeded", "failed", "missing"];

impl View {
    /// Draws the view of a gateway that has been running since `started`.
    pub(super) fn draw(
        gateway: &Gateway,
        started: Instant,
        history: &History,
        counted: &Counted,
        report: &Report,
        now: Instant,
    ) -> Self {
        let mut view = Self::default();
        view.set("version", env!("CARGO_PKG_VERSION"));
        view.set("uptime", span(now.saturating_duration_since(started)));
        view.state(gateway, report, counted.paused_callers, now);
        view.charts = history.charts();
        view.hour(report, now);
        view.traffic(history);
        view.upstream(gateway, history);
        view.cache(gateway, history.latest());
        view.states(&counted.census);
        view.callers(&counted.census, &report.callers);
        view.asked(&report.tasks);
        view.settings(&gateway.settings());
        view.routes(&gateway.routes());
        view.errors(&gateway.polls().recent_errors.latest(), now);
        view
    }

    fn set(&mut self, name: impl Into<String>, text: impl Into<String>) {
        self.cells.insert(name.into(), text.into());
    }

    fn traffic(&mut self, history: &History) {
        let now = history.latest();
        let (soon, minute) = (
            history.window(Duration::from_secs(10)),
            history.window(Duration::from_mins(1)),
        );
        self.set("rate.window", history.name(Duration::from_secs(10)));
        self.set("window", history.name(Duration::from_mins(1)));
        let (avoided, window) = avoided(history);
        self.set("avoided", avoided);
        self.set("avoided.window", window);
        let per_second = |now: f64, then: f64| rate(history.per_second(now, then, soon));
        self.set(
            "client.rate",
            per_second(now.client_polls, soon.client_polls),
        );
        self.set("client.total", count(now.client_polls));
        self.set(
            "upstream.rate",
            per_second(now.upstream_polls, soon.upstream_polls),
        );
        self.set("upstream.total", count(now.upstream_polls));
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            let word = outcome.as_str();
            let took = now.latency[index].since(&minute.latency[index]);
            let all = now.requests[index];
            self.set(
                format!("{word}.rate"),
                per_second(all, soon.requests[index]),
            );
            self.set(format!("{word}.total"), count(all));
            self.set(format!("{word}.p50"), quantile(&took, 0.5));
            self.set(format!("{word}.p99"), quantile(&took, 0.99));
        }
        let took = now.upstream_latency.since(&minute.upstream_latency);
        self.set("upstream.p50", quantile(&took, 0.5));
        self.set("upstream.p99", quantile(&took, 0.99));
        let codes = now.upstream_codes.iter().map(|(code, all)| {
            let before = soon.upstream_codes.get(code).copied().unwrap_or_default();
            let kind = if is_failure(code) { "trouble" } else { "" };
            let cells = [code_in_words(code), per_second(*all, before), count(*all)];
            Row::new(kind, cells)
        });
        self.tables.insert("codes", codes.collect());
    }

    fn upstream(&mut self, gateway: &Gateway, history: &History) {
        let polls = history.latest();
        self.set("upstream.url", gateway.upstream_url().to_string());
        self.set("flights", count(polls.gauge("flights")));
        self.set("permits", count(precise(gateway.free_permits())));
        self.set("waiters", count(polls.gauge("waiters")));
        self.set("connections", count(polls.gauge("connections")));
    }

    fn cache(&mut self, gateway: &Gateway, totals: &Totals) {
        let (used, capacity) = (totals.gauge("cache_bytes"), gateway.store().capacity());
        let capacity = precise(usize::try_from(capacity).unwrap_or(usize::MAX));
        self.set("cache.used", bytes(used));
        self.set("cache.capacity", bytes(capacity));
        self.set("cache.percent", percent(used, capacity));
        self.set(
            "cache.share",
            format!("{:.4}", (used / capacity).clamp(0.0, 1.0)),
        );
        let answers = count(totals.gauge("cache_entries"));
        let plural = if answers == "1" { "" } else { "s" };
        self.set("cache.entries", format!("{answers} answer{plural}"));
        for cause in ["size", "expired", "forgotten"] {
            self.set(format!("evicted.{cause}"), count(totals.gauge(cause)));
        }
    }

    fn states(&mut self, census: &Census) {
        for (state, (tasks, fresh)) in STATES.iter().zip(census.tasks) {
            self.set(format!("tasks.{state}"), count(precise(tasks)));
            self.set(format!("tasks.{state}.fresh"), count(precise(fresh)));
        }
    }

    fn settings(&mut self, settings: &[Setting]) {
        let rows = settings.iter().map(|setting| {
            let value = match &setting.after_restart {
                Some(next) => format!("{} ({next} after a restart)", setting.value),
                None => setting.value.clone(),
            };
            let differs = setting.is_changed || setting.after_restart.is_some();
            let kind = if differs { "changed" } else { "" };
            Row::new(kind, [setting.key.clone(), value])
        });
        self.settings = rows.collect();
        let changed: Vec<_> = self
            .settings
            .iter()
            .filter(|row| row.kind == "changed")
            .cloned()
            .collect();
        self.set(
            "settings",
            match changed.len() {
                0 => "All settings are the defaults.".into(),
                1 => "One setting is not the default:".into(),
                many => format!("{many} settings are not the defaults:"),
            },
        );
        self.tables.insert("settings", changed);
    }

    fn routes(&mut self, routes: &Routes) {
        let rows = routes.rows().iter().map(|row| {
            let (method, id) = row.asks();
            let paths = row.templates().iter().map(|path| path.as_str().to_owned());
            let paths: Vec<_> = paths.chain(row.conditions()).collect();
            let asks = format!("{method}, id in {id}");
            Row::new("", [row.name().to_owned(), asks, paths.join(", ")])
        });
        self.routes = rows.collect();
    }

    fn errors(&mut self, latest: &[ErrorRecord], now: Instant) {
        self.set(
            "errors",
            if latest.is_empty() {
                "Nothing went wrong since the start."
            } else {
                "The latest first; the same again is counted, not listed."
            },
        );
        let rows = latest.iter().map(|error| {
            let (kind, seen) = match error.seen {
                SeenBy::Upstream => ("upstream", "upstream failed"),
                SeenBy::Hidden => ("hidden", "hidden from the client"),
                SeenBy::Client => ("client", "a client saw it"),
            };
            let what = match error.detail.as_str() {
                "" => error.code.clone(),
                detail => format!("{}: {detail}", error.code),
            };
            let times = usize::try_from(error.count).unwrap_or(usize::MAX);
            let task = match &error.task {
                // A shortened id cannot be looked up.
                Some(task) if !task.ends_with('…') => Cell::Task { task: task.clone() },
                task => Cell::Text(task.clone().unwrap_or_else(|| NOTHING.into())),
            };
            let caller = error
                .caller
                .map_or_else(|| NOTHING.into(), |caller| format!("{caller:?}"));
            let last = ago(now.saturating_duration_since(error.last));
            let mut row = Row::new(
                kind,
                [
                    seen.into(),
                    what,
                    error.route.into(),
                    caller,
                    format!("{}×", count(precise(times))),
                    last,
                ],
            );
            row.cells.insert(3, task);
            row
        });
        self.tables.insert("errors", rows.collect());
    }
}

/// The share of client polls that cost upstream nothing, and the window it is of: the last minute if it had any polls.
fn avoided(history: &History) -> (String, String) {
    let length = Duration::from_mins(1);
    let (now, then) = (history.latest(), history.window(length));
    let all = percent(now.avoided, now.client_polls);
    let polls = now.client_polls - then.client_polls;
    let name = history.name(length);
    if now.client_polls <= 0.0 {
        (all, "no client polls so far".into())
    } else if polls <= 0.0 {
        (all, format!("since the start; none in the {name}"))
    } else if then.client_polls <= 0.0 {
        (all, name)
    } else {
        let recent = percent(now.avoided - then.avoided, polls);
        (recent, format!("{name}; {all} since the start"))
    }
}

fn quantile(buckets: &Buckets, share: f64) -> String {
    match buckets.quantile(share) {
        Some(seconds) if seconds.is_finite() => latency(seconds),
        Some(_) => format!("> {}", latency(buckets.last_bound())),
        None => NOTHING.into(),
    }
}

fn code_in_words(code: &str) -> String {
    match code {
        "error" => return "no answer".into(),
        "499" => return "499 clients left".into(),
        _ => {}
    }
    let reason = code
        .parse()
        .ok()
        .and_then(|code| http::StatusCode::from_u16(code).ok()?.canonical_reason());
    reason.map_or_else(|| code.to_owned(), |reason| format!("{code} {reason}"))
}
