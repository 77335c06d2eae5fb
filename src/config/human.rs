//! Values as people write them: `64MiB`, `12h`, `127.0.0.1:8080`, `off`.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use http::Uri;
use serde::de::{self, Deserialize, Deserializer, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};

/// A value that is a string in the configuration.
pub(super) trait Human: Sized {
    /// Completes the sentence "takes …" of an error message.
    const TAKES: &'static str;
    fn read(text: &str) -> Option<Self>;
    fn write(&self) -> String;
}

/// For `#[serde(with = "human")]`.
pub(super) fn serialize<T: Human, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&value.write())
}

/// For `#[serde(with = "human")]`.
pub(super) fn deserialize<'de, T: Human, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    struct Text<T>(PhantomData<T>);
    impl<T: Human> Visitor<'_> for Text<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::TAKES)
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            T::read(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
        }
    }
    from.deserialize_str(Text(PhantomData))
}

/// The longest duration accepted; clocks overflow only far beyond it.
const YEAR: Duration = Duration::from_hours(366 * 24);

impl Human for Duration {
    const TAKES: &'static str = r#"a duration such as "12h", "90s" or "500ms", of a year at most"#;

    fn read(text: &str) -> Option<Self> {
        humantime::parse_duration(text)
            .ok()
            .filter(|duration| *duration <= YEAR)
    }

    /// In the largest unit that divides it.
    fn write(&self) -> String {
        const UNITS: [(u128, &str); 5] = [
            (3_600_000_000_000, "h"),
            (60_000_000_000, "m"),
            (1_000_000_000, "s"),
            (1_000_000, "ms"),
            (1, "ns"),
        ];
        let nanos = self.as_nanos();
        if nanos == 0 {
            return "0s".into();
        }
        let (unit, name) = UNITS
            .into_iter()
            .find(|(unit, _)| nanos.is_multiple_of(*unit))
            .unwrap_or((1, "ns"));
        format!("{}{name}", nanos / unit)
    }
}

impl Human for SocketAddr {
    const TAKES: &'static str =
        r#"an address with a port, such as "127.0.0.1:8080" or "[::1]:8080""#;

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl Human for Option<SocketAddr> {
    const TAKES: &'static str = r#"an address with a port, such as "127.0.0.1:9090", or "off""#;

    fn read(text: &str) -> Option<Self> {
        if text == "off" {
            Some(None)
        } else {
            text.parse().ok().map(Some)
        }
    }

    fn write(&self) -> String {
        self.as_ref().map_or("off".into(), Human::write)
    }
}

impl Human for Option<Duration> {
    const TAKES: &'static str = r#"a duration such as "60s", or "off""#;

    fn read(text: &str) -> Option<Self> {
        if text == "off" {
            Some(None)
        } else {
            Duration::read(text).map(Some)
        }
    }

    fn write(&self) -> String {
        self.as_ref().map_or("off".into(), Human::write)
    }
}

/// A share from 1 % to 100 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// A share, kept between 1 and 100.
    #[must_use]
    pub const fn new(percent: u8) -> Self {
        Self(match percent {
            0 => 1,
            1..=100 => percent,
            _ => 100,
        })
    }

    /// This share of a number, at least 1.
    #[must_use]
    pub fn of(self, whole: usize) -> usize {
        let hundredths = whole.saturating_mul(self.0.into());
        hundredths.div_ceil(100).max(1)
    }
}

impl Human for Percent {
    const TAKES: &'static str = r#"a share from "1%" to "100%""#;

    fn read(text: &str) -> Option<Self> {
        let percent = text.trim().strip_suffix('%')?.trim_end().parse().ok()?;
        (1..=100).contains(&percent).then_some(Self(percent))
    }

    fn write(&self) -> String {
        format!("{}%", self.0)
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

const SIZES: [(u64, &str); 7] = [
    (1 << 30, "gib"),
    (1 << 20, "mib"),
    (1 << 10, "kib"),
    (1_000_000_000, "gb"),
    (1_000_000, "mb"),
    (1_000, "kb"),
    (1, "b"),
];

impl Size {
    /// `count` × 1,048,576 bytes.
    #[must_use]
    pub const fn mebibytes(count: u64) -> Self {
        Self(count << 20)
    }

    /// `count` × 1,024 bytes.
    #[must_use]
    pub const fn kibibytes(count: u64) -> Self {
        Self(count << 10)
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl Human for Size {
    const TAKES: &'static str = r#"a size such as "64MiB", "500kB" or "4096B""#;

    fn read(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let end = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let unit = match unit.trim() {
            "" => 1,
            unit => SIZES.iter().find(|(_, name)| *name == unit)?.0,
        };
        number.parse::<u64>().ok()?.checked_mul(unit).map(Self)
    }

    fn write(&self) -> String {
        const WRITTEN: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        WRITTEN
            .iter()
            .find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit))
            .map_or_else(
                || format!("{}B", self.0),
                |(unit, name)| format!("{}{name}", self.0 / unit),
            )
    }
}

/// How many threads serve requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workers {
    /// One for each core that the process may use.
    Auto,
    /// This many.
    Count(NonZeroUsize),
}

impl Workers {
    /// The number of threads.
    #[must_use]
    pub fn count(self) -> usize {
        match self {
            Self::Auto => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            Self::Count(count) => count.get(),
        }
    }
}

impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => to.serialize_str("auto"),
            Self::Count(count) => count.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Workers;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"a whole number from 1 to 1024, or "auto""#)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Workers, E> {
                // Environment and flags know texts only.
                match text.parse() {
                    Ok(count) => self.visit_i64(count),
                    Err(_) if text == "auto" => Ok(Workers::Auto),
                    Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Workers, E> {
                usize::try_from(count)
                    .ok()
                    .filter(|count| *count <= 1024)
                    .and_then(NonZeroUsize::new)
                    .map(Workers::Count)
                    .ok_or_else(|| E::invalid_value(Unexpected::Signed(count), &self))
            }
        }
        from.deserialize_any(Reader)
    }
}

