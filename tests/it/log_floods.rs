//! What a client sends neither floods the log nor reaches a terminal through it.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

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
