//! View model: what the demo shows at one moment, as plain values.

use std::time::Duration;

use super::referee::Origin;
use super::route::OTHERS;
use super::tally::{Rates, Tally};
use crate::simulator::{Simulator, State};

/// Everything that the picture, the lines and the summary show. Counts since the start never decrease.
#[derive(Debug, Clone, Default)]
pub(super) struct View {
    /// Time since the demo started.
    pub(super) elapsed: Duration,
    /// `--seconds`, if given.
    pub(super) seconds: Option<u64>,
    /// Answered status polls, counted by the clients.
    pub(super) client: u64,
    /// Status polls that reached the simulator, counted by the simulator.
    pub(super) upstream: u64,
    /// The gateway's `pollgate_upstream_polls_avoided_total`.
    pub(super) avoided: u64,
    /// Client and upstream polls of each second.
    pub(super) rates: Rates,
    /// Answers by origin: hit, shared, fetched, stale.
    pub(super) origins: [u64; 4],
    /// Client polls that got an error or no answer.
    pub(super) failed: u64,
    /// Faults that the simulator injected, by name.
    pub(super) faults: Vec<(&'static str, u64)>,
    /// Probability that the simulator injects a fault into a status poll.
    pub(super) fault_rate: f64,
    /// Median latency.
    pub(super) p50: Option<Duration>,
    /// 99th percentile of latency.
    pub(super) p99: Option<Duration>,
    /// Tasks by state: queued and processing now, succeeded and failed since the start.
    pub(super) states: [u64; 4],
    /// Polls on the routes beside the video API's; empty without `--routes`.
    pub(super) routes: Vec<RouteRow>,
    /// Tasks that are being polled.
    pub(super) tasks: Vec<TaskRow>,
    /// Answers that the referee judged.
    pub(super) checked: u64,
    /// Wrong, backward and foreign answers among them.
    pub(super) violations: u64,
}

/// Polls on one route.
#[derive(Debug, Clone)]
pub(super) struct RouteRow {
    pub(super) name: &'static str,
    /// Answered status polls, counted by the clients.
    pub(super) client: u64,
    /// Status polls that reached the simulator.
    pub(super) upstream: u64,
    /// Client polls that got an error or no answer.
    pub(super) failed: u64,
}

/// One task that is being polled.
#[derive(Debug, Clone)]
pub(super) struct TaskRow {
    pub(super) id: String,
    /// The owner's key.
    pub(super) key: &'static str,
    /// Path and query of a poll.
    pub(super) target: String,
    /// The name of the channel, which selects the documents of the video API, or else of the route.
    pub(super) documents: &'static str,
    /// The task's true state.
    pub(super) state: State,
    /// Percent.
    pub(super) progress: u8,
    /// Status polls by clients.
    pub(super) client: u64,
    /// Status polls that reached the simulator.
    pub(super) upstream: u64,
}

impl View {
    /// Takes a snapshot of all counts.
    pub(super) fn new(simulator: &Simulator, avoided: u64, tally: &Tally, rates: &Rates) -> Self {
        let mut states = [0, 0, tally.succeeded, tally.failed];
        let mut tasks = Vec::new();
        for live in tally.live.iter().flatten() {
            let Some(truth) = simulator.truth(&live.id) else {
                continue;
            };
            states[truth.state as usize] += 1;
            let route = live.slot.polled(live.slot.polls.len() - 1);
            tasks.push(TaskRow {
                id: live.id.clone(),
                key: live.job.key,
                target: route.target(&live.id),
                documents: if route.passes_on {
                    route.name()
                } else {
                    live.job.channel.name()
                },
                state: truth.state,
                progress: truth.progress,
                client: live.polls,
                upstream: simulator.polls_of(&live.id),
            });
        }
        let origins = [Origin::Hit, Origin::Shared, Origin::Fetched, Origin::Stale];
        let counts = simulator.counts();
        let routes = OTHERS.iter().filter_map(|route| {
            let polls = tally.by_route(route)?;
            Some(RouteRow {
                name: route.name(),
                client: polls.answered,
                upstream: counts.polls_on(route.simulated),
                failed: polls.failed,
            })
        });
        Self {
            routes: routes.collect(),
            client: tally.answered,
            upstream: counts.status_polls,
            avoided,
            rates: rates.clone(),
            origins: origins.map(|origin| tally.by_origin(origin)),
            failed: tally.errors.values().sum::<u64>() + tally.unanswered,
            faults: counts
                .faults
                .into_iter()
                .map(|(fault, count)| (fault.name(), count))
                .collect(),
            fault_rate: simulator.faults().poll_rate(),
            p50: tally.latencies.quantile(0.5),
            p99: tally.latencies.quantile(0.99),
            states,
            tasks,
            checked: tally.checked,
            violations: tally.violations.count(),
            ..Self::default()
        }
    }

