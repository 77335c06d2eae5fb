//! Whose poll it is, and under what it is remembered and shared.

use std::fmt;

use http::header::{AUTHORIZATION, COOKIE, HeaderName};
use http::{HeaderMap, HeaderValue, Uri};

use crate::request::route::TaskId;
use crate::task::Dialect;

/// Headers that carry a credential, or choose among what one credential may see; last, what stands in for them.
static NAMES: [HeaderName; 8] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("mj-api-secret"),
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
    COOKIE,
];

/// What is remembered and shared under: whose, asked on which path upstream, which task.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TaskKey {
    /// Whose answer it is.
    pub caller: Caller,
    /// The path upstream is asked on.
    pub dialect: Dialect,
    /// Which task.
    pub task: TaskId,
}

/// Stands for a credential: a keyed digest that cannot be turned back, nor compared across restarts.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Caller([u8; 16]);

/// Eight hex digits, enough to tell callers apart in a log.
impl fmt::Debug for Caller {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(to, "{:08x}", u32::from_be_bytes([a, b, c, d]))
    }
}

impl Caller {
    /// The first half of the digest, which tells callers apart just as well; never zero.
    #[must_use]
    pub fn short(self) -> u64 {
        let (halves, _) = self.0.as_chunks();
        u64::from_be_bytes(halves[0]).max(1)
    }
}

/// A caller, and what made it.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Who it is.
    pub caller: Caller,
    used: Used,
}

/// Makes callers of credentials; the key is made at start-up and never leaves.
#[derive(Clone)]
pub struct CallerKey([u8; 32]);

impl CallerKey {
    /// A key that no one knows.
    ///
    /// # Errors
    /// The operating system gave no random bytes.
    pub fn random() -> std::io::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(std::io::Error::other)?;
        Ok(Self(key))
    }

    /// The caller whose credentials these are.
    ///
    /// Every part goes in with its name's place and its length, so that no two different sets of parts make the
    /// same input.
    #[must_use]
    pub fn caller(&self, credentials: &Credentials) -> Caller {
        self.digest(credentials.used, &credentials.headers, credentials.query())
    }

    /// Who sends a request with these headers and this query string.
    #[must_use]
    pub fn identify(&self, headers: &HeaderMap, query: Option<&str>) -> Identity {
        let used = Used::among(headers);
        let caller = self.digest(used, headers, query);
        Identity { caller, used }
    }

    fn digest(&self, used: Used, headers: &HeaderMap, query: Option<&str>) -> Caller {
        let mut input = Vec::with_capacity(256);
        let mut add = |place: u8, part: &[u8]| {
            input.push(place);
            input.extend_from_slice(&part.len().to_le_bytes());
            input.extend_from_slice(part);
        };
        for (place, name) in used.names() {
            for value in headers.get_all(name) {
                add(place, value.as_bytes());
            }
        }
        if let Some(query) = query {
            add(u8::MAX, query.as_bytes());
        }
        let digest = blake3::keyed_hash(&self.0, &input);
        let (halves, _) = digest.as_bytes().as_chunks();
        Caller(halves[0])
    }
}

impl fmt::Debug for CallerKey {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("CallerKey")
    }
}

/// What makes a caller, as the client sent it: the only part of a client's request that a poll of upstream may
/// depend on, since the answer is shared with everyone of the same caller. Dropped with the poll, never kept.
#[derive(Clone)]
pub struct Credentials {
    headers: HeaderMap,
    uri: Uri,
    used: Used,
}

impl Credentials {
    /// From a request's headers and target.
    #[must_use]
    pub fn new(headers: HeaderMap, uri: Uri) -> Self {
        Self {
            used: Used::among(&headers),
            headers,
            uri,
        }
    }

    /// From the headers and target of a request whose sender was identified.
    #[must_use]
    pub fn of(identity: Identity, headers: HeaderMap, uri: Uri) -> Self {
        let used = identity.used;
        Self { headers, uri, used }
    }

    /// A copy of no more than what counts, in memory of its own. Headers and target are slices of the buffer that their
    /// connection is read into: kept for long, they keep all of it.
    #[must_use]
    pub fn detached(&self) -> Self {
        let mut headers = HeaderMap::with_capacity(1);
        for (_, name) in self.used.names() {
            for value in self.headers.get_all(name) {
                headers.append(name.clone(), detached(value));
            }
        }
        let target = self.query().map(|query| format!("/?{query}"));
        let uri = target.and_then(|target| Uri::from_maybe_shared(target).ok());
        Self {
            headers,
            uri: uri.unwrap_or_default(),
            used: self.used,
        }
    }

    /// The query string, without its `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    /// The names of the headers that made the caller, for `vary`; `None` where none did.
    #[must_use]
    pub fn vary(&self) -> Option<HeaderValue> {
        let mut names = self.used.names().map(|(_, name)| name);
        let first = names.next()?;
        match names.next() {
            None => Some(HeaderValue::from(first.clone())),
            Some(second) => {
                let all = [first, second].into_iter().chain(names);
                let all: Vec<_> = all.map(HeaderName::as_str).collect();
                HeaderValue::from_maybe_shared(all.join(", ")).ok()
            }
        }
    }

