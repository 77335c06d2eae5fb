//! The trace that a client's request belongs to, so that a log line or an exemplar leads to it.

use std::fmt;

use http::{HeaderMap, HeaderName};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A trace's id, and whether someone records it (W3C Trace Context §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    id: u128,
    sampled: bool,
}

impl Trace {
    /// From `traceparent`; `None` where there is none, or one that has to be ignored.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let parent = headers.get(TRACEPARENT)?.to_str().ok()?;
        let mut fields = parent.split('-');
        let version = hex(fields.next()?, 2)?;
        let id = hex(fields.next()?, 32)?;
        let span = hex(fields.next()?, 16)?;
        let flags = hex(fields.next()?, 2)?;
        // §3.2.2: later versions may append fields, this one may not; 255 is forbidden, and so are ids of zeroes.
        let more = fields.next().is_some();
        let valid = version != 0xff && (version != 0 || !more) && id != 0 && span != 0;
        valid.then_some(Self {
            id,
            sampled: flags & 1 == 1,
        })
    }

    /// Whether the client says that someone records it.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.sampled
    }
}

/// Exactly so many lower-case digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == digits && text.bytes().all(lower))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

impl fmt::Display for Trace {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:032x}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(parent: &str) -> Option<(String, bool)> {
        let headers = HeaderMap::from_iter([(TRACEPARENT, parent.parse().expect("a value"))]);
        Trace::read(&headers).map(|trace| (trace.to_string(), trace.is_sampled()))
    }

    #[test]
    fn a_trace_is_read_from_any_version() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        for (parent, sampled) in [
            (format!("00-{id}-b7ad6b7169203331-01"), true),
            (format!("00-{id}-b7ad6b7169203331-02"), false),
            (
                format!("cc-{id}-b7ad6b7169203331-03-what-the-future-brings"),
                true,
            ),
        ] {
            assert_eq!(read(&parent), Some((id.to_owned(), sampled)), "{parent}");
        }
    }

    #[test]
    fn what_is_no_trace_is_ignored() {
        for parent in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert_eq!(read(parent), None, "{parent}");
        }
    }
}
