//! The address of a fleet's engine.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use percent_encoding::percent_decode_str;

use super::human::Human;

const TAKES: &str = r#"redis://host:port/database, rediss:// for TLS, or "off"; user@ or user:password@ before the host where the engine asks for them"#;

/// Where the engine is, and as whom pollgate connects to it.
#[derive(Clone, PartialEq, Eq)]
pub struct EngineUrl {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The host's name or address, an IPv6 address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The user; the engine's default user where there is none.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The number of the database.
    pub database: u16,
}

impl FromStr for EngineUrl {
    type Err = String;

    /// The error does not repeat the text, since it may contain a password.
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = |why: &str| format!("{why}; takes {TAKES}");
        let uri: Uri = text
            .parse()
            .map_err(|_| refuse("got something else (not repeated here)"))?;
        let tls = match uri.scheme_str() {
            Some("redis" | "valkey") => false,
            Some("rediss" | "valkeys") => true,
            _ => return Err(refuse("got another scheme, or none")),
        };
        let authority = uri.authority().ok_or_else(|| refuse("got no host"))?;
        let (who, place) = match authority.as_str().rsplit_once('@') {
            Some((who, place)) => (Some(who), place),
            None => (None, authority.as_str()),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let port = port
                    .parse()
                    .map_err(|_| refuse("got a port that is none"))?;
                (host, port)
            }
            _ => (place, 6379),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(refuse("got no host"));
        }
        let decoded = |part: &str| {
            let text = percent_decode_str(part).decode_utf8();
            text.map(|text| Some(text.into_owned()).filter(|text| !text.is_empty()))
                .map_err(|_| refuse("got a user or password that is not UTF-8"))
        };
        let (user, password) = match who.map(|who| who.split_once(':').unwrap_or((who, ""))) {
            Some((user, password)) => (decoded(user)?, decoded(password)?),
            None => (None, None),
        };
        let database = match uri.path().trim_start_matches('/') {
            "" => 0,
            number => number
                .parse()
                .map_err(|_| refuse("got a database that is not a number"))?,
        };
        if uri.query().is_some() {
            return Err(refuse("got a query"));
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            user,
            password,
            database,
        })
    }
}

impl Human for Option<EngineUrl> {
    const TAKES: &'static str = TAKES;

    fn read(text: &str) -> Option<Self> {
        if text == "off" {
            Some(None)
        } else {
            text.parse().ok().map(Some)
        }
    }

    fn write(&self) -> String {
        self.as_ref().map_or("off".into(), ToString::to_string)
    }
}

/// The URL without its password.
impl fmt::Display for EngineUrl {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "rediss" } else { "redis" };
        write!(to, "{scheme}://")?;
        if let Some(user) = &self.user {
            write!(to, "{user}@")?;
        }
        if self.host.contains(':') {
            write!(to, "[{}]", self.host)?;
        } else {
            to.write_str(&self.host)?;
        }
        write!(to, ":{}", self.port)?;
        if self.database != 0 {
            write!(to, "/{}", self.database)?;
        }
        Ok(())
    }
}

impl fmt::Debug for EngineUrl {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_without_their_password() {
        for (text, shown, user, password) in [
            ("redis://127.0.0.1", "redis://127.0.0.1:6379", None, None),
            (
                "redis://127.0.0.1:7000/3",
                "redis://127.0.0.1:7000/3",
                None,
                None,
            ),
            ("valkey://v", "redis://v:6379", None, None),
            ("rediss://[::1]:6380/", "rediss://[::1]:6380", None, None),
            ("redis://[::1]", "redis://[::1]:6379", None, None),
            ("rediss://gate@e:1", "rediss://gate@e:1", Some("gate"), None),
            (
                "redis://gate:p%40%3As@e",
                "redis://gate@e:6379",
                Some("gate"),
                Some("p@:s"),
            ),
            ("redis://:secret@e", "redis://e:6379", None, Some("secret")),
        ] {
            let url: EngineUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), shown, "{text}");
            assert_eq!(
                (url.user.as_deref(), url.password.as_deref()),
                (user, password),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_password_repeated() {
        for (text, why) in [
            ("localhost:6379", "scheme"),
            ("http://h", "scheme"),
            ("redis:///0", "something else"),
            ("redis://u:hunter2@:6379", "host"),
            ("redis://u:hunter2@h:99999", "port"),
            ("redis://u:hunter2@h/zero", "database"),
            ("redis://u:hunter2@h?x=1", "query"),
            ("", "something else"),
        ] {
            let error = text.parse::<EngineUrl>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
            assert!(
                error.contains(TAKES) && !error.contains("hunter2"),
                "{error}"
            );
        }
    }
}
