//! Clients that are slow, silent or gone occupy one permit at most, and not for long.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::raw::{RawUpstream, receive};
use crate::support::{Gateway, PATIENCE, Reply, Upstream, eventually, row};

/// An upstream that answers every connection with an endless body.
async fn endless_upstream() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let start = "HTTP/1.1 200 OK\r\ncontent-type: video/mp4\r\n\r\n";
                let mut sent = stream.write_all(start.as_bytes()).await;
                while sent.is_ok() {
                    sent = stream.write_all(&[0; 8192]).await;
                }
            });
        }
    });
    url
}

async fn is_left_alone(gateway: &Gateway) {
    eventually("all connections are over", async || {
        gateway.metric("pollgate_connections").await == 0.0
    })
    .await;
}

#[tokio::test]
async fn a_head_that_never_arrives_is_answered_408() {
    let upstream = RawUpstream::start().await;
    let settings = [("limits.header_timeout", "200ms")];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    for begun in ["G", "PRI * HT", "GET /a HTTP/1.1\r\nhost: x\r\n", "\r\n"] {
        let mut client = TcpStream::connect(gateway.address).await.unwrap();
        client.write_all(begun.as_bytes()).await.unwrap();
        let answers = receive(&mut client).await;
        assert_eq!(answers.len(), 1, "{begun:?}");
        assert_eq!(
            (answers[0].status, &answers[0].json()["error"]["code"]),
            (408, &"bad_request".into())
        );
        assert!(answers[0].has("connection: close\r\n"));
    }
    assert_eq!(upstream.fragments(), Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn a_stalled_upload_is_answered_408_and_never_ends_upstream_as_if_it_were_whole() {
    let upstream = RawUpstream::start().await;
    let settings = [("limits.idle_timeout", "400ms")];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    for begun in [
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhello",
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let mut client = TcpStream::connect(gateway.address).await.unwrap();
        client.write_all(begun.as_bytes()).await.unwrap();
        let answers = receive(&mut client).await;
        assert_eq!(answers.len(), 1, "{begun:?}");
        assert_eq!(
            (answers[0].status, &answers[0].json()["error"]["code"]),
            (408, &"bad_request".into())
        );
    }
    is_left_alone(&gateway).await;
    assert_eq!(upstream.requests(), Vec::<Vec<u8>>::new());
}

#[tokio::test]
async fn an_upload_that_stalls_after_its_answer_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = [("limits.idle_timeout", "400ms")];
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gateway = Gateway::start(&url, &settings).await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    let begun = b"POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhello";
    client.write_all(begun).await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut head = [0; 4096];
    assert!(upstream.read(&mut head).await.unwrap() > 0);
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    upstream.write_all(answer).await.unwrap();
    let mut bytes = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, client.read_to_end(&mut bytes)).await;
    assert!(ended.is_ok(), "stays open");
    let text = String::from_utf8_lossy(&bytes);
    assert!(
        text.starts_with("HTTP/1.1 200") && text.ends_with("half"),
        "{text}"
    );
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut_off() {
    let settings = [("limits.idle_timeout", "500ms")];
    let gateway = Gateway::start(&endless_upstream().await, &settings).await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    let request = b"GET /v1/files/a HTTP/1.1\r\nhost: x\r\n\r\n";
    client.write_all(request).await.unwrap();
    eventually("it is under way", async || {
        gateway.metric("pollgate_connections").await == 1.0
    })
    .await;
    is_left_alone(&gateway).await;
}

async fn http_2(gateway: &Gateway) -> http2::SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_a_stream_is_cut_off() {
    let settings = [("limits.idle_timeout", "500ms")];
    let gateway = Gateway::start(&endless_upstream().await, &settings).await;
    let mut client = http_2(&gateway).await;
    let request = Request::get("http://x/v1/files/a").body(Full::default());
    let answer = client.send_request(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    is_left_alone(&gateway).await;
    let mut body = answer.into_body();
    let end = loop {
        match body.frame().await {
            Some(Ok(_)) => {}
            end => break end,
        }
    };
    assert!(end.is_some_and(|end| end.is_err()), "it seemed whole");
}

#[tokio::test]
async fn an_idle_http_2_connection_is_closed() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let settings = [("limits.idle_timeout", "400ms")];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    let mut client = http_2(&gateway).await;
    let request = Request::get("http://x/v1/videos/t").body(Full::default());
    let answer = client.send_request(request.unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    drop(answer);
    is_left_alone(&gateway).await;
    assert!(client.ready().await.is_err());
}

#[tokio::test]
async fn a_client_that_waits_for_events_may_be_silent() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let settings = [
        ("limits.idle_timeout", "200ms"),
        ("limits.header_timeout", "200ms"),
        ("cache.in_flight_ttl", "50ms"),
        ("cache.adaptive", "false"),
    ];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    let mut clients = Vec::new();
    for preference in ["accept: text/event-stream", "prefer: wait=60"] {
        let mut client = TcpStream::connect(gateway.address).await.unwrap();
        let request = format!(
            "GET /v1/videos/t HTTP/1.1\r\nhost: x\r\n{preference}\r\nconnection: close\r\n\r\n"
        );
        client.write_all(request.as_bytes()).await.unwrap();
        clients.push(client);
    }
    // Upstream is polled every 50 ms at most, so this many polls take several times `idle_timeout`.
    upstream.was_asked(20).await;
    assert_eq!(gateway.metric("pollgate_connections").await, 2.0);
    upstream.now(|_| Reply::json(row("SUCCESS")));
    for mut client in clients {
        let mut answer = String::new();
        let read = client.read_to_string(&mut answer);
        tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("\"completed\""), "{answer}");
    }
}

