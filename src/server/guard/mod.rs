//! Guards hyper's HTTP/1 parser against request smuggling. It follows the framing of everything that comes in, and passes
//! a head on only when there is just one way to read it and what follows it. It knows no sockets: bytes in, a decision out.
//!
//! Two servers that read one stream of bytes differently see different requests in it, and one client's bytes become
//! another client's request. hyper is lenient where the RFC allows it, drops a length beside a transfer-encoding, and
//! writes nothing that a client could read.

mod chunks;
mod head;
mod stand_in;

use self::chunks::Chunks;
use self::head::Framing;
pub(super) use self::head::{MAX_HEADERS, MAX_TARGET, is_misleading};
pub(super) use self::stand_in::stand_in;
use crate::error::Error;

/// The first bytes of an HTTP/2 connection (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Follows the bytes of one connection.
#[derive(Debug)]
pub(super) struct Guard {
    at: At,
    /// Whether another protocol may follow the request in progress.
    upgrade: bool,
    /// How many heads were passed on.
    heads: u64,
    /// How many bytes of a head that is not whole were parsed, and how many searched for its end.
    parsed: usize,
    searched: usize,
    /// The last head that was passed on, where its repetition is expected; empty if that was none of a poll.
    last: Option<Vec<u8>>,
}

/// The largest head that is kept to recognise its repetition, in bytes. Those of polls are smaller.
const MAX_REPEATED: usize = 1024;

#[derive(Debug)]
enum At {
    /// At the first byte, where HTTP/2 may begin.
    Preface,
    /// Between two requests, or in a head.
    Head,
    /// In a body with this many bytes left.
    Sized(u64),
    /// In a chunked body.
    Chunked(Chunks),
    /// Behind a request to switch protocols that is not answered yet.
    AwaitingSwitch,
    /// In a protocol that is not HTTP/1: everything is passed on.
    Opaque,
    /// Behind bytes that were refused: nothing is passed on.
    Closed,
}

/// How a request to switch protocols was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    /// With a 101: another protocol follows.
    Accepted,
    /// With anything else: HTTP/1.1 goes on.
    Declined,
}

/// What to do with bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// How many of them may be passed on.
    pub(super) passed: usize,
    /// What the others are.
    pub(super) remainder: Remainder,
}

/// Bytes that are not passed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Remainder {
    /// None, or too few to decide: to be shown again with more behind them.
    Awaited,
    /// A head that is refused.
    Refused(Error),
    /// A body that contradicts its head, or its own framing.
    Broken(Error),
}

impl Guard {
    pub(super) fn new() -> Self {
        Self {
            at: At::Preface,
            upgrade: false,
            heads: 0,
            parsed: 0,
            searched: 0,
            last: None,
        }
    }

    /// Keeps each head until the next one, or no more: one that repeats the last, byte by byte, is passed on unread.
    pub(super) fn expect_repetitions(&mut self, expected: bool) {
        self.last = expected.then(Vec::new);
    }

    /// Whether it keeps a head.
    #[cfg(test)]
    pub(super) fn keeps_a_head(&self) -> bool {
        self.last.as_ref().is_some_and(|last| !last.is_empty())
    }

    /// How many heads were passed on.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether bytes that are held back are the beginning of a head.
    pub(super) fn awaits_head(&self) -> bool {
        matches!(self.at, At::Preface | At::Head)
    }

    /// Whether only whole requests were passed on.
    pub(super) fn is_between_requests(&self) -> bool {
        matches!(self.at, At::Head)
    }

    /// Whether a request to switch protocols has to be answered first.
    pub(super) fn awaits_switch(&self) -> bool {
        matches!(self.at, At::AwaitingSwitch)
    }

    /// Whether the client may still be sending bytes that are not going to be read.
    pub(super) fn is_within_request(&self) -> bool {
        matches!(self.at, At::Sized(_) | At::Chunked(_) | At::Closed)
    }

    /// Goes on after the answer to a request to switch protocols.
    pub(super) fn resolve_switch(&mut self, switch: Switch) {
        self.at = match switch {
            Switch::Accepted => At::Opaque,
            Switch::Declined => At::Head,
        };
    }

