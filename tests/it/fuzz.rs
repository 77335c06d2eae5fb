//! Any bytes on a connection: nothing panics, hangs, leaks or grows, and whatever reaches upstream can be read in one
//! way only. A longer run: `FUZZ_REQUESTS=1000000 cargo nextest run --run-ignored only -E 'test(fuzz::)' --no-capture`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use http_desync_guardian::request_analyzer::HttpRequestData;
use http_desync_guardian::{ClassificationReason, RequestSafetyTier};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::request_smuggling::{BROKEN_CHUNKS, PASSED, REFUSED};
use crate::support::raw::{RawUpstream, Received, whole_request};
use crate::support::{Gateway, PATIENCE, eventually};

/// The number of concurrent clients.
const CLIENTS: u64 = 48;

/// After this long without an answer the client shuts down its half of the connection.
const LULL: Duration = Duration::from_millis(30);

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_requests_of_any_bytes_do_no_harm() {
    run(3000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes many minutes"]
async fn a_million_requests_of_any_bytes_do_no_harm() {
    let wanted = std::env::var("FUZZ_REQUESTS").ok();
    run(wanted.map_or(1_000_000, |wanted| wanted.parse().expect("a number"))).await;
}

async fn run(wanted: u64) {
    let seed = std::env::var("FUZZ_SEED").map_or_else(
        |_| fastrand::u64(..),
        |seed| seed.parse().expect("a number"),
    );
    println!("FUZZ_SEED={seed}");
    let upstream = RawUpstream::start().await;
    let settings = [
        ("log.requests", "off"),
        ("cache.capacity", "1MiB"),
        ("limits.header_timeout", "2s"),
        ("limits.idle_timeout", "2s"),
    ];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    let (sent, answered, passed) = (Arc::default(), Arc::default(), Arc::default());
    let started = Instant::now();
    let mut warm = None;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let client = Client {
                rng: Rng::with_seed(seed.wrapping_add(number)),
                address: gateway.address,
                sent: Arc::clone(&sent),
                answered: Arc::clone(&answered),
                passed: Arc::clone(&passed),
            };
            tokio::spawn(client.run(wanted))
        })
        .collect();
    let mut reached = 0;
    let mut told = 0;
    while !clients.iter().all(tokio::task::JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        reached += check(&upstream);
        let count = sent.load(Ordering::Relaxed);
        if warm.is_none() && count > wanted / 5 {
            warm = Some(gateway.resident());
        }
        if count / 100_000 > told {
            told = count / 100_000;
            println!(
                "{count} sent after {:?}, {} MiB resident",
                started.elapsed(),
                gateway.resident() / MIB
            );
        }
    }
    for client in clients {
        client.await.expect("found nothing");
    }
    for gauge in [
        "pollgate_connections",
        "pollgate_flights",
        "pollgate_waiters",
    ] {
        eventually(gauge, async || gateway.metric(gauge).await == 0.0).await;
    }
    reached += check(&upstream);
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let forwarded = "pollgate_upstream_requests_total{code=\"200\",kind=\"forward\"}";
    let polled = "pollgate_upstream_requests_total{code=\"200\",kind=\"poll\"}";
    let asked = gateway.metric(forwarded).await + gateway.metric(polled).await;
    println!(
        "{} requests in {:?}: {} answers, {} of them 200; {reached} reached upstream ({asked} answered there)",
        count(&sent),
        started.elapsed(),
        count(&answered),
        count(&passed),
    );
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (reached, passed) = (reached as f64, count(&passed) as f64);
    assert!(
        asked <= reached && passed <= reached,
        "answers from nowhere"
    );
    let grown = gateway.resident().saturating_sub(warm.unwrap_or(u64::MAX));
    println!("{} KiB more resident since a fifth of it", grown / 1024);
    assert!(grown < 32 * MIB, "grew by {grown} bytes");
    assert!(!gateway.log().iter().any(|line| line.contains("panicked")));
    assert_eq!(gateway.get("/v1/models").await.status, 200);
}

