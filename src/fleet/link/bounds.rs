//! Bounds what an engine may say: a reply that is too large ends the connection before it is in memory, where a mistaken or
//! hostile engine sends one. The client library has no such bound.
//!
//! Only the frames of RESP3 are followed here, which say how long what follows is; all else is left to the library.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many elements a message has at most: more than the news of one beat have.
const ELEMENTS: usize = 4096;

/// A connection on which no message is larger than a bound.
#[derive(Debug)]
pub(super) struct Bounded<S> {
    stream: S,
    frames: Frames,
}

impl<S> Bounded<S> {
    /// Lets messages through of up to `most` bytes.
    pub(super) fn new(stream: S, most: usize) -> Self {
        Self {
            stream,
            frames: Frames::new(most),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, into))?;
        Poll::Ready(self.frames.follow(&into.filled()[before..]))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in a message the stream is.
#[derive(Debug)]
struct Frames {
    most: usize,
    /// How many bytes of this message have come.
    bytes: usize,
    /// How many elements it was said to have so far.
    elements: usize,
    /// How many of them are still to come.
    to_come: usize,
    at: At,
}

#[derive(Debug)]
enum At {
    /// Before the byte that tells the kind of an element.
    Start,
    /// In its first line.
    Line { kind: u8, number: usize },
    /// In a text, with so many bytes to come.
    Text(usize),
}

impl Frames {
    const fn new(most: usize) -> Self {
        Self {
            most,
            bytes: 0,
            elements: 0,
            to_come: 1,
            at: At::Start,
        }
    }

    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some((&byte, rest)) = bytes.split_first() {
            let taken = match &mut self.at {
                At::Start => {
                    self.at = At::Line {
                        kind: byte,
                        number: 0,
                    };
                    1
                }
                At::Line { number, .. } if byte.is_ascii_digit() => {
                    let digit = usize::from(byte - b'0');
                    *number = number.saturating_mul(10).saturating_add(digit);
                    1
                }
                At::Line { kind, number } => {
                    let (kind, number) = (*kind, *number);
                    match byte {
                        // As in "-1", for nothing at all.
                        b'-' => self.at = At::Line { kind: b'_', number },
                        b'\n' => self.begin(kind, number)?,
                        _ => {}
                    }
                    1
                }
                At::Text(left) => {
                    let taken = (*left).min(rest.len() + 1);
                    *left -= taken;
                    if *left == 0 {
                        self.end();
                    }
                    taken
                }
            };
            bytes = &bytes[taken..];
            // A message that has just ended counts no more.
            if self.to_come > 0 || self.bytes > 0 {
                self.bytes += taken;
            }
            self.check(self.bytes)?;
            if self.to_come == 0 {
                *self = Self::new(self.most);
            }
        }
        Ok(())
    }

    /// The first line of an element has ended.
    fn begin(&mut self, kind: u8, number: usize) -> io::Result<()> {
        let inner = match kind {
            b'$' | b'=' | b'!' => {
                self.check(self.bytes.saturating_add(number))?;
                // With the end of its line.
                self.at = At::Text(number + 2);
                return Ok(());
            }
            b'*' | b'~' | b'>' => number,
            b'%' => number.saturating_mul(2),
            // Attributes stand before the element that they are of.
            b'|' => number.saturating_mul(2).saturating_add(1),
            _ => 0,
        };
        self.elements = self.elements.saturating_add(inner);
        if self.elements > ELEMENTS {
            let why = format!("a reply of more than {ELEMENTS} elements");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        self.to_come += inner;
        self.end();
        Ok(())
    }

    /// An element has ended, or it was only the head of others.
    const fn end(&mut self) {
        self.to_come -= 1;
        self.at = At::Start;
    }

    fn check(&self, bytes: usize) -> io::Result<()> {
        if bytes > self.most {
            let why = format!("a reply of more than {} bytes", self.most);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 100;

    /// How many bytes of a stream pass, given it in pieces of this size.
    fn passes(stream: &[u8], piece: usize) -> io::Result<()> {
        let mut frames = Frames::new(MOST);
        stream
            .chunks(piece)
            .try_for_each(|piece| frames.follow(piece))
    }

    fn text(length: usize) -> Vec<u8> {
        [
            format!("${length}\r\n").into_bytes(),
            vec![b'\n'; length],
            b"\r\n".to_vec(),
        ]
        .concat()
    }

    #[test]
    fn any_number_of_messages_pass_that_are_small() {
        let all = [
            b"+OK\r\n".to_vec(),
            b"-ERR not 123456789012 so\r\n".to_vec(),
            b":-42\r\n".to_vec(),
            b"$-1\r\n".to_vec(),
            b"_\r\n".to_vec(),
            b",1.5e10\r\n".to_vec(),
            b"(3492890328409238509324850943850943825024385\r\n".to_vec(),
            b"*0\r\n".to_vec(),
            b"*-1\r\n".to_vec(),
            text(0),
            text(90),
            [&b"*3\r\n*2\r\n:1\r\n:2\r\n"[..], &text(20), &text(20)].concat(),
            [&b"%2\r\n+a\r\n:1\r\n+b\r\n"[..], &text(50)].concat(),
            b"|1\r\n+ttl\r\n:3600\r\n*1\r\n:1\r\n".to_vec(),
            [&b">2\r\n+message\r\n"[..], &text(60)].concat(),
            b"!5\r\nERR x\r\n".to_vec(),
            b"=5\r\ntxt:a\r\n".to_vec(),
        ]
        .concat();
        let often = all.repeat(20);
        for piece in 1..200 {
            passes(&often, piece).expect("they pass");
        }
    }

    #[test]
    fn a_message_that_is_too_large_is_refused_before_it_has_come() {
        let refused = |stream: &[u8]| {
            for piece in 1..=stream.len() {
                let refused = passes(stream, piece).expect_err("it is refused");
                assert!(refused.to_string().starts_with("a reply of more than "));
            }
        };
        refused(b"$101\r\n");
        refused(b"$99999999999999999999999999\r\n");
        refused(b"*4097\r\n");
        refused(b"*9223372036854775807\r\n");
        refused(b"%2049\r\n");
        // Many small elements, and a line without an end.
        refused(&[&b"*2\r\n"[..], &text(60), &text(60)].concat());
        refused(&[b'+'; 101]);
        refused(&[&b"*2\r\n"[..], &b"*2000\r\n"[..], &b":1\r\n".repeat(40)].concat());
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_a_stream_is_cut(
            stream in proptest::collection::vec(prop_oneof![
                any::<u8>(), Just(b'$'), Just(b'*'), Just(b'\n'), b'0'..=b'9',
            ], 0..400),
            piece in 1usize..50,
        ) {
            let whole = passes(&stream, usize::MAX).is_ok();
            prop_assert_eq!(passes(&stream, piece).is_ok(), whole);
        }
    }
}
