//! Wording of configuration errors: location, key, what it got and what it takes.

use toml::{Table, Value};

use super::keys::get;
use super::origin::Origins;

/// Rewords an error of serde.
pub(super) fn explain(key: &str, message: &str, merged: &Table, origins: &Origins) -> String {
    let key = match key.split_once('[') {
        // An item of a list.
        Some((list, _)) if list.contains('.') => list,
        // `[[cache]]` is a list of sections.
        Some((section, _)) => {
            let takes = "one section with keys of its own, as in [section]";
            return invalid(section, takes, merged, origins);
        }
        None => key,
    };
    if let Some((_, missing)) = message.split_once("missing field `") {
        let missing = missing.trim_end_matches('`');
        let location = location(key, origins);
        let both = if key == "fleet.sentinel" {
            "name and hosts"
        } else {
            "cert and key"
        };
        return format!("{location}: {key}.{missing} is missing: {key} takes both {both}");
    }
    invalid(key, &takes(message), merged, origins)
}

/// What a key takes, according to an error of serde.
pub(super) fn takes(message: &str) -> String {
    let takes = message
        .rsplit_once("expected ")
        .map_or(message, |(_, takes)| takes)
        .trim();
    match takes {
        "a boolean" => "true or false".to_owned(),
        "a nonzero usize" | "usize" => "a whole number above zero".to_owned(),
        "path string" => "a path, as text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a string" => "a text".to_owned(),
        takes if takes.starts_with("struct ") || takes == "a map" => {
            "a section with keys of its own".to_owned()
        }
        takes => takes.replace('`', "\""),
    }
}

/// The error for a key whose value is refused.
pub(super) fn invalid(key: &str, takes: &str, merged: &Table, origins: &Origins) -> String {
    let location = location(key, origins);
    // A URL with a user or a query may contain a secret and is not repeated.
    let got = match get(merged, key) {
        Some(Value::String(text)) if text.contains(['@', '?', '#']) => {
            "a text with a user or a query in it (not repeated here)".to_owned()
        }
        Some(value) => value.to_string().trim().to_owned(),
        None => "nothing".to_owned(),
    };
    format!("{location}: {key}: got {got}, takes {takes}")
}

/// The location where a key, or the first key of a section, was set.
pub(super) fn location(key: &str, origins: &Origins) -> String {
    origins
        .iter()
        .find(|(set, _)| *set == key || set.starts_with(&format!("{key}.")))
        .map_or_else(|| "defaults".to_owned(), |(_, origin)| origin.to_string())
}
