//! Who the caller is, and the key that status answers are cached and shared under.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, ORIGIN, USER_AGENT};
use http::{HeaderMap, HeaderValue, Uri};

use super::preferences::client_timeout;
use crate::route::{RouteId, TaskId};

/// Headers that carry a credential or select what a credential may see; then the header that counts only if none of
/// them is sent; then headers that are part of the caller in addition.
static NAMES: [HeaderName; 9] = [
    AUTHORIZATION,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("mj-api-secret"),
    HeaderName::from_static("openai-organization"),
    HeaderName::from_static("openai-project"),
    COOKIE,
    // Upstream may echo it (CORS): such an answer is for this origin alone.
    ORIGIN,
];

/// How many headers `callers.headers` may name.
pub const MAX_EXTRAS: usize = 16;

/// The key that an answer is cached and shared under: the caller, the route that upstream is asked on, and the task.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TaskKey {
    /// The caller.
    pub caller: Caller,
    /// The route, which decides how the answer is read.
    pub route: RouteId,
    /// The task, with the rest of what is asked for where the id alone does not tell it.
    pub task: TaskId,
}

/// A keyed digest of a caller's credentials. It cannot be reversed, nor compared with another process's, except within a
/// fleet.
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
    /// The whole digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A caller as another member of the fleet names it.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The first half of the digest, which tells callers apart just as well; never zero.
    #[must_use]
    pub fn short(self) -> u64 {
        let (halves, _) = self.0.as_chunks();
        u64::from_be_bytes(halves[0]).max(1)
    }
}

/// A caller, and the request parts that identify it.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// The digest of those parts.
    pub caller: Caller,
    used: Used,
}

/// Computes callers from credentials. The secret key is generated at start-up, or derived from a fleet's
/// secret, and never leaves the process.
#[derive(Clone)]
pub struct CallerKey {
    key: [u8; 32],
    extras: Extras,
    lengths: Lengths,
}

/// The headers named by `callers.headers`.
type Extras = Arc<[HeaderName]>;

/// The lengths of the names that identify a caller, a bit for each: few other headers are as long as one of them, so that
/// most need not be compared.
#[derive(Clone, Copy)]
struct Lengths(u64);

impl Lengths {
    fn of(extras: &[HeaderName]) -> Self {
        let names = NAMES.iter().chain(extras);
        Self(names.fold(0, |lengths, name| lengths | Self::bit(name)))
    }

    fn may_be_of(self, name: &HeaderName) -> bool {
        self.0 & Self::bit(name) != 0
    }

    fn bit(name: &HeaderName) -> u64 {
        1 << name.as_str().len().min(63)
    }
}

impl CallerKey {
    /// Creates a random key.
    ///
    /// # Errors
    /// The operating system provides no random bytes.
    pub fn random() -> std::io::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(std::io::Error::other)?;
        Ok(Self::new(key))
    }

    /// A given key: the same key gives the same callers in every process.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self {
            key,
            extras: Arc::default(),
            lengths: Lengths::of(&[]),
        }
    }

    /// The same key, with additional headers that identify a caller: at most [`MAX_EXTRAS`].
    #[must_use]
    pub fn with_headers(&self, extras: &[HeaderName]) -> Self {
        let extras: Extras = extras
            .iter()
            .filter(|name| !NAMES.contains(name))
            .take(MAX_EXTRAS)
            .cloned()
            .collect();
        Self {
            key: self.key,
            lengths: Lengths::of(&extras),
            extras,
        }
    }

    /// The caller with these credentials.
    ///
    /// Every part is hashed with its name and length, so that different sets of parts never produce the same input.
    #[must_use]
    pub fn caller(&self, credentials: &Credentials) -> Caller {
        let Parts {
            headers, uri, used, ..
        } = &*credentials.0;
        self.digest(*used, headers, uri.query())
    }

    /// The caller that sent these headers and this query string.
    #[must_use]
    pub fn identify(&self, headers: &HeaderMap, query: Option<&str>) -> Identity {
        let used = Used::among(headers, &self.extras, self.lengths);
        let caller = self.digest(used, headers, query);
        Identity { caller, used }
    }

    fn digest(&self, used: Used, headers: &HeaderMap, query: Option<&str>) -> Caller {
        let digest = self.whole_digest(used, headers, query);
        let (halves, _) = digest.as_chunks();
        Caller(halves[0])
    }

    fn whole_digest(&self, used: Used, headers: &HeaderMap, query: Option<&str>) -> [u8; 32] {
        // Nearly all callers fit the buffer; others are hashed piece by piece, with the same result.
        let mut whole = ArrayVec::<u8, 512>::new();
        let mut fits = true;
        let mut gather = |bytes: &[u8]| fits = fits && whole.try_extend_from_slice(bytes).is_ok();
        self.parts(used, headers, query, &mut gather);
        let digest = if fits {
            blake3::keyed_hash(&self.key, &whole)
        } else {
            let mut hasher = blake3::Hasher::new_keyed(&self.key);
            self.parts(used, headers, query, &mut |bytes| {
                hasher.update(bytes);
            });
            hasher.finalize()
        };
        *digest.as_bytes()
    }

    /// Visits everything that identifies a caller, each part with its index and length.
    fn parts(
        &self,
        used: Used,
        headers: &HeaderMap,
        query: Option<&str>,
        to: &mut impl FnMut(&[u8]),
    ) {
        let mut add = |index: u8, part: &[u8]| {
            to(&[index]);
            to(&part.len().to_le_bytes());
            to(part);
        };
        for (index, name) in used.names(&self.extras) {
            for value in headers.get_all(name) {
                if usize::from(index) >= NAMES.len() {
                    // The index of an extra header depends on the settings, so its name is hashed as well.
                    add(u8::MAX - 1, name.as_str().as_bytes());
                }
                add(index, value.as_bytes());
            }
        }
        if let Some(query) = query {
            add(u8::MAX, query.as_bytes());
        }
    }

    /// A keyed digest of the body of a request, which tells it from others.
    #[must_use]
    pub fn digest_of(&self, body: &[u8]) -> String {
        let digest = blake3::keyed_hash(&self.key, body);
        digest.to_hex()[..32].to_owned()
    }

    /// The credentials of a request from `identity`, taken from its headers and target.
    #[must_use]
    pub fn credentials(&self, identity: Identity, headers: HeaderMap, uri: Uri) -> Credentials {
        Credentials(Arc::new(Parts {
            headers,
            uri,
            used: identity.used,
            extras: Arc::clone(&self.extras),
        }))
    }
}

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerKey")
    }
}

