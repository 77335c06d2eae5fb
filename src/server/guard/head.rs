//! One request's head: whether there is just one way to read it, and how its body is framed (RFC 9112).

use std::mem::MaybeUninit;

use http::Uri;
use httparse::Status;

use crate::error::Error;

/// Bytes that a head may have.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// Bytes that a target may have; signed queries and ids are some thousand at most.
const MAX_TARGET: usize = 16 * 1024;

/// Headers that a head may have.
const MAX_HEADERS: usize = 100;

/// A head that is as it should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// How many bytes it has.
    pub(super) length: usize,
    /// How its body is framed.
    pub(super) framing: Framing,
    /// Whether another protocol may follow instead of requests.
    pub(super) upgrade: bool,
}

/// How long a body is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes.
    Sized(u64),
    /// Until its last chunk.
    Chunked,
}

/// Reads the head at the beginning of these bytes; `None` while it is not whole.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Head>, Error> {
    // One or two before a request are overlooked (RFC 9112 §2.2).
    if bytes.starts_with(b"\r\n\r\n\r\n") {
        return Err(Error::BadRequest(
            "there are empty lines where a request would be",
        ));
    }
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(Status::Complete(length)) => check(bytes, length, &request).map(Some),
        Ok(Status::Partial) if is_long_target(&request, bytes) => Err(Error::UriTooLong),
        Ok(Status::Partial) if bytes.len() >= MAX_HEAD => Err(Error::HeadTooLarge),
        Ok(Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(Error::HeadTooLarge),
        Err(error) => Err(Error::BadRequest(describe(error))),
    }
}

/// While the target is not whole, `bytes` end in it.
fn is_long_target(request: &httparse::Request<'_, '_>, bytes: &[u8]) -> bool {
    request
        .path
        .map_or(request.method.map_or(0, |_| bytes.len()), str::len)
        > MAX_TARGET
}

fn check(bytes: &[u8], length: usize, request: &httparse::Request<'_, '_>) -> Result<Head, Error> {
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(Error::BadRequest("the request has no first line"));
    };
    if length > MAX_HEAD {
        return Err(Error::HeadTooLarge);
    }
    if target.len() > MAX_TARGET {
        return Err(Error::UriTooLong);
    }
    if !lines_end_in_crlf(bytes.get(..length).unwrap_or_default(), method, request) {
        return Err(Error::BadRequest(
            "a line of the request's head is not ended by CR LF",
        ));
    }
    let is_http_11 = request.version == Some(1);
    let (mut hosts, mut host, mut sizes, mut size) = (0, None, 0, 0);
    let (mut chunked, mut upgrade) = (false, false);
    for header in request.headers.iter() {
        // Looked at by length first: nearly all of them are others.
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        match header.name.len() {
            4 if is("host") => {
                hosts += 1;
                host = Some(header.value);
            }
            7 if is("upgrade") => upgrade = is_http_11,
            14 if is("content-length") => {
                sizes += 1;
                size = read_size(header.value)?;
            }
            17 if is("transfer-encoding") => {
                if chunked || !is_http_11 || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Error::BadRequest(
                        "the request's transfer-encoding is not chunked, and nothing but chunked",
                    ));
                }
                chunked = true;
            }
            13.. if is_misleading(header.name) => {
                return Err(Error::BadRequest(
                    "a header's name is all but content-length or transfer-encoding",
                ));
            }
            _ => {}
        }
    }
    if hosts > 1 {
        return Err(Error::BadRequest("the request has more than one host"));
    }
    if sizes > 1 {
        return Err(Error::BadRequest("the request has more than one length"));
    }
    if chunked && sizes > 0 {
        return Err(Error::BadRequest(
            "the request has a length and a transfer-encoding",
        ));
    }
    // It has no meaning there (RFC 9110 §9.3.1), and is dropped on the way without its length.
    if chunked && matches!(method, "GET" | "HEAD") {
        return Err(Error::BadRequest(
            "a GET or HEAD request has a transfer-encoding",
        ));
    }
    if is_http_11 && host.is_none() {
        return Err(Error::BadRequest(
            "the request has no host; HTTP/1.1 takes one",
        ));
    }
    if !host.is_none_or(is_host) {
        return Err(Error::BadRequest("the request's host is not one"));
    }
    check_target(method, target, host)?;
    Ok(Head {
        length,
        framing: if chunked {
            Framing::Chunked
        } else {
            Framing::Sized(size)
        },
        upgrade,
    })
}

