//! `[[route]]`: the one list of tables in the configuration.

use std::ops::Range;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::Config;
use super::explain::takes;
use super::keys::nearest;
use super::origin::Origins;
use crate::route::{KEYS, Routes};

/// The key of the list.
pub(super) const KEY: &str = "route";

/// The key of one route in [`Origins`].
pub(super) fn key(index: usize) -> String {
    format!("{KEY}[{index}]")
}

/// Where each route is in a file.
pub(super) fn positions(file: &DeTable<'_>) -> Vec<Range<usize>> {
    match file.get(KEY).map(toml::Spanned::get_ref) {
        Some(DeValue::Array(routes)) => routes.iter().map(toml::Spanned::span).collect(),
        _ => Vec::new(),
    }
}

/// Takes a route out that serde refuses, and says why. `path` is where serde found the mistake in `table`.
pub(super) fn refuse(
    path: &str,
    message: &str,
    table: &mut Table,
    merged: &Table,
    origins: &Origins,
) -> Option<String> {
    let (index, inside) = path.strip_prefix(KEY)?.strip_prefix('[')?.split_once(']')?;
    let routes = table.get_mut(KEY)?.as_array_mut()?;
    let index: usize = index.parse().ok().filter(|index| *index < routes.len())?;
    let refused = routes.remove(index);
    let key = inside.trim_start_matches('.');
    let known: Vec<_> = KEYS.iter().map(|(key, _)| (*key).to_owned()).collect();
    let what = if message.starts_with("unknown field") {
        match nearest(key, &known) {
            Some(near) => format!("unknown key {key}; did you mean {near}?"),
            None => format!("unknown key {key}; a route takes {}", known.join(", ")),
        }
    } else if key.is_empty() {
        "takes a section with keys of its own, as in [[route]]".to_owned()
    } else {
        let got = refused.get(key.split('[').next().unwrap_or(key));
        let got = got.map_or_else(|| "nothing".to_owned(), ToString::to_string);
        format!("{key}: got {got}, takes {}", takes(message))
    };
    let place = merged.get(KEY).and_then(Value::as_array);
    let place = place.and_then(|all| all.iter().position(|one| *one == refused));
    let name = refused.get("name").and_then(Value::as_str);
    Some(told(place, name, &what, origins))
}

/// The mistakes in routes that are well formed.
pub(super) fn check(config: &Config, merged: &Table, origins: &Origins) -> Vec<String> {
    let Err(mistakes) = Routes::new(&config.routes.presets, &config.route) else {
        return Vec::new();
    };
    let all = merged.get(KEY).and_then(Value::as_array);
    let named = |name: &str| {
        let is_it = |route: &Value| route.get("name").and_then(Value::as_str) == Some(name);
        // Of two with one name the second is the one too many.
        all.and_then(|all| all.iter().rposition(is_it))
    };
    let told = mistakes.into_iter().map(|mistake| {
        if let Some(name) = &mistake.route {
            return told(named(name), Some(name), &mistake.what, origins);
        }
        let location = super::explain::location("routes.presets", origins);
        format!("{location}: routes.presets: {}", mistake.what)
    });
    told.collect()
}

fn told(index: Option<usize>, name: Option<&str>, what: &str, origins: &Origins) -> String {
    let origin = index.and_then(|index| origins.get(&key(index)));
    let location = origin.map_or_else(|| "presets".to_owned(), ToString::to_string);
    match name {
        Some(name) => format!("{location}: route {name:?}: {what}"),
        None => format!("{location}: route: {what}"),
    }
}
