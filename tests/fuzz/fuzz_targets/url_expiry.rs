//! Any text is read for its expiry without panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pollgate::task::url_expiry;

fuzz_target!(|url: &str| {
    let expiry = url_expiry(url);
    if let Some(time) = expiry {
        assert!((1_000_000_000..100_000_000_000).contains(&time));
        // a fragment never reaches the signer
        assert_eq!(url_expiry(&format!("{url}#e=1000000001")), expiry);
    }
    let parameter = if url.contains('?') { '&' } else { '?' };
    if !url.contains('#') {
        let earliest = url_expiry(&format!("{url}{parameter}e=1795435200"));
        assert!(earliest.is_some_and(|time| time <= 1_795_435_200));
    }
});