    /// Whether everything is passed on.
    pub(super) fn is_opaque(&self) -> bool {
        matches!(self.at, At::Opaque)
    }

    /// Whether nothing more is passed on.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.at, At::Closed)
    }

    /// Passes nothing more on.
    pub(super) fn close(&mut self) {
        self.at = At::Closed;
    }

    /// Decides about the bytes behind those that were passed on.
    pub(super) fn decide(&mut self, bytes: &[u8]) -> Decision {
        let mut passed = 0;
        let mut remainder = Remainder::Awaited;
        while let Some(left) = bytes.get(passed..).filter(|left| !left.is_empty()) {
            let count = match &mut self.at {
                At::Preface => {
                    let length = left.len().min(PREFACE.len());
                    if left.get(..length) != PREFACE.get(..length) {
                        self.at = At::Head;
                        continue;
                    }
                    if length == PREFACE.len() {
                        self.at = At::Opaque;
                        continue;
                    }
                    0
                }
                At::Head => match self.read_head(left) {
                    Ok(count) => count,
                    Err(why) => {
                        self.at = At::Closed;
                        remainder = Remainder::Refused(why);
                        0
                    }
                },
                At::Sized(size) => {
                    let count =
                        usize::try_from(*size).map_or(left.len(), |size| size.min(left.len()));
                    *size -= count as u64;
                    if *size == 0 {
                        self.end_of_message();
                    }
                    count
                }
                At::Chunked(chunks) => match chunks.read(left) {
                    Ok(count) => {
                        if chunks.is_over() {
                            self.end_of_message();
                        }
                        count
                    }
                    Err((count, why)) => {
                        passed += count;
                        self.at = At::Closed;
                        remainder = Remainder::Broken(Error::BadRequest(why));
                        0
                    }
                },
                At::Opaque => left.len(),
                At::AwaitingSwitch | At::Closed => 0,
            };
            if count == 0 {
                break;
            }
            passed += count;
        }
        Decision { passed, remainder }
    }

    /// The length of the head; 0 while it is not whole.
    fn read_head(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        if let Some(last) = &self.last
            && !last.is_empty()
            && bytes.starts_with(last)
        {
            (self.parsed, self.searched) = (0, 0);
            self.heads += 1;
            return Ok(last.len());
        }
        // A head is parsed when it may be whole, and when it has doubled: however slowly it drips in, each byte is looked
        // at a few times only.
        let unsearched = bytes
            .get(self.searched.saturating_sub(3)..)
            .unwrap_or_default();
        self.searched = bytes.len();
        let doubled = bytes.len() >= (2 * self.parsed).min(head::MAX_HEAD);
        if !doubled && !has_empty_line(unsearched) {
            return Ok(0);
        }
        let Some(head) = head::read(bytes)? else {
            self.parsed = bytes.len();
            return Ok(0);
        };
        (self.parsed, self.searched) = (0, 0);
        self.heads += 1;
        self.upgrade = head.upgrade;
        if let Some(last) = &mut self.last {
            let is_small = head.length <= MAX_REPEATED;
            let is_all = head.framing == Framing::Sized(0) && !head.upgrade;
            last.clear();
            if is_small && is_all {
                last.extend_from_slice(bytes.get(..head.length).unwrap_or_default());
            }
        }
        match head.framing {
            Framing::Sized(0) => self.end_of_message(),
            Framing::Sized(size) => self.at = At::Sized(size),
            Framing::Chunked => self.at = At::Chunked(Chunks::new()),
        }
        Ok(head.length)
    }

    fn end_of_message(&mut self) {
        self.at = if self.upgrade {
            At::AwaitingSwitch
        } else {
            At::Head
        };
    }
}

