//! The videos themselves: made-up bytes, and ranges of them.

use std::ops::Range;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue,
    IF_RANGE, RANGE,
};
use hyper::{Method, StatusCode};

use super::dice::{digest, mix};
use super::reply::Reply;

/// How many bytes are made at a time.
const PIECE: u64 = 64 * 1024;

/// How an MP4 file begins: a `ftyp` box, and an `mdat` box up to the end.
const BEGINNING: &[u8; 32] = b"\0\0\0\x18ftypisom\0\0\x02\0isommp41\0\0\0\0mdat";

/// The bytes `range` of the video of task `id`, the same in every run.
#[must_use]
pub fn content_bytes(id: &str, range: Range<u64>) -> Bytes {
    let seed = digest(id);
    range.map(|at| byte(seed, at)).collect()
}

/// Answers a request for a video of `size` bytes: whole, in part, or its head.
pub(super) fn video(method: &Method, headers: &HeaderMap, id: &str, size: u64) -> Reply {
    let etag = format!("\"{:016x}-{size:x}\"", digest(id));
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // RFC 9110, 13.1.5: a range of another version is no use.
    let same = text(IF_RANGE).is_none_or(|tag| tag == etag);
    let wanted = text(RANGE)
        .filter(|_| same)
        .and_then(|range| parse(range, size))
        .unwrap_or(Wanted::Whole);
    let (status, part) = match wanted {
        Wanted::Whole => (StatusCode::OK, 0..size),
        Wanted::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Wanted::Nothing => {
            return Reply::empty(StatusCode::RANGE_NOT_SATISFIABLE)
                .text_header(CONTENT_RANGE, &format!("bytes */{size}"));
        }
    };
    let length = part.end - part.start;
    let mut reply = if method == Method::HEAD {
        Reply::full(status, "video/mp4", Bytes::new())
            .text_header(CONTENT_LENGTH, &length.to_string())
    } else {
        Reply::stream(status, "video/mp4", Some(length), pieces(id, part.clone()))
    };
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
        reply = reply.text_header(CONTENT_RANGE, &range);
    }
    reply
        .header(ACCEPT_RANGES, HeaderValue::from_static("bytes"))
        .header(
            CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=86400"),
        )
        .text_header(ETAG, &etag)
}

/// The bytes of `range`, made as they are asked for.
fn pieces(id: &str, range: Range<u64>) -> impl Stream<Item = Bytes> + Send + use<> {
    let seed = digest(id);
    stream::unfold(range.start, move |at| async move {
        let end = (at + PIECE).min(range.end);
        (at < end).then(|| ((at..end).map(|at| byte(seed, at)).collect(), end))
    })
}

fn byte(seed: u64, at: u64) -> u8 {
    match usize::try_from(at).ok().and_then(|at| BEGINNING.get(at)) {
        Some(byte) => *byte,
        None => mix(seed ^ (at / 8)).to_le_bytes()[usize::from(at.to_le_bytes()[0] % 8)],
    }
}

/// What a `Range` header asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Part(Range<u64>),
    /// Nothing that there is.
    Nothing,
}

/// Reads `Range`; none for one that is to be ignored (RFC 9110, 14.2).
fn parse(range: &str, size: u64) -> Option<Wanted> {
    let (first, last) = range.strip_prefix("bytes=")?.trim().split_once('-')?;
    let part = match (first.trim(), last.trim()) {
        ("", last) => size.saturating_sub(last.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            if last < first {
                return None;
            }
            first..size.min(last.saturating_add(1))
        }
    };
    Some(if part.start < part.end {
        Wanted::Part(part)
    } else {
        Wanted::Nothing
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        assert_eq!(parse("bytes=0-9", 100), Some(Wanted::Part(0..10)));
        assert_eq!(parse("bytes=90-", 100), Some(Wanted::Part(90..100)));
        assert_eq!(parse("bytes=-10", 100), Some(Wanted::Part(90..100)));
        assert_eq!(parse("bytes=0-999", 100), Some(Wanted::Part(0..100)));
        assert_eq!(parse("bytes=100-", 100), Some(Wanted::Nothing));
        assert_eq!(parse("bytes=-0", 100), Some(Wanted::Nothing));
        for ignored in ["bytes=9-0", "bytes=0-1,3-4", "lines=1-2", "bytes=a-b"] {
            assert_eq!(parse(ignored, 100), None, "{ignored}");
        }
    }

    #[test]
    fn a_part_is_the_same_bytes_as_in_the_whole() {
        let whole = content_bytes("task_X", 0..1000);
        assert_eq!(&whole[4..8], b"ftyp");
        assert_eq!(whole.slice(100..200), content_bytes("task_X", 100..200));
        assert_ne!(whole, content_bytes("task_Y", 0..1000));
    }
}
