//! The secret of a fleet, and what is sealed with it.
//!
//! Two things open an answer: the fleet's secret and the credential of the caller that it was made for. Whoever reads the
//! engine's memory has neither. Whoever has that and the secret still needs the credential; whoever has that and a
//! credential, weak ones included, still needs the secret. What is left to see is how large a value is and how long it is
//! kept, and how often the same digest is asked for.
//!
//! A sealed value belongs to its entry and its fence: under another key of the engine, or put back after a later one, it
//! does not open.

use std::fmt;

use bytes::Bytes;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::engine::{Digest, EntryKey, Fence, Sealed};

/// How many bytes a secret has at least.
pub const MIN_SECRET: usize = 32;

/// The first byte of everything that is sealed: how the rest is to be read.
const VERSION: u8 = 1;

/// The secret that all members of a fleet have, as the keys that are derived from it.
#[derive(Clone)]
pub struct Secret {
    caller: [u8; 32],
    credential: [u8; 32],
    digest: [u8; 32],
    value: [u8; 32],
    news: [u8; 32],
    fingerprint: [u8; 4],
}

impl fmt::Debug for Secret {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Secret({})", self.fingerprint())
    }
}

/// A secret of less than [`MIN_SECRET`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooShort {
    /// How many bytes it has.
    pub bytes: usize,
}

impl fmt::Display for TooShort {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes } = self;
        write!(
            to,
            "a fleet's secret of {bytes} bytes is too short: it takes at least {MIN_SECRET}"
        )
    }
}

impl std::error::Error for TooShort {}

/// Why something sealed does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsealed {
    /// It is too short to be anything.
    Cut,
    /// It was sealed by a version that this one does not know.
    Version(u8),
    /// It was altered, or sealed with another secret, for another caller, entry or fence.
    Foreign,
}

impl fmt::Display for Unsealed {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut => to.write_str("it is cut short"),
            Self::Version(version) => write!(to, "its version {version} is not known"),
            Self::Foreign => {
                to.write_str("it was altered, or sealed for another fleet, caller, task or fence")
            }
        }
    }
}

impl std::error::Error for Unsealed {}

impl Secret {
    /// Derives the keys.
    ///
    /// # Errors
    /// The secret is too short to withstand guessing.
    pub fn new(secret: &[u8]) -> Result<Self, TooShort> {
        if secret.len() < MIN_SECRET {
            return Err(TooShort {
                bytes: secret.len(),
            });
        }
        let key = |what: &str| blake3::derive_key(&format!("pollgate fleet v1 {what}"), secret);
        let [a, b, c, d, ..] = key("fingerprint");
        Ok(Self {
            caller: key("caller"),
            credential: key("credential"),
            digest: key("digest"),
            value: key("value"),
            news: key("news"),
            fingerprint: [a, b, c, d],
        })
    }

    /// Eight hexadecimal digits by which people compare secrets. Nothing else follows from them.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        format!("{:08x}", u32::from_be_bytes(self.fingerprint))
    }

    /// The key of the digest that stands for a caller, the same for all members.
    #[must_use]
    pub const fn caller_key(&self) -> [u8; 32] {
        self.caller
    }

    /// The key of the digest that a caller's credentials enter the key of its values as.
    #[must_use]
    pub const fn credential_key(&self) -> [u8; 32] {
        self.credential
    }

    /// A digest for the engine. Different kinds and different parts give different digests, however the parts are cut.
    #[must_use]
    pub fn digest(&self, kind: &str, parts: &[&[u8]]) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(&self.digest);
        for part in [kind.as_bytes()].iter().chain(parts) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let digest = hasher.finalize();
        let (halves, _) = digest.as_bytes().as_chunks();
        Digest(halves[0])
    }

    /// Seals an answer for one caller. `credential` is the digest of its credentials under [`Self::credential_key`].
    #[must_use]
    pub fn seal(
        &self,
        key: &EntryKey,
        fence: Fence,
        credential: &[u8; 32],
        plain: &[u8],
    ) -> Sealed {
        seal(&self.value_key(key, credential), &place(key, fence), plain)
    }

    /// Opens an answer.
    ///
    /// # Errors
    /// It is not what was sealed for this caller, entry and fence in this fleet.
    pub fn open(
        &self,
        key: &EntryKey,
        fence: Fence,
        credential: &[u8; 32],
        sealed: &Sealed,
    ) -> Result<Vec<u8>, Unsealed> {
        open(&self.value_key(key, credential), &place(key, fence), sealed)
    }

    /// Seals what all members may read.
    #[must_use]
    pub fn seal_news(&self, plain: &[u8]) -> Sealed {
        seal(&self.news, b"news", plain)
    }

    /// Opens what was sealed for all members.
    ///
    /// # Errors
    /// It is not what a member of this fleet sealed as news.
    pub fn open_news(&self, sealed: &Sealed) -> Result<Vec<u8>, Unsealed> {
        open(&self.news, b"news", sealed)
    }

    /// The key of one caller's answers on one task in one dialect: few enough for random nonces.
    fn value_key(&self, key: &EntryKey, credential: &[u8; 32]) -> [u8; 32] {
        *blake3::Hasher::new_keyed(&self.value)
            .update(credential)
            .update(&key.task.0)
            .update(&key.dialect.0)
            .finalize()
            .as_bytes()
    }
}

