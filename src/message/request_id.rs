//! Request ids for requests that come without one.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;

/// `pg-`, 16 digits for the process, a dash, and up to 16 for the request.
const LONGEST: usize = 36;

/// Makes an id that is unique across processes: random digits drawn once per process, and a count.
#[must_use]
pub fn make() -> HeaderValue {
    static PROCESS: LazyLock<[u8; LONGEST]> = LazyLock::new(|| {
        let mut name = *b"pg-0123456789abcdef-0123456789abcdef";
        let process = getrandom::u64().unwrap_or_default();
        let _ = const_hex::encode_to_slice(process.to_be_bytes(), &mut name[3..19]);
        name
    });
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let bytes = 8 - count.leading_zeros() as usize / 8;
    let (mut name, end) = (*PROCESS, 20 + 2 * bytes);
    let _ = const_hex::encode_to_slice(&count.to_be_bytes()[8 - bytes..], &mut name[20..end]);
    HeaderValue::from_bytes(&name[..end]).unwrap_or_else(|_| HeaderValue::from_static("pg"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_differ_and_are_whole_bytes_in_hexadecimal() {
        let names: HashSet<_> = (0..600).map(|_| make()).collect();
        assert_eq!(names.len(), 600);
        for name in names {
            let name = name.to_str().expect("text");
            let (process, count) = name[3..].split_once('-').expect("two parts");
            assert_eq!((&name[..3], process.len()), ("pg-", 16));
            assert_eq!(count.len() % 2, 0);
            assert!(u64::from_str_radix(count, 16).is_ok_and(|count| count > 0));
        }
    }
}
