//! Connections that are kept open on the admin listener keep no probe out, and none that is in use is closed for one.

use tokio::net::TcpStream;

use crate::support::{Gateway, Upstream, Wire, row};

/// As many as the admin listener has permits for.
const PERMITS: usize = 64;

#[tokio::test]
async fn idle_admin_connections_make_room_for_probes_and_a_stream_in_use_stays() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let mut watcher = Wire::connect(gateway.admin).await;
    watcher
        .send("GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await;
    watcher.until("\n\n").await;
    let mut kept = Vec::new();
    for number in 0..2 * PERMITS {
        let mut idle = Wire::new(TcpStream::connect(gateway.admin).await.unwrap());
        // Some have a request, or half of one.
        match number % 3 {
            0 => {
                idle.send("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                    .await;
                assert!(idle.head().await.starts_with("HTTP/1.1 200 "), "{number}");
            }
            1 => idle.send("GET /hea").await,
            _ => {}
        }
        kept.push(idle);
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        let mut probe = Wire::connect(gateway.admin).await;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        probe.send(request).await;
        let answer = probe.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    // The idlest were closed, and not the one in use.
    assert_eq!(kept[2].rest().await, "");
    watcher.until("\n\n").await;
}
