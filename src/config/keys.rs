//! All configuration keys, dotted, and access to their values in a table.

use toml::{Table, Value};

use super::Config;
use super::problem::Problem;

/// Keys without a default, which [`Config::default`] therefore does not contain.
const OPTIONAL_KEYS: [&str; 10] = [
    "fleet.ca_file",
    "fleet.cert",
    "fleet.key",
    "fleet.password_file",
    "fleet.secret_file",
    "fleet.sentinel.hosts",
    "fleet.sentinel.name",
    "listen.tls.cert",
    "listen.tls.key",
    "upstream.ca_file",
];

/// The defaults, in the form of a configuration file.
pub(super) fn default_table() -> Result<Table, Problem> {
    Table::try_from(Config::default()).map_err(|error| Problem::unwritable(&error))
}

/// Every key, dotted.
pub(super) fn known(defaults: &Table) -> Vec<String> {
    let mut keys: Vec<String> = OPTIONAL_KEYS.map(str::to_owned).into();
    for (section, values) in defaults {
        for key in values.as_table().into_iter().flat_map(Table::keys) {
            keys.push(format!("{section}.{key}"));
        }
    }
    keys
}

/// The value of a dotted key.
pub(super) fn get<'t>(table: &'t Table, key: &str) -> Option<&'t Value> {
    match key.split_once('.') {
        Some((section, rest)) => get(table.get(section)?.as_table()?, rest),
        None => table.get(key),
    }
}

/// Sets a dotted key and creates its section if necessary.
pub(super) fn put(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((section, rest)) => {
            let inner = table
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
            }
        }
        None => {
            table.insert(key.to_owned(), value);
        }
    }
}

/// Removes a dotted key; returns whether it was there.
pub(super) fn remove(table: &mut Table, key: &str) -> bool {
    match key.split_once('.') {
        Some((section, rest)) => table
            .get_mut(section)
            .and_then(Value::as_table_mut)
            .is_some_and(|inner| remove(inner, rest)),
        None => table.remove(key).is_some(),
    }
}

/// The least similarity (0 to 1) with which a known key is suggested for an unknown one.
const NEAR: f64 = 0.7;

/// The known key that was most likely meant, if any is near.
pub(super) fn nearest<'k>(wrong: &str, known: &'k [String]) -> Option<&'k str> {
    // The right name in the wrong section is nearer than any other name.
    let similarity = |key: &str| {
        let name = strsim::normalized_damerau_levenshtein(last_name(wrong), last_name(key));
        let whole = strsim::normalized_damerau_levenshtein(wrong, key);
        (name, whole)
    };
    known
        .iter()
        .map(|key| (similarity(key), key.as_str()))
        .filter(|((name, _), _)| *name >= NEAR)
        .max_by(|((a, whole_a), _), ((b, whole_b), _)| {
            a.total_cmp(b).then(whole_a.total_cmp(whole_b))
        })
        .map(|(_, key)| key)
}

/// `succeeded_ttl` of `cache.succeeded_ttl`.
fn last_name(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_suggested_only_where_it_is_near() {
        let known = known(&default_table().expect("is TOML"));
        for (wrong, meant) in [
            ("cache.capacty", Some("cache.capacity")),
            ("cash.capacity", Some("cache.capacity")),
            ("limits.succeeded_ttl", Some("cache.succeeded_ttl")),
            ("listen.adress", Some("listen.address")),
            ("listen.port", None),
            ("cache.password", None),
            ("upstream.retries", None),
        ] {
            assert_eq!(nearest(wrong, &known), meant, "{wrong}");
        }
    }
}
