//! Bulk traffic delays no poll, nor polls bulk traffic; a request over a limit is shed at once.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::support::{Gateway, Wire, eventually, row};

/// An upstream whose downloads never end. It has one running task and answers everything else at once.
async fn bulky() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut head).await {
                    let asked = String::from_utf8_lossy(&head[..count]).into_owned();
                    if asked.contains("/content") {
                        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
                        let _ = stream.write_all(answer.as_bytes()).await;
                        let chunk = vec![0; 65_536];
                        while stream.write_all(&chunk).await.is_ok() {}
                        return;
                    }
                    let body = row("IN_PROGRESS");
                    let length = body.len();
                    let answer =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    url
}

type H2 = Client<HttpConnector, Full<Bytes>>;

/// A client that sends everything over one connection, with a window larger than what it leaves unread.
fn one_connection() -> H2 {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .http2_initial_connection_window_size(64 << 20)
        .build_http()
}

async fn ask(client: &H2, gateway: &Gateway, path: &str, accept: &str) -> Response<Incoming> {
    let request = Request::get(gateway.client.url(path))
        .header("accept", accept)
        .body(Full::default())
        .unwrap();
    let answer = tokio::time::timeout(crate::support::PATIENCE, client.request(request)).await;
    answer.expect("an answer in time").expect("an answer")
}

async fn is_overloaded(answer: Response<Incoming>) {
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(
        body.windows(10).any(|word| word == b"overloaded"),
        "{body:?}"
    );
}

#[tokio::test]
async fn hundreds_of_stuck_downloads_delay_no_one_and_take_bounded_memory() {
    let upstream = bulky().await;
    let gateway = Gateway::start(&upstream, &[("limits.max_upstream", "1")]).await;
    gateway.get("/v1/videos/t").await;
    let before = gateway.resident();
    let mut stuck = Vec::new();
    for number in 0..300 {
        let mut client = Wire::connect(gateway.address).await;
        client
            .send(format!(
                "GET /v1/videos/{number}/content HTTP/1.1\r\nhost: x\r\n\r\n"
            ))
            .await;
        stuck.push(client);
    }
    for client in &mut stuck {
        assert!(client.head().await.starts_with("HTTP/1.1 200 "));
    }
    for number in 0..20 {
        let poll = gateway.get(&format!("/v1/videos/{number}")).await;
        assert_eq!(poll.status, 200);
        assert_eq!(gateway.get("/v1/models").await.status, 200);
    }
    let each = gateway.resident().saturating_sub(before) / 300;
    assert!(each < 512 << 10, "{each} bytes for each");
}

#[tokio::test]
async fn a_download_holds_its_permit_until_its_end_and_takes_none_of_the_polls() {
    let upstream = bulky().await;
    let gateway = Gateway::start(&upstream, &[("limits.max_connections", "4")]).await;
    let client = one_connection();
    let mut stuck = Vec::new();
    for _ in 0..4 {
        let answer = ask(&client, &gateway, "/v1/videos/t/content", "*/*").await;
        assert_eq!(answer.status(), 200);
        stuck.push(answer);
    }
    is_overloaded(ask(&client, &gateway, "/v1/models", "*/*").await).await;
    let poll = ask(&client, &gateway, "/v1/videos/t", "*/*").await;
    assert_eq!(poll.status(), 200);
    stuck.pop();
    eventually("there is room again", async || {
        ask(&client, &gateway, "/v1/models", "*/*").await.status() == 200
    })
    .await;
}

#[tokio::test]
async fn an_event_stream_holds_its_permit_until_its_end_and_takes_none_of_the_forwards() {
    let upstream = bulky().await;
    let gateway = Gateway::start(&upstream, &[("limits.max_connections", "4")]).await;
    let client = one_connection();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let answer = ask(&client, &gateway, "/v1/videos/t", "text/event-stream").await;
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        streams.push(answer);
    }
    // What is remembered takes no permit, and what has to wait for upstream does.
    let hit = ask(&client, &gateway, "/v1/videos/t", "*/*").await;
    assert_eq!(hit.status(), 200);
    is_overloaded(ask(&client, &gateway, "/v1/videos/other", "*/*").await).await;
    let forward = ask(&client, &gateway, "/v1/models", "*/*").await;
    assert_eq!(forward.status(), 200);
    streams.pop();
    eventually("there is room again", async || {
        ask(&client, &gateway, "/v1/videos/other", "*/*")
            .await
            .status()
            == 200
    })
    .await;
}

#[tokio::test]
async fn connect_is_refused_over_http_2_too() {
    let upstream = bulky().await;
    let gateway = Gateway::start(&upstream, &[]).await;
    let stream = tokio::net::TcpStream::connect(gateway.address)
        .await
        .unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut requests = requests.ready().await.unwrap();
    let request = Request::connect("example.com:443").body(()).unwrap();
    let (answer, _) = requests.send_request(request, true).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(10), answer).await;
    assert_eq!(answer.unwrap().unwrap().status(), 400);
}
