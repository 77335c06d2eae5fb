//! The shipped configuration file, parsed: its comments also describe the keys in the manual and in the schema.

const TEXT: &str = include_str!("../../config/pollgate.toml");

/// A key as the shipped configuration file shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The section.
    pub section: String,
    /// The key in it.
    pub key: String,
    /// The default, or an example where there is none; in TOML.
    pub value: String,
    /// Whether `value` is the default.
    pub is_default: bool,
    /// What the key is for.
    pub comment: String,
}

/// Every key, in the order of the file.
#[must_use]
pub fn settings() -> Vec<Setting> {
    let mut settings: Vec<Setting> = Vec::new();
    let mut section = "";
    for line in TEXT.lines() {
        if line.starts_with("# [[") {
            // An example of a list: its keys are described elsewhere.
            section = "";
        } else if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
        } else if line.starts_with(' ') {
            // The comment of the last key goes on.
            if let Some(last) = settings.last_mut() {
                last.comment.push('\n');
                last.comment
                    .push_str(line.trim_start().trim_start_matches("# "));
            }
        } else if let Some(setting) = read(section, line) {
            settings.push(setting);
        }
    }
    settings
}

fn read(section: &str, line: &str) -> Option<Setting> {
    let (line, is_default) = match line.strip_prefix("# ") {
        Some(example) => (example, false),
        None => (line, true),
    };
    let (key, rest) = line.split_once(" = ").filter(|_| !section.is_empty())?;
    let (value, comment) = rest.rsplit_once(" # ")?;
    Some(Setting {
        section: section.to_owned(),
        key: key.to_owned(),
        value: value.trim().to_owned(),
        is_default,
        comment: comment.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    #[test]
    fn every_key_is_described() {
        let mut described: Vec<_> = settings()
            .into_iter()
            .map(|setting| format!("{}.{}", setting.section, setting.key))
            .collect();
        let known = keys::known(&keys::default_table().expect("is TOML"));
        let mut known: Vec<_> = known
            .into_iter()
            .map(|key| key.splitn(3, '.').take(2).collect::<Vec<_>>().join("."))
            .collect();
        for keys in [&mut described, &mut known] {
            keys.sort();
            keys.dedup();
        }
        assert_eq!(described, known);
        assert!(settings().iter().all(|setting| setting.comment.len() > 10));
    }

    #[test]
    fn a_comment_may_go_on_in_the_next_line() {
        let settings = settings();
        let rendering = settings.iter().find(|setting| setting.key == "rendering");
        let comment = &rendering.expect("is there").comment;
        assert!(comment.contains("\ndocumented: "), "{comment}");
    }
}
