//! The log on standard output: what is logged, at which level, in which form.

use std::io::stdout;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, reload};

use super::escape_c1::EscapeC1;
use super::non_blocking::{NonBlocking, WorkerGuard};
use super::prometheus_format::PrometheusFormat;
use super::targets::{DROPS, REQUESTS, SNAPSHOTS};
use crate::config::{self, LogFormat, LogLevel};
use crate::message::trace::Trace;
use crate::request::key::Caller;

/// Writes what is still waiting when dropped.
#[derive(Debug)]
pub struct LogGuard {
    _worker: WorkerGuard,
    level: reload::Handle<Targets, Registry>,
}

/// Changes the level while running.
#[derive(Debug, Clone)]
pub struct Reload {
    level: reload::Handle<Targets, Registry>,
}

impl LogGuard {
    /// What changes the level while running.
    #[must_use]
    pub fn reload(&self) -> Reload {
        Reload {
            level: self.level.clone(),
        }
    }
}

impl Reload {
    /// From now on, comments from this level up.
    pub fn set_level(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and with it the log.
        let _ = self.level.reload(targets(level));
    }
}

/// Starts the log on standard output.
#[must_use]
pub fn start(log: &config::Log) -> LogGuard {
    let (writer, guard) = NonBlocking::start(stdout());
    let (filter, level) = reload::Layer::new(targets(log.level));
    let layer = tracing_subscriber::fmt::layer().with_ansi(false);
    let layer = match log.format {
        LogFormat::Prometheus => layer
            .event_format(PrometheusFormat::default())
            .with_writer(writer)
            .boxed(),
        LogFormat::Json => layer
            .json()
            .flatten_event(true)
            .with_writer(EscapeC1(writer))
            .boxed(),
        LogFormat::Text => layer.compact().with_writer(writer).boxed(),
    };
    // A second start in one process (tests) keeps the first.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    LogGuard {
        _worker: guard,
        level,
    }
}

/// pollgate's own words at the wanted level; libraries, which would log whole headers, only when something is wrong.
fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("pollgate", level)
        // It warns of every client that breaks the protocol; the server counts those and warns now and then.
        .with_target("h2", LevelFilter::ERROR)
        // Which requests get a line is for `log.requests` to say, and a gap is never kept silent.
        .with_targets([REQUESTS, SNAPSHOTS, DROPS].map(|always| (always, LevelFilter::INFO)))
}

/// What is told of one request. Never a credential, a query string, a URL or a prompt.
#[derive(Debug, Clone, Copy)]
pub struct RequestLine<'a> {
    /// The route's name.
    pub route: &'static str,
    /// How it was answered.
    pub outcome: &'static str,
    /// The status code.
    pub code: u16,
    /// The task's state.
    pub state: Option<&'static str>,
    /// The task's raw id.
    pub task: Option<&'a str>,
    /// Whose it was.
    pub caller: Option<Caller>,
    /// The request's name.
    pub request_id: Option<&'a str>,
    /// The trace it belongs to.
    pub trace: Option<Trace>,
    /// How long it took.
    pub seconds: f64,
}

impl RequestLine<'_> {
    /// Writes the line.
    pub fn write(&self) {
        tracing::info!(
            target: REQUESTS,
            route = self.route,
            outcome = self.outcome,
            code = self.code,
            state = self.state,
            task = self.task,
            caller = self.caller.map(tracing::field::debug),
            request_id = self.request_id,
            trace_id = self.trace.map(tracing::field::display),
            seconds = self.seconds,
        );
    }
}

/// Writes all metrics (in Prometheus text format) into the log.
pub fn write_snapshot(metrics: &str) {
    tracing::info!(target: SNAPSHOTS, metrics);
}
