//! Where a chunked body ends (RFC 9112 §7.1), read as strictly as the grammar allows.

/// The most bytes of chunk extensions in one body. No client needs any.
const EXTENSIONS: u32 = 4096;

/// The most bytes of trailers in one body.
const TRAILERS: u32 = 8192;

/// The most digits of a chunk's size: enough for any body, and few enough for every reader's integers.
const SIZE_DIGITS: u32 = 15;

/// How far a chunked body was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunks {
    at: At,
    /// The chunk's size as far as it was read, then the bytes that are left of its data.
    size: u64,
    digits: u32,
    extensions: u32,
    trailers: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// At the first byte of a line after the last chunk.
    Line,
    Trailer,
    TrailerLf,
    EndLf,
    End,
}

impl Chunks {
    pub(super) fn new() -> Self {
        Self {
            at: At::Size,
            size: 0,
            digits: 0,
            extensions: 0,
            trailers: 0,
        }
    }

    /// Whether the body was read to its end.
    pub(super) fn is_over(&self) -> bool {
        self.at == At::End
    }

    /// Reads on. Returns how many of these bytes belong to the body; on an error, how many came before it, and why.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<usize, (usize, &'static str)> {
        let mut read = 0;
        while let Some(&byte) = bytes.get(read) {
            match self.at {
                At::End => break,
                At::Data => {
                    let left = bytes.len() - read;
                    let data = usize::try_from(self.size).map_or(left, |size| size.min(left));
                    read += data;
                    self.size -= data as u64;
                    if self.size == 0 {
                        self.at = At::DataCr;
                    }
                }
                _ => {
                    self.step(byte).map_err(|why| (read, why))?;
                    read += 1;
                }
            }
        }
        Ok(read)
    }

    fn step(&mut self, byte: u8) -> Result<(), &'static str> {
        self.at = match (self.at, byte) {
            (At::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                self.digits += 1;
                if self.digits > SIZE_DIGITS {
                    return Err("a chunk's size has too many digits");
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                self.size = self.size * 16 + u64::from(digit);
                At::Size
            }
            (At::Size | At::Extension, b'\r') if self.digits > 0 => At::SizeLf,
            (At::Size, b';') if self.digits > 0 => At::Extension,
            (At::Size, _) => return Err("a chunk's size is not a hexadecimal number"),
            (At::Extension, b'\t' | b' '..=b'~' | 0x80..) => {
                self.extensions += 1;
                if self.extensions > EXTENSIONS {
                    return Err("the chunks' extensions are too long");
                }
                At::Extension
            }
            (At::SizeLf, b'\n') => {
                self.digits = 0;
                if self.size == 0 { At::Line } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::DataCr | At::DataLf, _) => return Err("a chunk is longer than its size says"),
            (At::Line, b'\r') => At::EndLf,
            (At::Line, b'\t' | b' ' | b':') => return Err("a trailer has no name"),
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::Line | At::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                self.trailers += 1;
                if self.trailers > TRAILERS {
                    return Err("the trailers are too long");
                }
                At::Trailer
            }
            (At::TrailerLf, b'\n') => At::Line,
            (At::EndLf, b'\n') => At::End,
            _ => {
                return Err(
                    "a line of the chunked body does not end with CR LF, or has a control character",
                );
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a body at once and byte by byte, which has to come to the same.
    fn read(body: &[u8]) -> Result<(usize, bool), &'static str> {
        let mut whole = Chunks::new();
        let at_once = whole.read(body);
        let mut slowly = Chunks::new();
        let mut total = 0;
        let mut broken = None;
        for byte in body {
            match slowly.read(&[*byte]) {
                Ok(count) => total += count,
                Err((_, why)) => {
                    broken = Some(why);
                    break;
                }
            }
        }
        match (at_once, broken) {
            (Ok(count), None) => {
                assert_eq!(count, total);
                assert_eq!(whole.is_over(), slowly.is_over());
                Ok((count, whole.is_over()))
            }
            (Err((count, why)), Some(slow)) => {
                assert_eq!((count, why), (total, slow));
                Err(why)
            }
            (at_once, broken) => panic!("{at_once:?} {broken:?}"),
        }
    }

    #[test]
    fn a_body_ends_where_the_grammar_says() {
        for (body, behind) in [
            ("0\r\n\r\n", ""),
            ("5\r\nhello\r\n0\r\n\r\n", "GET"),
            (
                "005;a=\"b;c\"\r\nhello\r\nA\r\n0123456789\r\n000\r\n\r\n",
                "x",
            ),
            ("1\r\n\r\r\n0\r\nx-checksum: 1\r\ny:\r\n\r\n", "\r\n"),
        ] {
            let both = format!("{body}{behind}");
            assert_eq!(read(both.as_bytes()), Ok((body.len(), true)), "{both:?}");
        }
        assert_eq!(read(b"5\r\nhel"), Ok((6, false)));
    }

    #[test]
    fn whatever_two_readers_may_read_differently_is_broken() {
        for body in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+5\r\n",
            "0x5\r\n",
            " 5\r\n",
            "5 \r\n",
            "5\n",
            "5\rx",
            "5;a\n",
            "5;\0\r\n",
            ";a\r\n",
            "5\r\nhello0\r\n",
            "5\r\nhello\n",
            "5\r\nhello\r\r\n",
            "0\r\n\n",
            "0\r\n x: y\r\n\r\n",
            "0\r\n: y\r\n\r\n",
            "0\r\nx: y\n\r\n",
            "0\r\nx: \0\r\n\r\n",
            "fffffffffffffffff\r\n",
            "00000000000000005\r\n",
        ] {
            assert!(read(body.as_bytes()).is_err(), "{body:?}");
        }
        for body in [
            format!("1;{}", "a".repeat(5000)),
            format!("0\r\n{}", "x: y\r\n".repeat(3000)),
        ] {
            assert!(read(body.as_bytes()).is_err());
        }
    }
}
