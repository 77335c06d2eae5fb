//! The metrics of a fleet. They exist only where a fleet is configured.

use std::time::Duration;

use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

/// Bucket bounds of a command, in seconds: from a loopback engine up to one that counts as dead.
const SECONDS: [f64; 12] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5,
];

/// See the module.
#[derive(Debug)]
pub struct FleetMetrics {
    state: IntGaugeVec,
    boards: IntCounterVec,
    landings: IntCounterVec,
    waits: IntCounterVec,
    alone: IntCounterVec,
    refused: IntCounterVec,
    commands: HistogramVec,
    /// How old the news were that were heard last.
    pub journal_lag: Gauge,
    /// How often the journal had dropped news before they were heard here.
    pub journal_gaps: IntCounter,
    /// The members seen within the last seconds.
    pub members: IntGauge,
    /// How far the engine's clock is ahead of this machine's.
    pub clock_skew: Gauge,
    /// How often the connection to the engine was lost.
    pub reconnects: IntCounter,
}

/// The labels of each counter: the closed lists.
mod labels {
    /// What became of a board.
    pub(super) const BOARDS: [&str; 7] =
        ["fresh", "lead", "wait", "rest", "vacant", "late", "away"];
    /// What became of a landing.
    pub(super) const LANDINGS: [&str; 7] = [
        "kept",
        "pushed",
        "superseded",
        "forgotten",
        "left",
        "too_large",
        "lost",
    ];
    /// How a wait ended.
    pub(super) const WAITS: [&str; 5] = ["landed", "stray", "vacant", "lease", "cut"];
    /// Why a poll went on alone.
    pub(super) const ALONE: [&str; 4] = ["timeout", "away", "full", "rounds"];
    /// Why an answer of the fleet was not adopted.
    pub(super) const REFUSED: [&str; 5] = ["older", "forgotten", "refused", "unsealed", "too_old"];
    /// The commands.
    pub(super) const COMMANDS: [&str; 8] = [
        "board", "land", "leave", "renew", "forget", "tell", "beat", "ends",
    ];
    /// Whether the engine is asked.
    pub(super) const STATES: [&str; 2] = ["together", "away"];
}

impl FleetMetrics {
    /// Registers them, at zero.
    ///
    /// # Errors
    /// They are registered already.
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str, values: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
            registry.register(Box::new(counters.clone()))?;
            for value in values {
                counters.with_label_values(&[value]);
            }
            Ok::<_, prometheus::Error>(counters)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = Gauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let state = IntGaugeVec::new(
            Opts::new(
                "pollgate_fleet_state",
                "1 for whether the fleet's engine is asked (together) or left alone since it fails (away).",
            ),
            &["state"],
        )?;
        registry.register(Box::new(state.clone()))?;
        let commands = HistogramVec::new(
            HistogramOpts::new(
                "pollgate_fleet_command_seconds",
                "From a command to the fleet's engine to its answer.",
            )
            .buckets(SECONDS.into()),
            &["command"],
        )?;
        registry.register(Box::new(commands.clone()))?;
        for command in labels::COMMANDS {
            commands.with_label_values(&[command]);
        }
        let members = IntGauge::new(
            "pollgate_fleet_members",
            "Sidecars of the fleet seen within the last five seconds, this one included.",
        )?;
        registry.register(Box::new(members.clone()))?;
        let metrics = Self {
            state,
            boards: counters(
                "pollgate_fleet_boards_total",
                "Polls that the fleet's engine was asked for, by what it said (away: nothing).",
                "result",
                &labels::BOARDS,
            )?,
            landings: counters(
                "pollgate_fleet_landings_total",
                "Leads that ended, by what became of the answer.",
                "result",
                &labels::LANDINGS,
            )?,
            waits: counters(
                "pollgate_fleet_waits_total",
                "Waits for another sidecar's poll, by how they ended.",
                "end",
                &labels::WAITS,
            )?,
            alone: counters(
                "pollgate_fleet_alone_total",
                "Polls that went on without the fleet, by why.",
                "why",
                &labels::ALONE,
            )?,
            refused: counters(
                "pollgate_fleet_adoptions_refused_total",
                "Answers of the fleet that are not shown here, by why.",
                "why",
                &labels::REFUSED,
            )?,
            commands,
            journal_lag: gauge(
                "pollgate_fleet_journal_lag_seconds",
                "How old the fleet's latest news were when they were heard.",
            )?,
            journal_gaps: counter(
                "pollgate_fleet_journal_gaps_total",
                "How often news of the fleet were lost before they were heard.",
            )?,
            members,
            clock_skew: gauge(
                "pollgate_fleet_clock_skew_seconds",
                "How far the clock of the fleet's engine is ahead of this machine's.",
            )?,
            reconnects: counter(
                "pollgate_fleet_reconnects_total",
                "How often the connection to the fleet's engine was lost.",
            )?,
        };
        metrics.set_together(false);
        Ok(metrics)
    }

    /// Whether the engine is asked.
    pub fn set_together(&self, together: bool) {
        for (state, is_on) in labels::STATES.iter().zip([together, !together]) {
            self.state.with_label_values(&[state]).set(is_on.into());
        }
    }

    /// Counts a board; one of [`labels::BOARDS`].
    pub fn board(&self, result: &'static str) {
        self.boards.with_label_values(&[result]).inc();
    }

    /// Counts the end of a lead; one of [`labels::LANDINGS`].
    pub fn landing(&self, result: &'static str) {
        self.landings.with_label_values(&[result]).inc();
    }

    /// Counts the end of a wait; one of [`labels::WAITS`].
    pub fn wait(&self, end: &'static str) {
        self.waits.with_label_values(&[end]).inc();
    }

    /// Counts a poll that went on alone; one of [`labels::ALONE`].
    pub fn alone(&self, why: &'static str) {
        self.alone.with_label_values(&[why]).inc();
    }

    /// Counts an answer that is not adopted; one of [`labels::REFUSED`].
    pub fn refused(&self, why: &'static str) {
        self.refused.with_label_values(&[why]).inc();
    }

    /// How long the commands of a kind take; one of [`labels::COMMANDS`].
    #[must_use]
    pub fn commands(&self, command: &'static str) -> Histogram {
        self.commands.with_label_values(&[command])
    }

    /// Records how long a command took; one of [`labels::COMMANDS`].
    pub fn command(&self, command: &'static str, took: Duration) {
        self.commands
            .with_label_values(&[command])
            .observe(took.as_secs_f64());
    }
}
