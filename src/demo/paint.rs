//! Styled lines: cut to a width, painted with ANSI colours or left plain.

use std::fmt::Write as _;

/// Style of one span of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Bold,
    Dim,
    Green,
    Yellow,
    Blue,
    Red,
    Cyan,
}

impl Style {
    /// The SGR parameter (ECMA-48, "select graphic rendition").
    const fn code(self) -> Option<u8> {
        match self {
            Self::Plain => None,
            Self::Bold => Some(1),
            Self::Dim => Some(2),
            Self::Red => Some(31),
            Self::Green => Some(32),
            Self::Yellow => Some(33),
            Self::Blue => Some(34),
            Self::Cyan => Some(36),
        }
    }
}

/// A line of styled spans. Every character is one column wide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Line(Vec<(Style, String)>);

impl Line {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Appends a span.
    #[must_use]
    pub(super) fn then(mut self, style: Style, text: impl Into<String>) -> Self {
        self.0.push((style, text.into()));
        self
    }

    /// Appends a plain span.
    #[must_use]
    pub(super) fn text(self, text: impl Into<String>) -> Self {
        self.then(Style::Plain, text)
    }

    /// Appends another line's spans.
    #[must_use]
    pub(super) fn join(mut self, mut other: Self) -> Self {
        self.0.append(&mut other.0);
        self
    }

    /// Appends a span flush right at `width` columns, or nothing where it does not fit.
    #[must_use]
    pub(super) fn right(self, width: usize, style: Style, text: &str) -> Self {
        match width.checked_sub(self.width() + text.chars().count()) {
            Some(gap) if gap > 0 => self.text(" ".repeat(gap)).then(style, text),
            _ => self,
        }
    }

    /// Width in columns.
    pub(super) fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// Text for the terminal, cut to `width` columns.
    pub(super) fn paint(&self, width: usize, colours: bool) -> String {
        let mut left = width;
        let mut painted = String::new();
        for (style, text) in &self.0 {
            let cut: String = text.chars().take(left).collect();
            left -= cut.chars().count();
            match style.code().filter(|_| colours && !cut.is_empty()) {
                Some(code) => {
                    let _ = write!(painted, "\x1b[{code}m{cut}\x1b[0m");
                }
                None => painted.push_str(&cut),
            }
        }
        painted
    }
}

/// A bar of `width` columns, split into its filled part (`part` of `whole`) and the remainder.
pub(super) fn bar(part: u64, whole: u64, width: usize) -> (String, String) {
    let columns = u128::from(part.min(whole)) * (width as u128) / u128::from(whole.max(1));
    let filled = usize::try_from(columns).unwrap_or(width);
    ("█".repeat(filled), "░".repeat(width - filled))
}

/// A sparkline of one column per value, scaled to `top`; blank for 0.
pub(super) fn sparkline(values: impl Iterator<Item = u64>, top: u64) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    values
        .map(|value| {
            let step = (value * 8).div_ceil(top.max(1)).min(8);
            match usize::try_from(step) {
                Ok(step @ 1..) => STEPS[step - 1],
                _ => ' ',
            }
        })
        .collect()
}

/// Formats a number with thousands separators: `12,345`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_at_its_visible_width() {
        let line = Line::new()
            .then(Style::Bold, "ab")
            .then(Style::Red, "cd")
            .text("ef");
        assert_eq!(line.paint(3, true), "\x1b[1mab\x1b[0m\x1b[31mc\x1b[0m");
        assert_eq!(line.paint(3, false), "abc");
        assert_eq!(line.paint(9, false), "abcdef");
    }

    #[test]
    fn a_flush_right_span_is_dropped_where_it_does_not_fit() {
        let line = Line::new().text("ab");
        assert_eq!(
            line.clone().right(6, Style::Dim, "xy").paint(9, false),
            "ab  xy"
        );
        assert_eq!(line.right(4, Style::Dim, "xy").paint(9, false), "ab");
    }

    #[test]
    fn bars_and_sparklines_are_to_scale() {
        assert_eq!(bar(1, 4, 8), ("██".into(), "░░░░░░".into()));
        assert_eq!(bar(9, 4, 2), ("██".into(), String::new()));
        assert_eq!(bar(0, 0, 2), (String::new(), "░░".into()));
        assert_eq!(sparkline([0, 1, 50, 100].into_iter(), 100), " ▁▄█");
        assert_eq!(sparkline([0].into_iter(), 0), " ");
    }

    #[test]
    fn numbers_have_thousands_separators() {
        assert_eq!(number(7), "7");
        assert_eq!(number(123), "123");
        assert_eq!(number(1_234_567), "1,234,567");
    }
}
