//! A strict reader of the Prometheus text format 0.0.4 that shares no code with the writer.

use std::collections::{BTreeMap, BTreeSet};

/// A sample line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
    pub millis: Option<i64>,
}

/// Reads a whole document. An error names the line and the reason.
pub(crate) fn read<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<Vec<Sample>, String> {
    let (mut samples, mut described) = (Vec::new(), BTreeSet::new());
    for line in lines {
        if line.chars().any(char::is_control) {
            return Err(format!("a control character in {line:?}"));
        }
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.split(' ');
            let (keyword, name) = (words.next(), words.next());
            if matches!(keyword, Some("HELP" | "TYPE")) && !described.insert((keyword, name)) {
                return Err(format!("described twice: {line}"));
            }
        } else {
            samples.push(sample(line).ok_or_else(|| format!("no sample: {line}"))?);
        }
    }
    Ok(samples)
}

fn sample(line: &str) -> Option<Sample> {
    let (name, mut rest) = name(line)?;
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, value) = name_of_label(rest)?;
            let (value, after) = quoted(value.strip_prefix('=')?)?;
            if labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            match after.split_at_checked(1)? {
                (",", after) => rest = after,
                ("}", after) => {
                    rest = after;
                    break;
                }
                _ => return None,
            }
        }
    }
    let mut numbers = rest.strip_prefix(' ')?.split(' ');
    let value = numbers.next()?.parse().ok()?;
    let millis = numbers.next().map(str::parse).transpose().ok()?;
    numbers.next().is_none().then(|| Sample {
        name: name.to_owned(),
        labels,
        value,
        millis,
    })
}

fn name(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')?;
    let (name, rest) = text.split_at(end);
    (!name.is_empty() && !name.starts_with(|first: char| first.is_ascii_digit()))
        .then_some((name, rest))
}

fn name_of_label(text: &str) -> Option<(&str, &str)> {
    name(text).filter(|(name, _)| !name.starts_with("__"))
}

/// Splits off a quoted string, in which a backslash escapes a backslash, a quote or an `n`.
fn quoted(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let (mut value, mut letters) = (String::new(), text.char_indices());
    loop {
        match letters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match letters.next()?.1 {
                'n' => '\n',
                letter @ ('\\' | '"') => letter,
                _ => return None,
            }),
            (_, letter) => value.push(letter),
        }
    }
}

#[test]
fn the_reader_is_strict() {
    let line = r#"a_b{c="\"\\\n😀",d=""} 1e-5 17"#;
    let sample = &read([line]).unwrap()[0];
    assert_eq!(sample.labels["c"], "\"\\\n😀");
    assert_eq!((sample.value, sample.millis), (1e-5, Some(17)));
    for wrong in [
        "",
        "#comment",
        "a",
        "a{} 1",
        "a{b=\"c\"}1",
        "a{b=\"\\t\"} 1",
        "a{b=\"c\",b=\"c\"} 1",
        "a{b=\"c} 1",
        "a 1 2 3",
        "a 1 2.5",
        "a one",
        "1a 1",
        "a{b=\"\u{9b}\"} 1",
    ] {
        assert!(read([wrong]).is_err(), "{wrong:?}");
    }
    assert!(read(["# TYPE a gauge", "# TYPE a gauge"]).is_err());
}
