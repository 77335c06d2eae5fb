//! Writes JSON objects member by member, values in whatever spelling they have.

use std::mem;

use super::fields::TaskError;

/// Writes the members of one object.
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
    /// Writes a member's name, which needs no escapes; its value is to be appended to what this returns.
    pub(super) fn member(&mut self, name: &str) -> &mut Vec<u8> {
        self.comma();
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }

    /// The same, with a name that is a JSON string already.
    pub(super) fn key(&mut self, key: &[u8]) -> &mut Vec<u8> {
        self.comma();
        self.out.extend_from_slice(key);
        self.out.push(b':');
        self.out
    }

    fn comma(&mut self) {
        if !mem::take(&mut self.is_empty) {
            self.out.push(b',');
        }
    }

    pub(super) fn string(&mut self, name: &str, text: &str) {
        // a string has no map keys, and writing to memory cannot fail
        let _ = serde_json::to_writer(self.member(name), text);
    }

    pub(super) fn string_or_null(&mut self, name: &str, text: Option<String>) {
        match text {
            Some(text) => self.string(name, &text),
            None => self.null(name),
        }
    }

    /// Writes a value that is JSON already.
    pub(super) fn raw(&mut self, name: &str, string: &str) {
        self.member(name).extend_from_slice(string.as_bytes());
    }

    pub(super) fn raw_or_null(&mut self, name: &str, string: Option<&str>) {
        self.raw(name, string.unwrap_or("null"));
    }

    pub(super) fn number(&mut self, name: &str, number: impl itoa::Integer) {
        self.raw(name, itoa::Buffer::new().format(number));
    }

    pub(super) fn number_or_null(&mut self, name: &str, number: Option<impl itoa::Integer>) {
        match number {
            Some(number) => self.number(name, number),
            None => self.null(name),
        }
    }

    pub(super) fn null(&mut self, name: &str) {
        self.raw(name, "null");
    }

    pub(super) fn object(&mut self, name: &str, members: impl FnOnce(&mut Writer<'_>)) {
        object(self.member(name), members);
    }

    /// Writes why a task failed, if it did; the same in both dialects.
    pub(super) fn error(&mut self, error: Option<TaskError<'_>>) {
        match error {
            Some(error) => self.object("error", |object| {
                object.raw("code", &error.code);
                object.raw("message", &error.message);
            }),
            None => self.null("error"),
        }
    }
}
