//! How upstream is doing, and what clients saw of that in the last hour.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{Row, View};
use crate::admin::hour::{BUCKET, Bucket};
use crate::admin::recorder::{Report, time_of_day};
use crate::admin::upstream_state::State;
use crate::admin::words::{self, NOTHING, count, percent, rate, span};
use crate::gateway::Gateway;

/// The number of models whose rounds are told.
const MODELS: usize = 3;

impl View {
    /// How upstream is doing, since when and why, and what that means for clients.
    pub(super) fn state(
        &mut self,
        gateway: &Gateway,
        report: &Report,
        paused: usize,
        now: Instant,
    ) {
        self.set("fleet", fleet(gateway, now));
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
        for (model, rounds) in gateway.polls().cadence.all_rounds(now).iter().take(MODELS) {
            let name = if model.is_empty() { "tasks" } else { model };
            let _ = write!(
                detail,
                " It looks at {name} {}.",
                words::rounds(rounds, SystemTime::now())
            );
        }
        self.set("state.detail", detail);
    }

    /// What clients saw of the last hour.
    pub(super) fn hour(&mut self, report: &Report, now: Instant) {
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
            "Only probes are sent; {probe}. {}",
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

/// How the fleet is doing, in words; nothing where there is none.
fn fleet(gateway: &Gateway, now: Instant) -> String {
    let Some(fleet) = &gateway.polls().fleet else {
        return String::new();
    };
    let (since, why) = fleet.health.since();
    let time = span(now.saturating_duration_since(since));
    let own = format!(
        "This is {}, secret {}.",
        fleet.member,
        fleet.secret.fingerprint()
    );
    if !fleet.health.is_together() {
        return format!(
            "Fleet: the engine has been left alone for {time}: {why}. This gateway polls for itself. {own}"
        );
    }
    let members = match fleet.members() {
        0 | 1 => "alone".into(),
        2 => "with one other member".into(),
        members => format!("with {} other members", members - 1),
    };
    let answers = fleet.answers();
    format!(
        "Fleet: together for {time}, {members}; {answers} flights got their answer from it. {own}"
    )
}
