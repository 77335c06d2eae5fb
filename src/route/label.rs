//! The names of routes, as metrics and logs have them.

use std::sync::{Mutex, PoisonError};

use crate::task::Dialect;

/// The most names there can be in one process. Reloads can bring in others, but a series, once begun, is never taken back.
pub const LABELS: usize = 128;

/// The label of a route in metrics and logs: a closed list, since names come from the configuration alone.
#[derive(Debug, Clone, Copy)]
pub struct RouteLabel {
    index: u8,
    name: &'static str,
}

/// All names after the fixed ones, in the order in which they were first met. They live as long as the process.
static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());

/// The names that are always there.
const FIXED: [RouteLabel; 4] = [
    RouteLabel::UNIFIED,
    RouteLabel::OPENAI,
    RouteLabel::FORWARD,
    RouteLabel::OTHER,
];

impl RouteLabel {
    const UNIFIED: Self = Self {
        index: 0,
        name: Dialect::Unified.as_str(),
    };
    const OPENAI: Self = Self {
        index: 1,
        name: Dialect::OpenAi.as_str(),
    };
    /// Everything that is no status poll.
    pub const FORWARD: Self = Self {
        index: 2,
        name: "forward",
    };

    /// Status polls on a route that came when there were [`LABELS`] names already.
    const OTHER: Self = Self {
        index: 3,
        name: "other",
    };

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
        FIXED.iter().any(|fixed| fixed.name == name)
    }

    /// The label with this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let names = &mut *NAMES.lock().unwrap_or_else(PoisonError::into_inner);
        let index = names.iter().position(|known| *known == name);
        let index = match index {
            Some(index) => index,
            None if names.len() + FIXED.len() < LABELS => {
                names.push(Box::leak(name.into()));
                names.len() - 1
            }
            None => return Self::OTHER,
        };
        u8::try_from(index + FIXED.len()).map_or(Self::OTHER, |number| Self {
            index: number,
            name: names[index],
        })
    }

    /// The value of the label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.name
    }

    /// Its number, below [`LABELS`].
    #[must_use]
    pub fn index(self) -> usize {
        self.index.into()
    }
}

impl PartialEq for RouteLabel {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
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
