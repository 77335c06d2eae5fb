//! JSON values in the spelling they came in, opened one level at a time.
//!
//! A parsed tree would lose what must survive: `1e400` overflows, a lone surrogate in an escape is
//! an error, `5.0` and `5` become one. So a value stays the text it was, checked by `serde_json`,
//! and only the few that have a meaning here are decoded. Objects are read by [`Scanner`] first, which
//! accepts no other texts than `serde_json` and finds the same members in them.

use std::borrow::Cow;
use std::fmt;

use memchr::memchr;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::scan::Scanner;

/// One well-formed JSON value, without spaces around it.
#[derive(Clone, Copy)]
pub(super) struct Json<'a>(&'a str);

impl<'a> Json<'a> {
    /// Takes a text that is one JSON value as a whole.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let value: &RawValue = serde_json::from_str(text).ok()?;
        Some(Self(value.get()))
    }

    pub(super) const fn as_str(self) -> &'a str {
        self.0
    }

    /// Its raw spelling.
    pub(super) const fn raw(self) -> Raw<'a> {
        Cow::Borrowed(self.0)
    }

    pub(super) fn is_null(self) -> bool {
        self.0 == "null"
    }

    /// The members, if this is an object.
    pub(super) fn object(self) -> Option<Object<'a>> {
        Object::parse(self.0)
    }

    /// The first item, if this is a list that has one. What follows is not read.
    pub(super) fn first_item(self) -> Option<Self> {
        let items = self.0.strip_prefix('[')?;
        let mut items = serde_json::Deserializer::from_str(items).into_iter::<&RawValue>();
        items.next()?.ok().map(|item| Self(item.get()))
    }

    /// The items, if this is a list; none otherwise.
    pub(super) fn items(self) -> Vec<Self> {
        let items: Vec<&RawValue> = serde_json::from_str(self.0).unwrap_or_default();
        items.into_iter().map(|item| Self(item.get())).collect()
    }

    /// Whether this is a whole number, spelled without fraction or exponent.
    pub(super) fn is_whole_number(self) -> bool {
        let digits = self.0.strip_prefix('-').unwrap_or(self.0);
        digits.bytes().all(|byte| byte.is_ascii_digit())
    }

    /// Whether this is a string, whatever it says.
    pub(super) fn is_string(self) -> bool {
        self.0.starts_with('"')
    }

    /// The text of a string. `None` also for one with a lone surrogate, which is no text.
    pub(super) fn text(self) -> Option<Cow<'a, str>> {
        decoded(self.quoted()?)
    }

    /// The text of a string; of one with a lone surrogate the raw escapes.
    pub(super) fn text_or_escapes(self) -> Cow<'a, str> {
        let quoted = self.quoted().unwrap_or_default();
        decoded(quoted).unwrap_or(Cow::Borrowed(quoted))
    }

    /// This string, if it is more than spaces.
    pub(super) fn non_empty(self) -> Option<Self> {
        let quoted = self.quoted()?;
        let empty = match decoded(quoted) {
            Some(text) => text.trim().is_empty(),
            None => false,
        };
        (!empty).then_some(self)
    }

    /// A number, bare or in a string, in its own spelling.
    pub(super) fn number(self) -> Option<Cow<'a, str>> {
        let text = match self.quoted() {
            Some(quoted) => decoded(quoted)?,
            None => Cow::Borrowed(self.0),
        };
        is_number(text.trim()).then_some(text)
    }

    /// A string without its quotes, escapes as they are.
    fn quoted(self) -> Option<&'a str> {
        self.0.strip_prefix('"')?.strip_suffix('"')
    }
}

/// `NaN`, `inf` and hexadecimals are numbers to some parsers, not here.
pub(super) fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'))
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'))
}

/// The text of a string whose quotes are stripped; `None` if it has a lone surrogate.
pub(super) fn decoded(quoted: &str) -> Option<Cow<'_, str>> {
    if memchr(b'\\', quoted.as_bytes()).is_some() {
        let whole = format!("\"{quoted}\"");
        serde_json::from_str(&whole).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(quoted))
    }
}

/// The members of one object, in order, duplicates and all.
#[derive(Default)]
pub(super) struct Object<'a>(Vec<Member<'a>>);

/// One member of an object.
#[derive(Clone)]
pub(super) struct Member<'a> {
    /// The name in its raw spelling, quotes included.
    pub(super) key: Json<'a>,
    /// The decoded name.
    pub(super) name: Cow<'a, str>,
    pub(super) value: Json<'a>,
}

