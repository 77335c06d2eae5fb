//! The metrics: their names, help texts and labels, declared in this one place.
//!
//! Every label takes its value from a closed list, so that the number of series is bounded whatever clients send.

use std::borrow::Cow;
use std::sync::OnceLock;

use http::StatusCode;
use moka::notification::RemovalCause;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
};

use super::demand::Demand;
use super::exemplars::Exemplars;
use super::exposition::Exposition;
use super::fleet::FleetMetrics;
use super::non_blocking;
use super::process::Process;
use crate::answer::outcome::Outcome;
use crate::message::trace::Trace;
use crate::route::{LABELS, RouteLabel};

/// Bucket bounds: from hits (50 µs) through upstream polls, up to `upstream.timeout` and the longest `Prefer: wait`.
const SECONDS: [f64; 22] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0,
];

/// nginx's status for a request whose client disconnected before its answer was ready.
pub const CLIENT_GONE: u16 = 499;

/// The usual status codes, most frequent first. Their counters are looked up once.
const USUAL_CODES: [u16; 12] = [
    200,
    304,
    404,
    429,
    400,
    401,
    403,
    CLIENT_GONE,
    500,
    502,
    503,
    504,
];

const OUTCOMES: usize = Outcome::ALL.len();

/// All metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    /// The series of a request by route and outcome, looked up once: a look-up by labels costs more than counting.
    request_series: Box<[[OnceLock<Series>; OUTCOMES]]>,
    exemplars: Exemplars,
    upstream_requests: IntCounterVec,
    upstream_duration: HistogramVec,
    /// The series of a request to upstream by kind.
    upstream_series: [OnceLock<Series>; 2],
    polls_avoided: IntCounter,
    upstream_up: IntGauge,
    upstream_paused: IntGauge,
    cache_entries: IntGauge,
    cache_bytes: IntGauge,
    cache_evictions: IntCounterVec,
    flights: IntGauge,
    waiters: IntGauge,
    connections: IntGauge,
    demand: Demand,
}

/// The series of requests that differ in their status code only.
#[derive(Debug)]
struct Series {
    duration: Histogram,
    codes: [OnceLock<IntCounter>; USUAL_CODES.len()],
}

impl Series {
    fn new(duration: Histogram) -> Self {
        Self {
            duration,
            codes: Default::default(),
        }
    }

    /// Counts a request; `labelled` gives the counter of a status code.
    fn count(&self, code: u16, seconds: f64, labelled: impl Fn(&str) -> IntCounter) {
        let labelled = || labelled(&code_label(code));
        match USUAL_CODES.iter().position(|usual| *usual == code) {
            Some(usual) => self.codes[usual].get_or_init(labelled).inc(),
            None => labelled().inc(),
        }
        self.duration.observe(seconds);
    }
}

/// The kind of a request to upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamKind {
    /// A status poll.
    Poll,
    /// A forwarded request.
    Forward,
}

impl UpstreamKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Forward => "forward",
        }
    }
}

impl Metrics {
    /// Registers all metrics, at zero.
    ///
    /// # Errors
    /// Two metrics have the same name, which would be a bug.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let histograms = |name: &str, help: &str, labels: &[&str]| {
            let histograms = HistogramVec::new(
                HistogramOpts::new(name, help).buckets(SECONDS.into()),
                labels,
            )?;
            registry.register(Box::new(histograms.clone()))?;
            Ok::<_, prometheus::Error>(histograms)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let polls_avoided = IntCounter::new(
            "pollgate_upstream_polls_avoided_total",
            "Client polls that made no upstream request, however they were answered.",
        )?;
        registry.register(Box::new(polls_avoided.clone()))?;
        let build = Opts::new("pollgate_build_info", "Always 1; which pollgate this is.")
            .const_label("version", env!("CARGO_PKG_VERSION"));
        let build = IntGauge::with_opts(build)?;
        build.set(1);
        registry.register(Box::new(build))?;

        Process::register(&registry)?;
        if let Some(dropped) = non_blocking::dropped() {
            registry.register(Box::new(dropped.clone()))?;
        }

        let evictions = counters(
            "pollgate_cache_evictions_total",
            "Remembered answers that went, by cause (size, expired, forgotten).",
            &["cause"],
        )?;
        for cause in ["size", "expired", "forgotten"] {
            evictions.with_label_values(&[cause]);
        }
        let upstream_requests = counters(
            "pollgate_upstream_requests_total",
            "Requests to upstream, by kind and status code (error: no answer; 499: its clients left first).",
            &["kind", "code"],
        )?;
        // Present from the start, so that `increase()` sees the first error.
        for kind in [UpstreamKind::Poll, UpstreamKind::Forward] {
            upstream_requests.with_label_values(&[kind.as_str(), "error"]);
        }

