//! The trace that a request belongs to (W3C Trace Context): passed on where there is one, begun where there is none.
//!
//! pollgate records no spans, so a valid `traceparent` passes unchanged, and one begun here says "not sampled".

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// A trace's id: 16 bytes, never all zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl fmt::Display for TraceId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, to)
    }
}

/// Sees to it that the request belongs to a trace, and says to which. A `traceparent` that is no valid one is replaced,
/// and `tracestate`, which would belong to it, dropped (Trace Context §3.2, §4.3).
pub fn continue_or_begin(headers: &mut HeaderMap) -> TraceId {
    let mut parents = headers.get_all(&TRACEPARENT).iter();
    if let (Some(parent), None) = (parents.next(), parents.next())
        && let Some(trace) = read(parent)
    {
        return trace;
    }
    headers.remove(&TRACESTATE);
    begin(headers)
}

/// Begins a trace.
pub(super) fn begin(headers: &mut HeaderMap) -> TraceId {
    let (trace, parent) = (fastrand::u128(1..), fastrand::u64(1..));
    let mut value = *b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-00";
    let _ = const_hex::encode_to_slice(trace.to_be_bytes(), &mut value[3..35]);
    let _ = const_hex::encode_to_slice(parent.to_be_bytes(), &mut value[36..52]);
    if let Ok(value) = HeaderValue::from_bytes(&value) {
        headers.insert(TRACEPARENT, value);
    }
    TraceId(trace)
}

/// Version, trace, parent and flags in lower-case hex; a version above ours may have more behind a dash, and `ff` is
/// none (Trace Context §3.2.2, §4.3).
fn read(value: &HeaderValue) -> Option<TraceId> {
    let text = value.to_str().ok()?.trim_matches([' ', '\t']);
    let (ours, more) = text.split_at_checked(55)?;
    let mut parts = ours.split('-');
    let mut part = |length: usize| {
        let is_hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        parts
            .next()
            .filter(|part| part.len() == length && part.bytes().all(is_hex))
    };
    let (version, trace, parent, _flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let ends_well = more.is_empty() || (version != "00" && more.starts_with('-'));
    let trace = u128::from_str_radix(trace, 16).ok()?;
    let parent = u64::from_str_radix(parent, 16).ok()?;
    (version != "ff" && ends_well && trace != 0 && parent != 0).then_some(TraceId(trace))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn after(parents: &[&str]) -> (HeaderMap, TraceId) {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, parent.parse().expect("a value"));
        }
        headers.insert(TRACESTATE, HeaderValue::from_static("a=1"));
        let trace = continue_or_begin(&mut headers);
        (headers, trace)
    }

    #[test]
    fn a_valid_trace_passes_unchanged() {
        for parent in [
            VALID,
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes",
        ] {
            let (headers, trace) = after(&[parent]);
            assert_eq!(headers[TRACEPARENT], parent);
            assert_eq!(headers[TRACESTATE], "a=1");
            assert_eq!(trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        }
    }

    #[test]
    fn anything_else_is_replaced_and_its_state_dropped() {
        for parents in [
            &[][..],
            &[VALID, VALID],
            &[""],
            &["00"],
            &["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
            &["00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"],
            &["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
            &["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"],
            &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"],
            &["cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.more"],
            &["00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01"],
        ] {
            let (headers, trace) = after(parents);
            let parent = headers[TRACEPARENT].to_str().expect("text").to_owned();
            assert!(!parents.contains(&parent.as_str()), "{parents:?}");
            assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
            assert_eq!(headers.get(TRACESTATE), None);
            assert_eq!(parent[3..35], trace.to_string());
            assert_eq!(read(&headers[TRACEPARENT]), Some(trace));
        }
    }
}
