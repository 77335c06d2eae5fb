//! The trace of a request (W3C Trace Context): passed on where there is one, begun where there is none, and shown in the
//! log and by exemplars.
//!
//! pollgate records no spans, so it passes a valid `traceparent` on unchanged, and begins one as "not sampled".

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The id of a trace, and whether its client records it (W3C Trace Context §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// In bytes: a number would align the future of each request to 16.
    id: [u8; 16],
    sampled: bool,
}

impl Trace {
    /// Reads `traceparent`; `None` where there is none, or no valid one.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(&TRACEPARENT).iter();
        let (Some(parent), None) = (parents.next(), parents.next()) else {
            return None;
        };
        let parent = parent.to_str().ok()?.trim_matches([' ', '\t']);
        let (ours, more) = parent.split_at_checked(55)?;
        let mut fields = ours.split('-');
        let version = hex(fields.next()?, 2)?;
        let id = hex(fields.next()?, 32)?;
        let span = hex(fields.next()?, 16)?;
        let flags = hex(fields.next()?, 2)?;
        // §3.2.2: only later versions may append fields; 255 is forbidden, and so are ids of zeroes.
        let ends_well = more.is_empty() || (version != 0 && more.starts_with('-'));
        let valid = ends_well && version != 0xff && id != 0 && span != 0;
        valid.then_some(Self {
            id: id.to_be_bytes(),
            sampled: flags & 1 == 1,
        })
    }

    /// Whether the client says that it records the trace.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.sampled
    }
}

/// A number of exactly this many lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let lower = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == digits && text.bytes().all(lower))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

/// The trace's id.
impl fmt::Display for Trace {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:032x}", u128::from_be_bytes(self.id))
    }
}

/// Begins a trace unless the request belongs to one. An invalid `traceparent` is replaced, and the `tracestate` that
/// belongs to it is dropped (Trace Context §3.2, §4.3).
pub fn continue_or_begin(headers: &mut HeaderMap) {
    if Trace::read(headers).is_none() {
        headers.remove(&TRACESTATE);
        begin(headers);
    }
}

/// Begins a trace.
pub fn begin(headers: &mut HeaderMap) {
    let (trace, parent) = (fastrand::u128(1..), fastrand::u64(1..));
    let mut value = *b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-00";
    let _ = const_hex::encode_to_slice(trace.to_be_bytes(), &mut value[3..35]);
    let _ = const_hex::encode_to_slice(parent.to_be_bytes(), &mut value[36..52]);
    if let Ok(value) = HeaderValue::from_bytes(&value) {
        headers.insert(TRACEPARENT, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const ID: &str = "0af7651916cd43dd8448eb211c80319c";

    fn headers(parents: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, parent.parse().expect("a value"));
        }
        headers.insert(TRACESTATE, HeaderValue::from_static("a=1"));
        headers
    }

    #[test]
    fn a_valid_trace_of_any_version_is_read_and_passes_unchanged() {
        for (parent, sampled) in [
            (VALID, true),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
                false,
            ),
            (
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02",
                false,
            ),
            (
                "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-what-comes",
                true,
            ),
        ] {
            let mut headers = headers(&[parent]);
            let trace = Trace::read(&headers).expect(parent);
            assert_eq!(
                (trace.to_string(), trace.is_sampled()),
                (ID.into(), sampled)
            );
            continue_or_begin(&mut headers);
            assert_eq!(headers[TRACEPARENT], parent);
            assert_eq!(headers[TRACESTATE], "a=1");
        }
    }

    #[test]
    fn anything_else_is_replaced_and_its_state_dropped() {
        for parents in [
            &[][..],
            &[VALID, VALID],
            &[""],
            &["00"],
            &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"],
            &["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
            &["00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"],
            &["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
            &["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"],
            &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"],
            &["cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more"],
            &["00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01"],
            &["00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
            &["00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01"],
        ] {
            let mut headers = headers(parents);
            assert_eq!(Trace::read(&headers), None, "{parents:?}");
            continue_or_begin(&mut headers);
            let parent = headers[TRACEPARENT].to_str().expect("text");
            assert!(!parents.contains(&parent), "{parents:?}");
            assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
            assert_eq!(headers.get(TRACESTATE), None);
            let begun = Trace::read(&headers).expect("is valid");
            assert!(!begun.is_sampled());
            assert_eq!(parent[3..35], begun.to_string());
        }
    }
}
