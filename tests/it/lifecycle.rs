//! Start, reload and stop: binding, draining, exit codes.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Gateway, PATIENCE, Upstream, binary, eventually, get, row};

#[tokio::test]
async fn a_signal_drains_and_exits_0() {
    for signal in ["-TERM", "-INT"] {
        let upstream = Upstream::saying(row("IN_PROGRESS")).await;
        let mut gateway = Gateway::start(&upstream.url(), &[]).await;
        assert_eq!(get(gateway.admin, "/readyz").await.status, 200);
        upstream.close_gate();
        let under_way = tokio::spawn({
            let client = gateway.client.clone();
            async move { client.get("/v1/videos/t", "sk-1", &[]).await }
        });
        upstream.was_asked(1).await;
        gateway.signal(signal);
        eventually("not ready any more", async || {
            get(gateway.admin, "/readyz").await.status == 503
        })
        .await;
        assert_eq!(get(gateway.admin, "/healthz").await.status, 200);
        eventually("no new connections", async || {
            TcpStream::connect(gateway.address).await.is_err()
        })
        .await;
        upstream.let_pass(1);
        assert_eq!(
            under_way.await.unwrap().status,
            200,
            "what was under way is answered"
        );
        assert_eq!(gateway.ended().await.code(), Some(0), "{signal}");
        assert!(
            gateway
                .log()
                .last()
                .is_some_and(|line| line.contains("stopped")),
            "{:?}",
            gateway.log()
        );
    }
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_exit() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let mut gateway = Gateway::start(&upstream.url(), &[("limits.drain", "1h")]).await;
    let _silent = TcpStream::connect(gateway.address).await.unwrap();
    gateway.get("/v1/videos/t").await;
    gateway.signal("-TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

/// Waits until the gateway is draining.
async fn draining(gateway: &Gateway) {
    eventually("not ready any more", async || {
        get(gateway.admin, "/readyz").await.status == 503
    })
    .await;
}

#[tokio::test]
async fn the_last_answer_on_a_connection_says_connection_close() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let mut gateway = Gateway::start(&upstream.url(), &[("cache.in_flight_ttl", "0s")]).await;
    assert_eq!(
        gateway.get("/v1/videos/t").await.header("connection"),
        "",
        "before"
    );
    upstream.close_gate();
    let under_way = tokio::spawn({
        let client = gateway.client.clone();
        async move { client.get("/v1/videos/t", "sk-test", &[]).await }
    });
    upstream.was_asked(2).await;
    gateway.signal("-TERM");
    draining(&gateway).await;
    upstream.let_pass(1);
    let answer = under_way.await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.header("connection")),
        (200, "close")
    );
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn over_http_2_a_stop_is_a_goaway_and_open_requests_are_answered() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let mut gateway = Gateway::start(&upstream.url(), &[("limits.drain", "1h")]).await;
    let mut frames = Frames::open(gateway.address).await;
    upstream.close_gate();
    // GET / with all of its fields from HPACK's static table, but for the authority (RFC 7541 appendix A).
    let fields = b"\x82\x86\x84\x41\x01x";
    frames
        .send(HEADERS, END_STREAM | END_HEADERS, 1, fields)
        .await;
    upstream.was_asked(1).await;
    gateway.signal("-TERM");
    while frames.next().await.expect("more").kind != GOAWAY {}
    upstream.let_pass(1);
    let mut body = Vec::new();
    let mut ended = false;
    while let Some(frame) = frames.next().await {
        if frame.kind == DATA {
            body.extend(frame.payload);
        }
        ended |= frame.stream == 1 && frame.flags & END_STREAM != 0;
    }
    assert!(
        ended && body == row("IN_PROGRESS").into_bytes(),
        "a whole answer"
    );
    assert_eq!(gateway.ended().await.code(), Some(0));
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// An HTTP/2 connection, frame by frame (RFC 9113 §4.1), since client libraries hide a GOAWAY.
struct Frames(TcpStream);

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frames {
    async fn open(address: std::net::SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        stream.write_all(preface).await.unwrap();
        let mut frames = Self(stream);
        frames.send(SETTINGS, 0, 0, b"").await;
        frames
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    /// Returns the next frame and answers pings. `None` at the end.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        let read = self.0.read_exact(&mut head);
        let read = tokio::time::timeout(PATIENCE, read).await.expect("in time");
        read.ok()?;
        let [a, b, c, kind, flags, s0, s1, s2, s3] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let mut payload = vec![0; length];
        self.0
            .read_exact(&mut payload)
            .await
            .expect("a whole frame");
        if kind == PING && flags & ACK == 0 {
            self.send(PING, ACK, 0, &payload).await;
        }
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            payload,
        })
    }
}