impl<'a> Object<'a> {
    /// Takes a text that is one JSON object as a whole.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        if let Some((members, _)) = scanned(text, None) {
            return Some(Self(members));
        }
        if !text.trim_start().starts_with('{') {
            return None;
        }
        serde_json::from_str(text).ok()
    }

    /// The same, with the member `name`, which has to be an object if it is there, parsed and returned separately.
    pub(super) fn parse_opening(text: &'a str, name: &'static str) -> Option<(Self, Option<Self>)> {
        if let Some((members, opened)) = scanned(text, Some(name)) {
            return Some((Self(members), opened.map(Self)));
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let members = Members { open: Some(name) };
        let parsed = deserializer.deserialize_map(members).ok()?;
        deserializer.end().ok().map(|()| parsed)
    }

    /// The value of a member; of several with one name the last, as nearly every parser has it.
    pub(super) fn get(&self, name: &str) -> Option<Json<'a>> {
        let member = self.0.iter().rfind(|member| member.name == name);
        member.map(|member| member.value)
    }

    /// Whether there is such a member, null or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The value of a member that is there and not null.
    pub(super) fn non_null(&self, name: &str) -> Option<Json<'a>> {
        self.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn members(&self) -> &[Member<'a>] {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (object, _) = deserializer.deserialize_map(Members { open: None })?;
        Ok(object)
    }
}

/// The members of an object, and of the one that was to be opened.
type Scanned<'a> = (Vec<Member<'a>>, Option<Vec<Member<'a>>>);

/// The members of a text that is one object as a whole; `None` if it is not, or too deep. The member `open` has to be an
/// object, if it is there, and is returned separately.
fn scanned<'a>(text: &'a str, open: Option<&str>) -> Option<Scanned<'a>> {
    let mut scanner = Scanner::new(text);
    let found = members(&mut scanner, open)?;
    scanner.ends().then_some(found)
}

fn members<'a>(scanner: &mut Scanner<'a>, open: Option<&str>) -> Option<Scanned<'a>> {
    let mut members = Vec::with_capacity(16);
    let mut opened = None;
    scanner.object(|scanner, (key, is_escaped)| {
        let key = Json(key);
        let name = if is_escaped {
            key.text().unwrap_or(Cow::Borrowed(key.0))
        } else {
            Cow::Borrowed(key.quoted()?)
        };
        if open.is_some_and(|open| open == name) {
            opened = Some(self::members(scanner, None)?.0);
        } else {
            let value = Json(scanner.value()?);
            members.push(Member { key, name, value });
        }
        Some(())
    })?;
    Some((members, opened))
}

/// Reads the members of an object. The one to be opened has to be an object and is returned separately.
struct Members {
    open: Option<&'static str>,
}

impl<'de> Visitor<'de> for Members {
    type Value = (Object<'de>, Option<Object<'de>>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(16);
        let mut opened = None;
        while let Some(key) = map.next_key::<&RawValue>()? {
            let key = Json(key.get());
            let name = key.text().unwrap_or(Cow::Borrowed(key.0));
            if self.open.is_some_and(|open| open == name) {
                opened = Some(map.next_value()?);
            } else {
                let value = Json(map.next_value::<&RawValue>()?.get());
                members.push(Member { key, name, value });
            }
        }
        Ok((Object(members), opened))
    }
}

/// JSON in its raw spelling, most often a string with its quotes: upstream's, or our own.
pub(super) type Raw<'a> = Cow<'a, str>;

