//! Bytes on the wire: a client that sends any bytes, and an upstream that records them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::PATIENCE;

/// Sends these bytes on a new connection, and reads until it is closed.
pub(crate) async fn send(address: SocketAddr, bytes: &[u8]) -> Vec<Received> {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(bytes).await.expect("is taken");
    receive(&mut stream).await
}

/// Reads until the connection is closed, and fails on a reset, which may lose answers.
pub(crate) async fn receive(stream: &mut TcpStream) -> Vec<Received> {
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .unwrap_or_else(|_| panic!("stays open"))
        .expect("is closed, not reset");
    Received::all(&bytes)
}

/// One answer from the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Received {
    /// Every answer in these bytes; each has a content-length.
    fn all(bytes: &[u8]) -> Vec<Self> {
        Self::try_all(bytes, false)
            .unwrap_or_else(|| panic!("cut short: {}", String::from_utf8_lossy(bytes)))
    }

    /// `None` if the last answer is incomplete. With `bodiless`, an answer may lack the body of its content-length.
    pub(crate) fn try_all(mut bytes: &[u8], bodiless: bool) -> Option<Vec<Self>> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response
                .parse(bytes)
                .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)));
            let httparse::Status::Complete(length) = parsed else {
                return None;
            };
            let size = response
                .headers
                .iter()
                .find(|header| header.name.eq_ignore_ascii_case("content-length"))
                .map_or(0, |header| {
                    std::str::from_utf8(header.value).unwrap().parse().unwrap()
                });
            let (head, rest) = bytes.split_at(length);
            let size = if bodiless && !rest.starts_with(b"{") {
                0
            } else {
                size
            };
            let (body, rest) = rest.split_at_checked(size)?;
            all.push(Self {
                status: response.code.expect("is parsed"),
                head: String::from_utf8_lossy(head).to_lowercase(),
                body: body.to_vec(),
            });
            bytes = rest;
        }
        Some(all)
    }

    pub(crate) fn has(&self, line: &str) -> bool {
        self.head.contains(&format!("\r\n{line}"))
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Answers every whole request with `{}`, and records the bytes.
#[derive(Clone)]
pub(crate) struct RawUpstream {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
    fragments: Arc<Mutex<Vec<Vec<u8>>>>,
    malformed: Arc<Mutex<Vec<String>>>,
}

impl RawUpstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            fragments: Arc::default(),
            malformed: Arc::default(),
        };
        let all = upstream.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(all.clone().converse(stream));
            }
        });
        upstream
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whole requests so far.
    pub(crate) fn requests(&self) -> Vec<Vec<u8>> {
        self.requests.lock().unwrap().clone()
    }

    /// Whole requests since the last call.
    pub(crate) fn take_requests(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }

    /// Incomplete requests at the end of connections.
    pub(crate) fn fragments(&self) -> Vec<Vec<u8>> {
        self.fragments.lock().unwrap().clone()
    }

    /// What could not be parsed as a request.
    pub(crate) fn malformed(&self) -> Vec<String> {
        self.malformed.lock().unwrap().clone()
    }

    async fn converse(self, mut stream: TcpStream) {
        const ANSWER: &[u8] =
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        let mut bytes = Vec::new();
        loop {
            match whole_request(&bytes, true) {
                Ok(Some(length)) => {
                    let rest = bytes.split_off(length);
                    let request = std::mem::replace(&mut bytes, rest);
                    self.requests.lock().unwrap().push(request);
                    if stream.write_all(ANSWER).await.is_err() {
                        return;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(why) => {
                    let text = String::from_utf8_lossy(&bytes);
                    self.malformed
                        .lock()
                        .unwrap()
                        .push(format!("{why}: {text:?}"));
                    return;
                }
            }
            match stream.read_buf(&mut bytes).await {
                Ok(count) if count > 0 => {}
                _ => break,
            }
        }
        if !bytes.is_empty() {
            self.fragments.lock().unwrap().push(bytes);
        }
    }
}

/// The length of the request at the start of these bytes; `None` while it is incomplete. Follows RFC 9112 to the letter
/// if `strict`, otherwise takes the first framing found.
pub(crate) fn whole_request(bytes: &[u8], strict: bool) -> Result<Option<usize>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(bytes).map_err(|error| error.to_string())? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let values = |name: &str| -> Vec<&[u8]> {
        let all = request.headers.iter();
        let named = all.filter(|header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value).collect()
    };
    let (hosts, sizes, codings) = (
        values("host"),
        values("content-length"),
        values("transfer-encoding"),
    );
    if strict && (hosts.len() != 1 || sizes.len() + codings.len() > 1) {
        return Err("not one host and one framing".into());
    }
    let body = &bytes[head..];
    if let Some(coding) = codings.first() {
        if strict && *coding != b"chunked" {
            return Err("another coding than chunked".into());
        }
        return Ok(whole_chunks(body)?.map(|size| head + size));
    }
    let size = sizes
        .first()
        .map_or(Ok("0"), |size| std::str::from_utf8(size));
    let size: usize = size
        .ok()
        .and_then(|size| size.parse().ok())
        .ok_or("a length that is none")?;
    Ok((body.len() >= size).then_some(head + size))
}

fn whole_chunks(bytes: &[u8]) -> Result<Option<usize>, String> {
    let line_at = |at: usize| {
        let left = bytes.get(at..)?;
        let length = left.windows(2).position(|pair| pair == b"\r\n")?;
        left.get(..length)
    };
    let mut at = 0;
    while let Some(line) = line_at(at) {
        let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(size)
            .ok()
            .filter(|size| !size.starts_with('+'));
        let size = size
            .and_then(|size| usize::from_str_radix(size, 16).ok())
            .ok_or("a chunk without a size")?;
        at += line.len() + 2;
        if size == 0 {
            // Trailers, down to an empty line.
            while let Some(line) = line_at(at) {
                at += line.len() + 2;
                if line.is_empty() {
                    return Ok(Some(at));
                }
            }
            return Ok(None);
        }
        let end = at.checked_add(size).ok_or("a chunk without end")?;
        match bytes.get(end..).and_then(|rest| rest.get(..2)) {
            Some(b"\r\n") => at = end + 2,
            Some(_) => return Err("a chunk longer than its size".into()),
            None => return Ok(None),
        }
    }
    Ok(None)
}
