//! Writes JSON objects member by member, values in whatever spelling they have.

use std::fmt::Display;
use std::io::Write;

use super::json::{Text, quote};

/// An object that is being written.
pub(super) struct Writer<'o> {
    out: &'o mut Vec<u8>,
    is_empty: bool,
}

/// Writes one object to the end of `out`.
pub(super) fn object(out: &mut Vec<u8>, members: impl FnOnce(&mut Writer<'_>)) {
    out.push(b'{');
    members(&mut Writer {
        out,
        is_empty: true,
    });
    out.push(b'}');
}

impl Writer<'_> {
    /// Writes a member's name, which needs no escapes, and gives the place for its value.
    pub(super) fn member(&mut self, name: &str) -> &mut Vec<u8> {
        self.key(&[b"\"", name.as_bytes(), b"\""].concat())
    }

    /// The same with a name that is JSON already.
    pub(super) fn key(&mut self, key: &[u8]) -> &mut Vec<u8> {
        if !self.is_empty {
            self.out.push(b',');
        }
        self.is_empty = false;
        self.out.extend_from_slice(key);
        self.out.push(b':');
        self.out
    }

    pub(super) fn string(&mut self, name: &str, text: &str) {
        self.member(name).extend_from_slice(quote(text).as_bytes());
    }

    pub(super) fn text(&mut self, name: &str, text: &Text) {
        self.member(name).extend_from_slice(text.as_json());
    }

    pub(super) fn text_or_null(&mut self, name: &str, text: Option<&Text>) {
        match text {
            Some(text) => self.text(name, text),
            None => self.null(name),
        }
    }

    pub(super) fn number(&mut self, name: &str, number: impl Display) {
        // writing to memory cannot fail
        let _ = write!(self.member(name), "{number}");
    }

    pub(super) fn number_or_null(&mut self, name: &str, number: Option<impl Display>) {
        match number {
            Some(number) => self.number(name, number),
            None => self.null(name),
        }
    }

    pub(super) fn null(&mut self, name: &str) {
        self.member(name).extend_from_slice(b"null");
    }

    pub(super) fn object(&mut self, name: &str, members: impl FnOnce(&mut Writer<'_>)) {
        object(self.member(name), members);
    }
}
