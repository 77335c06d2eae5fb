//! What the page shows at one moment, in words and numbers for people: the same at its load and in every event.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::history::History;
use super::totals::{Buckets, Totals};
use super::words::{NOTHING, ago, bytes, count, latency, percent, rate, span};
use crate::answer::outcome::Outcome;
use crate::cache::{Acceptance, Census};
use crate::gateway::Gateway;
use crate::telemetry::{ErrorRecord, SeenBy};
use crate::upstream::breakers::CircuitStatus;

/// See the module.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct View {
    /// Texts, by the name of the place where they stand.
    pub cells: BTreeMap<String, String>,
    /// Rows, by the name of their table.
    pub tables: BTreeMap<&'static str, Vec<Row>>,
    /// One number a second, the latest last.
    pub charts: BTreeMap<&'static str, Vec<f64>>,
}

/// A row of a table.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    /// What kind of row it is, where it has a sign.
    pub kind: &'static str,
    /// Its cells; the first one names it.
    pub cells: Vec<Cell>,
}

/// A cell of a table.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(super) enum Cell {
    /// What it says.
    Text(String),
    /// A task's raw id, with a link to its look-up.
    Task {
        /// The id.
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

/// What is counted by going over the store, which is not done every second.
#[derive(Debug, Clone, Default)]
pub(super) struct Counted {
    pub census: Census,
    pub paused_callers: usize,
}

/// The words for the five kinds of [`Census::tasks`].
pub(super) const STATES: [&str; 5] = ["queued", "processing", "succeeded", "failed", "missing"];

impl View {
    /// Draws it, of a gateway that has been running since `started`.
    pub(super) fn draw(
        gateway: &Gateway,
        started: Instant,
        history: &History,
        counted: &Counted,
        now: Instant,
    ) -> Self {
        let mut view = Self::default();
        view.set("version", env!("CARGO_PKG_VERSION"));
        view.set("uptime", span(now.saturating_duration_since(started)));
        view.traffic(history);
        view.upstream(gateway, history, counted.paused_callers, now);
        view.cache(gateway, history.latest());
        view.tasks(counted);
        view.errors(&gateway.polls().recent_errors.latest(), now);
        view.charts = history.charts();
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
        for (place, outcome) in Outcome::ALL.iter().enumerate() {
            let word = outcome.as_str();
            let took = now.latency[place].since(&minute.latency[place]);
            let all = now.requests[place];
            self.set(
                format!("{word}.rate"),
                per_second(all, soon.requests[place]),
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
            let kind = if is_trouble(code) { "trouble" } else { "" };
            let cells = [code_in_words(code), per_second(*all, before), count(*all)];
            Row::new(kind, cells)
        });
        self.tables.insert("codes", codes.collect());
    }

    fn upstream(&mut self, gateway: &Gateway, history: &History, paused: usize, now: Instant) {
        let polls = history.latest();
        let (word, state, detail) = health_in_words(gateway, polls, now);
        self.set("health", word);
        self.set("health.state", state);
        let paused = match paused {
            0 => String::new(),
            1 => " One caller was asked by it to pause.".into(),
            paused => format!(" {paused} callers were asked by it to pause."),
        };
        self.set("health.detail", detail + &paused);
        self.set("upstream.url", gateway.upstream_url().to_string());
        self.set("flights", count(polls.gauge("flights")));
        self.set("places", count(precise(gateway.free_places())));
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

    fn tasks(&mut self, Counted { census, .. }: &Counted) {
        for (state, (tasks, fresh)) in STATES.iter().zip(census.tasks) {
            self.set(format!("tasks.{state}"), count(precise(tasks)));
            self.set(format!("tasks.{state}.fresh"), count(precise(fresh)));
        }
        let others = census.callers.saturating_sub(census.largest.len());
        self.set(
            "callers",
            match (census.callers, others) {
                (0, _) => "Nothing is remembered for anyone right now.".into(),
                (_, 0) => String::new(),
                (_, others) => format!("and {} more with fewer tasks", count(precise(others))),
            },
        );
        let rows = census.largest.iter().map(|one| {
            let status = match one.acceptance {
                Acceptance::Accepted(since) => format!("accepted {}", ago(since)),
                Acceptance::Missing => "not accepted".into(),
            };
            let (tasks, running) = (count(precise(one.tasks)), count(precise(one.running)));
            Row::new(
                "",
                [
                    format!("{:?}", one.caller),
                    tasks,
                    running,
                    ago(one.heard),
                    status,
                ],
            )
        });
        self.tables.insert("callers", rows.collect());
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
        let rows = latest.iter().map(|trouble| {
            let (kind, seen) = match trouble.seen {
                SeenBy::Upstream => ("upstream", "upstream failed"),
                SeenBy::Hidden => ("hidden", "hidden from the client"),
                SeenBy::Client => ("client", "a client saw it"),
            };
            let what = match trouble.detail.as_str() {
                "" => trouble.code.clone(),
                detail => format!("{}: {detail}", trouble.code),
            };
            let times = usize::try_from(trouble.count).unwrap_or(usize::MAX);
            let task = match &trouble.task {
                // What is cut cannot be looked up.
                Some(task) if !task.ends_with('…') => Cell::Task { task: task.clone() },
                task => Cell::Text(task.clone().unwrap_or_else(|| NOTHING.into())),
            };
            let caller = trouble
                .caller
                .map_or_else(|| NOTHING.into(), |caller| format!("{caller:?}"));
            let last = ago(now.saturating_duration_since(trouble.last));
            let mut row = Row::new(
                kind,
                [
                    seen.into(),
                    what,
                    trouble.route.into(),
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

/// The share of client polls that cost upstream nothing, and of which time: of the last minute where there were any.
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

/// Whether upstream did not do its part; what it says of one task or one key is none of that.
fn is_trouble(code: &str) -> bool {
    code == "error" || code == "429" || code.starts_with('5')
}

fn code_in_words(code: &str) -> String {
    if code == "error" {
        return "no answer".into();
    }
    let reason = code
        .parse()
        .ok()
        .and_then(|code| http::StatusCode::from_u16(code).ok()?.canonical_reason());
    reason.map_or_else(|| code.to_owned(), |reason| format!("{code} {reason}"))
}

/// The word, the kind of state for its sign, and a sentence.
fn health_in_words(
    gateway: &Gateway,
    totals: &Totals,
    now: Instant,
) -> (&'static str, &'static str, String) {
    match gateway.polls().breakers.status(now) {
        CircuitStatus::Closed { .. } if totals.upstream_polls <= 0.0 => (
            "not asked yet",
            "unknown",
            "No status poll went to it so far.".into(),
        ),
        CircuitStatus::Closed { failed: 0, .. } => (
            "answering",
            "fine",
            "No poll of the last seconds failed.".into(),
        ),
        CircuitStatus::Closed { failed, passed } => (
            "faltering",
            "trouble",
            format!(
                "{failed} of the last {} polls failed. It is taken to be down when fewer than one in twenty gets through.",
                failed + passed
            ),
        ),
        CircuitStatus::Open {
            probe_in, reason, ..
        } => (
            "down",
            "down",
            format!(
                "{reason}. It is left alone but for a probe now and then{}. The last known states stand in.",
                soon(probe_in)
            ),
        ),
        CircuitStatus::Paused { probe_in, .. } => (
            "asked for a pause",
            "trouble",
            format!(
                "It answered 429 for everyone; one poll finds out whether that is over{}.",
                soon(probe_in)
            ),
        ),
        CircuitStatus::Stale => (
            "failed when last asked",
            "trouble",
            "That was a while ago; the next poll finds out how it is now.".into(),
        ),
    }
}

fn soon(span: Duration) -> String {
    if span.is_zero() {
        ", the next one with the next poll".into()
    } else {
        format!(", the next one in {}", self::span(span))
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits or so")]
fn precise(number: usize) -> f64 {
    number as f64
}