        Ok(Self {
            requests: counters(
                "pollgate_requests_total",
                "Client requests, by route, how they were answered, and status code.",
                &["route", "outcome", "code"],
            )?,
            request_duration: histograms(
                "pollgate_request_duration_seconds",
                "From a client request's head to the end of its answer.",
                &["route", "outcome"],
            )?,
            request_series: (0..LABELS).map(|_| Default::default()).collect(),
            exemplars: Exemplars::default(),
            upstream_requests,
            upstream_duration: histograms(
                "pollgate_upstream_duration_seconds",
                "From a request to upstream to the head of its answer.",
                &["kind"],
            )?,
            upstream_series: Default::default(),
            polls_avoided,
            upstream_up: gauge(
                "pollgate_upstream_up",
                "0 while upstream is down, so that it is only probed, else 1.",
            )?,
            upstream_paused: gauge(
                "pollgate_upstream_paused",
                "1 while no caller polls upstream because it answered 429, else 0.",
            )?,
            cache_entries: gauge("pollgate_cache_entries", "Answers remembered.")?,
            cache_bytes: gauge(
                "pollgate_cache_bytes",
                "Memory that remembered answers take, in bytes.",
            )?,
            cache_evictions: evictions,
            flights: gauge("pollgate_flights", "Status polls of upstream under way.")?,
            waiters: gauge(
                "pollgate_waiters",
                "Clients waiting for a status poll under way.",
            )?,
            connections: gauge("pollgate_connections", "Client connections open.")?,
            demand: Demand::default(),
            registry,
        })
    }

    /// Registers the metrics of a fleet.
    ///
    /// # Errors
    /// They are registered already.
    pub fn fleet(&self) -> Result<FleetMetrics, prometheus::Error> {
        FleetMetrics::register(&self.registry)
    }

    /// Counts a finished client request.
    pub fn request(
        &self,
        route: RouteLabel,
        outcome: Outcome,
        code: u16,
        seconds: f64,
        trace: Option<Trace>,
    ) {
        let (index, route) = (route.index(), route.as_str());
        let label = outcome.as_str();
        let series = self.request_series[index][outcome as usize]
            .get_or_init(|| Series::new(self.request_duration.with_label_values(&[route, label])));
        series.count(code, seconds, |code| {
            self.requests.with_label_values(&[route, label, code])
        });
        if let Some(trace) = trace.filter(|trace| trace.is_sampled()) {
            let bucket = SECONDS.partition_point(|bound| *bound < seconds);
            self.exemplars.keep(route, label, bucket, trace, seconds);
        }
    }

    /// Counts by caller and by task, for the page: no label could hold them.
    #[must_use]
    pub fn demand(&self) -> &Demand {
        &self.demand
    }

    /// Counts a finished status poll that made no request to upstream.
    pub fn poll_avoided(&self) {
        self.polls_avoided.inc();
    }

    /// Counts a request to upstream; `code` is `None` if no answer came.
    pub fn upstream(&self, kind: UpstreamKind, code: Option<u16>, seconds: f64) {
        let kind_label = kind.as_str();
        let labelled = |code: &str| {
            self.upstream_requests
                .with_label_values(&[kind_label, code])
        };
        let series = self.upstream_series[kind as usize]
            .get_or_init(|| Series::new(self.upstream_duration.with_label_values(&[kind_label])));
        if let Some(code) = code {
            series.count(code, seconds, labelled);
        } else {
            labelled("error").inc();
            series.duration.observe(seconds);
        }
    }

    /// Value of `pollgate_upstream_polls_avoided_total`.
    pub(crate) fn polls_avoided(&self) -> u64 {
        self.polls_avoided.get()
    }

    /// Counts an answer that left the cache; one replaced by a newer answer does not count.
    pub fn evicted(&self, cause: RemovalCause) {
        let cause = match cause {
            RemovalCause::Size => "size",
            RemovalCause::Expired => "expired",
            RemovalCause::Explicit => "forgotten",
            RemovalCause::Replaced => return,
        };
        self.cache_evictions.with_label_values(&[cause]).inc();
    }

    /// The gauge of clients waiting for a poll.
    #[must_use]
    pub fn waiters(&self) -> Gauge {
        Gauge(self.waiters.clone())
    }

    /// The gauge of client connections.
    #[must_use]
    pub fn connections(&self) -> Gauge {
        Gauge(self.connections.clone())
    }

    /// Sets what is known of upstream: whether it is taken to be up, and whether it asked every caller for a pause.
    pub fn set_upstream(&self, up: bool, paused: bool) {
        self.upstream_up.set(up.into());
        self.upstream_paused.set(paused.into());
    }

    /// Writes all metrics, with the current size of the cache and number of flights.
    #[must_use]
    pub fn expose(&self, format: Exposition, entries: u64, bytes: u64, flights: usize) -> String {
        self.cache_entries
            .set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.cache_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.flights.set(i64::try_from(flights).unwrap_or(i64::MAX));
        format.write(&self.registry.gather(), &self.exemplars.kept())
    }
}

/// The label of a status code: a registered code itself, any other its class.
fn code_label(code: u16) -> Cow<'static, str> {
    match code {
        200 => Cow::Borrowed("200"),
        CLIENT_GONE => Cow::Borrowed("499"),
        _ if StatusCode::from_u16(code).is_ok_and(|code| code.canonical_reason().is_some()) => {
            code.to_string().into()
        }
        _ => format!("{}xx", code / 100).into(),
    }
}

/// A gauge of things that exist at the same time.
#[derive(Debug, Clone)]
pub struct Gauge(IntGauge);

/// Counts as one in a [`Gauge`] until dropped.
#[derive(Debug)]
pub struct Counted(IntGauge);

impl Gauge {
    /// Adds one until the guard is dropped.
    #[must_use]
    pub fn up(&self) -> Counted {
        self.0.inc();
        Counted(self.0.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
