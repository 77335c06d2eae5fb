//! Finds where the values of a JSON text (RFC 8259) begin and end, without decoding any: most answers need no more of
//! `serde_json`.
//!
//! What is deeper than [`DEPTH`] is left to `serde_json`, and so is the word on whether a text is no JSON at all.

use memchr::memchr2;

/// How deep objects and lists may lie in one another.
const DEPTH: u32 = 32;

/// A text, and how far it has been read. What returns `None` has found something else than JSON, or something too deep.
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// The name of a member as it is spelled, quotes included, and whether there are escapes in it.
pub(super) type Key<'a> = (&'a str, bool);

impl<'a> Scanner<'a> {
    /// At the beginning of a text, after its spaces.
    pub(super) fn new(text: &'a str) -> Self {
        let mut scanner = Self { text, at: 0 };
        scanner.skip_spaces();
        scanner
    }

    /// Whether there are only spaces left.
    pub(super) fn ends(mut self) -> bool {
        self.skip_spaces();
        self.at == self.text.len()
    }

    /// Reads an object; `each` is called at the value of each member, and has to read that.
    pub(super) fn object(
        &mut self,
        mut each: impl FnMut(&mut Self, Key<'a>) -> Option<()>,
    ) -> Option<()> {
        self.take(b'{')?;
        self.skip_spaces();
        if self.take(b'}').is_some() {
            return Some(());
        }
        loop {
            let from = self.at;
            let is_escaped = self.string()?;
            let key = &self.text[from..self.at];
            self.skip_spaces();
            self.take(b':')?;
            self.skip_spaces();
            each(self, (key, is_escaped))?;
            self.skip_spaces();
            if self.take(b'}').is_some() {
                return Some(());
            }
            self.take(b',')?;
            self.skip_spaces();
        }
    }

    /// Reads a value, whatever it is.
    pub(super) fn value(&mut self) -> Option<&'a str> {
        let from = self.at;
        self.skip(DEPTH)?;
        Some(&self.text[from..self.at])
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn skip_spaces(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Skips a value with at most so many objects and lists in one another.
    fn skip(&mut self, depth: u32) -> Option<()> {
        match self.peek()? {
            b'"' => self.string().map(|_| ()),
            b'{' => {
                let depth = depth.checked_sub(1)?;
                self.object(|scanner, _| scanner.skip(depth))
            }
            b'[' => self.list(depth.checked_sub(1)?),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            _ => self.number(),
        }
    }

    fn list(&mut self, depth: u32) -> Option<()> {
        self.at += 1;
        self.skip_spaces();
        if self.take(b']').is_some() {
            return Some(());
        }
        loop {
            self.skip(depth)?;
            self.skip_spaces();
            if self.take(b']').is_some() {
                return Some(());
            }
            self.take(b',')?;
            self.skip_spaces();
        }
    }

    fn word(&mut self, word: &str) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        rest.starts_with(word.as_bytes())
            .then(|| self.at += word.len())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.take(b'-');
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    /// At least one.
    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }

    /// Tells whether there are escapes in it.
    fn string(&mut self) -> Option<bool> {
        self.take(b'"')?;
        let bytes = self.text.as_bytes();
        let mut is_escaped = false;
        loop {
            self.at += plain(&bytes[self.at..]);
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(is_escaped);
                }
                b'\\' => {
                    is_escaped = true;
                    self.at += match bytes.get(self.at + 1)? {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
                        b'u' => {
                            let digits = bytes.get(self.at + 2..self.at + 6)?;
                            digits.iter().all(u8::is_ascii_hexdigit).then_some(6)?
                        }
                        _ => return None,
                    };
                }
                _ => return None,
            }
        }
    }
}

/// How many bytes there are before the first that is not plain text in a string: a quote, an escape, a control character.
fn plain(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<{ size_of::<u64>() }>();
    for (at, word) in words.iter().enumerate() {
        if at == SHORT {
            let before = at * size_of::<u64>();
            return before + plain_of_many(&bytes[before..]);
        }
        let special = special(u64::from_le_bytes(*word));
        if special != 0 {
            return at * size_of::<u64>() + special.trailing_zeros() as usize / 8;
        }
    }
    let is_plain = |byte: &&u8| !matches!(**byte, b'"' | b'\\' | ..b' ');
    bytes.len() - rest.len() + rest.iter().take_while(is_plain).count()
}

/// From how many words on it is worth the while to use the processor's vectors.
const SHORT: usize = 4;

/// The same for a long text.
fn plain_of_many(bytes: &[u8]) -> usize {
    let end = memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
    let is_control = |byte: &u8| *byte < b' ';
    let bytes = &bytes[..end];
    // Without a branch: few have one.
    if bytes.iter().fold(false, |any, byte| any | is_control(byte)) {
        bytes.iter().position(is_control).unwrap_or(end)
    } else {
        end
    }
}

/// Marks bytes that are not plain by their highest bit: eight are compared at once. The lowest mark is right; those above
/// it need not be, since a subtraction borrows from the bytes above.
const fn special(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGHEST: u64 = ONES << 7;
    const fn less(word: u64, than: u8) -> u64 {
        word.wrapping_sub(ONES * than as u64) & !word
    }
    const fn equal(word: u64, to: u8) -> u64 {
        less(word ^ (ONES * to as u64), 1)
    }
    (less(word, b' ') | equal(word, b'"') | equal(word, b'\\')) & HIGHEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_ends_at_the_first_byte_that_is_not_wherever_that_is() {
        for special in *b"\"\\\n\0" {
            for length in 0..100 {
                let mut text = "é~ ".repeat(40).into_bytes();
                assert_eq!(plain(&text[..length]), length);
                text[length] = special;
                text[length + 3] = b'"';
                assert_eq!(plain(&text), length, "{special}");
            }
        }
    }
}
