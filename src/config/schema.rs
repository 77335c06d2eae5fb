//! The JSON schema of the configuration file, for editors. Types and choices are what the program itself takes, found by
//! trying; descriptions are the comments of the shipped file.

use serde_json::{Map, Value as Json, json};
use toml::{Table, Value};

use super::explain::takes;
use super::keys::{self, get, put};
use super::problem::Problem;
use super::{Config, example, routes};
use crate::route::KEYS;

const DURATION: &str = "^([0-9]+ ?[a-zA-Zµ]+ ?)+$";
const DURATION_OR_OFF: &str = "^(off|([0-9]+ ?[a-zA-Zµ]+ ?)+)$";
const SIZE: &str = "^ ?[0-9]+ ?([kKmMgG][iI]?)?[bB]? ?$";

/// The schema, as text.
///
/// # Errors
/// A default cannot be written as TOML.
pub fn schema() -> Result<String, Problem> {
    let defaults = keys::default_table()?;
    let mut sections: Map<String, Json> = Map::new();
    for setting in example::settings() {
        let path = format!("{}.{}", setting.section, setting.key);
        let mut key = of_key(&path, &defaults);
        key.insert("description".into(), setting.comment.into());
        let section = sections
            .entry(setting.section)
            .or_insert_with(|| closed(Map::new()));
        section["properties"][setting.key] = Json::Object(key);
    }
    sections.insert(routes::KEY.into(), of_routes());
    let mut schema = closed(sections);
    schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    schema["title"] = "pollgate.toml".into();
    schema["description"] = "The configuration of pollgate".into();
    let text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    Ok(text + "\n")
}

/// A table that has these keys and no others.
fn closed(properties: Map<String, Json>) -> Json {
    let properties = Json::Object(properties);
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

/// The schema of `[[route]]`.
fn of_routes() -> Json {
    let text = json!({"type": "string"});
    let texts = json!({"type": ["string", "array"], "items": {"type": "string"}});
    let keys = KEYS.into_iter().map(|(key, description)| {
        let mut schema = match key {
            "name" | "id" | "each" | "max_ttl" => text.clone(),
            "method" => json!({"enum": ["GET", "POST"]}),
            "keep" => json!({"enum": ["task", "share"]}),
            "errors" => json!({"enum": ["newapi", "openai", "mj"]}),
            _ => texts.clone(),
        };
        schema["description"] = description.into();
        (key.to_owned(), schema)
    });
    let mut route = closed(keys.collect());
    route["required"] = json!(["name"]);
    json!({
        "type": "array",
        "description": "status routes of one's own, or changes to a preset",
        "items": route,
    })
}

fn of_key(path: &str, defaults: &Table) -> Map<String, Json> {
    let inner: Vec<_> = keys::known(defaults)
        .into_iter()
        .filter_map(|key| Some(key.strip_prefix(path)?.strip_prefix('.')?.to_owned()))
        .collect();
    let schema = if inner.is_empty() {
        of_value(path, defaults)
    } else {
        let keys = inner.iter().map(|key| {
            let schema = of_value(&format!("{path}.{key}"), defaults);
            (key.clone(), schema)
        });
        let mut table = closed(keys.collect());
        table["required"] = json!(inner);
        table
    };
    match schema {
        Json::Object(schema) => schema,
        _ => Map::new(),
    }
}

fn of_value(key: &str, defaults: &Table) -> Json {
    let default = get(defaults, key);
    let mut schema = match refusal(key, "?".into(), defaults) {
        _ if matches!(default, Some(Value::Array(_))) => {
            json!({"type": "array", "items": {"type": "string"}})
        }
        Some(takes) if takes.starts_with("true") => json!({"type": "boolean"}),
        Some(takes) if takes.starts_with("a whole number above") => {
            json!({"type": "integer", "minimum": 1})
        }
        Some(takes) if takes.starts_with("one of ") || takes.starts_with('"') => {
            let choices: Vec<_> = takes.split('"').skip(1).step_by(2).collect();
            json!({"enum": choices})
        }
        Some(takes) if takes.starts_with("a duration") => {
            let pattern = if takes.ends_with("\"off\"") {
                DURATION_OR_OFF
            } else {
                DURATION
            };
            json!({"type": "string", "pattern": pattern})
        }
        Some(takes) if takes.starts_with("a size") => json!({"type": "string", "pattern": SIZE}),
        Some(_) if refusal(key, Value::Integer(1), defaults).is_none() => {
            json!({"type": ["integer", "string"]})
        }
        _ => json!({"type": "string"}),
    };
    if let Some(default) = default {
        schema["default"] = json!(default);
    }
    schema
}

/// What a key takes, if it does not take this value.
fn refusal(key: &str, value: Value, defaults: &Table) -> Option<String> {
    let mut table = defaults.clone();
    if let Some((section, _)) = key.rsplit_once('.')
        && section.contains('.')
    {
        // A section without defaults is refused unless it is whole.
        for sibling in keys::known(defaults) {
            if sibling.starts_with(section) {
                put(&mut table, &sibling, "?".into());
            }
        }
    }
    put(&mut table, key, value);
    let read: Result<Config, _> = serde_path_to_error::deserialize(Value::Table(table));
    read.err().map(|error| takes(error.inner().message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_has_the_types_that_the_program_takes() {
        let schema: Json = serde_json::from_str(&schema().expect("is written")).expect("is JSON");
        let of = |section: &str, key: &str| {
            let key = &schema["properties"][section]["properties"][key];
            (key["type"].clone(), key["default"].clone())
        };
        assert_eq!(of("cache", "adaptive"), (json!("boolean"), json!(true)));
        assert_eq!(of("limits", "max_upstream"), (json!("integer"), json!(256)));
        assert_eq!(of("cache", "capacity"), (json!("string"), json!("64MiB")));
        assert_eq!(
            of("limits", "workers"),
            (json!(["integer", "string"]), json!("auto"))
        );
        assert_eq!(of("listen", "tls"), (json!("object"), Json::Null));
        let level = &schema["properties"]["log"]["properties"]["level"];
        assert_eq!(
            level["enum"],
            json!(["error", "warn", "info", "debug", "trace"])
        );
    }
}
