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
    HeaderValue::from_maybe_shared(format!("pg-{:016x}-{count:x}", *PROCESS))
        .unwrap_or_else(|_| HeaderValue::from_static("pg"))
}
