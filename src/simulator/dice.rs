//! A small random number generator with a seed, so that a run can be repeated.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

/// Generates random numbers and strings. Shared without a lock, since its state is one atomic counter.
#[derive(Debug)]
pub(super) struct Dice(AtomicU64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

impl Dice {
    /// Creates a generator from a seed, or from a random one.
    pub(super) fn new(seed: Option<u64>) -> Self {
        Self(AtomicU64::new(
            seed.unwrap_or_else(|| RandomState::new().hash_one(STEP)),
        ))
    }

    /// A random number.
    pub(super) fn number(&self) -> u64 {
        mix(self.0.fetch_add(STEP, Ordering::Relaxed))
    }

    /// A random number in `0.0..1.0`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    pub(super) fn unit(&self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A random string of `length` letters and digits.
    pub(super) fn text(&self, length: usize) -> String {
        (0..length)
            .map(|_| {
                char::from(LETTERS[usize::from(self.number().to_le_bytes()[0]) % LETTERS.len()])
            })
            .collect()
    }
}

/// The finaliser of splitmix64: similar inputs have unrelated outputs.
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(STEP);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Hashes a string, with the same result on every machine (FNV-1a, then mixed).
pub(super) fn digest(text: &str) -> u64 {
    mix(checksum(FNV_START, text.as_bytes()))
}

/// Initial value of [`checksum`].
pub(super) const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

/// Continues an FNV-1a checksum with `bytes`.
pub(super) fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_seeds_generate_equal_strings() {
        assert_eq!(Dice::new(Some(7)).text(32), Dice::new(Some(7)).text(32));
        assert_ne!(Dice::new(None).text(32), Dice::new(None).text(32));
    }
}