/// Where a value belongs. All parts have a fixed length.
fn place(key: &EntryKey, fence: Fence) -> [u8; 56] {
    let mut place = [0; 56];
    for (at, part) in [key.task.0, key.caller.0, key.dialect.0].iter().enumerate() {
        place[at * 16..][..16].copy_from_slice(part);
    }
    place[48..].copy_from_slice(&fence.0.to_le_bytes());
    place
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    #[allow(clippy::expect_used, reason = "the cipher takes keys of 32 bytes")]
    let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("a key of 32 bytes");
    LessSafeKey::new(key)
}

/// The version, the nonce, and then the ciphertext with its tag.
fn seal(key: &[u8; 32], place: &[u8], plain: &[u8]) -> Sealed {
    let mut nonce = [0; NONCE_LEN];
    #[allow(
        clippy::expect_used,
        reason = "the process got random bytes from it at its start"
    )]
    getrandom::fill(&mut nonce).expect("the system's random bytes");
    let overhead = 1 + NONCE_LEN + CHACHA20_POLY1305.tag_len();
    let mut sealed = Vec::with_capacity(plain.len() + overhead);
    sealed.push(VERSION);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let (_, text) = sealed.split_at_mut(1 + NONCE_LEN);
    #[allow(clippy::expect_used, reason = "fails beyond 256 GiB only")]
    let tag = cipher(key)
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(placed(place)),
            text,
        )
        .expect("a plaintext that the cipher takes");
    sealed.extend_from_slice(tag.as_ref());
    Sealed(Bytes::from(sealed))
}

fn open(key: &[u8; 32], place: &[u8], sealed: &Sealed) -> Result<Vec<u8>, Unsealed> {
    let (&version, rest) = sealed.0.split_first().ok_or(Unsealed::Cut)?;
    if version != VERSION {
        return Err(Unsealed::Version(version));
    }
    let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Unsealed::Cut)?;
    if text.len() < CHACHA20_POLY1305.tag_len() {
        return Err(Unsealed::Cut);
    }
    let mut text = text.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let length = cipher(key)
        .open_in_place(nonce, Aad::from(placed(place)), &mut text)
        .map_err(|_| Unsealed::Foreign)?
        .len();
    text.truncate(length);
    Ok(text)
}

