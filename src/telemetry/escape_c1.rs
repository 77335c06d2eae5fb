//! Escapes C1 control characters (U+0080 to U+009F) in JSON lines. JSON allows them as they are, but some terminals take
//! them for the start of an escape sequence.

use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// The first byte of each of them in UTF-8; the second one is 0x80 to 0x9F.
const LEAD: u8 = 0xc2;

/// Writes whole lines on to `W`.
pub(super) struct EscapeC1<W>(pub(super) W);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for EscapeC1<M> {
    type Writer = EscapeC1<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        EscapeC1(self.0.make_writer())
    }
}

impl<W: Write> Write for EscapeC1<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if line.contains(&LEAD) {
            self.0.write_all(&escape(line))?;
        } else {
            self.0.write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn escape(line: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(line.len() + 16);
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        if let (LEAD, Some((&control @ 0x80..=0x9f, after))) = (byte, after.split_first()) {
            escaped.extend_from_slice(format!("\\u00{control:02x}").as_bytes());
            rest = after;
        } else {
            escaped.push(byte);
            rest = after;
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_the_same_and_holds_no_c1_control_character() {
        let text = "a \u{80}\u{9b}31m \u{a0}é 😀 \u{9f}";
        let line = serde_json::to_string(text).expect("JSON");
        let mut written = Vec::new();
        EscapeC1(&mut written)
            .write_all(line.as_bytes())
            .expect("memory");
        let written = String::from_utf8(written).expect("text");
        assert_eq!(written, "\"a \\u0080\\u009b31m \u{a0}é 😀 \\u009f\"");
        assert_eq!(
            serde_json::from_str::<String>(&written).expect("JSON"),
            text
        );
    }
}