/// The request parts that identify a caller, as the client sent them, and its user agent. An upstream poll may depend
/// on nothing else, since its answer is shared by all clients of the caller. Dropped with the poll, never cached. Cheap
/// to clone.
#[derive(Clone)]
pub struct Credentials(Arc<Parts>);

struct Parts {
    headers: HeaderMap,
    uri: Uri,
    used: Used,
    extras: Extras,
}

impl Credentials {
    /// Takes them from a request's headers and target, with the built-in headers only.
    #[must_use]
    pub fn new(headers: HeaderMap, uri: Uri) -> Self {
        let extras = Extras::default();
        Self(Arc::new(Parts {
            used: Used::among(&headers, &extras, Lengths::of(&extras)),
            headers,
            uri,
            extras,
        }))
    }

    /// A copy of the relevant parts in memory of its own: headers and target are slices of the connection's read buffer
    /// and would keep all of it alive.
    #[must_use]
    pub fn detached(&self) -> Self {
        let mut headers = HeaderMap::with_capacity(2);
        self.copy_into(&mut headers);
        for value in headers.values_mut() {
            *value = detached(value);
        }
        if let Some(agent) = self.user_agent() {
            headers.insert(USER_AGENT, detached(agent));
        }
        let target = self.query().map(|query| format!("/?{query}"));
        let uri = target.and_then(|target| Uri::from_maybe_shared(target).ok());
        Self(Arc::new(Parts {
            headers,
            uri: uri.unwrap_or_default(),
            used: self.0.used,
            extras: Arc::clone(&self.0.extras),
        }))
    }

    /// A digest of the parts that identify the caller, under another key than that of the callers.
    #[must_use]
    pub fn digest(&self, key: [u8; 32]) -> [u8; 32] {
        let Parts {
            headers,
            uri,
            used,
            extras,
        } = &*self.0;
        let key = CallerKey {
            key,
            extras: Arc::clone(extras),
            lengths: Lengths::of(&self.0.extras),
        };
        key.whole_digest(*used, headers, uri.query())
    }

    /// All of the client's headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.0.headers
    }

    /// How long the client says that it waits for a response, if it does.
    #[must_use]
    pub fn client_timeout(&self) -> Option<Duration> {
        client_timeout(&self.0.headers)
    }

    /// The query string, without its `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.0.uri.query()
    }

    /// The client's `user-agent`.
    #[must_use]
    pub fn user_agent(&self) -> Option<&HeaderValue> {
        self.0.headers.get(USER_AGENT)
    }

    /// The names of the headers that identify the caller, for `vary`; `None` if there are none.
    #[must_use]
    pub fn vary(&self) -> Option<HeaderValue> {
        let mut names = self.names();
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

    /// Copies the headers that identify the caller.
    pub fn copy_into(&self, to: &mut HeaderMap) {
        for name in self.names() {
            for value in self.0.headers.get_all(name) {
                to.append(name.clone(), value.clone());
            }
        }
    }

    /// The names of the client's other headers, which are not sent upstream.
    pub fn others(&self) -> impl Iterator<Item = &HeaderName> {
        let is_used = |name: &HeaderName| self.names().any(|used| used == name);
        self.0.headers.keys().filter(move |name| !is_used(name))
    }

    fn names(&self) -> impl Iterator<Item = &HeaderName> {
        self.0.used.names(&self.0.extras).map(|(_, name)| name)
    }
}

/// A copy of a header value in memory of its own, for use beyond the life of the read buffer.
#[must_use]
pub fn detached(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

/// The headers that identify the caller: a bit for each of [`NAMES`], then one for each extra.
#[derive(Debug, Clone, Copy)]
struct Used(u32);

impl Used {
    const CREDENTIALS: u32 = (1 << 7) - 1;
    const COOKIE: u32 = 1 << 7;

    /// Cookies count only if no credential is sent: HTTP clients collect CDN cookies, which would split one API key into
    /// many callers.
    fn among(headers: &HeaderMap, extras: &[HeaderName], lengths: Lengths) -> Self {
        let position =
            |name: &HeaderName| NAMES.iter().chain(extras).position(|known| known == name);
        let sent: u32 = headers
            .keys()
            .filter(|name| lengths.may_be_of(name))
            .filter_map(position)
            .fold(0, |sent, index| sent | 1 << index);
        Self(if sent & Self::CREDENTIALS == 0 {
            sent
        } else {
            sent & !Self::COOKIE
        })
    }

    /// Each header with its index.
    fn names(self, extras: &[HeaderName]) -> impl Iterator<Item = (u8, &HeaderName)> {
        (0..)
            .zip(NAMES.iter().chain(extras))
            .filter(move |(index, _)| self.0 & (1 << index) != 0)
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
