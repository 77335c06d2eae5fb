//! The log on standard output: filter, format, and the line of a request.

use std::io::stdout;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, reload};

use super::escape_c1::EscapeC1;
use super::journal::{self, WithPriority};
use super::non_blocking::{NonBlocking, WorkerGuard};
use super::prometheus_format::PrometheusFormat;
use super::targets::{DROPS, REQUESTS, SNAPSHOTS};
use crate::config::{self, LogFormat, LogLevel};
use crate::message::trace::Trace;
use crate::request::key::Caller;

/// Keeps the log running; flushes it when dropped.
#[derive(Debug)]
pub struct LogGuard {
    _worker: WorkerGuard,
    level: reload::Handle<Targets, Registry>,
}

/// Changes the log level at run time.
#[derive(Debug, Clone)]
pub struct Reload {
    level: reload::Handle<Targets, Registry>,
}

impl LogGuard {
    /// A handle that changes the log level at run time.
    #[must_use]
    pub fn reload(&self) -> Reload {
        Reload {
            level: self.level.clone(),
        }
    }
}

impl Reload {
    /// Sets the lowest severity that is logged.
    pub fn set_level(&self, level: LogLevel) {
        // Fails only if the subscriber, and with it the log, is gone.
        let _ = self.level.reload(targets(level));
    }
}

/// Starts the log on standard output.
#[must_use]
pub fn start(log: &config::Log) -> LogGuard {
    let (writer, guard) = NonBlocking::start(stdout());
    let (filter, level) = reload::Layer::new(targets(log.level));
    let layer = tracing_subscriber::fmt::layer().with_ansi(false);
    let layer = match (log.format, journal::reads_standard_output()) {
        (LogFormat::Prometheus, false) => layer
            .event_format(PrometheusFormat::default())
            .with_writer(writer)
            .boxed(),
        (LogFormat::Json, false) => layer
            .json()
            .flatten_event(true)
            .with_writer(EscapeC1(writer))
            .boxed(),
        (LogFormat::Text, false) => layer.compact().with_writer(writer).boxed(),
        (LogFormat::Prometheus, true) => layer
            .event_format(PrometheusFormat::default())
            .map_event_format(WithPriority)
            .with_writer(writer)
            .boxed(),
        (LogFormat::Json, true) => layer
            .json()
            .flatten_event(true)
            .map_event_format(WithPriority)
            .with_writer(EscapeC1(writer))
            .boxed(),
        (LogFormat::Text, true) => layer
            .compact()
            .map_event_format(WithPriority)
            .with_writer(writer)
            .boxed(),
    };
    // Fails if there is a log already, as in tests that start two in one process; the first is kept.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    LogGuard {
        _worker: guard,
        level,
    }
}

/// Logs pollgate's own events from `level` up; libraries, which would log whole headers, from WARN up only.
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
        // h2 warns of every client that breaks the protocol; the server counts those and warns now and then.
        .with_target("h2", LevelFilter::ERROR)
        // `log.requests` selects the requests that are logged, and gaps are always reported.
        .with_targets([REQUESTS, SNAPSHOTS, DROPS].map(|always| (always, LevelFilter::INFO)))
}

/// The log line of one request. Never contains a credential, a query string, a URL or a prompt.
#[derive(Debug, Clone, Copy)]
pub struct RequestLine<'a> {
    /// Label of the route.
    pub route: &'static str,
    /// Label of the outcome.
    pub outcome: &'static str,
    /// Status code of the answer.
    pub code: u16,
    /// Code of the error, if pollgate answered with one of its own.
    pub error: Option<&'static str>,
    /// State of the task, if the answer describes one.
    pub state: Option<&'static str>,
    /// Id of the task, as it stood in the path.
    pub task: Option<&'a str>,
    /// The caller, on status polls.
    pub caller: Option<Caller>,
    /// `x-request-id` of the answer.
    pub request_id: Option<&'a str>,
    /// The client's trace.
    pub trace: Option<Trace>,
    /// Duration of the request.
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
            error = self.error,
            state = self.state,
            task = self.task,
            caller = self.caller.map(tracing::field::debug),
            request_id = self.request_id,
            trace_id = self.trace.map(tracing::field::display),
            seconds = self.seconds,
        );
    }
}

/// Logs all metrics, given in the Prometheus text format.
pub fn write_snapshot(metrics: &str) {
    tracing::info!(target: SNAPSHOTS, metrics);
}
