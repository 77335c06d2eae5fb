//! All metrics as a document: in the Prometheus text format, or as OpenMetrics.

use std::fmt::{self, Write as _};

use http::HeaderMap;
use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::exemplars::{Exemplar, Kept};
use crate::request::preferences;

/// Which text format is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Exposition {
    /// OpenMetrics only where the client asks for it, and not for the other one rather.
    #[must_use]
    pub fn wanted(headers: &HeaderMap) -> Self {
        let weight = preferences::weight(headers, "application/openmetrics-text");
        if weight > 0.0 && weight >= preferences::weight(headers, "text/plain") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The media type of the document.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Writes the document. Names, help texts and labels are our own, and hold nothing that had to be escaped.
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
        for (place, (bound, count)) in buckets.chain([infinity]).enumerate() {
            write!(self.text, "{name}_bucket{{")?;
            labels.write(&mut self.text)?;
            write!(self.text, "le=\"{}\"}} {count}", Bound(bound))?;
            if let Some(exemplar) = self.exemplar(labels, place) {
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

    /// Only OpenMetrics has them, and only for requests by route and outcome.
    fn exemplar(&self, labels: &Labels<'_>, place: usize) -> Option<Exemplar> {
        let (route, outcome) = (labels.get("route")?, labels.get("outcome")?);
        (self.format == Exposition::OpenMetrics)
            .then(|| self.exemplars.get(&(route, outcome, place)).copied())
            .flatten()
    }
}

/// A metric's labels.
struct Labels<'a>(&'a Metric);

impl Labels<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let label = self.0.get_label().iter().find(|label| label.name() == name);
        label.map(LabelPair::value)
    }

    /// Each with a comma behind it, for `le` to follow.
    fn write(&self, to: &mut impl fmt::Write) -> fmt::Result {
        let mut labels = self.0.get_label().iter();
        labels.try_for_each(|label| write!(to, "{}=\"{}\",", label.name(), label.value()))
    }
}

impl fmt::Display for Labels<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, label) in self.0.get_label().iter().enumerate() {
            to.write_str(if place == 0 { "{" } else { "," })?;
            write!(to, "{}=\"{}\"", label.name(), label.value())?;
        }
        to.write_str(if self.0.get_label().is_empty() {
            ""
        } else {
            "}"
        })
    }
}

/// A bucket's bound in the one spelling that OpenMetrics takes (§8.3, as Go writes numbers): the same in both
/// formats, so that a series stays the same whichever is scraped.
struct Bound(f64);

impl fmt::Display for Bound {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_infinite() {
            return to.write_str("+Inf");
        }
        to.write_str(&format!("{:?}", self.0).replace("e-", "e-0"))
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