/// Checks each request that upstream got since the last call, and returns their number.
fn check(upstream: &RawUpstream) -> u64 {
    let requests = upstream.take_requests();
    for request in &requests {
        let judged = HttpRequestData::analyze_raw_request(&without_lookalikes(request));
        // Ids may be raw UTF-8.
        let is_utf_8 = judged.reason == ClassificationReason::AmbiguousUri;
        // A body in a GET has no meaning, but its framing is unambiguous (RFC 9110 §9.3.1).
        let is_get_with_body = matches!(
            judged.reason,
            ClassificationReason::UndefinedContentLengthSemantics
                | ClassificationReason::GetHeadZeroContentLength
        );
        assert!(
            judged.tier == RequestSafetyTier::Compliant || is_get_with_body || is_utf_8,
            "{:?} {:?}: {:?}",
            judged.tier,
            judged.reason,
            String::from_utf8_lossy(request),
        );
    }
    assert_eq!(upstream.malformed(), Vec::<String>::new());
    requests.len() as u64
}

/// The request without headers that the analyzer takes for those two by their first letters alone.
fn without_lookalikes(request: &[u8]) -> Vec<u8> {
    let lines = request.split_inclusive(|byte| *byte == b'\n');
    let is_lookalike = |line: &[u8]| {
        let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
        let letters: Vec<u8> = name
            .iter()
            .filter(|byte| byte.is_ascii_alphanumeric())
            .map(u8::to_ascii_lowercase)
            .collect();
        let is_similar = letters.starts_with(b"c") || letters.starts_with(b"t");
        is_similar && letters != b"contentlength" && letters != b"transferencoding"
    };
    // The first line is not a header, and the body follows the empty line.
    let mut kept = Vec::new();
    let mut within_head = false;
    for line in lines {
        if !(within_head && is_lookalike(line)) {
            kept.extend_from_slice(line);
        }
        within_head = (kept.len() == line.len() || within_head) && line != b"\r\n";
    }
    kept
}

struct Client {
    rng: Rng,
    address: std::net::SocketAddr,
    sent: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    passed: Arc<AtomicU64>,
}

impl Client {
    async fn run(mut self, wanted: u64) {
        while self.sent.load(Ordering::Relaxed) < wanted {
            let count = self.rng.u64(1..8);
            let mut stream = Vec::new();
            for _ in 0..count {
                stream.extend(self.request());
            }
            self.sent.fetch_add(count, Ordering::Relaxed);
            let answers = tokio::time::timeout(PATIENCE, self.converse(&stream))
                .await
                .unwrap_or_else(|_| panic!("hangs: {:?}", String::from_utf8_lossy(&stream)));
            self.judge(&stream, &answers);
        }
    }

    /// Sends it in a few pieces, then reads until the end or until nothing more arrives.
    async fn converse(&mut self, stream: &[u8]) -> Vec<u8> {
        let mut answers = Vec::new();
        let Ok(mut socket) = TcpStream::connect(self.address).await else {
            panic!("no connection");
        };
        let _ = socket.set_nodelay(true);
        let mut left = stream;
        while !left.is_empty() {
            let all = self.rng.bool();
            let count = if all {
                left.len()
            } else {
                self.rng.usize(1..=left.len())
            };
            let (piece, rest) = left.split_at(count);
            left = rest;
            if socket.write_all(piece).await.is_err() {
                return answers;
            }
            if self.rng.u8(..) == 0 {
                // The client disconnects here.
                return answers;
            }
        }
        let mut ended = false;
        loop {
            match tokio::time::timeout(
                if ended { PATIENCE } else { LULL },
                socket.read_buf(&mut answers),
            )
            .await
            {
                Ok(Ok(count)) if count > 0 => {}
                Ok(_) => return answers,
                Err(_) => {
                    assert!(!ended, "hangs: {:?}", String::from_utf8_lossy(stream));
                    ended = true;
                    let _ = socket.shutdown().await;
                }
            }
        }
    }

