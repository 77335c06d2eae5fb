//! The log as a Prometheus text document: a request is a sample, everything else is a comment, and the whole stream is
//! valid.

use std::collections::HashSet;
use std::fmt::{self, Write};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::targets::{REQUESTS, SNAPSHOTS};
use crate::sync::lock;

/// Formats events for a Prometheus text document.
#[derive(Default)]
pub(super) struct PrometheusFormat {
    /// The `HELP` and `TYPE` lines already written: the format allows one of each per name.
    described: Mutex<HashSet<String>>,
}

impl<S, N> FormatEvent<S, N> for PrometheusFormat
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
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = since.as_millis();
        match event.metadata().target() {
            REQUESTS => {
                to.write_str("pollgate_request_seconds{")?;
                let mut sample = Sample {
                    to: to.by_ref(),
                    separator: "",
                    seconds: 0.0,
                };
                event.record(&mut sample);
                let seconds = sample.seconds;
                writeln!(to, "}} {seconds} {millis}")
            }
            SNAPSHOTS => {
                let mut snapshot = Snapshot(String::new());
                event.record(&mut snapshot);
                self.write_snapshot(&mut to, &snapshot.0, millis)
            }
            _ => {
                let time = humantime::format_rfc3339_millis(now);
                write!(to, "# {time} {} pollgate ", event.metadata().level())?;
                event.record(&mut Comment(to.by_ref()));
                to.write_char('\n')
            }
        }
    }
}

impl PrometheusFormat {
    /// Writes a snapshot: every sample with a timestamp, `HELP` and `TYPE` lines once.
    fn write_snapshot(&self, to: &mut Writer<'_>, metrics: &str, millis: u128) -> fmt::Result {
        let mut described = lock(&self.described);
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

/// Writes an event's fields as labels; `seconds` becomes the value of the sample.
struct Sample<W> {
    to: W,
    separator: &'static str,
    seconds: f64,
}

impl<W: Write> Sample<W> {
    fn label(
        &mut self,
        name: &str,
        value: impl FnOnce(&mut Escaped<&mut W>) -> fmt::Result,
    ) -> fmt::Result {
        self.to.write_str(self.separator)?;
        self.separator = ",";
        self.to.write_str(name)?;
        self.to.write_str("=\"")?;
        value(&mut Escaped(&mut self.to))?;
        self.to.write_char('"')
    }
}

// Writing to memory cannot fail.
impl<W: Write> Visit for Sample<W> {
    fn record_f64(&mut self, _: &Field, value: f64) {
        self.seconds = value;
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record_str(field, itoa::Buffer::new().format(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let _ = self.label(field.name(), |label| label.write_str(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = self.label(field.name(), |label| write!(label, "{value:?}"));
    }
}

/// Escapes a label value. The format has three escapes; other control characters, which a terminal might obey, are
/// replaced.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_replacing(&mut self.0, text, |letter| match letter {
            '\\' => Some("\\\\"),
            '"' => Some("\\\""),
            '\n' => Some("\\n"),
            letter => letter.is_control().then_some("\u{fffd}"),
        })
    }
}

/// Writes an event as a comment: the message, then the other fields.
struct Comment<W>(W);

impl<W: Write> Visit for Comment<W> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut line = OneLine(&mut self.0);
        let _ = match field.name() {
            "message" => write!(line, "{value:?}"),
            // The location in a library's source.
            name if name.starts_with("log.") => Ok(()),
            name => write!(line, " {name}={value:?}"),
        };
    }
}

/// Replaces control characters: a line feed would end the comment.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_replacing(&mut self.0, text, |letter| {
            letter.is_control().then_some(" ")
        })
    }
}

/// Writes `text` with replacements. Text that needs none, which is the usual case, is written in one piece.
fn write_replacing(
    to: &mut impl Write,
    text: &str,
    replacement: impl Fn(char) -> Option<&'static str>,
) -> fmt::Result {
    let is_plain = |byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if text.bytes().all(is_plain) {
        return to.write_str(text);
    }
    let mut plain = 0;
    for (index, letter) in text.char_indices() {
        if let Some(replacement) = replacement(letter) {
            to.write_str(&text[plain..index])?;
            to.write_str(replacement)?;
            plain = index + letter.len_utf8();
        }
    }
    to.write_str(&text[plain..])
}

/// Extracts the text of a snapshot.
struct Snapshot(String);

impl Visit for Snapshot {
    fn record_str(&mut self, _: &Field, value: &str) {
        value.clone_into(&mut self.0);
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut sample = Sample {
            to: String::new(),
            separator: "",
            seconds: 0.0,
        };
        let _ = sample.label("task", |label| label.write_str("a\"b\\c\nd\u{9b}\t😀"));
        let _ = sample.label("code", |label| write!(label, "{}", 200));
        assert_eq!(
            sample.to,
            "task=\"a\\\"b\\\\c\\nd\u{fffd}\u{fffd}😀\",code=\"200\""
        );
    }

    #[test]
    fn a_comment_is_one_line() {
        let mut line = OneLine(String::new());
        let _ = line.write_str("a\r\nb\u{1b}[31mc");
        assert_eq!(line.0, "a  b [31mc");
    }
}
