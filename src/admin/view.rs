//! The view model: everything that the page shows at one moment, as text. The same when the page loads and in every
//! event.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::history::History;
use super::recorder::{BUCKET, Bucket, CallerRate, Report, time_of_day};
use super::totals::{Buckets, Totals, is_failure};
use super::upstream_state::State;
use super::words::{NOTHING, ago, bytes, count, latency, percent, rate, span};
use crate::answer::outcome::Outcome;
use crate::cache::{Acceptance, CallerCount, Census};
use crate::config::Setting;
use crate::gateway::Gateway;
use crate::telemetry::{CallerDigest, ErrorRecord, SeenBy, TaskDemand};

/// How many callers the page shows.
const CALLERS: usize = 16;

/// How many running tasks the page shows.
const TASKS: usize = 10;

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

    /// How upstream is doing, since when and why, and what that means for clients.
    fn state(&mut self, gateway: &Gateway, report: &Report, paused: usize, now: Instant) {
        let upstream = &report.upstream;
        let state = upstream.state;
        self.set("state", state.word());
        self.set("state.sign", state.sign());
        self.set(
            "title",
            format!("{} {} · pollgate", state.symbol(), state.word()),
        );
        let since = upstream.since.filter(|_| state != State::Unknown);
        self.set(
            "state.for",
            since.map_or_else(String::new, |since| {
                format!("for {}", whole(now.saturating_duration_since(since)))
            }),
        );
        let since = match since.map(|since| time_of_day(since, now)) {
            Some(since) if state == State::Up => {
                format!("Polls have been answered since {since} UTC")
            }
            Some(since) => format!("Since {since} UTC"),
            None => "No status poll has been sent yet".into(),
        };
        self.set(
            "state.since",
            match &upstream.reason {
                Some(reason) => format!("{since}: {reason}."),
                None => format!("{since}."),
            },
        );
        let mut detail = detail(gateway, report, now);
        match paused {
            0 => {}
            1 => detail.push_str(" One caller was asked to pause."),
            paused => {
                let _ = write!(detail, " {paused} callers were asked to pause.");
            }
        }
        self.set("state.detail", detail);
    }

    /// What clients saw of the last hour.
    fn hour(&mut self, report: &Report, now: Instant) {
        let sum = |count: fn(&Bucket) -> f32| -> f64 {
            report.buckets.iter().map(count).map(f64::from).sum()
        };
        let length = if report.length > Duration::from_mins(59) {
            "in the last hour".into()
        } else {
            format!(
                "in the last {}",
                whole(report.length.max(Duration::from_secs(1)))
            )
        };
        let errors = sum(|bucket| bucket.errors);
        self.set("hour", length);
        self.set("hour.errors", count(errors));
        self.set(
            "hour.errors.sign",
            if errors > 0.0 { "down" } else { "fine" },
        );
        self.set("hour.stale", count(sum(|bucket| bucket.stale)));
        let requests = sum(|bucket| bucket.requests);
        let recent = recent_errors(report);
        self.set("hour.errors.now", format!("{} now", rate(recent)));
        let share = percent(errors, requests);
        self.set("hour.errors.share", format!("{share} of requests"));
        let last = report.buckets.len().saturating_sub(1);
        let seconds = |index: usize| match index {
            index if index == last => report.covered.as_secs_f64().max(1.0),
            _ => BUCKET.as_secs_f64(),
        };
        let mut chart = |name, count: fn(&Bucket) -> f32| {
            let rates = report.buckets.iter().enumerate();
            let rates = rates.map(|(index, bucket)| f64::from(count(bucket)) / seconds(index));
            let rates = rates.map(|rate| (rate * 100.0).round() / 100.0);
            self.charts.insert(name, rates.collect());
        };
        chart("hour.client", |bucket| bucket.polls);
        chart("hour.upstream", |bucket| bucket.upstream);
        chart("hour.errors", |bucket| bucket.errors);
        let states = report.buckets.iter().map(|bucket| bucket.worst.number());
        self.charts.insert("hour.state", states.collect());

        self.set(
            "incidents",
            if report.incidents.is_empty() {
                "Upstream was neither down nor paused."
            } else {
                "The latest first."
            },
        );
        let rows = report.incidents.iter().map(|incident| {
            let until = incident.until.unwrap_or(now);
            let from = time_of_day(incident.from, now);
            let times = match incident.until {
                Some(until) => format!("{from} – {}", time_of_day(until, now)),
                None => format!("{from} – now"),
            };
            let length = whole(until.saturating_duration_since(incident.from));
            let reason = incident.reason.as_deref().unwrap_or(NOTHING);
            let cells = [
                incident.state.word().into(),
                times,
                length,
                reason.into(),
                errors_seen(incident.errors),
            ];
            Row::new(incident.state.sign(), cells)
        });
        self.tables.insert("incidents", rows.collect());
    }

    fn upstream(&mut self, gateway: &Gateway, history: &History) {
        let polls = history.latest();
        self.set("upstream.url", gateway.upstream_url().to_string());
        self.set("flights", count(polls.gauge("flights")));
        self.set("permits", count(precise(gateway.free_places())));
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

    /// The callers with the most errors first, then those with the most polls, then those with the most tasks.
    fn callers(&mut self, census: &Census, rates: &[CallerRate]) {
        let mut callers: BTreeMap<_, (Option<&CallerRate>, Option<&CallerCount>)> = BTreeMap::new();
        for rate in rates {
            callers.entry(rate.caller).or_default().0 = Some(rate);
        }
        for counted in &census.largest {
            let digest = Some(CallerDigest::of(counted.caller));
            callers.entry(digest).or_default().1 = Some(counted);
        }
        let mut callers: Vec<_> = callers.into_iter().collect();
        let order = |(rate, counted): (Option<&CallerRate>, Option<&CallerCount>)| {
            let rates = rate.map_or((0, 0.0), |rate| (rate.errors_lately, rate.per_second));
            (rates, counted.map_or(0, |counted| counted.tasks))
        };
        callers.sort_by(|(_, one), (_, other)| {
            let (((errors, rate), tasks), ((more_errors, more), more_tasks)) =
                (order(*one), order(*other));
            more_errors
                .cmp(&errors)
                .then(more.total_cmp(&rate))
                .then(more_tasks.cmp(&tasks))
        });
        let hidden = callers.len().saturating_sub(CALLERS);
        self.set(
            "callers",
            match (callers.len(), hidden) {
                (0, _) => "No caller has polled yet.".into(),
                (_, 0) => String::new(),
                (_, hidden) => format!("{} more are not shown.", count(precise(hidden))),
            },
        );
        callers.truncate(CALLERS);
        let rows = callers.into_iter().map(|(caller, (polled, counted))| {
            let name = caller.map_or_else(|| "all others".into(), CallerDigest::hex);
            let polled_by = |text: fn(&CallerRate) -> String| polled.map_or(NOTHING.into(), text);
            let credential = counted.map_or(NOTHING.into(), |one| match one.acceptance {
                Acceptance::Accepted(since) => format!("accepted {}", ago(since)),
                Acceptance::Missing => "not accepted".into(),
            });
            let tasks = |number: fn(&CallerCount) -> usize| {
                counted.map_or(NOTHING.into(), |one| count(precise(number(one))))
            };
            let is_failing = polled.is_some_and(|one| one.errors_lately > 0);
            Row::new(
                if is_failing { "trouble" } else { "" },
                [
                    name,
                    polled_by(|one| rate(one.per_second)),
                    polled_by(|one| count(large(one.errors))),
                    polled_by(|one| count(large(one.rejected))),
                    tasks(|one| one.tasks),
                    tasks(|one| one.running),
                    counted.map_or(NOTHING.into(), |one| ago(one.heard)),
                    credential,
                ],
            )
        });
        self.tables.insert("callers", rows.collect());
    }

    /// The running tasks that are polled most.
    fn asked(&mut self, tasks: &[(TaskDemand, f64)]) {
        self.set(
            "asked",
            if tasks.is_empty() {
                "No running task was polled in the last minute."
            } else {
                "Polls by clients in about the last minute, however they were answered."
            },
        );
        let rows = tasks.iter().take(TASKS).map(|(task, polls)| {
            let mut row = Row::new("", [rate(*polls), task.state.as_str().into()]);
            let id = task.task.to_string();
            row.cells.insert(0, Cell::Task { task: id });
            let caller = format!("{:?}", task.caller);
            row.cells.push(Cell::Text(caller));
            row
        });
        self.tables.insert("asked", rows.collect());
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
    if code == "error" {
        return "no answer".into();
    }
    let reason = code
        .parse()
        .ok()
        .and_then(|code| http::StatusCode::from_u16(code).ok()?.canonical_reason());
    reason.map_or_else(|| code.to_owned(), |reason| format!("{code} {reason}"))
}

/// What the state of upstream means.
fn detail(gateway: &Gateway, report: &Report, now: Instant) -> String {
    let upstream = &report.upstream;
    let probe = if upstream.probe_in.is_zero() {
        "the next client poll probes it".into()
    } else {
        format!("the next probe is allowed in {}", span(upstream.probe_in))
    };
    match upstream.state {
        State::Unknown => String::new(),
        State::Up => after(report, now),
        State::Failing => format!(
            "Polls fail, but not all of them. {}",
            stand_in(gateway, report, now)
        ),
        State::Stale => format!(
            "It failed when it was last polled; {probe}. {}",
            stand_in(gateway, report, now)
        ),
        State::Down => format!(
            "It gets probes only; {probe}. {}",
            stand_in(gateway, report, now)
        ),
        State::Paused => format!("It answered 429 to all callers; {probe}."),
    }
}

/// The incident that was over last.
fn after(report: &Report, now: Instant) -> String {
    let Some((incident, until)) = report
        .incidents
        .first()
        .and_then(|incident| Some((incident, incident.until?)))
    else {
        return String::new();
    };
    let (from, to) = (time_of_day(incident.from, now), time_of_day(until, now));
    let length = whole(until.saturating_duration_since(incident.from));
    let reason = incident.reason.as_deref().unwrap_or(NOTHING);
    let word = incident.state.word();
    format!("Upstream was last {word} from {from} to {to}, for {length}: {reason}.")
}

/// For how long the last known states of running tasks stand in.
fn stand_in(gateway: &Gateway, report: &Report, now: Instant) -> String {
    let limit = gateway.config().cache.stale_if_error;
    let since = report.upstream.since.unwrap_or(now);
    if limit.is_zero() {
        return "No last known state stands in (cache.stale_if_error).".into();
    }
    match limit.checked_sub(now.saturating_duration_since(since)) {
        Some(_) if report.upstream.state == State::Failing => format!(
            "The last known state of a task stands in for up to {} (cache.stale_if_error).",
            span(limit)
        ),
        Some(left) if !left.is_zero() => format!(
            "The last known states of running tasks run out in {} (cache.stale_if_error).",
            whole(left)
        ),
        _ => "The last known states of running tasks have run out (cache.stale_if_error).".into(),
    }
}

/// Errors that clients saw, a second: in the latest bucket and the one before.
fn recent_errors(report: &Report) -> f64 {
    let mut latest = report.buckets.iter().rev();
    let current = latest.next().map_or(0.0, |bucket| bucket.errors);
    let (before, covered) = match latest.next() {
        Some(bucket) => (bucket.errors, BUCKET + report.covered),
        None => (0.0, report.covered),
    };
    f64::from(current + before) / covered.as_secs_f64().max(1.0)
}

/// `1 error`, `12 errors`.
fn errors_seen(number: f64) -> String {
    match count(number) {
        one if one == "1" => "1 error".into(),
        many => format!("{many} errors"),
    }
}

/// A span in whole seconds.
fn whole(span: Duration) -> String {
    if span < Duration::from_secs(1) {
        return "under 1\u{a0}s".into();
    }
    self::span(Duration::from_secs(span.as_secs())).replace(".0", "")
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits or so")]
fn large(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits or so")]
fn precise(number: usize) -> f64 {
    number as f64
}
