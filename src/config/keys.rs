//! All configuration keys, dotted, and access to their values in a table.

use toml::{Table, Value};

use super::Config;
use super::problem::Problem;

/// Keys without a default, which [`Config::default`] therefore does not contain.
const OPTIONAL_KEYS: [&str; 3] = ["listen.tls.cert", "listen.tls.key", "upstream.ca_file"];

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

/// The known name that was most likely meant.
pub(super) fn nearest(wrong: &str, known: impl Iterator<Item = String>) -> String {
    // The right name in the wrong section is nearer than any other name in that section.
    let likeness = |key: &String| {
        let whole = strsim::jaro_winkler(wrong, key);
        whole.max(strsim::jaro_winkler(last_name(wrong), last_name(key)) * 0.99)
    };
    known
        .max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .unwrap_or_default()
}

/// `succeeded_ttl` of `cache.succeeded_ttl`, and of its name in the environment.
fn last_name(key: &str) -> &str {
    key.rsplit(['.'])
        .next()
        .and_then(|name| name.rsplit("__").next())
        .unwrap_or(key)
}