    /// Checks that every answer is whole and of a known kind, and that a refusal is the last one.
    fn judge(&self, stream: &[u8], answers: &[u8]) {
        if stream.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") {
            // An answer in HTTP/2 frames.
            return;
        }
        let context = || {
            (
                String::from_utf8_lossy(stream).into_owned(),
                String::from_utf8_lossy(answers).into_owned(),
            )
        };
        // Truncated because the client disconnected.
        let Some(answers) = Received::try_all(answers, has_head(stream)) else {
            return;
        };
        let mut refused = false;
        for answer in answers.iter().filter(|answer| answer.status != 100) {
            assert!(!refused, "an answer behind a refusal: {:?}", context());
            match answer.status {
                200 | 502 | 503 => {}
                400 | 408 | 414 | 431 => {
                    refused = true;
                    let is_worded = answer.has("via: 1.1 pollgate")
                        && answer.has("x-request-id: ")
                        && (has_head(stream)
                            || String::from_utf8_lossy(&answer.body).contains("bad_request"));
                    assert!(is_worded, "{:?}", context());
                }
                status => panic!("{status}: {:?}", context()),
            }
        }
        let passed = answers.iter().filter(|answer| answer.status == 200).count();
        assert!(passed <= readable(stream), "{:?}", context());
        self.answered
            .fetch_add(answers.len() as u64, Ordering::Relaxed);
        self.passed.fetch_add(passed as u64, Ordering::Relaxed);
    }

    fn request(&mut self) -> Vec<u8> {
        let rng = &mut self.rng;
        let mut request = match rng.u8(..8) {
            0 => REFUSED[rng.usize(..REFUSED.len())].1.as_bytes().to_vec(),
            1 => {
                let head = "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
                format!("{head}{}", BROKEN_CHUNKS[rng.usize(..BROKEN_CHUNKS.len())]).into_bytes()
            }
            2 => {
                let bytes = rng.usize(1..200);
                (0..bytes).map(|_| rng.u8(..)).collect()
            }
            3 => {
                b"GET /v1/videos/t HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk\r\n\r\n".to_vec()
            }
            _ => PASSED[rng.usize(..PASSED.len())]
                .replace("connection: close\r\n", "")
                .into_bytes(),
        };
        if rng.bool() {
            for _ in 0..rng.u8(1..4) {
                mutate(rng, &mut request);
            }
        }
        request
    }
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    const PIECES: &[&str] = &[
        "\r\n",
        "\n",
        "\r",
        "\0",
        " ",
        "\t",
        ":",
        ",",
        ";",
        "0",
        "5",
        "\r\n\r\n",
        "0\r\n\r\n",
        "content-length: 5\r\n",
        "transfer-encoding: chunked\r\n",
        "host: x\r\n",
        "chunked",
        "\u{b}",
        "\u{ff}",
        "HTTP/1.1",
        "http://",
        "x@",
        "#",
        "%00",
        "expect: 100-continue\r\n",
        "upgrade: websocket\r\nconnection: upgrade\r\n",
        "connection: close\r\n",
        "GET /b HTTP/1.1\r\nhost: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    if bytes.is_empty() {
        return;
    }
    let at = rng.usize(..bytes.len());
    let to = rng.usize(at..bytes.len().min(at + 12));
    match rng.u8(..6) {
        0 => bytes[at] = rng.u8(..),
        1 => drop(bytes.drain(at..to)),
        2 => {
            let copy = bytes[at..to].to_vec();
            bytes.splice(at..at, copy);
        }
        3 => {
            let piece = PIECES[rng.usize(..PIECES.len())];
            bytes.splice(at..at, piece.bytes());
        }
        4 => {
            // At the start of a line: another header.
            let line = bytes[at..].windows(2).position(|pair| pair == b"\r\n");
            let at = line.map_or(at, |line| at + line + 2);
            let piece = PIECES[rng.usize(..PIECES.len())];
            bytes.splice(at..at, piece.bytes());
        }
        _ => bytes.truncate(at),
    }
}

fn has_head(stream: &[u8]) -> bool {
    stream.windows(4).any(|bytes| bytes == b"HEAD")
}

/// The number of requests that a lenient reader finds before one that is unreadable.
fn readable(mut stream: &[u8]) -> usize {
    let mut count = 0;
    while let Ok(Some(length)) = whole_request(stream, false) {
        count += 1;
        stream = &stream[length..];
    }
    count
}