/// A server may take a single LF for the end of a line (RFC 9112 §2.2); two that differ in it read two requests.
fn lines_end_in_crlf(head: &[u8], method: &str, request: &httparse::Request<'_, '_>) -> bool {
    let offset = |text: &str| (text.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
    let before = head.get(..offset(method)).unwrap_or(b"x");
    before.chunks(2).all(|line| line == b"\r\n")
        && head.ends_with(b"\r\n\r\n")
        && request.headers.iter().all(|header| {
            let start = offset(header.name);
            head.get(start.wrapping_sub(2)..start) == Some(b"\r\n")
        })
}

/// Whether upstream, or what stands before it, may take this name for one that frames a body.
pub(in crate::server) fn is_misleading(name: &str) -> bool {
    let letters = || {
        name.bytes()
            .filter(u8::is_ascii_alphanumeric)
            .map(|byte| byte.to_ascii_lowercase())
    };
    (letters().eq(*b"contentlength") && !name.eq_ignore_ascii_case("content-length"))
        || (letters().eq(*b"transferencoding") && !name.eq_ignore_ascii_case("transfer-encoding"))
}

/// Digits and nothing else, few enough for everyone's integers (RFC 9110 §8.6).
fn read_size(value: &[u8]) -> Result<u64, Error> {
    const WRONG: Error = Error::BadRequest("the request's content-length is not a number");
    if value.is_empty() || value.len() > 18 {
        return Err(WRONG);
    }
    value.iter().try_fold(0, |size, digit| {
        let digit = char::from(*digit).to_digit(10).ok_or(WRONG)?;
        Ok(size * 10 + u64::from(digit))
    })
}

/// A name or an address, and perhaps a port (RFC 3986 §3.2.2), but for the comma, with which lists are made.
fn is_host(value: &[u8]) -> bool {
    static HOST: [bool; 256] = table(b"-._~:[]%!$&'()*+;=");
    value.iter().all(|byte| HOST[usize::from(*byte)])
}

/// Letters, digits, and these.
const fn table(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

/// One of the four forms of RFC 9112 §3.2, each where it may stand.
fn check_target(method: &str, target: &str, host: Option<&[u8]>) -> Result<(), Error> {
    const WRONG: Error = Error::BadRequest("the request's target is not valid");
    if target.starts_with('/') {
        return if is_path_and_query(target) {
            Ok(())
        } else {
            Err(WRONG)
        };
    }
    if target == "*" {
        return if method == "OPTIONS" {
            Ok(())
        } else {
            Err(WRONG)
        };
    }
    let uri: Uri = target.parse().map_err(|_| WRONG)?;
    let Some(authority) = uri.authority() else {
        return Err(WRONG);
    };
    if authority.as_str().contains('@') {
        return Err(Error::BadRequest(
            "the request's target names a user; credentials have their own header",
        ));
    }
    if method == "CONNECT" {
        return Ok(());
    }
    if !matches!(uri.scheme_str(), Some("http" | "https")) || target.contains('#') {
        return Err(WRONG);
    }
    let named = host.is_none_or(|host| host.eq_ignore_ascii_case(authority.as_str().as_bytes()));
    if named {
        Ok(())
    } else {
        Err(Error::BadRequest(
            "the request's target and its host header name two hosts",
        ))
    }
}

/// What hyper takes (UTF-8 as it is, too), without the fragment that it would cut off: nothing that comes in may go out
/// as something else.
fn is_path_and_query(target: &str) -> bool {
    static PATH: [bool; 256] = and_utf_8(table(b"!\"$%&'()*+,-./:;=@[\\]^_{|}~"));
    static QUERY: [bool; 256] = and_utf_8(table(b"!$%&'()*+,-./:;=?@[\\]^_`{|}~"));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    path.bytes().all(|byte| PATH[usize::from(byte)])
        && query.bytes().all(|byte| QUERY[usize::from(byte)])
}

/// And every byte beyond ASCII.
const fn and_utf_8(mut table: [bool; 256]) -> [bool; 256] {
    let mut byte = 128;
    while byte < table.len() {
        table[byte] = true;
        byte += 1;
    }
    table
}

fn describe(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => {
            "a header's name is not one; folded lines and spaces before the colon included"
        }
        httparse::Error::HeaderValue => "a header's value has a control byte",
        httparse::Error::NewLine => "a line of the request's head is not ended by CR LF",
        httparse::Error::Version => "the request's version is not HTTP/1.1 or HTTP/1.0",
        _ => "the request's first line is not a method, a target and a version",
    }
}