#[tokio::test]
async fn two_thousand_slow_clients_delay_no_one() {
    let enough = 16_384;
    let limit = rlimit::increase_nofile_limit(enough).expect("is told");
    assert!(limit >= 6000, "{limit} file descriptors are too few");
    let upstream = Upstream::start(|asked| {
        if asked.target.contains("/files/") {
            Reply::new(200, "video/mp4", vec![0; 256 * 1024])
        } else {
            Reply::json(row("IN_PROGRESS"))
        }
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[("limits.header_timeout", "10m")]).await;
    assert_eq!(gateway.get("/v1/videos/t").await.status, 200);
    let before = gateway.resident();
    let mut slow = Vec::new();
    for number in 0..2000 {
        let mut client = TcpStream::connect(gateway.address).await.unwrap();
        let begun: &[u8] = match number % 4 {
            0 => b"",
            1 => b"GET /v1/videos/t HTTP/1.1\r\nhost: x\r\nx-slow: ",
            2 => b"POST /v1/videos HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{",
            _ => b"GET /v1/files/a HTTP/1.1\r\nhost: x\r\n\r\n",
        };
        client.write_all(begun).await.unwrap();
        slow.push(client);
    }
    eventually("all of them hang on", async || {
        gateway.metric("pollgate_connections").await >= 2000.0
    })
    .await;
    for round in 0..10 {
        for client in slow.iter_mut().skip(1).step_by(4) {
            // They send a byte at a time.
            client.write_all(b"a").await.unwrap();
        }
        for task in 0..10 {
            let answer = gateway.get(&format!("/v1/videos/t{task}")).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.json()["status"]),
                (200, &"in_progress".into()),
                "{round}"
            );
        }
    }
    let grown = gateway.resident().saturating_sub(before) / 2000;
    assert!(grown < 256 * 1024, "{grown} bytes for each of them");
    println!("2000 slow clients: {grown} bytes each");
    drop(slow);
    eventually("they are gone", async || {
        gateway.metric("pollgate_connections").await <= 1.0
    })
    .await;
}
