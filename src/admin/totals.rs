//! All counts at one moment. They are read from the text that `/metrics` serves, so that the page and a scrape always
//! agree.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::answer::outcome::Outcome;

/// Everything counted since the start.
#[derive(Debug, Clone)]
pub(super) struct Totals {
    pub at: Instant,
    /// Client requests, by outcome.
    pub requests: [f64; Outcome::ALL.len()],
    /// How long client requests took, by outcome.
    pub latency: [Buckets; Outcome::ALL.len()],
    /// Answers with a 5xx.
    pub errors: f64,
    /// Status polls of clients.
    pub client_polls: f64,
    /// Client polls that set off no upstream request.
    pub avoided: f64,
    /// Status polls of upstream.
    pub upstream_polls: f64,
    /// Status polls of upstream that failed, by [`is_failure`].
    pub upstream_failed: f64,
    /// How long status polls of upstream took.
    pub upstream_latency: Buckets,
    /// Status polls of upstream, by status or `error`.
    pub upstream_codes: BTreeMap<String, f64>,
    /// Gauges by name without `pollgate_`, and evictions by cause.
    pub gauges: BTreeMap<String, f64>,
}

/// A cumulative histogram: each upper bound in seconds, and the number of observations up to it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Buckets(Vec<(f64, f64)>);

impl Totals {
    /// All zero.
    pub(super) fn none(at: Instant) -> Self {
        Self {
            at,
            requests: Default::default(),
            latency: Default::default(),
            errors: 0.0,
            client_polls: 0.0,
            avoided: 0.0,
            upstream_polls: 0.0,
            upstream_failed: 0.0,
            upstream_latency: Buckets::default(),
            upstream_codes: BTreeMap::new(),
            gauges: BTreeMap::new(),
        }
    }

    /// Reads the Prometheus text format.
    pub(super) fn read(text: &str, at: Instant) -> Self {
        let mut totals = Self::none(at);
        for sample in text.lines().filter_map(Sample::read) {
            totals.add(&sample);
        }
        totals
    }

    fn add(&mut self, sample: &Sample<'_>) {
        let value = sample.value;
        let outcome = || {
            let word = sample.label("outcome");
            Outcome::ALL
                .iter()
                .position(|outcome| outcome.as_str() == word)
        };
        let is_poll = || sample.label("kind") == "poll";
        match sample.name {
            "pollgate_requests_total" => {
                if let Some(index) = outcome() {
                    self.requests[index] += value;
                }
                if sample.status() / 100 == 5 {
                    self.errors += value;
                }
                if sample.label("route") != "forward" {
                    self.client_polls += value;
                }
            }
            "pollgate_request_duration_seconds_bucket" => {
                if let Some(index) = outcome() {
                    self.latency[index].add(sample.label("le"), value);
                }
            }
            "pollgate_upstream_polls_avoided_total" => self.avoided += value,
            "pollgate_upstream_requests_total" if is_poll() => {
                self.upstream_polls += value;
                let code = sample.label("code").to_owned();
                if is_failure(&code) {
                    self.upstream_failed += value;
                }
                *self.upstream_codes.entry(code).or_default() += value;
            }
            "pollgate_upstream_duration_seconds_bucket" if is_poll() => {
                self.upstream_latency.add(sample.label("le"), value);
            }
            "pollgate_cache_evictions_total" => {
                let cause = sample.label("cause").to_owned();
                *self.gauges.entry(cause).or_default() += value;
            }
            name => {
                if let Some(name) = name.strip_prefix("pollgate_")
                    && sample.labels.is_empty()
                {
                    self.gauges.insert(name.to_owned(), value);
                }
            }
        }
    }

    /// Answers that were the last known state because upstream failed.
    pub(super) fn stale(&self) -> f64 {
        self.requests[Outcome::Stale as usize]
    }

    /// The value of a gauge, or 0 if it is unknown.
    pub(super) fn gauge(&self, name: &str) -> f64 {
        self.gauges.get(name).copied().unwrap_or_default()
    }
}

/// Whether a status says that upstream is in trouble, and not only something about one task or one key.
pub(super) fn is_failure(code: &str) -> bool {
    code == "error" || code == "429" || code.starts_with('5')
}

impl Buckets {
    /// Adds to the bucket with the bound `le`: the routes of one outcome share a histogram here.
    fn add(&mut self, le: &str, count: f64) {
        let Ok(le) = le.parse::<f64>() else { return };
        match self.0.iter_mut().find(|(bound, _)| *bound >= le) {
            Some((bound, known)) if bound.total_cmp(&le).is_eq() => *known += count,
            _ => {
                self.0.push((le, count));
                self.0.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            }
        }
    }

