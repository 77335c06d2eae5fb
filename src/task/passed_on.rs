//! Which members of a source are passed on as they are: of its `metadata` and, where a document is mended, of the task.

use memchr::memchr2;

use super::Dialect;
use super::fields::{Fields, is_known};
use super::json::{Json, Member, Object, decoded};
use super::writer::Writer;

/// Members that no rendering of ours contains: whose task it is, over which channel, at what price.
pub const NEVER_WRITTEN: [&str; 8] = [
    "user_id",
    "username",
    "group",
    "channel_id",
    "quota",
    "platform",
    "private_data",
    "upstream_model_name",
];

/// The members of `metadata` that are written from fields.
const WRITTEN_IN_METADATA: [&str; 2] = ["url", "format"];

/// The members that are passed on, in order.
pub(super) struct PassedOn<'t, 'a>(Vec<&'t Member<'a>>);

impl<'t, 'a> PassedOn<'t, 'a> {
    /// Of a source's metadata.
    pub(super) fn of_metadata(metadata: Option<&'t Object<'a>>) -> Self {
        let members = metadata.map(Object::members).unwrap_or_default();
        Self::without(members, |name| WRITTEN_IN_METADATA.contains(&name))
    }

    /// Of a task that is mended for this dialect, in which the members `written` are written from fields.
    ///
    /// A task that came in the same dialect keeps all others. One that came in another keeps those that no field is read
    /// from: the rest would say in foreign words what is said already.
    pub(super) fn of_task(task: &'t Fields<'a>, dialect: Dialect, written: &[&str]) -> Self {
        let is_of_dialect = task.dialect() == dialect;
        let is_left_out =
            |name: &str| written.contains(&name) || (!is_of_dialect && is_known(name));
        Self::without(task.members().members(), is_left_out)
    }

    fn without(members: &'t [Member<'a>], is_left_out: impl Fn(&str) -> bool) -> Self {
        let members = members.iter().filter(|member| {
            let name = member.name.as_ref();
            !is_left_out(name) && !NEVER_WRITTEN.contains(&name)
        });
        Self(members.collect())
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a member has a value: null leaves room for one that is known from elsewhere.
    pub(super) fn tells(&self, name: &str) -> bool {
        let last = self.0.iter().rfind(|member| member.name == name);
        last.is_some_and(|member| !member.value.is_null())
    }

    /// Leaves a member out.
    pub(super) fn drop(&mut self, name: &str) {
        self.0.retain(|member| member.name != name);
    }

    pub(super) fn write(&self, object: &mut Writer<'_>) {
        for Member { key, value, .. } in &self.0 {
            copy(*value, object.key(key.as_str().as_bytes()));
        }
    }
}

/// Copies a value token by token, without the spaces between them and without members that are
/// never written, however deep they are. One pass, no recursion.
fn copy(value: Json<'_>, out: &mut Vec<u8>) {
    let mut rest = value.as_str().as_bytes();
    let mut comma = false;
    while let Some((token, after)) = next_token(rest) {
        rest = after;
        if token == b"," {
            // not before the first member that is left, nor after the last
            comma = out.last() != Some(&b'{');
            continue;
        }
        if let Some(value) = rest.trim_ascii_start().strip_prefix(b":")
            && is_private(token)
        {
            rest = skip_value(value);
            continue;
        }
        if comma && !matches!(token, b"}" | b"]") {
            out.push(b',');
        }
        comma = false;
        out.extend_from_slice(token);
    }
}

/// Whether a member's name, quotes included, is one that is never written.
fn is_private(key: &[u8]) -> bool {
    let key = std::str::from_utf8(key).ok();
    let quoted = key.and_then(|key| key.strip_prefix('"')?.strip_suffix('"'));
    let name = quoted.and_then(decoded);
    name.is_some_and(|name| NEVER_WRITTEN.contains(&name.as_ref()))
}

/// What follows the value that `rest` begins with.
fn skip_value(mut rest: &[u8]) -> &[u8] {
    let mut depth = 0_usize;
    while let Some((token, after)) = next_token(rest) {
        rest = after;
        match token {
            b"{" | b"[" => depth += 1,
            b"}" | b"]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    rest
}

/// The first token of well-formed JSON, and what follows it: a string, a scalar, or one of `{}[]:,`.
fn next_token(json: &[u8]) -> Option<(&[u8], &[u8])> {
    let json = json.trim_ascii_start();
    let len = match json.first()? {
        b'"' => string_len(json),
        b'{' | b'}' | b'[' | b']' | b':' | b',' => 1,
        _ => json
            .iter()
            .position(|b| matches!(b, b',' | b'}' | b']') || b.is_ascii_whitespace())
            .unwrap_or(json.len()),
    };
    Some(json.split_at(len))
}

/// The length of the string that `json` begins with, quotes included.
fn string_len(json: &[u8]) -> usize {
    let mut at = 1;
    while let Some(special) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += special + 1;
        if json[at - 1] == b'"' {
            return at;
        }
        // What is escaped does not close.
        at += 1;
    }
    json.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn copied(text: &str) -> String {
        let mut out = Vec::new();
        copy(Json::parse(text).unwrap(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn private_members_are_left_out_at_any_depth() {
        for (text, left) in [
            (r#"{"quota":1}"#, "{}"),
            (r#"{"quota":1,"a":2}"#, r#"{"a":2}"#),
            (r#"{"a":2,"quota":{"b":[1,{}]}}"#, r#"{"a":2}"#),
            (r#"{"a":2,"group":1,"quota":3,"b":4}"#, r#"{"a":2,"b":4}"#),
            (
                r#"[{"user\u005fid":1},{"a":[{"platform":[]}]}]"#,
                r#"[{},{"a":[{}]}]"#,
            ),
            (
                r#"{"a":"quota","b":["quota",{}]}"#,
                r#"{"a":"quota","b":["quota",{}]}"#,
            ),
        ] {
            assert_eq!(copied(text), left, "{text}");
        }
    }

    #[test]
    fn spelling_is_kept_and_spaces_are_not() {
        let text = "[ 1e400 , \"\\ud800 \\\" , \" ,{ \"k\" : -0.0 } ]";
        assert_eq!(copied(text), r#"[1e400,"\ud800 \" , ",{"k":-0.0}]"#);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}|[\"\\\\,{}:\\[\\]]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            let key = prop_oneof![
                "[a-c]",
                "\\PC{0,3}",
                proptest::sample::select(&NEVER_WRITTEN[..]).prop_map(str::to_owned)
            ];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                proptest::collection::btree_map(key, inner, 0..5)
                    .prop_map(|members| json!(members)),
            ]
        })
    }

    fn without_private(value: Value) -> Value {
        match value {
            Value::Array(items) => items.into_iter().map(without_private).collect(),
            Value::Object(members) => members
                .into_iter()
                .filter(|(name, _)| !NEVER_WRITTEN.contains(&name.as_str()))
                .map(|(name, value)| (name, without_private(value)))
                .collect(),
            other => other,
        }
    }

    proptest! {
        #[test]
        fn everything_else_is_copied_as_it_is(value in any_json()) {
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let copy: Value = serde_json::from_str(&copied(&text)).unwrap();
                prop_assert_eq!(copy, without_private(value.clone()));
            }
        }
    }
}