fn has_empty_line(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

#[cfg(test)]
mod tests {
    use http::Uri;
    use proptest::prelude::*;

    use super::*;

    /// What is passed on of a stream that comes in pieces of this size, the refusal, and the number of heads.
    fn pass(stream: &[u8], piece: usize) -> (usize, Option<Error>, u64) {
        pass_through(Guard::new(), stream, piece)
    }

    fn pass_through(mut guard: Guard, stream: &[u8], piece: usize) -> (usize, Option<Error>, u64) {
        let (mut passed, mut held) = (0, Vec::new());
        for piece in stream.chunks(piece) {
            held.extend_from_slice(piece);
            let decision = guard.decide(&held);
            passed += decision.passed;
            held.drain(..decision.passed);
            match decision.remainder {
                Remainder::Awaited => {}
                Remainder::Refused(why) | Remainder::Broken(why) => {
                    return (passed, Some(why), guard.heads());
                }
            }
        }
        (passed, None, guard.heads())
    }

    #[test]
    fn requests_pass_whole_and_in_any_pieces() {
        let stream = b"\r\nGET /v1/videos/t?a=%2F HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n\
            POST /v1/videos HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello\
            POST /v1/videos HTTP/1.1\r\nhost: x\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\nx: y\r\n\r\n\
            OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n\
            GET http://x/a HTTP/1.1\r\nhost: X\r\n\r\n\
            GET / HTTP/1.0\r\n\r\n";
        for piece in 1..stream.len() {
            assert_eq!(pass(stream, piece), (stream.len(), None, 6), "{piece}");
        }
    }

    #[test]
    fn what_follows_a_refused_head_is_not_looked_at() {
        let good = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        let stream = [&good[..], b"GET / HTTP/1.1\r\n\r\n", good].concat();
        for piece in 1..stream.len() {
            let (passed, why, heads) = pass(&stream, piece);
            assert_eq!((passed, heads), (good.len(), 1), "{piece}");
            assert!(matches!(why, Some(Error::BadRequest(_))));
        }
    }

    #[test]
    fn another_protocol_begins_only_when_it_was_agreed_to() {
        let ask = b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
        let more = b"GET / HTTP/1.1\r\n\r\n";
        for switch in [Switch::Declined, Switch::Accepted] {
            let mut guard = Guard::new();
            let both = [&ask[..], more].concat();
            assert_eq!(guard.decide(&both).passed, ask.len());
            assert!(guard.awaits_switch());
            guard.resolve_switch(switch);
            let decision = guard.decide(more);
            let is_accepted = switch == Switch::Accepted;
            assert_eq!(decision.passed, if is_accepted { more.len() } else { 0 });
            assert_eq!(decision.remainder == Remainder::Awaited, is_accepted);
        }
    }

    #[test]
    fn http_2_is_not_looked_into() {
        let mut guard = Guard::new();
        let (first, second) = PREFACE.split_at(7);
        assert_eq!(guard.decide(first).passed, 0);
        assert_eq!(guard.decide(&[first, second, b"\0\0"].concat()).passed, 26);
        assert_eq!(guard.decide(b"\0\0\r\n\r\n").passed, 6);
        // Only where a connection begins.
        let late = [b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", PREFACE].concat();
        assert!(matches!(
            pass(&late, 7),
            (27, Some(Error::BadRequest(_)), 1)
        ));
    }

    #[test]
    fn what_is_too_large_is_told_apart_from_what_is_wrong() {
        let line = "GET / HTTP/1.1\r\nhost: x\r\n";
        let long = |count: usize| "a".repeat(count);
        for (stream, why) in [
            (
                format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", long(17_000)),
                Error::UriTooLong,
            ),
            (format!("GET /{}", long(40_000)), Error::UriTooLong),
            (
                format!("{line}x: {}\r\n\r\n", long(70_000)),
                Error::HeadTooLarge,
            ),
            (format!("{line}x: {}", long(70_000)), Error::HeadTooLarge),
            (
                format!("{line}{}\r\n", "a: b\r\n".repeat(100)),
                Error::HeadTooLarge,
            ),
            (long(70_000), Error::HeadTooLarge),
        ] {
            for piece in [7, 1000, 1 << 20] {
                let (passed, refused, _) = pass(stream.as_bytes(), piece);
                assert_eq!((passed, refused.as_ref()), (0, Some(&why)));
            }
        }
        let stream = format!(
            "GET /{}?{} HTTP/1.1\r\nhost: x\r\n\r\n",
            long(600),
            long(8000)
        );
        assert_eq!(pass(stream.as_bytes(), 100).1, None);
    }

    #[test]
    fn a_head_that_repeats_the_last_one_is_passed_on_and_one_that_goes_on_differently_is_read() {
        let poll = "GET /v1/videos/t HTTP/1.1\r\nhost: x\r\n\r\n";
        let upload = "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc";
        let mut guard = Guard::new();
        guard.expect_repetitions(true);
        for (count, (stream, is_kept)) in
            [(poll, true), (poll, true), (upload, false), (poll, true)]
                .into_iter()
                .enumerate()
        {
            assert_eq!(guard.decide(stream.as_bytes()).passed, stream.len());
            assert_eq!(guard.heads(), count as u64 + 1);
            assert_eq!(guard.keeps_a_head(), is_kept, "{stream}");
        }
        // Half of it, and then the rest, behind which something else begins.
        let (half, _) = poll.split_at(30);
        assert_eq!(guard.decide(half.as_bytes()).passed, 0);
        let twice = format!("{poll}{half}");
        assert_eq!(guard.decide(twice.as_bytes()).passed, poll.len());
        let another = poll.replace("\r\n\r\n", "\r\nhost: y\r\n\r\n");
        let decision = guard.decide(another.as_bytes());
        assert!(matches!(decision.remainder, Remainder::Refused(_)));
    }

    #[test]
    fn a_head_is_kept_only_while_it_may_be_repeated_at_once() {
        let head = |length: usize| {
            let empty = "GET / HTTP/1.1\r\nhost: x\r\na: \r\n\r\n".len();
            let value = "b".repeat(length - empty);
            format!("GET / HTTP/1.1\r\nhost: x\r\na: {value}\r\n\r\n")
        };
        let switch = "GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n\r\n";
        for (stream, is_kept) in [
            (head(MAX_REPEATED), true),
            (head(MAX_REPEATED + 1), false),
            (switch.to_owned(), false),
        ] {
            let mut guard = Guard::new();
            assert_eq!(guard.decide(stream.as_bytes()).passed, stream.len());
            assert!(!guard.keeps_a_head(), "is not expected");
            guard = Guard::new();
            guard.expect_repetitions(true);
            assert_eq!(guard.decide(stream.as_bytes()).passed, stream.len());
            assert_eq!(guard.keeps_a_head(), is_kept);
            guard.expect_repetitions(false);
            assert!(!guard.keeps_a_head());
        }
    }

    proptest! {
        /// The parser behind the guard agrees with it.
        #[test]
        fn a_target_that_passes_is_read_as_it_is(target in "(/|[a-z]{0,5}(://)?)[ -~é]{0,24}") {
            let stream = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
            if pass(stream.as_bytes(), stream.len()).0 > 0 && target.starts_with('/') {
                let uri: Uri = target.parse().expect("is a target");
                let read = uri.path_and_query().map(ToString::to_string);
                prop_assert_eq!(read, Some(target));
            }
        }

        #[test]
        fn any_bytes_in_any_pieces_come_to_the_same(
            stream in proptest::collection::vec(
                proptest::sample::select(vec![
                    "GET / HTTP/1.1\r\n", "host: x\r\n", "\r\n", "\n", "\r", "content-length: 3\r\n", "abc", "3\r\n",
                    "transfer-encoding: chunked\r\n", "0\r\n\r\n", " ", "\0",
                    "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n",
                ]),
                0..12,
            ),
            piece in 1_usize..40,
        ) {
            let stream = stream.concat().into_bytes();
            let (passed, why, heads) = pass(&stream, stream.len().max(1));
            let slowly = pass(&stream, piece);
            // An error may show later in pieces, and only because more of it was awaited.
            prop_assert_eq!((slowly.0, slowly.2), (passed, heads));
            // Nor does it matter whether a head is read that repeats the last one.
            let mut guard = Guard::new();
            guard.expect_repetitions(true);
            prop_assert_eq!(&pass_through(guard, &stream, piece), &slowly);
            if slowly.1.is_some() {
                prop_assert_eq!(slowly.1.is_some(), why.is_some());
            }
        }
    }
}
