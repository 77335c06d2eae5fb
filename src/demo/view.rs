//! What there is to be seen at one moment: plain values for those who draw it.

use std::time::Duration;

use super::referee::Origin;
use super::tally::{Rates, Tally};
use crate::simulator::{Simulator, State};

/// Everything that a picture shows.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Since the demo began.
    pub(super) elapsed: Duration,
    /// When it ends, if by itself.
    pub(super) seconds: Option<u64>,
    /// Status polls that clients sent and had answered.
    pub(super) client: u64,
    /// Status polls that came to the simulator, by its own count.
    pub(super) upstream: u64,
    /// Both, second by second.
    pub(super) rates: Rates,
    /// Answers that were hits, shared, fetched, stale.
    pub(super) origins: [u64; 4],
    /// Error answers.
    pub(super) errors: u64,
    /// Half of the answers took no longer.
    pub(super) p50: Option<Duration>,
    /// 99 in 100 took no longer.
    pub(super) p99: Option<Duration>,
    /// Tasks: queued, processing, succeeded, failed; the last two since the beginning.
    pub(super) states: [u64; 4],
    /// Tasks on stage.
    pub(super) tasks: Vec<Actor>,
    /// Answers that the referee looked at.
    pub(super) checked: u64,
    /// How many of these were wrong, backward or foreign.
    pub(super) violations: u64,
}

/// One task on stage.
#[derive(Clone, Debug)]
pub(super) struct Actor {
    /// Its id.
    pub(super) id: String,
    /// Whose it is.
    pub(super) key: &'static str,
    /// The shape of its documents.
    pub(super) channel: &'static str,
    /// Where it stands, in truth.
    pub(super) state: State,
    /// Percent.
    pub(super) progress: u8,
    /// What clients asked.
    pub(super) client: u64,
    /// What came to the simulator.
    pub(super) upstream: u64,
}

impl View {
    /// As it is now.
    pub(super) fn look(simulator: &Simulator, tally: &Tally, rates: &Rates) -> Self {
        let mut states = [0, 0, tally.succeeded, tally.failed];
        let mut tasks = Vec::new();
        for live in tally.stage.iter().flatten() {
            let Some(truth) = simulator.truth(&live.id) else {
                continue;
            };
            states[truth.state as usize] += 1;
            tasks.push(Actor {
                id: live.id.clone(),
                key: live.job.key,
                channel: live.job.channel.name(),
                state: truth.state,
                progress: truth.progress,
                client: live.polls,
                upstream: simulator.polls_of(&live.id),
            });
        }
        let origins = [Origin::Hit, Origin::Shared, Origin::Fetched, Origin::Stale];
        Self {
            client: tally.answered,
            upstream: simulator.counts().status_polls,
            rates: rates.clone(),
            origins: origins.map(|origin| tally.from(origin)),
            errors: tally.errors.values().sum(),
            p50: tally.latencies.quantile(0.5),
            p99: tally.latencies.quantile(0.99),
            states,
            tasks,
            checked: tally.checked,
            violations: tally.violations.count(),
            ..Self::default()
        }
    }

    /// `96.4 %`: the share of client polls that upstream never saw. A dash before the first.
    pub(super) fn avoided(&self) -> String {
        if self.client == 0 {
            return "–".to_owned();
        }
        // Rounded down: what is told is never more than what was saved.
        let permille = u128::from(self.saved()) * 1000 / u128::from(self.client);
        format!("{}.{} %", permille / 10, permille % 10)
    }

    /// How many polls upstream never saw.
    pub(super) fn saved(&self) -> u64 {
        self.client.saturating_sub(self.upstream)
    }
}

/// `0.42 ms`, `85 ms`, `1.2 s`; a dash for nothing.
pub(super) fn time(time: Option<Duration>) -> String {
    let Some(time) = time else {
        return "–".to_owned();
    };
    let millis = time.as_secs_f64() * 1e3;
    match millis {
        ..10.0 => format!("{millis:.2} ms"),
        ..1e3 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_avoided_is_never_rounded_up() {
        let avoided = |client, upstream| {
            let view = View {
                client,
                upstream,
                ..View::default()
            };
            view.avoided()
        };
        assert_eq!(avoided(0, 0), "–");
        assert_eq!(avoided(1000, 36), "96.4 %");
        assert_eq!(avoided(100_000, 1), "99.9 %");
        assert_eq!(avoided(2, 3), "0.0 %");
    }

    #[test]
    fn times_are_told_in_the_unit_that_suits_them() {
        let told = |micros| time(Some(Duration::from_micros(micros)));
        assert_eq!(told(423), "0.42 ms");
        assert_eq!(told(84_600), "85 ms");
        assert_eq!(told(1_240_000), "1.2 s");
        assert_eq!(time(None), "–");
    }
}