    /// Copies the headers that made the caller.
    pub fn copy_into(&self, to: &mut HeaderMap) {
        for (_, name) in self.used.names() {
            for value in self.headers.get_all(name) {
                to.append(name.clone(), value.clone());
            }
        }
    }
}

/// A copy of a header value in memory of its own, for holders that outlive the request's read buffer.
#[must_use]
pub fn detached(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

/// Which headers make the caller: a bit for each of [`NAMES`].
#[derive(Debug, Clone, Copy)]
struct Used(u8);

impl Used {
    const COOKIE: u8 = 1 << 7;

    /// Cookies count only where no credential is sent: HTTP clients collect CDN cookies of their own, which
    /// would split one key into many callers.
    fn among(headers: &HeaderMap) -> Self {
        let sent = headers
            .keys()
            .filter_map(|name| NAMES.iter().position(|known| known == name))
            .fold(0, |sent, place| sent | 1 << place);
        Self(match sent & !Self::COOKIE {
            0 => sent,
            credentials => credentials,
        })
    }

    /// The headers, each with its place.
    fn names(self) -> impl Iterator<Item = (u8, &'static HeaderName)> {
        (0..)
            .zip(&NAMES)
            .filter(move |(place, _)| self.0 & (1 << place) != 0)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Credentials")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(headers: &[(&'static str, &str)], uri: &str) -> Credentials {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    value.parse().expect("a value"),
                )
            })
            .collect();
        Credentials::new(headers, uri.parse().expect("a target"))
    }

    #[test]
    fn callers_differ_by_every_credential_its_place_and_the_query() {
        let key = CallerKey::random().expect("random bytes");
        let different = [
            credentials(&[], "/a"),
            credentials(&[], "/a?key=1"),
            credentials(&[("authorization", "Bearer 1")], "/a"),
            credentials(&[("authorization", "Bearer 2")], "/a"),
            credentials(&[("x-api-key", "Bearer 1")], "/a"),
            credentials(
                &[("authorization", "Bearer 1"), ("openai-project", "p")],
                "/a",
            ),
            credentials(
                &[("authorization", "Bearer 1"), ("authorization", "p")],
                "/a",
            ),
            credentials(&[("cookie", "Bearer 1")], "/a"),
            credentials(&[("mj-api-secret", "Bearer 1")], "/a?key=1"),
        ];
        for (at, one) in different.iter().enumerate() {
            for (other_at, other) in different.iter().enumerate() {
                assert_eq!(
                    key.caller(one) == key.caller(other),
                    at == other_at,
                    "{at} {other_at}"
                );
            }
        }
    }

    #[test]
    fn cookies_and_other_headers_do_not_split_a_credential() {
        let key = CallerKey::random().expect("random bytes");
        let plain = credentials(&[("authorization", "Bearer 1")], "/a");
        let noisy = credentials(
            &[
                ("authorization", "Bearer 1"),
                ("cookie", "__cf_bm=x"),
                ("user-agent", "u"),
            ],
            "/b",
        );
        assert_eq!(key.caller(&plain), key.caller(&noisy));
        let mut sent = HeaderMap::new();
        noisy.copy_into(&mut sent);
        assert_eq!(sent.len(), 1);
        assert_eq!(noisy.vary().expect("used"), "authorization");
    }

    #[test]
    fn credentials_kept_apart_are_the_same_callers() {
        let key = CallerKey::random().expect("random bytes");
        for uri in ["/a", "/a?", "/a?key=1&b=%2F?c", "http://x/a?key=1"] {
            let all = [("api-key", "1"), ("api-key", "2"), ("cookie", "c")];
            for sent in [&all[..], &all[2..], &[]] {
                let sent = credentials(sent, uri);
                let copy = sent.detached();
                assert_eq!(key.caller(&copy), key.caller(&sent), "{uri}");
                assert_eq!((copy.query(), copy.vary()), (sent.query(), sent.vary()));
                let (mut copied, mut as_sent) = (HeaderMap::new(), HeaderMap::new());
                copy.copy_into(&mut copied);
                sent.copy_into(&mut as_sent);
                assert_eq!(copied, as_sent);
            }
        }
    }

    #[test]
    fn a_caller_is_keyed_by_the_process_and_shows_eight_digits() {
        let credentials = credentials(&[("authorization", "Bearer 1"), ("api-key", "2")], "/a");
        let caller = CallerKey::random()
            .expect("random bytes")
            .caller(&credentials);
        assert_ne!(
            caller,
            CallerKey::random()
                .expect("random bytes")
                .caller(&credentials)
        );
        assert_eq!(format!("{caller:?}").len(), 8);
        assert_eq!(credentials.vary().expect("used"), "authorization, api-key");
        assert!(!format!("{credentials:?}").contains("Bearer"));
    }
}
