//! Lists of header names, for `#[serde(with = "header_names")]`.

use http::HeaderName;
use serde::de::{Deserialize as _, Deserializer, Error as _};
use serde::ser::Serializer;

/// The number of names that a list may have.
const MOST: usize = 16;

pub(super) fn serialize<S: Serializer>(names: &[HeaderName], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(names.iter().map(HeaderName::as_str))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<HeaderName>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    if texts.len() > MOST {
        return Err(D::Error::custom(format!(
            "expected at most {MOST} names of headers"
        )));
    }
    let read = |text: &String| {
        text.trim().parse().map_err(|_| {
            D::Error::custom(r#"expected a list of names of headers, such as ["x-tenant"]"#)
        })
    };
    texts.iter().map(read).collect()
}
