//! The names of routes, as metrics and logs have them.

use std::sync::{Mutex, PoisonError};

use crate::task::Dialect;

/// The most names there can be in one process. Reloads can bring in others, but a series, once begun, is never taken back.
pub const LABELS: usize = 128;

/// The label of a route in metrics and logs: a closed list, since names come from the configuration alone.
#[derive(Debug, Clone, Copy)]
pub struct RouteLabel(&'static Name);

#[derive(Debug)]
struct Name {
    index: usize,
    text: &'static str,
}

/// All names after the fixed ones, in the order in which they were first met. They live as long as the process.
static NAMES: Mutex<Vec<&'static Name>> = Mutex::new(Vec::new());

/// The names that are always there.
const FIXED: [RouteLabel; 4] = [
    RouteLabel::UNIFIED,
    RouteLabel::OPENAI,
    RouteLabel::FORWARD,
    RouteLabel::OTHER,
];

impl RouteLabel {
    const UNIFIED: Self = Self(&Name {
        index: 0,
        text: Dialect::Unified.as_str(),
    });
    const OPENAI: Self = Self(&Name {
        index: 1,
        text: Dialect::OpenAi.as_str(),
    });
    /// Everything that is no status poll.
    pub const FORWARD: Self = Self(&Name {
        index: 2,
        text: "forward",
    });

    /// Status polls on a route that came when there were [`LABELS`] names already.
    const OTHER: Self = Self(&Name {
        index: 3,
        text: "other",
    });

    /// The label of the route whose documents are written in this dialect.
    #[must_use]
    pub const fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::Unified => Self::UNIFIED,
            Dialect::OpenAi => Self::OPENAI,
        }
    }

    /// Whether a name is one of the fixed ones, which no route of the configuration can have.
    #[must_use]
    pub fn is_taken(name: &str) -> bool {
        FIXED.iter().any(|fixed| fixed.as_str() == name)
    }

    /// The label with this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let names = &mut *NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.iter().find(|known| known.text == name) {
            return Self(known);
        }
        let index = names.len() + FIXED.len();
        if index >= LABELS {
            return Self::OTHER;
        }
        let text: &str = Box::leak(name.into());
        let name: &Name = Box::leak(Box::new(Name { index, text }));
        names.push(name);
        Self(name)
    }

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0.text
    }

    /// Its number, below [`LABELS`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0.index
    }
}

impl PartialEq for RouteLabel {
    fn eq(&self, other: &Self) -> bool {
        self.0.index == other.0.index
    }
}

impl Eq for RouteLabel {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_label() {
        let one = RouteLabel::named("label-test-one");
        let other = RouteLabel::named("label-test-other");
        assert_eq!(RouteLabel::named("label-test-one"), one);
        assert_ne!(one, other);
        assert_eq!(one.as_str(), "label-test-one");
        assert!(RouteLabel::is_taken("openai") && !RouteLabel::is_taken("label-test-one"));
        assert!(one.index() >= FIXED.len() && one.index() < LABELS);
    }
}
