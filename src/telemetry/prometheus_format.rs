//! The log as a Prometheus text document: a request is a sample, everything else is a comment, and the whole stream is
//! valid.

use std::collections::HashSet;
use std::fmt::{self, Write};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::targets::{REQUESTS, SNAPSHOTS};
use crate::sync::lock;

/// The length of a request's line in bytes, and room for a long id.
const USUAL_LINE: usize = 384;

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
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        match event.metadata().target() {
            REQUESTS => {
                // Written here and then in one piece: every label has five, and each would be a virtual call.
                let mut sample = Sample {
                    to: String::with_capacity(USUAL_LINE),
                    separator: "pollgate_request_seconds{",
                    seconds: 0.0,
                };
                event.record(&mut sample);
                let Sample {
                    to: mut line,
                    seconds,
                    ..
                } = sample;
                line.push_str("} ");
                write_seconds(&mut line, seconds);
                line.push(' ');
                line.push_str(itoa::Buffer::new().format(millis));
                line.push('\n');
                to.write_str(&line)
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
    fn write_snapshot(&self, to: &mut Writer<'_>, metrics: &str, millis: u64) -> fmt::Result {
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

/// Writes a time, to the nanosecond. The general way to write a float takes three times as many instructions.
fn write_seconds(to: &mut String, seconds: f64) {
    let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    to.push_str(itoa::Buffer::new().format(took.as_secs()));
    let nanos = took.subsec_nanos();
    if nanos > 0 {
        // With a one before them, so that their leading zeros are written.
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(1_000_000_000 + nanos);
        to.push('.');
        to.push_str(digits[1..].trim_end_matches('0'));
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
    // Without a branch for each byte.
    if text.bytes().fold(true, |all, byte| all & is_plain(byte)) {
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
    fn times_are_written_as_floats_are() {
        for nanos in [
            0,
            1,
            999,
            1_000,
            127_453,
            1_500_000,
            999_999_999,
            1_000_000_000,
            15_000_000_001,
            86_400_000_000_000,
        ] {
            let seconds = Duration::from_nanos(nanos).as_secs_f64();
            let mut written = String::new();
            write_seconds(&mut written, seconds);
            assert_eq!(written, seconds.to_string());
        }
    }

    #[test]
    fn a_comment_is_one_line() {
        let mut line = OneLine(String::new());
        let _ = line.write_str("a\r\nb\u{1b}[31mc");
        assert_eq!(line.0, "a  b [31mc");
    }
}
