//! Whose poll it is, and under what it is remembered and shared.

use std::borrow::Cow;
use std::fmt;

use http::header::{AUTHORIZATION, COOKIE, HeaderName};
use http::{HeaderMap, HeaderValue, Uri};

use crate::route::TaskId;
use crate::task::Dialect;

/// Headers that carry a credential, or choose among what one credential may see.
pub const CREDENTIALS: [HeaderName; 7] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("mj-api-secret"),
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
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

impl Caller {
    /// Eight hex digits, enough to tell callers apart in a log.
    #[must_use]
    pub fn short(&self) -> String {
        let [a, b, c, d, ..] = self.0;
        format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.short())
    }
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
        let mut digest = blake3::Hasher::new_keyed(&self.0);
        let mut add = |place: u8, part: &[u8]| {
            digest.update(&[place]);
            digest.update(&part.len().to_le_bytes());
            digest.update(part);
        };
        for (place, name) in (0..).zip(credentials.names()) {
            // Cookies are told from the credential of the same place.
            let place = if *name == COOKIE { u8::MAX - 1 } else { place };
            for value in credentials.headers.get_all(name) {
                add(place, value.as_bytes());
            }
        }
        if let Some(query) = credentials.query() {
            add(u8::MAX, query.as_bytes());
        }
        let mut caller = [0; 16];
        digest.finalize_xof().fill(&mut caller);
        Caller(caller)
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
}

impl Credentials {
    /// From a request's headers and target.
    #[must_use]
    pub fn new(headers: HeaderMap, uri: Uri) -> Self {
        Self { headers, uri }
    }

    /// The query string, without its `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.uri.query()
    }

    /// The names of the headers that made the caller, for `vary`; `None` where none did.
    #[must_use]
    pub fn vary(&self) -> Option<HeaderValue> {
        let mut used = self
            .names()
            .iter()
            .filter(|name| self.headers.contains_key(*name));
        let first = used.next()?.as_str();
        let list = used.fold(Cow::Borrowed(first), |list, name| {
            format!("{list}, {name}").into()
        });
        match list {
            Cow::Borrowed(name) => Some(HeaderValue::from_static(name)),
            Cow::Owned(names) => HeaderValue::from_maybe_shared(names).ok(),
        }
    }

    /// Copies the headers that made the caller.
    pub fn copy_into(&self, to: &mut HeaderMap) {
        for name in self.names() {
            for value in self.headers.get_all(name) {
                to.append(name.clone(), value.clone());
            }
        }
    }

    /// Cookies count only without any of [`CREDENTIALS`]: HTTP clients collect CDN cookies of their own, which
    /// would split one key into many callers.
    fn names(&self) -> &'static [HeaderName] {
        static NAMES: [HeaderName; 7] = CREDENTIALS;
        static COOKIES: [HeaderName; 1] = [COOKIE];
        if NAMES.iter().any(|name| self.headers.contains_key(name)) {
            &NAMES
        } else {
            &COOKIES
        }
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
