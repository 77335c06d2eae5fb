//! JSON pointers (RFC 6901) into raw JSON.

use std::fmt;

use super::json::Json;

/// A JSON pointer: where in a document a value is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    text: Box<str>,
    tokens: Box<[Box<str>]>,
}

impl Pointer {
    /// Reads a pointer, `/data/0/url`, or the empty text for the whole document.
    ///
    /// # Errors
    /// A text that is not empty and does not begin with `/`, or has a `~` that stands for nothing (RFC 6901 §3).
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut tokens = Vec::new();
        if let Some(path) = text.strip_prefix('/') {
            for token in path.split('/') {
                let escapes = token.split('~').skip(1);
                if !escapes.into_iter().all(|rest| rest.starts_with(['0', '1'])) {
                    return Err("a JSON pointer, where ~ is written ~0, and / in a name ~1");
                }
                tokens.push(token.replace("~1", "/").replace("~0", "~").into());
            }
        } else if !text.is_empty() {
            return Err("a JSON pointer, which begins with /");
        }
        Ok(Self {
            text: text.into(),
            tokens: tokens.into(),
        })
    }

    /// The pointer as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The value that it points to, if that is there; of several members with one name the last.
    pub(super) fn find<'a>(&self, root: Json<'a>) -> Option<Json<'a>> {
        self.tokens.iter().try_fold(root, |value, token| {
            if value.as_str().starts_with('[') {
                let is_index = token.bytes().all(|byte| byte.is_ascii_digit())
                    && (token.len() == 1 || !token.starts_with('0'));
                let index = token.parse().ok().filter(|_| is_index)?;
                value.items().into_iter().nth(index)
            } else {
                value.object()?.get(token)
            }
        })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document of RFC 6901 §5, and lists.
    const DOCUMENT: &str =
        r#"{"foo":["bar","baz"],"":0,"a/b":1,"c%d":2," ":7,"m~n":8,"list":[{"x":[1,[2]]}]}"#;

    #[test]
    fn pointers_of_the_rfc_find_their_values() {
        for (pointer, value) in [
            ("/foo", Some(r#"["bar","baz"]"#)),
            ("/foo/0", Some("\"bar\"")),
            ("/foo/1", Some("\"baz\"")),
            ("/foo/2", None),
            ("/foo/00", None),
            ("/foo/-", None),
            ("/foo/+1", None),
            ("/", Some("0")),
            ("/a~1b", Some("1")),
            ("/c%d", Some("2")),
            ("/ ", Some("7")),
            ("/m~0n", Some("8")),
            ("/list/0/x/1/0", Some("2")),
            ("/foo/0/bar", None),
            ("/nothing/at/all", None),
        ] {
            let root = Json::parse(DOCUMENT).expect("JSON");
            let found = Pointer::parse(pointer).expect("a pointer").find(root);
            assert_eq!(found.map(Json::as_str), value, "{pointer}");
        }
        let whole = Json::parse(DOCUMENT).expect("JSON");
        let found = Pointer::parse("").expect("a pointer").find(whole);
        assert_eq!(found.map(Json::as_str), Some(DOCUMENT));
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        for text in ["data", "data/0", "/a~b", "/~", "$.data"] {
            assert!(Pointer::parse(text).is_err(), "{text}");
        }
    }
}