/// Writes a text of our own as a JSON string.
pub(super) fn quote(text: &str) -> Raw<'static> {
    // a string has no map keys and cannot fail
    serde_json::to_string(text).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;
    use serde_json::Value;

    use super::*;

    #[test]
    fn spelling_survives_what_a_parsed_tree_would_lose() {
        let text = r#"{"n":1e400,"s":"\ud800","z":5.0,"\udc00":"\u0026"}"#;
        let object = Object::parse(text).unwrap();
        let raw = |name| object.get(name).unwrap().as_str();
        assert_eq!(
            (raw("n"), raw("s"), raw("z")),
            ("1e400", r#""\ud800""#, "5.0")
        );
        assert_eq!(object.get("s").unwrap().text(), None);
        assert!(object.get("s").unwrap().non_empty().is_some());
        assert_eq!(object.get(r#""\udc00""#).unwrap().text().unwrap(), "&");
    }

    fn members(of: &Object<'_>) -> Vec<(String, String, String)> {
        let told = |member: &Member<'_>| {
            let (key, value) = (member.key.as_str(), member.value.as_str());
            (key.to_owned(), member.name.to_string(), value.to_owned())
        };
        of.members().iter().map(told).collect()
    }

    /// What the scanner finds is what `serde_json` does, and it misses nothing but what is deep.
    fn is_scanned_alike(text: &str) {
        let found = scanned(text, None).map(|(all, _)| members(&Object(all)));
        let read = serde_json::from_str::<Object<'_>>(text).ok();
        assert_eq!(found, read.as_ref().map(members), "{text}");
        let found = scanned(text, Some("data"));
        let found = found.map(|(all, data)| {
            let data = data.map(|data| members(&Object(data)));
            (members(&Object(all)), data)
        });
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let opening = Members { open: Some("data") };
        let read = deserializer.deserialize_map(opening).ok();
        let read = read.filter(|_| deserializer.end().is_ok());
        let read = read.map(|(all, data)| (members(&all), data.as_ref().map(members)));
        assert_eq!(found, read, "{text}");
    }

    #[test]
    fn what_is_scanned_is_what_serde_reads() {
        let long = "x".repeat(100);
        for value in [
            "0",
            "-0",
            "00",
            "01",
            "-",
            "1.",
            ".5",
            "1.5e",
            "1e+5",
            "1E-05",
            "-1.25e10",
            "1e400",
            "+1",
            "1 2",
            "\"\"",
            "\"a\\u00e9\\n\\/\"",
            "\"\\u12g4\"",
            "\"\\ud800\"",
            "\"\\x\"",
            "\"\t\"",
            "\"\u{7f}\u{e9}\"",
            "\"",
            "\"0123456789abcde\"",
            "\"0123456789abcdef\"",
            "\"0123456789abcde\n\"",
            "\"\\",
            "\"\\u12",
            "true",
            "t",
            "truex",
            "false",
            "null",
            "nul",
            "[]",
            "[ ]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1,[2,{}],\"]\"]",
            "{}",
            "{ }",
            "{\"a\":1,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1 \"b\":2}",
            "{\"\\u0061\" : [ ] }",
            "{1:2}",
            "]",
            "}",
        ] {
            for name in ["\"x\"", "\"data\"", "\"d\\u0061ta\"", "\"\\ud800\"", "data"] {
                is_scanned_alike(&format!("{{{name}:{value}}}"));
                is_scanned_alike(&format!(" {{ {name} : {value} , \"y\":\"{long}\" }}\n"));
                is_scanned_alike(&format!("{{\"data\":{{\"b\":1}},{name}:{value}}}"));
                is_scanned_alike(&format!("{{{name}:{value}}} x"));
            }
        }
        for text in ["", " ", "{", "}", "[]", "null", "{}{}", "{},", "\u{feff}{}"] {
            is_scanned_alike(text);
        }
    }

    #[test]
    fn what_is_too_deep_to_be_scanned_is_read_all_the_same() {
        let deep = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            format!("{{\"a\":{open}{close}}}")
        };
        assert!(scanned(&deep(32), None).is_some());
        assert!(scanned(&deep(33), None).is_none());
        let text = deep(33);
        assert_eq!(members(&Object::parse(&text).unwrap()).len(), 1);
    }

    proptest! {
        #[test]
        fn any_text_is_scanned_as_serde_reads_it(
            text in "[{}]?([ {}\\[\\],:\"\\\\uda/-]|\"[a-z\\\\]{0,20}\"|[0-9.eE+-]{1,4}|true|null|\"data\":){0,24}\\}?",
        ) {
            is_scanned_alike(&text);
        }

        #[test]
        fn any_object_is_scanned_as_serde_reads_it(value in object(), at in any::<Index>(), byte in any::<char>()) {
            let text = value.to_string();
            is_scanned_alike(&text);
            is_scanned_alike(&serde_json::to_string_pretty(&value).unwrap());
            // And with one character of it changed.
            let mut changed: Vec<char> = text.chars().collect();
            let at = at.index(changed.len());
            changed[at] = byte;
            is_scanned_alike(&changed.into_iter().collect::<String>());
        }
    }

    fn object() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(6, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".{0,24}", inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        });
        prop::collection::btree_map(
            prop_oneof![Just("data".to_owned()), any::<String>()],
            value,
            0..8,
        )
        .prop_map(|members| Value::Object(members.into_iter().collect()))
    }

    #[test]
    fn last_of_several_members_with_one_name_counts() {
        let object = Object::parse(r#"{"a":1,"\u0061":2,"b":3}"#).unwrap();
        assert_eq!(object.get("a").unwrap().as_str(), "2");
    }

    #[test]
    fn first_item_is_of_lists_that_have_one() {
        for (text, first) in [
            ("[1,2]", Some("1")),
            ("[ \"a\" , {} ]", Some("\"a\"")),
            ("[{\"a\":[1]}]", Some("{\"a\":[1]}")),
            ("[null]", Some("null")),
            ("[]", None),
            ("[ ]", None),
            ("{}", None),
            ("\"[1]\"", None),
        ] {
            let item = Json::parse(text).unwrap().first_item();
            assert_eq!(item.map(Json::as_str), first, "{text}");
        }
    }

    #[test]
    fn whole_numbers_have_digits_alone() {
        for (text, whole) in [
            ("0", true),
            ("-12", true),
            ("1.0", false),
            ("1e3", false),
            ("\"1\"", false),
            ("null", false),
            ("[]", false),
        ] {
            assert_eq!(
                Json::parse(text).unwrap().is_whole_number(),
                whole,
                "{text}"
            );
        }
    }

    #[test]
    fn trailing_garbage_is_not_json() {
        assert!(Json::parse("{} x").is_none());
        assert!(Object::parse("{}{}").is_none());
        assert!(Object::parse("[]").is_none());
    }

    #[test]
    fn only_plain_numbers_are_numbers() {
        for text in ["1", "-1.5", "1e400", "\" 12 \""] {
            assert!(Json::parse(text).unwrap().number().is_some(), "{text}");
        }
        for text in [
            "\"NaN\"", "\"inf\"", "\"0x10\"", "\"\"", "true", "null", "[1]",
        ] {
            assert!(Json::parse(text).unwrap().number().is_none(), "{text}");
        }
    }
}
