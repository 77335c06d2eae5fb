//! What a client sends over HTTP/2 reaches an HTTP/1.1 upstream whole, or is refused as it would be over HTTP/1.1.

use bytes::Bytes;
use http::{Method, Request};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Gateway, PATIENCE, Reply, Upstream};

/// A client that sends what it is told to.
async fn connect(gateway: &Gateway) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The status and the body of the answer.
async fn send(
    client: &h2::client::SendRequest<Bytes>,
    request: Request<()>,
    body: Option<&'static str>,
) -> (u16, String) {
    let exchange = async {
        let mut client = client.clone().ready().await.expect("is open");
        let (response, mut sender) = client.send_request(request, body.is_none()).unwrap();
        if let Some(body) = body {
            // Refused as soon as the head is there, it may come too late.
            let _ = sender.send_data(Bytes::from_static(body.as_bytes()), true);
        }
        let (head, mut body) = response.await.expect("an answer").into_parts();
        let mut bytes = Vec::new();
        while let Some(data) = body.data().await {
            bytes.extend_from_slice(&data.expect("a whole body"));
        }
        (head.status.as_u16(), String::from_utf8(bytes).unwrap())
    };
    timeout(PATIENCE, exchange)
        .await
        .expect("an answer in time")
}

fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("http://x{path}"))
}

async fn echoing() -> Upstream {
    Upstream::start(|asked| Reply::json(asked.body.clone())).await
}

#[tokio::test]
async fn the_body_of_a_get_is_passed_on_or_refused_but_never_dropped() {
    let upstream = echoing().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let client = connect(&gateway).await;
    let sized = request(Method::GET, "/v1/search").header("content-length", "5");
    let answer = send(&client, sized.body(()).unwrap(), Some("hello")).await;
    assert_eq!(answer, (200, "hello".to_owned()));
    assert_eq!(upstream.asked()[0].body, "hello");
    for path in ["/v1/search", "/v1/videos/t", "/v1/video/generations/t"] {
        for method in [Method::GET, Method::HEAD] {
            let unsized_get = request(method.clone(), path).body(()).unwrap();
            let (status, body) = send(&client, unsized_get, Some("hello")).await;
            assert_eq!(status, 400, "{method} {path}");
            assert_eq!(
                body.contains("bad_request"),
                method == Method::GET,
                "{body}"
            );
        }
    }
    assert_eq!(upstream.count(), 1);
    // Other methods need no length.
    let post = request(Method::POST, "/v1/search").body(()).unwrap();
    let answer = send(&client, post, Some("hello")).await;
    assert_eq!(answer, (200, "hello".to_owned()));
}

#[tokio::test]
async fn cookies_that_come_in_crumbs_are_one_field_upstream() {
    let upstream = echoing().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let client = connect(&gateway).await;
    for (crumbs, cookie) in [
        (&["a=1"][..], "a=1"),
        (&["a=1", "b=2", "c=3; d=4"], "a=1; b=2; c=3; d=4"),
    ] {
        let mut request = request(Method::GET, "/v1/models");
        for crumb in crumbs {
            request = request.header("cookie", *crumb);
        }
        assert_eq!(send(&client, request.body(()).unwrap(), None).await.0, 200);
        let asked = upstream.asked();
        let cookies: Vec<_> = asked
            .last()
            .unwrap()
            .headers
            .get_all("cookie")
            .iter()
            .collect();
        assert_eq!(cookies, [cookie]);
    }
}

#[tokio::test]
async fn a_head_is_bounded_as_over_http_1_1() {
    let upstream = echoing().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let client = connect(&gateway).await;
    let target = |length: usize| format!("/v1/search?{}", "a".repeat(length - "/v1/search?".len()));
    let headers = |count: usize| {
        let request = request(Method::GET, "/v1/search");
        (0..count).fold(request, |request, number| {
            request.header(format!("x-{number}"), "1")
        })
    };
    for (request, expected) in [
        (request(Method::GET, &target(16 << 10)), 200),
        (request(Method::GET, &target((16 << 10) + 1)), 414),
        // Some are added on the way, and the upstream here takes a hundred itself.
        (headers(90), 200),
        (headers(101), 431),
    ] {
        let before = upstream.count();
        let (status, body) = send(&client, request.body(()).unwrap(), None).await;
        assert_eq!(status, expected, "{body}");
        assert_eq!(body.contains("bad_request"), expected != 200, "{body}");
        let asked = usize::from(expected == 200);
        assert_eq!(upstream.count() - before, asked);
    }
}