#[tokio::test]
async fn a_poll_that_upstream_does_not_answer_within_drain_gets_an_error() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let mut gateway = Gateway::start(&upstream.url(), &[("limits.drain", "2s")]).await;
    upstream.close_gate();
    let waiting = tokio::spawn({
        let client = gateway.client.clone();
        async move { client.get("/v1/videos/t", "sk-1", &[]).await }
    });
    upstream.was_asked(1).await;
    gateway.signal("-TERM");
    let answer = waiting.await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["code"]),
        (503, &"draining".into())
    );
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn requests_unfinished_after_drain_are_cut_off() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let mut gateway = Gateway::start(&upstream.url(), &[("limits.drain", "100ms")]).await;
    upstream.close_gate();
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    client
        .write_all(b"POST /v1/videos HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    upstream.was_asked(1).await;
    gateway.signal("-TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

#[tokio::test]
async fn a_taken_port_is_exit_1_and_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = binary()
        .args(["--listen", &address, "--admin", "off"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(
        told.contains("listen.address") && told.contains(&address),
        "{told}"
    );
}

#[tokio::test]
async fn hangup_reloads_the_file_and_a_bad_one_changes_nothing() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pollgate.toml");
    std::fs::write(&file, "[cache]\nin_flight_ttl = \"1h\"\n").unwrap();
    let gateway = Gateway::with_file(&upstream.url(), &file).await;
    let polls = async |count: usize| {
        let before = upstream.count();
        for _ in 0..count {
            gateway.get("/v1/videos/t").await;
        }
        upstream.count() - before
    };
    assert_eq!(polls(3).await, 1);

    std::fs::write(&file, "[cache]\nin_flight_ttl = \"soon\"\n").unwrap();
    gateway.signal("-HUP");
    eventually("the refusal", async || {
        gateway
            .log()
            .iter()
            .any(|line| line.contains("not reloaded, nothing changed"))
    })
    .await;
    assert!(
        gateway
            .log()
            .iter()
            .any(|line| line.contains("pollgate.toml:2: cache.in_flight_ttl: got \"soon\""))
    );
    assert_eq!(polls(3).await, 0);

    std::fs::write(
        &file,
        "[limits]\nmax_upstream = 7\n[cache]\nin_flight_ttl = \"0s\"\n[answers]\nrendering = \"documented\"\n",
    )
    .unwrap();
    gateway.signal("-HUP");
    eventually("the reload", async || {
        gateway.log().iter().any(|line| {
            line.ends_with("INFO pollgate reloaded: answers.rendering, cache.in_flight_ttl")
        })
    })
    .await;
    eventually("what cannot be reloaded is named", async || {
        gateway
            .log()
            .iter()
            .any(|line| line.ends_with("these changed and wait for a restart: limits.max_upstream"))
    })
    .await;
    gateway
        .client
        .get("/v1/videos/t", "sk-test", &[("cache-control", "no-cache")])
        .await;
    assert_eq!(polls(3).await, 3);
    let unified = gateway.get("/v1/video/generations/t").await;
    assert_eq!(
        unified.json()["data"]["status"],
        "processing",
        "rendered as documented now"
    );
}
