//! Names for requests that nobody named.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;

/// A name that no other request of this or another process has: where the process began, and a count.
#[must_use]
pub fn make() -> HeaderValue {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| getrandom::u64().unwrap_or_default());
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let count = count.to_be_bytes();
    let zeros = count.iter().take_while(|byte| **byte == 0).count();
    let mut name = Vec::with_capacity(36);
    name.extend_from_slice(b"pg-");
    push_hex(&mut name, &PROCESS.to_be_bytes());
    name.push(b'-');
    push_hex(&mut name, &count[zeros..]);
    HeaderValue::from_bytes(&name).unwrap_or_else(|_| HeaderValue::from_static("pg"))
}

/// Appends bytes in hexadecimal. On every hit's way, where `format!` costs ten times as much.
pub fn push_hex(to: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        to.push(DIGITS[usize::from(byte >> 4)]);
        to.push(DIGITS[usize::from(byte & 0xf)]);
    }
}
