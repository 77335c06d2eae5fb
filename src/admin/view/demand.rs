//! Who polls, and what is polled most.

use std::collections::BTreeMap;

use super::{Cell, Row, View};
use crate::admin::recorder::CallerRate;
use crate::admin::words::{NOTHING, ago, count, precise, rate};
use crate::cache::{Acceptance, CallerCount, Census};
use crate::telemetry::{CallerDigest, TaskDemand};

/// How many callers the page shows.
const CALLERS: usize = 16;

/// How many running tasks the page shows.
const TASKS: usize = 10;

impl View {
    /// The callers with the most errors first, then those with the most polls, then those with the most tasks.
    pub(super) fn callers(&mut self, census: &Census, rates: &[CallerRate]) {
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
    pub(super) fn asked(&mut self, tasks: &[(TaskDemand, f64)]) {
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
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits or so")]
fn large(number: u64) -> f64 {
    number as f64
}
