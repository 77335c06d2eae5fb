//! What counts as the URL of a result: the fields that hold one may hold a failure's text as well.
//!
//! It is checked here rather than by a URL library: parsers after the WHATWG rules accept, and mend, much that is no URL
//! (spaces, `https:host`), and the parts are never needed, only a yes or no.

use std::borrow::Cow;

use super::json::Json;
use super::values::subtype;

/// The extensions of a URL's path that tell a format.
const EXTENSIONS: [&str; 5] = ["mp4", "webm", "mov", "gif", "mkv"];

/// How deep a URL may lie in lists and in objects that stand for it.
const DEPTH: usize = 4;

/// The URL that a value is, as JSON and decoded: a list stands for its first item, and an object in a list for its `url`.
pub(super) fn of(value: Json<'_>) -> Option<(Json<'_>, Cow<'_, str>)> {
    let mut value = value;
    for _ in 0..DEPTH {
        if let Some(text) = value.text() {
            return is_url(&text).then_some((value, text));
        }
        let item = value.first_item()?;
        value = match item.object() {
            Some(object) => object.non_null("url")?,
            None => item,
        };
    }
    None
}

/// Whether a text is, as a whole, an absolute http(s) URL with a host, or a `data:` URI.
pub(super) fn is_url(text: &str) -> bool {
    if has_gap(text) {
        return false;
    }
    match authority(text) {
        Some((authority, _)) => has_host(authority),
        None => data(text).is_some(),
    }
}

/// Whether there is a space or a control character in a text. Most are ASCII, which is examined without a branch.
fn has_gap(text: &str) -> bool {
    if text.is_ascii() {
        let is_gap = |byte: u8| byte <= b' ' || byte == 0x7f;
        text.bytes().fold(false, |found, byte| found | is_gap(byte))
    } else {
        text.contains(|c: char| c.is_whitespace() || c.is_control())
    }
}

/// The format that a URL tells: its path's extension, or the video type of a `data:` URI.
pub(super) fn format(url: &str) -> Option<String> {
    let Some((_, rest)) = authority(url) else {
        let mime = data(url)?.split(',').next()?;
        let video = strip_prefix_of_any_case(mime, "video/")?;
        let format = subtype(video).to_ascii_lowercase();
        return (!format.is_empty()).then_some(format);
    };
    let path = rest.split(['?', '#']).next()?;
    let (_, name) = path.rsplit_once('/')?;
    let (_, extension) = name.rsplit_once('.')?;
    let extension = extension.to_ascii_lowercase();
    EXTENSIONS
        .contains(&extension.as_str())
        .then_some(extension)
}

/// The authority of an http(s) URL, and what comes after it.
fn authority(url: &str) -> Option<(&str, &str)> {
    let rest = strip_prefix_of_any_case(url, "https://")
        .or_else(|| strip_prefix_of_any_case(url, "http://"))?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// What comes after `data:`; by RFC 2397 there is a comma before the data.
fn data(url: &str) -> Option<&str> {
    strip_prefix_of_any_case(url, "data:").filter(|rest| rest.contains(','))
}

/// RFC 3986 §3.2: `[userinfo@]host[:port]`, with a host that is there.
fn has_host(authority: &str) -> bool {
    let (_, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (host, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, port)) if v6.parse::<std::net::Ipv6Addr>().is_ok() => (v6, port),
            _ => return false,
        },
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let port_is_well = match port.strip_prefix(':') {
        Some(digits) => digits.is_empty() || digits.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    port_is_well && !host.is_empty() && !host.contains(['\\', '<', '>', '"', '|', '^', '`'])
}

fn strip_prefix_of_any_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_addresses_are_urls() {
        for text in [
            "https://v.example.com/x.mp4",
            "HTTP://localhost:8080",
            "https://user:pw@[2001:db8::1]:443/x?a=b#c",
            "https://例子.example/视频.mp4",
            "data:video/mp4;base64,AAAA",
            "data:,x",
        ] {
            assert!(is_url(text), "{text}");
        }
        for text in [
            "",
            "任务超时（1440分钟）",
            "https://",
            "https:///x",
            "https://:80/x",
            "https://a:b/",
            "https://a:99999/",
            "https://[::1",
            "https://[x]/",
            "https:host",
            "//host/x",
            "/v1/videos/x",
            "ftp://host/x",
            "javascript:alert(1)",
            "https://api.example.com answered 500",
            "https://h\\x/",
            "data:video/mp4",
            " https://h/",
        ] {
            assert!(!is_url(text), "{text}");
        }
    }

    #[test]
    fn url_is_a_text_or_the_first_of_a_list() {
        for (text, url) in [
            (r#""https://h/1""#, Some("https://h/1")),
            (r#"["https://h/1","https://h/2"]"#, Some("https://h/1")),
            (
                r#"[{"id":1,"url":"https://h/1"},{"url":"https://h/2"}]"#,
                Some("https://h/1"),
            ),
            (r#"[{"url":["https://h/1"]}]"#, Some("https://h/1")),
            (r#"["n/a","https://h/2"]"#, None),
            (r#"[{"cover":"https://h/1"}]"#, None),
            (r#"{"url":"https://h/1"}"#, None),
            ("[]", None),
            ("null", None),
        ] {
            let found = of(Json::parse(text).unwrap());
            assert_eq!(found.as_ref().map(|(_, url)| url.as_ref()), url, "{text}");
        }
        let deep = ["[".repeat(9), "]".repeat(9)].join("\"https://h/1\"");
        assert!(of(Json::parse(&deep).unwrap()).is_none());
    }

    #[test]
    fn format_is_told_by_the_path_alone() {
        for (url, told) in [
            ("https://h/a/x.WebM?y=z.gif", Some("webm")),
            ("https://h/x.mov#t", Some("mov")),
            ("https://h.mp4", None),
            ("https://h/a.mp4/content", None),
            ("https://h/x.png", None),
            ("https://h/?f=x.mkv", None),
            ("data:video/webm;base64,AA", Some("webm")),
            ("data:application/octet-stream,AA", None),
        ] {
            assert_eq!(format(url).as_deref(), told, "{url}");
        }
    }
}
