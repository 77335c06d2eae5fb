//! What counts as a time, a percentage, a length, a size, a format or an error code.

use jiff::Timestamp;

use super::json::{Json, Raw, is_number, quote};

/// Width and height in pixels.
pub(super) type Size = (u32, u32);

/// The year 5138. A larger number is milliseconds; a later date is a mistake.
const LAST_SECOND: i64 = 100_000_000_000;

/// A time after 1970 in Unix seconds, from a number (in milliseconds if over 10^11), also one in a
/// string, or from an RFC 3339 text.
pub(super) fn time(value: Json<'_>) -> Option<i64> {
    let time = match value.number() {
        // every number of milliseconds that is left is exact as f64
        Some(number) => match whole(float(&number)?, LAST_SECOND * 1000)? {
            milliseconds if milliseconds > LAST_SECOND => milliseconds / 1000,
            seconds => seconds,
        },
        None => rfc3339(value.text()?.trim())?,
    };
    (1..=LAST_SECOND).contains(&time).then_some(time)
}

/// An RFC 3339 time, or the basic format of ISO 8601 (`20261123T120000Z`), in Unix seconds.
pub(super) fn rfc3339(text: &str) -> Option<i64> {
    let time: Timestamp = text.parse().ok()?;
    Some(time.as_second())
}

/// Whole percent, 0–100, from `50`, `45.5`, `"50"` or `"50%"`.
///
/// Fractions are cut off, not rounded: 99.9 is not done.
pub(super) fn percent(value: Json<'_>) -> Option<u8> {
    let text = match value.text() {
        Some(text) => text,
        None => value.number()?,
    };
    let text = text.trim().trim_end_matches('%').trim_end();
    let percent = float(text)?.clamp(0.0, 100.0);
    u8::try_from(whole(percent, 100)?).ok()
}

/// A length in seconds above 0, spelled as a JSON number without needless digits: `5.0` is `5`.
pub(super) fn seconds(value: Json<'_>) -> Option<String> {
    let seconds = float(&value.number()?)?;
    // beyond these it is a mistake, and its spelling hundreds of digits long
    (1e-3..=1e9).contains(&seconds).then(|| seconds.to_string())
}

/// A size as `1280x720`.
pub(super) fn size(value: Json<'_>) -> Option<Size> {
    let text = value.text()?;
    let (width, height) = text.trim().split_once(['x', 'X'])?;
    Some((side(width)?, side(height)?))
}

/// A width or a height: a whole number above 0.
pub(super) fn pixels(value: Json<'_>) -> Option<u32> {
    let pixels = float(&value.number()?)?;
    let whole = whole(pixels, u32::MAX.into())?;
    let pixels_are_whole = whole > 0 && pixels.fract() == 0.0;
    u32::try_from(whole).ok().filter(|_| pixels_are_whole)
}

/// A format such as `mp4`; of a MIME type, `video/mp4; codecs="…"`, only the subtype.
pub(super) fn format(value: Json<'_>) -> Option<Raw<'_>> {
    let value = value.non_empty()?;
    let Some(text) = value.text() else {
        return Some(value.raw());
    };
    let subtype = subtype(&text);
    if subtype == text {
        return Some(value.raw());
    }
    (!subtype.is_empty()).then(|| quote(subtype))
}

/// The subtype of a MIME type, without its parameters.
pub(super) fn subtype(mime: &str) -> &str {
    let (kind, _) = mime.split_once(';').unwrap_or((mime, ""));
    let (_, subtype) = kind.rsplit_once('/').unwrap_or(("", kind));
    subtype.trim()
}

/// An error's code, as text also where it is a number.
pub(super) fn code(value: Json<'_>) -> Option<Raw<'_>> {
    let text = value.non_empty().map(Json::raw);
    text.or_else(|| Some(quote(&value.number()?)))
}

fn side(text: &str) -> Option<u32> {
    let digits = text.trim();
    // parse() would also take a sign
    let has_sign = digits.starts_with('+');
    digits.parse().ok().filter(|side| *side > 0 && !has_sign)
}

fn float(text: &str) -> Option<f64> {
    let text = text.trim();
    let is_number = is_number(text);
    text.parse().ok().filter(|_| is_number)
}

/// The whole part of a number that lies between -`most` and `most`.
fn whole(number: f64, most: i64) -> Option<i64> {
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    (number.abs() <= most as f64).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json<'_> {
        Json::parse(text).unwrap()
    }

    #[test]
    fn times_are_read_from_seconds_milliseconds_and_rfc_3339() {
        for (text, seconds) in [
            ("1784517678", Some(1_784_517_678)),
            ("\"1784517678\"", Some(1_784_517_678)),
            ("1784517678.9", Some(1_784_517_678)),
            ("1784517678999", Some(1_784_517_678)),
            ("1.784517678e9", Some(1_784_517_678)),
            ("100000000000", Some(100_000_000_000)),
            ("100000000001", Some(100_000_000)),
            ("\"2026-11-23T12:00:00Z\"", Some(1_795_435_200)),
            ("\"2026-11-23T20:00:00.5+08:00\"", Some(1_795_435_200)),
            ("0", None),
            ("-5", None),
            ("1e400", None),
            ("99999999999999999999", None),
            ("\"6766-11-23T12:00:00Z\"", None),
            ("\"soon\"", None),
            ("\"\"", None),
            ("true", None),
            ("{}", None),
        ] {
            assert_eq!(time(json(text)), seconds, "{text}");
        }
    }

    #[test]
    fn percentages_are_whole_and_between_0_and_100() {
        for (text, percent_read) in [
            ("\"50%\"", Some(50)),
            ("\" 50 % \"", Some(50)),
            ("\"0\"", Some(0)),
            ("45.5", Some(45)),
            ("99.9", Some(99)),
            ("-3", Some(0)),
            ("200", Some(100)),
            ("1e400", Some(100)),
            ("\"NaN\"", None),
            ("\"%\"", None),
            ("\"half\"", None),
            ("[50]", None),
        ] {
            assert_eq!(percent(json(text)), percent_read, "{text}");
        }
    }

    #[test]
    fn seconds_are_spelled_without_needless_digits() {
        for (text, spelled) in [
            ("5", Some("5")),
            ("5.0", Some("5")),
            ("\"10\"", Some("10")),
            ("5.50", Some("5.5")),
            ("1e1", Some("10")),
            ("0", None),
            ("-1", None),
            ("1e400", None),
            ("1e-300", None),
            ("\"10s\"", None),
            ("\"NaN\"", None),
        ] {
            assert_eq!(seconds(json(text)).as_deref(), spelled, "{text}");
        }
    }

    #[test]
    fn sizes_are_two_positive_whole_numbers() {
        assert_eq!(size(json("\"720x1280\"")), Some((720, 1280)));
        for text in ["\"720p\"", "\"x\"", "\"0x0\"", "\"+1x2\"", "\"1x2x3\"", "7"] {
            assert_eq!(size(json(text)), None, "{text}");
        }
        assert_eq!(pixels(json("1280.0")), Some(1280));
        assert_eq!(pixels(json("\"720\"")), Some(720));
        for text in ["0", "-1", "1.5", "1e10", "\"wide\""] {
            assert_eq!(pixels(json(text)), None, "{text}");
        }
    }

    #[test]
    fn mime_type_gives_its_subtype() {
        assert_eq!(subtype("video/mp4"), "mp4");
        assert_eq!(subtype("video/webm; codecs=\"vp9/opus\""), "webm");
        assert_eq!(subtype("mov"), "mov");
        assert_eq!(subtype("video/"), "");
    }
}
