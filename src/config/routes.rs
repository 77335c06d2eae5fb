//! `[[route]]`: the one list of tables in the configuration.

use std::ops::Range;

use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

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

/// Where each route is in a file, and each of its keys, as [`Origins`] names them.
pub(super) fn positions(file: &DeTable<'_>) -> Vec<(String, Range<usize>)> {
    let Some(DeValue::Array(routes)) = file.get(KEY).map(Spanned::get_ref) else {
        return Vec::new();
    };
    let positions = routes.iter().enumerate().flat_map(|(index, route)| {
        let route_key = key(index);
        let keys = route.get_ref().as_table().into_iter().flatten();
        let keys = keys.map(|(name, _)| (format!("{route_key}.{}", name.get_ref()), name.span()));
        let keys: Vec<_> = keys.collect();
        std::iter::once((route_key, route.span())).chain(keys)
    });
    positions.collect()
}

/// Where a file writes routes in another way than as a list of sections, and what to write.
pub(super) fn misspelled(file: &DeTable<'_>) -> Vec<(&'static str, Range<usize>)> {
    let is_sections = |value: &DeValue<'_>| match value {
        DeValue::Array(items) => items.iter().all(|item| item.get_ref().is_table()),
        _ => false,
    };
    let of = |key: &str| file.get_key_value(key);
    let one = of(KEY).filter(|(_, value)| !is_sections(value.get_ref()));
    let one = one.map(|(key, _)| {
        let what = "route: each route is a section of its own, with two brackets: [[route]]";
        (what, key.span())
    });
    let many = of("routes").filter(|(_, value)| value.get_ref().is_array());
    let many = many.map(|(key, _)| {
        let what = "routes: a route of your own is written [[route]]; [routes] takes presets";
        (what, key.span())
    });
    one.into_iter().chain(many).collect()
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
        let takes = match key {
            "max_ttl" => "a duration such as \"50m\" or \"12h\"".to_owned(),
            _ => takes(message),
        };
        format!("{key}: got {got}, takes {takes}")
    };
    let place = merged.get(KEY).and_then(Value::as_array);
    let place = place.and_then(|all| all.iter().position(|one| *one == refused));
    let name = refused.get("name").and_then(Value::as_str);
    Some(told(place, Some(key), name, &what, origins))
}

/// The mistakes in routes that are well formed.
pub(super) fn check(config: &Config, merged: &Table, origins: &Origins) -> Vec<String> {
    let Err(mistakes) = Routes::new(&config.routes.presets, &config.route) else {
        return Vec::new();
    };
    let all = merged.get(KEY).and_then(Value::as_array);
    let named = |name: &str| {
        let name_of = |route: &Value| route.get("name").and_then(Value::as_str).map(str::to_owned);
        let is_it = |route: &Value| name_of(route).unwrap_or_default() == name;
        // Of two with one name the second is the one too many.
        all.and_then(|all| all.iter().rposition(is_it))
    };
    let told = mistakes.into_iter().map(|mistake| {
        if let Some(name) = &mistake.route {
            let shown = Some(name.as_str()).filter(|name| !name.is_empty());
            return told(named(name), mistake.key, shown, &mistake.what, origins);
        }
        let location = super::explain::location("routes.presets", origins);
        format!("{location}: routes.presets: {}", mistake.what)
    });
    told.collect()
}

fn told(
    index: Option<usize>,
    inside: Option<&str>,
    name: Option<&str>,
    what: &str,
    origins: &Origins,
) -> String {
    let inside = inside.map(|inside| inside.split('[').next().unwrap_or(inside));
    let origin = index.and_then(|index| {
        let route = key(index);
        let of_key = inside.and_then(|inside| origins.get(&format!("{route}.{inside}")));
        of_key.or_else(|| origins.get(&route))
    });
    let location = origin.map_or_else(|| "presets".to_owned(), ToString::to_string);
    match name {
        Some(name) => format!("{location}: route {name:?}: {what}"),
        None => format!("{location}: route: {what}"),
    }
}