    /// Share of client polls that set off no upstream request, such as `96.4 %`; a dash before the first poll.
    pub(super) fn share_avoided(&self) -> String {
        if self.client == 0 {
            return "–".to_owned();
        }
        // The gateway counts an answer a moment before its client does. Rounded down, so as not to overstate.
        let avoided = u128::from(self.avoided.min(self.client));
        let permille = avoided * 1000 / u128::from(self.client);
        format!("{}.{} %", permille / 10, permille % 10)
    }

    /// Number of injected faults.
    pub(super) fn injected(&self) -> u64 {
        self.faults.iter().map(|(_, count)| count).sum()
    }

    /// Estimates how many client polls would have failed without the gateway: each would have gone upstream and met a
    /// fault with the same probability. The configured probability is used rather than the observed share, which rests
    /// on a few upstream polls only, and rises and falls.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts are far below 2^52, a probability is from 0 to 1"
    )]
    pub(super) fn failed_without_gateway(&self) -> u64 {
        (self.client as f64 * self.fault_rate) as u64
    }

    /// The probability of a fault, such as `2.97 %`.
    pub(super) fn fault_percent(&self) -> String {
        format!("{:.2} %", self.fault_rate * 100.0)
    }
}

/// `0.42 ms`, `85 ms`, `1.2 s`; a dash for none.
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
    use super::super::route::Slot;
    use super::super::workload::Workload;
    use super::*;
    use crate::simulator::{Fault, Rule, Settings, Status, TaskOptions};

    #[test]
    fn the_share_avoided_is_never_rounded_up() {
        let share = |client, avoided| {
            let view = View {
                client,
                avoided,
                ..View::default()
            };
            view.share_avoided()
        };
        assert_eq!(share(0, 0), "–");
        assert_eq!(share(1000, 964), "96.4 %");
        assert_eq!(share(100_000, 99_999), "99.9 %");
        assert_eq!(share(2, 0), "0.0 %");
        assert_eq!(share(2, 3), "100.0 %");
    }

    #[test]
    fn the_estimate_is_the_fault_rate_of_all_client_polls() {
        let simulator = Simulator::new(Settings {
            faults: vec![
                Rule::new(Fault::RateLimited).rate(0.5),
                Rule::new(Fault::Html).rate(0.5),
            ],
            ..Settings::default()
        });
        let mut tally = Tally::new(1);
        for (client, estimate) in [(0, 0), (1, 0), (4, 3), (400, 300)] {
            tally.answered = client;
            let view = View::new(&simulator, 0, &tally, &Rates::default());
            assert_eq!(view.failed_without_gateway(), estimate, "{client}");
            assert_eq!(view.fault_percent(), "75.00 %");
        }
    }

    #[test]
    fn a_task_that_ended_unseen_by_its_pollers_still_counts_when_they_leave() {
        let simulator = Simulator::new(Settings::default());
        let mut tally = Tally::new(1);
        let options = TaskOptions {
            status: Some(Status::Success),
            ..TaskOptions::default()
        };
        let id = simulator.create("sk-alice", "row", options).expect("an id");
        let job = Workload::new(None).next();
        tally.started(0, Slot::video(0), job, id.clone());
        let states = |tally: &Tally| {
            let view = View::new(&simulator, 0, tally, &Rates::default());
            view.states
        };
        assert_eq!(states(&tally), [0, 0, 1, 0]);
        let truth = simulator.truth(&id).map(|truth| truth.state);
        tally.finished(0, truth);
        assert_eq!(states(&tally), [0, 0, 1, 0]);
    }

    #[test]
    fn a_latency_has_the_unit_that_suits_it() {
        let shown = |micros| time(Some(Duration::from_micros(micros)));
        assert_eq!(shown(423), "0.42 ms");
        assert_eq!(shown(84_600), "85 ms");
        assert_eq!(shown(1_240_000), "1.2 s");
        assert_eq!(time(None), "–");
    }
}