/// The base URL of upstream: `http` or `https`, a host, optionally a path prefix, no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamUrl {
    scheme: http::uri::Scheme,
    authority: http::uri::Authority,
    prefix: String,
}

impl UpstreamUrl {
    /// The public API, `https://octopusx.ai`.
    #[must_use]
    pub fn octopusx() -> Self {
        Self {
            scheme: http::uri::Scheme::HTTPS,
            authority: http::uri::Authority::from_static("octopusx.ai"),
            prefix: String::new(),
        }
    }

    /// Parses a base URL.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        <Self as Human>::read(text)
    }

    /// Host and port, as sent in `Host`.
    #[must_use]
    pub fn authority(&self) -> &http::uri::Authority {
        &self.authority
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &http::uri::Scheme {
        &self.scheme
    }

    /// The path in front of every request's path: empty, or `/…` without a trailing slash.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}

impl Human for UpstreamUrl {
    const TAKES: &'static str = r#"an http or https URL such as "https://octopusx.ai", with no user, query or fragment in it"#;

    fn read(text: &str) -> Option<Self> {
        if text.contains(['@', '#', '?']) {
            return None;
        }
        let parts = text.parse::<Uri>().ok()?.into_parts();
        let scheme = parts
            .scheme
            .filter(|s| *s == http::uri::Scheme::HTTP || *s == http::uri::Scheme::HTTPS)?;
        let path = parts.path_and_query.as_ref().map_or("", |path| path.path());
        Some(Self {
            scheme,
            authority: parts
                .authority
                .filter(|authority| !authority.host().is_empty())?,
            prefix: path.trim_end_matches('/').to_owned(),
        })
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for text in ["12h", "5m", "75s", "500ms", "0s", "1500ms", "3ns"] {
            assert_eq!(
                Duration::read(text).map(|d| d.write()).as_deref(),
                Some(text)
            );
        }
        for text in ["64MiB", "1GiB", "1KiB", "1000B", "0B"] {
            assert_eq!(Size::read(text).map(|s| s.write()).as_deref(), Some(text));
        }
        for text in ["https://octopusx.ai", "http://[::1]:3000/base/path"] {
            assert_eq!(
                UpstreamUrl::parse(text).map(|u| u.to_string()).as_deref(),
                Some(text)
            );
        }
    }

    #[test]
    fn workers_are_a_number_or_auto() {
        let read = |text: &str| {
            format!("it = {text}").parse::<toml::Table>().unwrap()["it"]
                .clone()
                .try_into::<Workers>()
        };
        assert_eq!(read("\"auto\"").unwrap(), Workers::Auto);
        for text in ["3", "\"3\""] {
            assert_eq!(read(text).unwrap().count(), 3, "{text}");
        }
        for text in ["0", "-1", "\"many\"", "2000", "true", "1.5"] {
            let told = read(text).expect_err(text).to_string();
            assert!(told.contains("a whole number from 1 to 1024"), "{told}");
        }
        assert!(Workers::Auto.count() >= 1);
    }

    #[test]
    fn sizes_are_read_in_either_system() {
        assert_eq!(Size::read("1kB"), Some(Size(1000)));
        assert_eq!(Size::read("1 KiB"), Some(Size(1024)));
        assert_eq!(Size::read("17"), Some(Size(17)));
        for text in ["", "MiB", "1.5MiB", "-1B", "64 parsecs", "99999999999GiB"] {
            assert_eq!(Size::read(text), None, "{text}");
        }
    }

    #[test]
    fn upstream_urls_that_would_mislead_are_refused() {
        for text in [
            "octopusx.ai",
            "ftp://octopusx.ai",
            "https://",
            "https://key@octopusx.ai",
            "https://octopusx.ai?a=b",
            "/v1",
        ] {
            assert_eq!(UpstreamUrl::parse(text), None, "{text}");
        }
        assert_eq!(
            UpstreamUrl::parse("https://octopusx.ai/api/")
                .map(|u| u.prefix().to_owned())
                .as_deref(),
            Some("/api")
        );
    }
}
