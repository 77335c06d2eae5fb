//! The head of a request: whether it can be read in one way only, and how its body is framed (RFC 9112).

use std::mem::MaybeUninit;

use http::Uri;
use httparse::Status;

use crate::error::Error;

/// The most bytes in a head.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// The most bytes in a target. Signed queries and ids take a few thousand at most.
pub(in crate::server) const MAX_TARGET: usize = 16 * 1024;

/// The most headers in a head.
pub(in crate::server) const MAX_HEADERS: usize = 100;

/// A head that may be passed on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its number of bytes.
    pub(super) length: usize,
    /// How its body is framed.
    pub(super) framing: Framing,
    /// Whether the client asks to switch protocols.
    pub(super) upgrade: bool,
}

/// Where a body ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After this many bytes.
    Sized(u64),
    /// After its last chunk.
    Chunked,
}

/// Reads the head at the beginning of these bytes; `None` while it is not whole.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Head>, Error> {
    // One or two empty lines before a request are skipped (RFC 9112 §2.2).
    if bytes.starts_with(b"\r\n\r\n\r\n") {
        return Err(Error::BadRequest(
            "there are empty lines where a request should begin",
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

/// Whether the target is too long. While it is not whole, `bytes` end in it.
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
            "a line of the request's head does not end with CR LF",
        ));
    }
    let is_http_11 = request.version == Some(1);
    let (mut hosts, mut host, mut sizes, mut size) = (0, None, 0, 0);
    let (mut chunked, mut upgrade) = (false, false);
    for header in request.headers.iter() {
        // By length first: nearly all headers are none of these.
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
                        "the request's transfer-encoding is not just chunked",
                    ));
                }
                chunked = true;
            }
            13.. if is_misleading(header.name) => {
                return Err(Error::BadRequest(
                    "a header's name looks like content-length or transfer-encoding",
                ));
            }
            _ => {}
        }
    }
    if hosts > 1 {
        return Err(Error::BadRequest("the request has more than one host"));
    }
    if sizes > 1 {
        return Err(Error::BadRequest(
            "the request has more than one content-length",
        ));
    }
    if chunked && sizes > 0 {
        return Err(Error::BadRequest(
            "the request has a content-length and a transfer-encoding",
        ));
    }
    // A body has no meaning there (RFC 9110 §9.3.1), and hyper would not send one without a length upstream.
    if chunked && matches!(method, "GET" | "HEAD") {
        return Err(Error::BadRequest(
            "a GET or HEAD request has a transfer-encoding",
        ));
    }
    if is_http_11 && host.is_none() {
        return Err(Error::BadRequest(
            "the request has no host; HTTP/1.1 needs one",
        ));
    }
    if !host.is_none_or(is_host) {
        return Err(Error::BadRequest("the request's host is not valid"));
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

/// A server may take a bare LF for the end of a line (RFC 9112 §2.2). Two that differ in this read different requests.
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

/// Whether upstream, or a proxy before it, may take this name for one that frames a body.
pub(in crate::server) fn is_misleading(name: &str) -> bool {
    let letters = || {
        name.bytes()
            .filter(u8::is_ascii_alphanumeric)
            .map(|byte| byte.to_ascii_lowercase())
    };
    (letters().eq(*b"contentlength") && !name.eq_ignore_ascii_case("content-length"))
        || (letters().eq(*b"transferencoding") && !name.eq_ignore_ascii_case("transfer-encoding"))
}

/// Digits only, and few enough for every reader's integers (RFC 9110 §8.6).
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

/// A name or an address, and perhaps a port (RFC 3986 §3.2.2). No comma, which would make it a list.
fn is_host(value: &[u8]) -> bool {
    static HOST: [bool; 256] = table(b"-._~:[]%!$&'()*+;=");
    value.iter().all(|byte| HOST[usize::from(*byte)])
}

/// The table of ASCII letters, digits and `others`.
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

/// Takes the four forms of RFC 9112 §3.2, each with the methods that it is for.
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

/// What hyper takes, raw UTF-8 included, but no fragment, which it would cut off: a target goes out as it came in.
fn is_path_and_query(target: &str) -> bool {
    static PATH: [bool; 256] = and_utf_8(table(b"!\"$%&'()*+,-./:;=@[\\]^_{|}~"));
    static QUERY: [bool; 256] = and_utf_8(table(b"!$%&'()*+,-./:;=?@[\\]^_`{|}~"));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    path.bytes().all(|byte| PATH[usize::from(byte)])
        && query.bytes().all(|byte| QUERY[usize::from(byte)])
}

/// Adds every byte beyond ASCII.
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
            "a header's name is not valid; folded lines and spaces before the colon are refused as well"
        }
        httparse::Error::HeaderValue => "a header's value has a control character",
        httparse::Error::NewLine => "a line of the request's head does not end with CR LF",
        httparse::Error::Version => "the request's version is not HTTP/1.1 or HTTP/1.0",
        _ => "the request's first line is not a method, a target and a version",
    }
}