/// The version is authenticated as well.
fn placed(place: &[u8]) -> Vec<u8> {
    [&[VERSION], place].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secret(byte: u8) -> Secret {
        Secret::new(&[byte; MIN_SECRET]).expect("long enough")
    }

    const KEY: EntryKey = EntryKey {
        task: Digest([1; 16]),
        caller: Digest([2; 16]),
        dialect: Digest([3; 16]),
    };

    #[test]
    fn a_secret_that_can_be_guessed_is_refused() {
        let short = Secret::new(&[7; MIN_SECRET - 1]).expect_err("too short");
        assert_eq!(
            short.to_string(),
            "a fleet's secret of 31 bytes is too short: it takes at least 32"
        );
    }

    #[test]
    fn keys_of_one_secret_and_of_two_are_all_different() {
        let keys = |secret: &Secret| {
            [
                secret.caller,
                secret.credential,
                secret.digest,
                secret.value,
                secret.news,
            ]
        };
        let all: std::collections::HashSet<_> = [keys(&secret(1)), keys(&secret(2))]
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(all.len(), 10);
        assert_eq!(keys(&secret(1)), keys(&secret(1)));
        assert_ne!(secret(1).fingerprint(), secret(2).fingerprint());
        assert_eq!(
            format!("{:?}", secret(1)),
            format!("Secret({})", secret(1).fingerprint())
        );
    }

    #[test]
    fn parts_of_a_digest_are_told_apart_however_they_are_cut() {
        let secret = secret(1);
        let all = [
            secret.digest("task", &[b"ab", b"c"]),
            secret.digest("task", &[b"a", b"bc"]),
            secret.digest("task", &[b"abc"]),
            secret.digest("task", &[b"abc", b""]),
            secret.digest("caller", &[b"abc"]),
            secret.digest("taska", &[b"bc"]),
        ];
        let different: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn a_value_opens_in_its_place_only() {
        let (ours, other) = (secret(1), secret(2));
        let credential = [9; 32];
        let fence = Fence(1_700_000_000_000_000);
        let sealed = ours.seal(&KEY, fence, &credential, b"succeeded");
        assert_eq!(
            ours.open(&KEY, fence, &credential, &sealed).as_deref(),
            Ok(&b"succeeded"[..])
        );
        let swapped = [
            EntryKey {
                task: Digest([4; 16]),
                ..KEY
            },
            EntryKey {
                caller: Digest([4; 16]),
                ..KEY
            },
            EntryKey {
                dialect: Digest([4; 16]),
                ..KEY
            },
        ];
        for key in &swapped {
            let opened = ours.open(key, fence, &credential, &sealed);
            assert_eq!(opened, Err(Unsealed::Foreign), "swapped");
        }
        for fence in [Fence(fence.0 + 1), Fence(fence.0 - 1), Fence::NONE] {
            let opened = ours.open(&KEY, fence, &credential, &sealed);
            assert_eq!(opened, Err(Unsealed::Foreign), "replayed");
        }
        assert_eq!(
            ours.open(&KEY, fence, &[8; 32], &sealed),
            Err(Unsealed::Foreign)
        );
        assert_eq!(
            other.open(&KEY, fence, &credential, &sealed),
            Err(Unsealed::Foreign)
        );
        assert_eq!(ours.open_news(&sealed), Err(Unsealed::Foreign));
        let news = ours.seal_news(b"forget");
        assert_eq!(ours.open_news(&news).as_deref(), Ok(&b"forget"[..]));
        assert_eq!(
            ours.open(&KEY, fence, &credential, &news),
            Err(Unsealed::Foreign)
        );
        assert_eq!(other.open_news(&news), Err(Unsealed::Foreign));
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_shows_nothing(plain in proptest::collection::vec(any::<u8>(), 8..512), fence: u64) {
            let secret = secret(1);
            let sealed = secret.seal(&KEY, Fence(fence), &[9; 32], &plain);
            prop_assert_eq!(secret.open(&KEY, Fence(fence), &[9; 32], &sealed), Ok(plain.clone()));
            prop_assert!(!sealed.0.windows(8).any(|part| part == &plain[..8]));
            prop_assert_ne!(&secret.seal(&KEY, Fence(fence), &[9; 32], &plain), &sealed);
        }

        #[test]
        fn what_was_altered_or_cut_does_not_open(
            plain in proptest::collection::vec(any::<u8>(), 0..64),
            at: prop::sample::Index,
            bit in 0..8_u8,
        ) {
            let secret = secret(1);
            let sealed = secret.seal(&KEY, Fence(5), &[9; 32], &plain).0.to_vec();
            let at = at.index(sealed.len());
            let mut altered = sealed.clone();
            altered[at] ^= 1 << bit;
            let cut = Sealed(Bytes::copy_from_slice(&sealed[..at]));
            let altered = Sealed(Bytes::from(altered));
            prop_assert!(secret.open(&KEY, Fence(5), &[9; 32], &altered).is_err());
            prop_assert!(secret.open(&KEY, Fence(5), &[9; 32], &cut).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let secret = secret(1);
            let sealed = Sealed(Bytes::from(bytes));
            prop_assert!(secret.open(&KEY, Fence(5), &[9; 32], &sealed).is_err());
            prop_assert!(secret.open_news(&sealed).is_err());
        }
    }
}
