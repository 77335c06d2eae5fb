//! Log lines. In the Prometheus form the log is itself a valid Prometheus text document: an event is a sample, all
//! else is a comment.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::io::stdout;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, reload};

use crate::config::{self, LogFormat, LogLevel};
use crate::key::Caller;

const REQUESTS: &str = "pollgate::requests";
const SNAPSHOTS: &str = "pollgate::snapshots";

/// How many lines may wait to be written; beyond it they are dropped and counted, so that no request ever waits for
/// a slow reader of the log.
const LINES: usize = 16_384;

/// Writes what is still waiting when dropped.
#[derive(Debug)]
pub struct LogGuard {
    _worker: WorkerGuard,
    dropped: ErrorCounter,
    level: reload::Handle<Targets, Registry>,
}

/// Changes the level while running.
#[derive(Debug, Clone)]
pub struct Reload {
    level: reload::Handle<Targets, Registry>,
    dropped: ErrorCounter,
}

impl LogGuard {
    /// What changes the level while running.
    #[must_use]
    pub fn reload(&self) -> Reload {
        Reload {
            level: self.level.clone(),
            dropped: self.dropped.clone(),
        }
    }
}

impl Reload {
    /// From now on, comments from this level up.
    pub fn set_level(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and with it the log.
        let _ = self.level.reload(targets(level));
    }

    /// How many lines were dropped so far because the log's reader was too slow.
    #[must_use]
    pub fn dropped_lines(&self) -> usize {
        self.dropped.dropped_lines()
    }
}

/// Starts the log on standard output.
#[must_use]
pub fn start(log: &config::Log) -> LogGuard {
    let (writer, worker) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES)
        .finish(stdout());
    let dropped = writer.error_counter();
    let (filter, level) = reload::Layer::new(targets(log.level));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(false);
    let layer = match log.format {
        LogFormat::Prometheus => layer.event_format(PrometheusText::default()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Text => layer.compact().boxed(),
    };
    // A second start in one process (tests) keeps the first.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    LogGuard {
        _worker: worker,
        dropped,
        level,
    }
}

/// pollgate's own words at the wanted level; libraries only when something is wrong.
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
        // Which requests get a line is for `log.requests` to say.
        .with_target(REQUESTS, LevelFilter::INFO)
        .with_target(SNAPSHOTS, LevelFilter::INFO)
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
            seconds = self.seconds,
        );
    }
}

/// Writes all metrics (in Prometheus text format) into the log.
pub fn write_snapshot(metrics: &str) {
    tracing::info!(target: SNAPSHOTS, metrics);
}

/// The Prometheus form.
#[derive(Default)]
struct PrometheusText {
    /// The metrics whose help and type were written: the format takes one of each for a name.
    described: Mutex<HashSet<String>>,
}

impl PrometheusText {
    /// Writes a snapshot: every sample with its time, help and type only the first time.
    fn write_snapshot(&self, to: &mut Writer<'_>, metrics: &str, millis: u128) -> fmt::Result {
        let mut described = self
            .described
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for line in metrics.lines() {
            if !line.starts_with('#') {
                writeln!(to, "{line} {millis}")?;
            } else if described.insert(line.to_owned()) {
                writeln!(to, "{line}")?;
            }
        }
        Ok(())
    }
}

impl<S, N> FormatEvent<S, N> for PrometheusText
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = SystemTime::now();
        let millis = now
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        match event.metadata().target() {
            REQUESTS => {
                let mut sample = Sample {
                    labels: String::new(),
                    seconds: 0.0,
                };
                event.record(&mut sample);
                writeln!(
                    to,
                    "pollgate_request_seconds{{{}}} {} {millis}",
                    sample.labels, sample.seconds
                )
            }
            SNAPSHOTS => {
                let mut text = Text(String::new());
                event.record(&mut text);
                self.write_snapshot(&mut to, &text.0, millis)
            }
            _ => {
                let mut text = Text(String::new());
                event.record(&mut text);
                let level = event.metadata().level();
                let time = humantime::format_rfc3339_millis(now);
                // A line feed inside would end the comment.
                let text = text.0.replace(['\n', '\r'], " ");
                writeln!(to, "# {time} {level} pollgate {text}")
            }
        }
    }
}

/// Labels and value of a sample.
struct Sample {
    labels: String,
    seconds: f64,
}

impl Sample {
    fn label(&mut self, name: &str, value: &str) {
        let comma = if self.labels.is_empty() { "" } else { "," };
        let _ = write!(self.labels, "{comma}{name}=\"");
        for letter in value.chars() {
            match letter {
                '\\' => self.labels.push_str("\\\\"),
                '"' => self.labels.push_str("\\\""),
                '\n' => self.labels.push_str("\\n"),
                letter => self.labels.push(letter),
            }
        }
        self.labels.push('"');
    }
}

impl Visit for Sample {
    fn record_f64(&mut self, _: &Field, value: f64) {
        self.seconds = value;
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.label(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.label(field.name(), &format!("{value:?}"));
    }
}

/// The message, and the other fields behind it.
struct Text(String);

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" | "metrics" => self.0.push_str(value),
            name => {
                let _ = write!(self.0, " {name}={value}");
            }
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut sample = Sample {
            labels: String::new(),
            seconds: 0.0,
        };
        sample.label("task", "a\"b\\c\nd");
        sample.label("code", "200");
        assert_eq!(sample.labels, r#"task="a\"b\\c\nd",code="200""#);
    }
}
