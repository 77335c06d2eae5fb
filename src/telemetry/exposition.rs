//! Writes metrics in the Prometheus text format or as OpenMetrics.

use std::fmt::{self, Write as _};

use http::HeaderMap;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::exemplars::{Exemplar, Kept};
use crate::request::preferences;

/// A text format for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Exposition {
    /// OpenMetrics, if the client accepts it and does not prefer plain text.
    #[must_use]
    pub fn wanted(headers: &HeaderMap) -> Self {
        let weight = preferences::weight(headers, "application/openmetrics-text");
        if weight > 0.0 && weight >= preferences::weight(headers, "text/plain") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The media type.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Writes the document. Names, help texts and labels are constants of this program that need no escaping.
    pub(super) fn write(self, families: &[MetricFamily], exemplars: &Kept) -> String {
        let mut page = Page {
            format: self,
            exemplars,
            text: String::with_capacity(16 * 1024),
        };
        // Writing to memory cannot fail.
        let _ = families.iter().try_for_each(|family| page.family(family));
        if self == Self::OpenMetrics {
            page.text.push_str("# EOF\n");
        }
        page.text
    }
}

struct Page<'a> {
    format: Exposition,
    exemplars: &'a Kept,
    text: String,
}

impl Page<'_> {
    fn family(&mut self, family: &MetricFamily) -> fmt::Result {
        let name = family.name();
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            MetricType::HISTOGRAM => "histogram",
            _ => "gauge",
        };
        // OpenMetrics §5.1: a counter's samples end in `_total`, the name of its family does not.
        let described = match self.format {
            Exposition::OpenMetrics => name.strip_suffix("_total").unwrap_or(name),
            Exposition::Prometheus => name,
        };
        writeln!(self.text, "# HELP {described} {}", family.help())?;
        writeln!(self.text, "# TYPE {described} {kind}")?;
        family.get_metric().iter().try_for_each(|metric| {
            let labels = Labels(metric);
            match kind {
                "histogram" => self.histogram(name, &labels),
                "counter" => self.sample(name, &labels, metric.get_counter().get_value()),
                _ => self.sample(name, &labels, metric.get_gauge().get_value()),
            }
        })
    }

    fn sample(&mut self, name: &str, labels: &Labels<'_>, value: f64) -> fmt::Result {
        writeln!(self.text, "{name}{labels} {value}")
    }

    fn histogram(&mut self, name: &str, labels: &Labels<'_>) -> fmt::Result {
        let histogram = labels.0.get_histogram();
        let infinity = (f64::INFINITY, histogram.get_sample_count());
        let buckets = histogram.get_bucket().iter();
        let buckets = buckets.map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
        for (index, (bound, count)) in buckets.chain([infinity]).enumerate() {
            write!(self.text, "{name}_bucket{{")?;
            labels.write(&mut self.text)?;
            write!(self.text, "le=\"{}\"}} {count}", Bound(bound))?;
            if let Some(exemplar) = self.exemplar(labels, index) {
                let Exemplar {
                    trace,
                    value,
                    millis,
                } = exemplar;
                let (seconds, millis) = (millis / 1000, millis % 1000);
                write!(
                    self.text,
                    " # {{trace_id=\"{trace}\"}} {value} {seconds}.{millis:03}"
                )?;
            }
            self.text.push('\n');
        }
        writeln!(
            self.text,
            "{name}_sum{labels} {}",
            histogram.get_sample_sum()
        )?;
        writeln!(
            self.text,
            "{name}_count{labels} {}",
            histogram.get_sample_count()
        )
    }

    /// The exemplar of a bucket. Only OpenMetrics supports them, and only the histogram of requests has them.
    fn exemplar(&self, labels: &Labels<'_>, index: usize) -> Option<Exemplar> {
        let (route, outcome) = (labels.get("route")?, labels.get("outcome")?);
        (self.format == Exposition::OpenMetrics)
            .then(|| self.exemplars.get(&(route, outcome, index)).copied())
            .flatten()
    }
}

/// The labels of a metric.
struct Labels<'a>(&'a Metric);

impl Labels<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let label = self.0.get_label().iter().find(|label| label.name() == name);
        label.map(LabelPair::value)
    }

    /// Writes each label followed by a comma, in front of `le`.
    fn write(&self, f: &mut impl fmt::Write) -> fmt::Result {
        let mut labels = self.0.get_label().iter();
        labels.try_for_each(|label| write!(f, "{}=\"{}\",", label.name(), label.value()))
    }
}

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, label) in self.0.get_label().iter().enumerate() {
            f.write_str(if index == 0 { "{" } else { "," })?;
            write!(f, "{}=\"{}\"", label.name(), label.value())?;
        }
        f.write_str(if self.0.get_label().is_empty() {
            ""
        } else {
            "}"
        })
    }
}

/// The bound of a bucket, spelled as OpenMetrics requires (§8.3, Go's spelling). Both formats use it, so that a series
/// stays the same whichever is scraped.
struct Bound(f64);

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_infinite() {
            return f.write_str("+Inf");
        }
        f.write_str(&format!("{:?}", self.0).replace("e-", "e-0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_spelt_as_go_does() {
        for (bound, spelling) in [
            (0.000_01, "1e-05"),
            (0.000_025, "2.5e-05"),
            (0.000_1, "0.0001"),
            (0.25, "0.25"),
            (1.0, "1.0"),
            (60.0, "60.0"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(Bound(bound).to_string(), spelling);
        }
    }
}
