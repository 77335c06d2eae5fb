//! The last two minutes, second by second: windows and rates. Kept only while someone watches.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::totals::Totals;
use super::words::span;
use crate::answer::outcome::Outcome;

/// How far back the charts go, in seconds.
const CHARTED: usize = 120;

/// How many totals are kept: a minute's, and the one before.
const KEPT: usize = 62;

/// Totals over time.
#[derive(Debug)]
pub(super) struct History {
    /// The totals at the start.
    zero: Totals,
    totals: VecDeque<Totals>,
    rates: VecDeque<[f64; Outcome::ALL.len() + 2]>,
}

impl History {
    /// Creates the history of a process that started at `started`.
    pub(super) fn new(started: Instant) -> Self {
        Self {
            zero: Totals::none(started),
            totals: VecDeque::new(),
            rates: VecDeque::new(),
        }
    }

    /// Adds the current totals.
    pub(super) fn record(&mut self, totals: Totals) {
        if let Some(before) = self.totals.back() {
            let seconds = seconds_between(before, &totals);
            let mut rates = [0.0; Outcome::ALL.len() + 2];
            let [client, upstream, outcomes @ ..] = &mut rates;
            *client = (totals.client_polls - before.client_polls) / seconds;
            *upstream = (totals.upstream_polls - before.upstream_polls) / seconds;
            for (rate, (now, then)) in outcomes
                .iter_mut()
                .zip(totals.requests.iter().zip(before.requests))
            {
                *rate = (now - then) / seconds;
            }
            self.rates
                .push_back(rates.map(|rate| (rate * 10.0).round() / 10.0));
            if self.rates.len() > CHARTED {
                self.rates.pop_front();
            }
        }
        self.totals.push_back(totals);
        if self.totals.len() > KEPT {
            self.totals.pop_front();
        }
    }

    /// The latest totals.
    pub(super) fn latest(&self) -> &Totals {
        self.totals.back().unwrap_or(&self.zero)
    }

    /// The totals at the beginning of a window of this length, or the oldest known ones; those at the start if only one
    /// moment is known.
    pub(super) fn window(&self, length: Duration) -> &Totals {
        if self.totals.len() < 2 {
            return &self.zero;
        }
        let from = self.latest().at.checked_sub(length);
        let known = self
            .totals
            .iter()
            .rev()
            .find(|totals| from.is_some_and(|from| totals.at <= from));
        known.or(self.totals.front()).unwrap_or(&self.zero)
    }

    /// The name of that window.
    pub(super) fn name(&self, length: Duration) -> String {
        if self.totals.len() < 2 {
            return "since the start".into();
        }
        let covered = self
            .latest()
            .at
            .saturating_duration_since(self.window(length).at);
        let seconds = covered.as_secs_f64().round();
        if seconds + 1.0 >= length.as_secs_f64() {
            format!("last {}", span(length))
        } else {
            format!(
                "last {}",
                span(Duration::from_secs_f64(seconds.max(1.0))).replace(".0", "")
            )
        }
    }

    /// The rate from `then`, a count of `window`, to `now`, a count of the latest totals.
    pub(super) fn per_second(&self, now: f64, then: f64, window: &Totals) -> f64 {
        (now - then) / seconds_between(window, self.latest())
    }

    /// Rates by name, one a second, the latest last.
    pub(super) fn charts(&self) -> BTreeMap<&'static str, Vec<f64>> {
        ["client", "upstream"]
            .into_iter()
            .chain(Outcome::ALL.map(Outcome::as_str))
            .enumerate()
            .map(|(index, name)| (name, self.rates.iter().map(|rates| rates[index]).collect()))
            .collect()
    }
}

/// At least 0.1, so that two samples in a row do not make absurd rates.
fn seconds_between(then: &Totals, now: &Totals) -> f64 {
    now.at
        .saturating_duration_since(then.at)
        .as_secs_f64()
        .max(0.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(at: Instant, polls: f64) -> Totals {
        Totals {
            client_polls: polls,
            ..Totals::none(at)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn rates_are_of_the_window_and_at_first_of_all_the_time() {
        let started = Instant::now();
        let mut history = History::new(started);
        let at = |seconds| started + Duration::from_secs(seconds);
        let window = Duration::from_secs(10);
        let rate = |history: &History| {
            let then = history.window(window);
            history.per_second(history.latest().client_polls, then.client_polls, then)
        };
        history.record(counted(at(100), 500.0));
        assert_eq!(
            (rate(&history), history.name(window)),
            (5.0, "since the start".into())
        );
        history.record(counted(at(101), 520.0));
        assert_eq!(
            (rate(&history), history.name(window)),
            (20.0, "last 1\u{a0}s".into())
        );
        for second in 102..300_u32 {
            history.record(counted(
                at(second.into()),
                520.0 + 30.0 * f64::from(second - 101),
            ));
        }
        assert_eq!(
            (rate(&history), history.name(window)),
            (30.0, "last 10\u{a0}s".into())
        );
        let charts = history.charts();
        assert_eq!(
            (charts["client"].len(), charts["client"][0]),
            (CHARTED, 30.0)
        );
        assert!(history.totals.len() <= KEPT);
    }
}
