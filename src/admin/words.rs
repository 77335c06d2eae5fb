//! Formats numbers with their units for people, with a no-break space between the two.

use std::time::{Duration, SystemTime};

use crate::cache::cadence::KnownRounds;

/// Stands for a value that is unknown or does not apply.
pub(super) const NOTHING: &str = "–";

/// `12,345`.
pub(super) fn count(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `480 /s`, `9.8 /s`, `0.03 /s`.
pub(super) fn rate(per_second: f64) -> String {
    let number = match per_second {
        rate if rate >= 9.95 => count(rate),
        rate if rate >= 0.1 => format!("{rate:.1}"),
        rate if rate >= 0.005 => format!("{rate:.2}"),
        _ => "0".into(),
    };
    format!("{number}\u{a0}/s")
}

/// `42 µs`, `3.1 ms`, `1.24 s`.
pub(super) fn latency(seconds: f64) -> String {
    let (number, unit) = match seconds {
        seconds if seconds < 1e-3 => (seconds * 1e6, "µs"),
        seconds if seconds < 1.0 => (seconds * 1e3, "ms"),
        seconds => (seconds, "s"),
    };
    let decimals = usize::from(number < 10.0);
    format!("{number:.decimals$}\u{a0}{unit}")
}

/// `0.4 s`, `12 s`, `4 min 12 s`, `3 h 5 min`, `2 d 3 h`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large}\u{a0}{unit}"),
        small => format!("{large}\u{a0}{unit} {small}\u{a0}{small_unit}"),
    };
    match seconds {
        0..10 => format!("{:.1}\u{a0}s", span.as_secs_f64()),
        10..60 => format!("{seconds}\u{a0}s"),
        60..3_600 => two(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// `12:04:31`, in UTC as in the log.
pub(super) fn time_of_day(time: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(time).to_string();
    time.get(11..19).unwrap_or_default().to_owned()
}

/// `every 16.2 s, next at 12:04:31 (in 4.0 s)`.
pub(super) fn rounds(rounds: &KnownRounds, now: SystemTime) -> String {
    let next = time_of_day(now + rounds.next_in);
    let (every, left) = (rounds.every.as_secs_f64(), span(rounds.next_in));
    format!("every {every:.1}\u{a0}s, next at {next} (in {left})")
}

/// `3 s ago`.
pub(super) fn ago(span: Duration) -> String {
    if span < Duration::from_secs(1) {
        "just now".into()
    } else {
        format!(
            "{} ago",
            self::span(Duration::from_secs(span.as_secs())).replace(".0", "")
        )
    }
}

/// `3.1 MiB`.
pub(super) fn bytes(bytes: f64) -> String {
    let (number, unit) = match bytes {
        bytes if bytes < 1024.0 => return format!("{bytes:.0}\u{a0}B"),
        bytes if bytes < 1024.0 * 1024.0 => (bytes / 1024.0, "KiB"),
        bytes if bytes < 1024.0 * 1024.0 * 1024.0 => (bytes / 1024.0 / 1024.0, "MiB"),
        bytes => (bytes / 1024.0 / 1024.0 / 1024.0, "GiB"),
    };
    let decimals = usize::from(number < 10.0 && number.fract() > 0.05);
    format!("{number:.decimals$}\u{a0}{unit}")
}

/// `97.9 %`. Rounds down, so that only the whole reads as `100 %` and only nothing as `0 %`.
pub(super) fn percent(part: f64, whole: f64) -> String {
    if whole <= 0.0 {
        return NOTHING.into();
    }
    let tenths = (1000.0 * part / whole).floor();
    if tenths <= 0.0 && part > 0.0 {
        return "< 0.1\u{a0}%".into();
    }
    if tenths >= 1000.0 || tenths <= 0.0 {
        format!("{:.0}\u{a0}%", tenths / 10.0)
    } else {
        format!("{:.1}\u{a0}%", tenths / 10.0)
    }
}

/// A number as the functions here take it.
#[expect(clippy::cast_precision_loss, reason = "shown with three digits or so")]
pub(super) fn precise(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> String {
        text.replace('\u{a0}', " ")
    }

    #[test]
    fn rounds_are_told_with_the_time_of_the_next_one() {
        let told = KnownRounds {
            every: Duration::from_millis(16_240),
            next_in: Duration::from_secs(4),
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(86_395);
        assert_eq!(
            plain(&rounds(&told, now)),
            "every 16.2 s, next at 23:59:59 (in 4.0 s)"
        );
        let now = now + Duration::from_secs(2);
        assert_eq!(
            plain(&rounds(&told, now)),
            "every 16.2 s, next at 00:00:01 (in 4.0 s)"
        );
    }

    #[test]
    fn numbers_have_as_many_digits_as_can_be_read_at_a_glance() {
        assert_eq!(count(1_234_567.0), "1,234,567");
        for (number, read) in [
            (1234.4, "1,234 /s"),
            (9.96, "10 /s"),
            (9.81, "9.8 /s"),
            (0.031, "0.03 /s"),
            (0.0, "0 /s"),
        ] {
            assert_eq!(plain(&rate(number)), read);
        }
        for (seconds, read) in [
            (0.000_042, "42 µs"),
            (0.003_14, "3.1 ms"),
            (1.24, "1.2 s"),
            (12.4, "12 s"),
        ] {
            assert_eq!(plain(&latency(seconds)), read);
        }
        for (number, read) in [
            (512.0, "512 B"),
            (3_250_586.0, "3.1 MiB"),
            (67_108_864.0, "64 MiB"),
        ] {
            assert_eq!(plain(&bytes(number)), read);
        }
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (millis, read) in [
            (400, "0.4 s"),
            (12_900, "12 s"),
            (252_000, "4 min 12 s"),
            (11_100_000, "3 h 5 min"),
            (183_600_000, "2 d 3 h"),
            (7_200_000, "2 h"),
        ] {
            assert_eq!(plain(&span(Duration::from_millis(millis))), read);
        }
        assert_eq!(plain(&ago(Duration::from_millis(3_900))), "3 s ago");
        assert_eq!(ago(Duration::from_millis(900)), "just now");
    }

    #[test]
    fn nearly_all_is_not_all() {
        assert_eq!(plain(&percent(99_999.0, 100_000.0)), "99.9 %");
        assert_eq!(plain(&percent(1.0, 100_000.0)), "< 0.1 %");
        assert_eq!(plain(&percent(7.0, 7.0)), "100 %");
        assert_eq!(plain(&percent(0.0, 7.0)), "0 %");
        assert_eq!(percent(0.0, 0.0), NOTHING);
    }
}
