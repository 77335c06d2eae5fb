//! Bearer keys as new-api's `TokenAuth` parses them, and which of them are accepted.

use std::collections::BTreeSet;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

/// Maximum number of revoked keys.
const MAX_REVOKED: usize = 10_000;

/// The accepted and the revoked keys.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// If empty, any key is accepted.
    known: BTreeSet<String>,
    revoked: BTreeSet<String>,
}

impl Keys {
    pub(super) fn new(known: &[String]) -> Self {
        Self {
            known: known.iter().map(|key| normal(key).to_owned()).collect(),
            revoked: BTreeSet::new(),
        }
    }

    /// The normal form of the request's key, if it is accepted.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Option<String> {
        let key = presented(headers)?;
        let known = self.known.is_empty() || self.known.contains(key);
        (known && !self.revoked.contains(key)).then(|| key.to_owned())
    }

    /// Rejects a key from now on; returns false if too many keys are revoked.
    pub(super) fn revoke(&mut self, key: &str) -> bool {
        let room = self.revoked.len() < MAX_REVOKED;
        room && {
            self.revoked.insert(normal(key).to_owned());
            true
        }
    }

    /// Accepts a revoked key again; returns false if it was not revoked.
    pub(super) fn restore(&mut self, key: &str) -> bool {
        self.revoked.remove(normal(key))
    }

    pub(super) fn restore_all(&mut self) {
        self.revoked.clear();
    }
}

/// The normal form of a key: `sk-K`, `K` and `sk-K-12` are one key.
pub(super) fn normal(key: &str) -> &str {
    let key = key.trim();
    let key = key.strip_prefix("sk-").unwrap_or(key);
    key.split('-').next().unwrap_or(key)
}

/// The request's key in its normal form.
fn presented(headers: &HeaderMap) -> Option<&str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mut key = text(AUTHORIZATION.as_str()).unwrap_or_default().trim();
    for scheme in ["Bearer ", "bearer "] {
        key = key.strip_prefix(scheme).unwrap_or(key).trim();
    }
    if key.is_empty() || key == "midjourney-proxy" {
        key = text("mj-api-secret").unwrap_or_default();
    }
    let key = normal(key);
    (!key.is_empty()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header value"));
        headers
    }

    #[test]
    fn every_spelling_of_a_key_is_one_key() {
        let keys = Keys::default();
        for value in [
            "Bearer sk-K",
            "bearer K",
            "K",
            "sk-K-12",
            "Bearer sk-K-12-3",
        ] {
            let admitted = keys.admit(&headers("authorization", value));
            assert_eq!(admitted.as_deref(), Some("K"), "{value}");
        }
        let fallback = keys.admit(&headers("mj-api-secret", "sk-K"));
        assert_eq!(fallback.as_deref(), Some("K"));
    }

    #[test]
    fn missing_unknown_and_revoked_keys_are_rejected() {
        let mut keys = Keys::new(&["sk-A".to_owned(), "B".to_owned()]);
        assert_eq!(keys.admit(&HeaderMap::new()), None);
        assert_eq!(keys.admit(&headers("authorization", "Bearer sk-")), None);
        assert_eq!(keys.admit(&headers("x-api-key", "A")), None);
        assert_eq!(keys.admit(&headers("authorization", "C")), None);
        assert!(keys.admit(&headers("authorization", "sk-B")).is_some());
        assert!(keys.revoke("sk-B-1"));
        assert_eq!(keys.admit(&headers("authorization", "B")), None);
        assert!(keys.restore("B"));
        assert!(keys.admit(&headers("authorization", "B")).is_some());
    }
}