    /// The observations since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let before = |le: f64| {
            let known = earlier
                .0
                .iter()
                .find(|(bound, _)| bound.total_cmp(&le).is_eq());
            known.map_or(0.0, |(_, count)| *count)
        };
        Self(
            self.0
                .iter()
                .map(|(le, count)| (*le, (count - before(*le)).max(0.0)))
                .collect(),
        )
    }

    /// The quantile in seconds, interpolated like Prometheus's `histogram_quantile`. Infinite beyond the last bound;
    /// `None` without observations.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let all = self
            .0
            .last()
            .map(|(_, count)| *count)
            .filter(|count| *count > 0.0)?;
        let wanted = share * all;
        let index = self.0.iter().position(|(_, count)| *count >= wanted)?;
        let (bound, count) = self.0[index];
        let (from, before) = index
            .checked_sub(1)
            .map_or((0.0, 0.0), |index| self.0[index]);
        if bound.is_infinite() || count <= before {
            return Some(bound);
        }
        Some(from + (bound - from) * (wanted - before) / (count - before))
    }

    /// The largest finite bound, in seconds.
    pub(super) fn last_bound(&self) -> f64 {
        let finite = self
            .0
            .iter()
            .map(|(bound, _)| *bound)
            .filter(|bound| bound.is_finite());
        finite.fold(0.0, f64::max)
    }
}

/// One line: `name{label="value",…} number`. No label value contains a quote or a comma.
struct Sample<'t> {
    name: &'t str,
    labels: &'t str,
    value: f64,
}

impl<'t> Sample<'t> {
    fn read(line: &'t str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        Some(Self {
            name,
            labels: labels.trim_end_matches('}'),
            value: value.parse().ok()?,
        })
    }

    /// The status in `code`, which may be a class such as `5xx`.
    fn status(&self) -> u16 {
        let code = self.label("code").replace('x', "0");
        code.parse().unwrap_or_default()
    }

    fn label(&self, name: &str) -> &'t str {
        self.labels
            .split(',')
            .filter_map(|label| label.split_once('='))
            .find(|(label, _)| *label == name)
            .map_or("", |(_, value)| value.trim_matches('"'))
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "counts are whole numbers")]
mod tests {
    use super::*;

    const TEXT: &str = r#"# TYPE pollgate_requests_total counter
pollgate_requests_total{code="200",outcome="hit",route="openai"} 1
pollgate_requests_total{code="200",outcome="hit",route="unified"} 1
pollgate_requests_total{code="503",outcome="failed",route="unified"} 1
pollgate_requests_total{code="502",outcome="fetched",route="unified"} 2
pollgate_requests_total{code="5xx",outcome="shared",route="unified"} 4
pollgate_requests_total{code="429",outcome="failed",route="unified"} 8
pollgate_requests_total{code="502",outcome="forwarded",route="forward"} 16
pollgate_requests_total{code="200",outcome="forwarded",route="forward"} 1
pollgate_request_duration_seconds_bucket{outcome="hit",route="openai",le="0.00005"} 0
pollgate_request_duration_seconds_bucket{outcome="hit",route="openai",le="0.0001"} 1
pollgate_request_duration_seconds_bucket{outcome="hit",route="openai",le="+Inf"} 1
pollgate_request_duration_seconds_bucket{outcome="hit",route="unified",le="0.00005"} 1
pollgate_request_duration_seconds_bucket{outcome="hit",route="unified",le="0.0001"} 1
pollgate_request_duration_seconds_bucket{outcome="hit",route="unified",le="+Inf"} 1
pollgate_upstream_requests_total{code="200",kind="forward"} 1
pollgate_upstream_requests_total{code="200",kind="poll"} 1
pollgate_upstream_requests_total{code="error",kind="poll"} 1
pollgate_upstream_polls_avoided_total 2
pollgate_cache_evictions_total{cause="size"} 3
pollgate_cache_bytes 4096
pollgate_flights 2
"#;

    #[tokio::test(start_paused = true)]
    async fn what_is_counted_is_read_back() {
        let totals = Totals::read(TEXT, Instant::now());
        assert_eq!(totals.requests, [2.0, 4.0, 2.0, 0.0, 0.0, 17.0, 0.0, 9.0]);
        assert_eq!((totals.errors, totals.upstream_failed), (23.0, 1.0));
        let polls = (totals.client_polls, totals.avoided, totals.upstream_polls);
        assert_eq!(polls, (17.0, 2.0, 2.0));
        let codes: Vec<_> = totals.upstream_codes.clone().into_iter().collect();
        assert_eq!(codes, [("200".into(), 1.0), ("error".into(), 1.0)]);
        let gauges = ["cache_bytes", "flights", "size"].map(|name| totals.gauge(name));
        assert_eq!(gauges, [4096.0, 2.0, 3.0]);
        let median = totals.latency[0].quantile(0.5);
        assert_eq!(
            median,
            Some(0.000_05),
            "one of two, on the two routes together"
        );
    }

    #[test]
    fn quantiles_are_those_of_prometheus() {
        let inf = f64::INFINITY;
        let buckets = Buckets(vec![(1.0, 10.0), (2.0, 20.0), (4.0, 20.0), (inf, 20.0)]);
        assert_eq!(buckets.quantile(0.5), Some(1.0));
        assert_eq!(buckets.quantile(0.75), Some(1.5));
        let late = Buckets(vec![(1.0, 10.0), (inf, 20.0)]);
        assert_eq!(late.quantile(0.99), Some(inf));
        assert_eq!(Some(late.last_bound()), Some(1.0));
        assert_eq!(late.since(&late).quantile(0.5), None);
        assert_eq!(Buckets::default().quantile(0.5), None);
    }
}
