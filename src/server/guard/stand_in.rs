//! The head that hyper reads in the place of one that is refused.

use http::Method;

/// Bytes of a method and of a path that are kept.
const MAX_METHOD: usize = 32;
const MAX_PATH: usize = 1024;

/// A request without a body that keeps the method of the refused one, and as much of its path as is beyond doubt: so
/// the answer is worded, counted and framed as the client of that path expects. The service gets it with the error, and
/// passes nothing of it on. `head` is what there is of the refused head.
pub(in crate::server) fn stand_in(head: &[u8]) -> Vec<u8> {
    let line = head.trim_ascii_start();
    let (method, rest) = line
        .iter()
        .position(|byte| *byte == b' ')
        .and_then(|at| line.split_at_checked(at))
        .unwrap_or_default();
    // CONNECT takes an authority for its target, and another way through hyper.
    let method = Method::from_bytes(method)
        .ok()
        .filter(|method| *method != Method::CONNECT && method.as_str().len() <= MAX_METHOD)
        .unwrap_or(Method::GET);
    [
        method.as_str().as_bytes(),
        b" ",
        path(rest.trim_ascii_start()),
        b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    ]
    .concat()
}

/// The beginning of the target's path: at least `/`.
fn path(target: &[u8]) -> &[u8] {
    let target = after_authority(target).unwrap_or(target);
    let length = target
        .iter()
        .take(MAX_PATH)
        .position(|byte| !is_plain(*byte))
        .unwrap_or(target.len().min(MAX_PATH));
    match target.get(..length) {
        Some(path) if path.starts_with(b"/") => path,
        _ => b"/",
    }
}

/// What follows the scheme and the authority of a target in absolute form (RFC 9112 §3.2.2).
fn after_authority(target: &[u8]) -> Option<&[u8]> {
    let colon = target.iter().position(|byte| *byte == b':')?;
    let (scheme, rest) = target.split_at_checked(colon)?;
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let authority = rest.strip_prefix(b"://")?;
    let slash = authority.iter().position(|byte| *byte == b'/')?;
    authority.get(slash..)
}

/// Whether every parser takes the byte in a path (RFC 3986 §3.3).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const END: &str = " HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    #[test]
    fn it_keeps_the_method_and_the_path_as_far_as_they_are_beyond_doubt() {
        for (head, kept) in [
            (
                "GET /v1/videos/t HTTP/1.1\r\nhost: x\r\nhost: x\r\n\r\n",
                "GET /v1/videos/t",
            ),
            ("\r\nHEAD /a?b=c HTTP/1.1\r\n\r\n", "HEAD /a"),
            (
                "POST /v1/video/generations/<t> HTTP/1.1\r\n",
                "POST /v1/video/generations/",
            ),
            (
                "PATCH http://user@x/v1/videos#y HTTP/1.1\r\n",
                "PATCH /v1/videos",
            ),
            ("GET https://x", "GET /"),
            ("GET ftp://x/a HTTP/1.1\r\n", "GET /"),
            ("CONNECT x:443 HTTP/1.1\r\n", "GET /"),
            ("GET /v1/vid", "GET /v1/vid"),
            ("GET  /a", "GET /a"),
            ("GE", "GET /"),
            ("G\u{e9}T /a", "GET /a"),
            ("\u{16}\u{3}\u{1}", "GET /"),
            ("", "GET /"),
        ] {
            assert_eq!(
                stand_in(head.as_bytes()),
                [kept, END].concat().into_bytes(),
                "{head:?}"
            );
        }
        let long = ["GET /", &"a".repeat(40_000)].concat();
        assert_eq!(stand_in(long.as_bytes()).len(), 4 + MAX_PATH + END.len());
    }

    proptest! {
        #[test]
        fn whatever_is_refused_it_is_one_whole_head(head in proptest::collection::vec(any::<u8>(), 0..60)) {
            for start in ["", "GET ", "POST /", "GET http://"] {
                let head = [start.as_bytes(), &head].concat();
                let stand_in = stand_in(&head);
                let read = super::super::head::read(&stand_in);
                let length = read.expect("is valid").expect("is whole").length;
                prop_assert_eq!(length, stand_in.len());
            }
        }
    }
}
