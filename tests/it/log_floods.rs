//! What a client sends neither floods the log nor reaches a terminal through it.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::request_ids::{frame, poll};
use crate::support::{Gateway, Upstream, eventually, row};

#[tokio::test]
async fn no_log_holds_a_control_character() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    for format in ["prometheus", "json", "text"] {
        let settings = [("log.requests", "all"), ("log.format", format)];
        let gateway = Gateway::start(&upstream.url(), &settings).await;
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let request =
            "GET /v1/videos/t\u{9b}31m HTTP/1.1\r\nhost: x\r\nx-request-id: \u{9b}2J\u{85}\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        eventually("the line", async || {
            gateway.log().iter().any(|line| line.contains("2J"))
        })
        .await;
        for line in gateway.log() {
            assert!(!line.contains(char::is_control), "{format}: {line:?}");
        }
    }
}

#[tokio::test]
async fn clients_that_break_http_2_are_counted_and_not_logged_one_by_one() {
    const CLIENTS: usize = 50;
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        let block = poll("id");
        for number in 0..200 {
            // HEADERS and RST_STREAM, again and again (CVE-2023-44487).
            bytes.extend(frame(1, 5, 2 * number + 1, &block));
            bytes.extend(frame(3, 0, 2 * number + 1, &[0, 0, 0, 8]));
        }
        // It may be closed before all is written.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    let warnings = || {
        let log = gateway.log();
        log.into_iter()
            .filter(|line| line.contains(" WARN "))
            .collect::<Vec<_>>()
    };
    eventually("a warning", async || {
        warnings()
            .iter()
            .any(|line| line.contains("broke the protocol"))
    })
    .await;
    assert!(warnings().len() < 5, "{:?}", warnings());
}
