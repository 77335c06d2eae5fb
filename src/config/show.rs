//! Writes the effective configuration as TOML, with the origin of each setting that is not a default.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::json;
use toml::{Table, Value};

use super::load::Loaded;
use super::problem::Problem;
use super::routes;
use crate::route::{Routes, Row, Template};

impl Loaded {
    /// The effective configuration as TOML, which reads back to the same configuration. It contains no secrets.
    ///
    /// # Errors
    /// A setting cannot be written as TOML, such as a path that is not UTF-8.
    pub fn to_toml(&self) -> Result<String, Problem> {
        let table = Table::try_from(&self.config).map_err(|error| Problem::unwritable(&error))?;
        let mut text = String::new();
        for (section, values) in &table {
            if section == routes::KEY {
                self.write_routes(&mut text, values);
                continue;
            }
            let _ = writeln!(
                text,
                "{}[{section}]",
                if text.is_empty() { "" } else { "\n" }
            );
            self.write_section(&mut text, section, "", values);
            if let ("upstream", Some(proxy)) = (section.as_str(), &self.config.upstream.proxy) {
                let _ = writeln!(text, "# through the proxy {proxy}");
            }
        }
        text.push_str(&self.routes_in_force());
        Ok(text)
    }

    fn write_routes(&self, text: &mut String, routes: &Value) {
        for (index, route) in routes.as_array().into_iter().flatten().enumerate() {
            let _ = writeln!(text, "\n[[route]]");
            for (key, value) in route.as_table().into_iter().flatten() {
                let origin = self.origins.get(&format!("{}.{key}", routes::key(index)));
                let _ = match origin {
                    Some(origin) => writeln!(text, "{key} = {value} # {origin}"),
                    None => writeln!(text, "{key} = {value}"),
                };
            }
        }
    }

    /// The table of routes in force, as comments.
    fn routes_in_force(&self) -> String {
        let mut text = String::from(
            "\n# Status routes in force: name, method, where the id is, paths and what a query must have.\n",
        );
        let routes = Routes::new(&self.config.routes.presets, &self.config.route);
        for row in routes.iter().flat_map(Routes::rows) {
            let (method, id) = row.asks();
            let paths = row.templates().iter().map(|path| path.as_str().to_owned());
            let mut first = (row.name(), method, &*id);
            for line in paths.chain(row.conditions()) {
                let (name, method, id) = std::mem::take(&mut first);
                let _ = writeln!(text, "# {name:<14} {method:<4} {id:<14} {line}");
            }
        }
        text
    }

    /// The same as JSON, for programs: the settings, the origin of each that is not a default, and the warnings.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let origins = self.origins.iter();
        let origins: BTreeMap<_, _> = origins
            .map(|(key, origin)| (key, origin.to_string()))
            .collect();
        json!({
            "valid": true,
            "file": self.file,
            "settings": self.config,
            "origins": origins,
            "proxy": self.config.upstream.proxy.as_ref().map(ToString::to_string),
            "warnings": self.warnings(),
            "routes_in_force": self.routes_as_json(),
        })
    }

    fn routes_as_json(&self) -> Vec<serde_json::Value> {
        let routes = Routes::new(&self.config.routes.presets, &self.config.route);
        let row = |row: &Row| {
            let (method, id) = row.asks();
            let paths: Vec<_> = row.templates().iter().map(Template::as_str).collect();
            let conditions: Vec<_> = row.conditions().collect();
            json!({
                "name": row.name(),
                "method": method,
                "id": id,
                "paths": paths,
                "conditions": conditions,
            })
        };
        routes.iter().flat_map(Routes::rows).map(row).collect()
    }

    fn write_section(&self, text: &mut String, section: &str, prefix: &str, values: &Value) {
        for (key, value) in values.as_table().into_iter().flatten() {
            let key = format!("{prefix}{key}");
            if value.is_table() {
                self.write_section(text, section, &format!("{key}."), value);
                continue;
            }
            let _ = match self.origins.get(&format!("{section}.{key}")) {
                Some(origin) => writeln!(text, "{key} = {value} # {origin}"),
                None => writeln!(text, "{key} = {value}"),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Sources, load};

    #[test]
    fn what_is_shown_reads_back_and_names_where_it_came_from() {
        let sources = Sources {
            environment: vec![
                ("POLLGATE_LISTEN__TLS__CERT".into(), "c.pem".into()),
                ("POLLGATE_LISTEN__TLS__KEY".into(), "k.pem".into()),
            ],
            flags: vec![(
                "upstream.url",
                "--upstream",
                "http://127.0.0.1:1/base".into(),
            )],
            ..Sources::default()
        };
        let loaded = load(&sources).expect("loads");
        let shown = loaded.to_toml().expect("shows");
        assert!(
            shown.contains("url = \"http://127.0.0.1:1/base\" # flag --upstream"),
            "{shown}"
        );
        assert!(
            shown.contains("tls.cert = \"c.pem\" # environment POLLGATE_LISTEN__TLS__CERT"),
            "{shown}"
        );
        assert_eq!(
            toml::from_str::<Config>(&shown).expect("reads back"),
            loaded.config
        );
    }
}
