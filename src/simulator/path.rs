//! Routes, matched on the raw path.

use hyper::Method;

use super::counts::Kind;
use super::status_route::StatusRoute;

/// The route of a request. Ids are percent-decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Status(StatusRoute, String),
    Create(StatusRoute),
    Remix(String),
    Content(String),
    /// A signed result URL.
    File(String),
    /// A Midjourney image.
    Image(String),
    Upload,
    Chat,
    /// The segments after `/simulator`.
    Control(Vec<String>),
    /// An unknown path below /v1.
    UnknownApi,
    /// A web page.
    Page,
}

impl Route {
    pub(super) fn of(method: &Method, path: &str, query: &str) -> Self {
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let reads = method == Method::GET || method == Method::HEAD;
        let gets = method == Method::GET;
        let posts = method == Method::POST;
        if let ["simulator", rest @ ..] = segments.as_slice() {
            return Self::Control(rest.iter().map(|s| decoded(s)).collect());
        }
        // gin serves HEAD only where it is registered: a HEAD on a status path gets a 404.
        if gets && let Some((route, id)) = StatusRoute::of_poll(&segments, query) {
            return Self::Status(route, decoded(id));
        }
        if posts && let Some(route) = StatusRoute::of_create(&segments) {
            return Self::Create(route);
        }
        match segments.as_slice() {
            ["v1", "videos", id, "remix"] if posts => Self::Remix(decoded(id)),
            ["v1", "videos", id, "content"] if reads => Self::Content(decoded(id)),
            ["v1", "files" | "uploads"] if posts => Self::Upload,
            ["v1", "chat", "completions"] if posts => Self::Chat,
            ["files", name] if reads => match name.strip_suffix(".mp4") {
                Some(id) => Self::File(decoded(id)),
                None => Self::Page,
            },
            ["mj", "image", id] if reads => Self::Image(decoded(id)),
            _ if path.starts_with("/v1") => Self::UnknownApi,
            _ => Self::Page,
        }
    }

    /// The route of a status poll.
    pub(super) const fn status(&self) -> Option<StatusRoute> {
        match self {
            Self::Status(route, _) => Some(*route),
            _ => None,
        }
    }

    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Status(route, _) => Kind::Poll(*route),
            Self::Create(_) | Self::Remix(_) => Kind::Create,
            Self::Content(_) => Kind::Content,
            Self::File(_) | Self::Image(_) => Kind::File,
            Self::Upload => Kind::Upload,
            Self::Chat => Kind::Chat,
            Self::Control(_) | Self::UnknownApi | Self::Page => Kind::Other,
        }
    }
}

/// Percent-decodes a path segment; invalid UTF-8 becomes U+FFFD.
pub(super) fn decoded(segment: &str) -> String {
    let hex = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match (first, after) {
            (b'%', [high, low, tail @ ..]) => hex(*high)
                .zip(hex(*low))
                .map(|(high, low)| (high << 4 | low, tail)),
            _ => None,
        };
        let (byte, tail) = escaped.unwrap_or((*first, after));
        bytes.push(byte);
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Percent-encodes a string as a path segment.
pub(super) fn encoded(text: &str) -> String {
    let mut segment = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:=@".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            segment.push('%');
            for digit in [byte >> 4, byte & 15] {
                segment.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
            }
        }
    }
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_id_survives_encoding() {
        for id in ["sora-2:task_01k", "a/b c?d#e%f", "ünï", "task_X", "b64=="] {
            assert_eq!(decoded(&encoded(id)), id);
            let path = format!("/v1/videos/{}", encoded(id));
            let status = Route::Status(StatusRoute::Openai, id.to_owned());
            assert_eq!(Route::of(&Method::GET, &path, ""), status);
        }
        assert_eq!(decoded("100%"), "100%");
    }

    #[test]
    fn below_v1_only_the_routes_of_new_api_are_served() {
        for (method, path) in [
            (Method::HEAD, "/v1/videos/x"),
            (Method::DELETE, "/v1/videos/x"),
            (Method::GET, "/v1/videos"),
            (Method::GET, "/v1/videos/"),
            (Method::GET, "/v1/video/generations"),
            (Method::POST, "/v1/video/generations/x"),
            (Method::GET, "/v1beta/models"),
        ] {
            assert_eq!(
                Route::of(&method, path, ""),
                Route::UnknownApi,
                "{method} {path}"
            );
        }
        assert_eq!(Route::of(&Method::GET, "/", ""), Route::Page);
        assert_eq!(Route::of(&Method::GET, "/pricing", ""), Route::Page);
    }
}
