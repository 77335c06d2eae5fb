//! Every request that is not a status poll passes through: streamed, unread, without hop-by-hop fields.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::{Gateway, Reply, Upstream};

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn requests_and_answers_pass_unchanged_but_for_the_connection() {
    let upstream = Upstream::start(|_| {
        Reply::new(201, "application/json", r#"{"id":1}"#)
            .with("x-custom", "kept")
            .with("set-cookie", "a=b")
            .with("keep-alive", "timeout=5")
            .with("via", "1.1 cdn")
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let request = Request::post(gateway.client.url("/v1/videos?a=%2F&b=c%20d&&"))
        .header("authorization", "Bearer sk-1")
        .header("cookie", "session=1")
        .header("x-stainless-lang", "python")
        .header("connection", "x-private, keep-alive")
        .header("x-private", "dropped")
        .header("te", "trailers")
        .body(Full::from("{\"prompt\":\"a cat\"}"))
        .unwrap();
    let answer = gateway.client.send(request).await;
    assert_eq!(
        (answer.status.as_u16(), answer.text()),
        (201, r#"{"id":1}"#)
    );
    assert_eq!(
        (answer.header("x-custom"), answer.header("set-cookie")),
        ("kept", "a=b")
    );
    assert_eq!(answer.header("keep-alive"), "");
    let via: Vec<_> = answer.headers.get_all("via").iter().collect();
    assert_eq!(via, ["1.1 cdn", "1.1 pollgate"]);

    let asked = &upstream.asked()[0];
    assert_eq!(
        (asked.method.as_str(), asked.target.as_str()),
        ("POST", "/v1/videos?a=%2F&b=c%20d&&")
    );
    assert_eq!(asked.body, "{\"prompt\":\"a cat\"}");
    for (name, value) in [
        ("authorization", "Bearer sk-1"),
        ("cookie", "session=1"),
        ("x-stainless-lang", "python"),
        ("via", "1.1 pollgate"),
        ("host", &upstream.address.to_string()),
        ("content-length", "18"),
        ("x-private", ""),
        ("te", "trailers"),
        ("connection", "te"),
        ("x-forwarded-for", ""),
        ("forwarded", ""),
    ] {
        assert_eq!(asked.header(name), value, "{name}");
    }
}

#[tokio::test]
async fn raw_paths_reach_upstream_byte_for_byte() {
    let upstream = Upstream::saying("{}").await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let paths = [
        "/v1/videos/a/content",
        "//v1/videos/a",
        "/v1/./videos/a",
        "/v1/videos/../x",
        "/v1/videos/%2e%2e",
        "/v1/videos/a/",
        "/v1/Videos/a",
        "/v1/videos/a;b=1/content",
        "/%",
        "/v1/videos?x=/v1/videos/a",
    ];
    for path in paths {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    let targets: Vec<_> = upstream
        .asked()
        .into_iter()
        .map(|asked| asked.target)
        .collect();
    assert_eq!(targets, paths);
}

#[tokio::test]
async fn ids_reach_upstream_byte_for_byte_and_stay_distinct() {
    let upstream = Upstream::start(|_| Reply::json(crate::support::row("SUCCESS"))).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let long = "A".repeat(600);
    let ids = [
        "sora-2:task_01k",
        "a%2Fb",
        "a%2fb",
        "video_bGl0ZWxsbQ==",
        "x;y",
        "x",
        "x%20",
        &long,
    ];
    for id in ids {
        assert_eq!(
            gateway.get(&format!("/v1/videos/{id}")).await.status,
            200,
            "{id}"
        );
    }
    let targets: Vec<_> = upstream
        .asked()
        .into_iter()
        .map(|asked| asked.target)
        .collect();
    assert_eq!(targets, ids.map(|id| format!("/v1/videos/{id}")));
    assert_eq!(gateway.get("/v1/videos/a%2Fb").await.json()["id"], "a/b");
}

#[tokio::test]
async fn the_path_prefix_of_upstream_is_kept() {
    let upstream = Upstream::saying(crate::support::row("SUCCESS")).await;
    let gateway = Gateway::start(&format!("{}/base/", upstream.url()), &[]).await;
    gateway.get("/v1/videos/t").await;
    gateway.get("/v1/models?x=1").await;
    let targets: Vec<_> = upstream
        .asked()
        .into_iter()
        .map(|asked| asked.target)
        .collect();
    assert_eq!(targets, ["/base/v1/videos/t", "/base/v1/models?x=1"]);
}

#[tokio::test]
async fn forwarding_headers_are_sent_only_where_configured() {
    for (how, name, value) in [
        ("x-forwarded", "x-forwarded-for", "127.0.0.1"),
        ("x-forwarded", "x-forwarded-proto", "http"),
        ("rfc7239", "forwarded", "for=127.0.0.1;proto=http;host=\""),
    ] {
        let upstream = Upstream::saying("{}").await;
        let gateway = Gateway::start(&upstream.url(), &[("listen.forwarded", how)]).await;
        gateway.get("/v1/models").await;
        assert!(
            upstream.asked()[0].header(name).starts_with(value),
            "{:?}",
            upstream.asked()
        );
    }
}

#[tokio::test]
async fn connect_is_refused() {
    let upstream = Upstream::saying("{}").await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    stream.write_all(b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("bad_request"),
        "{answer}"
    );
    assert_eq!(upstream.count(), 0);
}

/// Counts the bytes of every upload, and answers with them.
async fn counting_upstream() -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counter = Arc::clone(&counter);
            let count = move |request: Request<Incoming>| {
                let counter = Arc::clone(&counter);
                async move {
                    let mut body = request.into_body();
                    while let Some(Ok(frame)) = body.frame().await {
                        let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                        counter.fetch_add(bytes, Ordering::Relaxed);
                    }
                    let total = counter.load(Ordering::Relaxed).to_string();
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(total)))
                }
            };
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(count)),
            );
        }
    });
    (url, seen)
}

/// A body of this many bytes, produced on demand.
struct Zeroes(u64);

impl http_body::Body for Zeroes {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static CHUNK: [u8; 65_536] = [0; 65_536];
        if self.0 == 0 {
            return Poll::Ready(None);
        }
        self.0 -= CHUNK.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK)))))
    }
}

#[tokio::test]
async fn an_upload_of_64_mib_streams_through_with_flat_memory() {
    let (url, _) = counting_upstream().await;
    let gateway = Gateway::start(&url, &[]).await;
    let pool = Pool::builder(TokioExecutor::new()).build_http::<Zeroes>();
    let upload = async |size| {
        let request = Request::post(gateway.client.url("/v1/files"))
            .body(Zeroes(size))
            .unwrap();
        let answer = pool
            .request(request)
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
        String::from_utf8(answer.to_bytes().to_vec()).unwrap()
    };
    // Warms up connections and buffers.
    assert_eq!(upload(MIB).await, MIB.to_string());
    let before = gateway.resident();
    assert_eq!(upload(64 * MIB).await, (65 * MIB).to_string());
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "grew by {grown} bytes");
}

#[tokio::test]
async fn an_upload_that_upstream_does_not_read_is_not_buffered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(&format!("http://{}", listener.local_addr().unwrap()), &[]).await;
    let (chunks, source) = mpsc::channel::<Result<Frame<Bytes>, Infallible>>(1);
    let body = StreamBody::new(futures_util::stream::unfold(source, async |mut source| {
        Some((source.recv().await?, source))
    }));
    let pool = Pool::builder(TokioExecutor::new()).build_http();
    let request = Request::post(gateway.client.url("/v1/files"))
        .body(body.boxed_unsync())
        .unwrap();
    let upload = tokio::spawn(async move { pool.request(request).await.map(|_| ()) });
    // Upstream accepts the connection and never reads.
    let (_held, _) = listener.accept().await.unwrap();
    let before = gateway.resident();
    let chunk = Bytes::from(vec![0; 1 << 20]);
    let mut sent = 0;
    let push = async {
        while sent < 512 {
            chunks.send(Ok(Frame::data(chunk.clone()))).await.unwrap();
            sent += 1;
        }
    };
    assert!(
        tokio::time::timeout(std::time::Duration::from_secs(2), push)
            .await
            .is_err(),
        "everything was taken"
    );
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < 16 * MIB, "grew by {grown} bytes");
    upload.abort();
}

#[tokio::test]
async fn events_of_a_stream_arrive_one_by_one_without_delay() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(&format!("http://{}", listener.local_addr().unwrap()), &[]).await;
    let pool = Pool::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = Request::post(gateway.client.url("/v1/chat/completions"))
        .body(Full::from("{}"))
        .unwrap();
    let answer = tokio::spawn(pool.request(request));
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut head = [0; 4096];
    assert!(upstream.read(&mut head).await.unwrap() > 0);
    upstream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        .await
        .unwrap();
    let mut body = answer.await.unwrap().unwrap().into_body();
    for number in 0..3 {
        // The next event is written only after this one has arrived, so nothing may buffer it.
        let event = format!("data: {number}\n\n");
        upstream.write_all(event.as_bytes()).await.unwrap();
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame, event);
    }
    drop(upstream);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn an_upstream_that_dies_mid_body_ends_the_answer_visibly() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(&format!("http://{}", listener.local_addr().unwrap()), &[]).await;
    let pool = Pool::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let answer = tokio::spawn(
        pool.request(
            Request::get(gateway.client.url("/v1/videos/t/content"))
                .body(Full::default())
                .unwrap(),
        ),
    );
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut head = [0; 4096];
    assert!(upstream.read(&mut head).await.unwrap() > 0);
    upstream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        .await
        .unwrap();
    let body = answer.await.unwrap().unwrap().into_body();
    drop(upstream);
    assert!(body.collect().await.is_err());
}

/// What a client gets on the wire when upstream answers with these bytes and then closes, or resets, the connection.
async fn relayed(answer: &'static [u8], reset: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(&format!("http://{}", listener.local_addr().unwrap()), &[]).await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    client
        .write_all(b"GET /v1/models HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut head = [0; 4096];
    assert!(upstream.read(&mut head).await.unwrap() > 0);
    upstream.write_all(answer).await.unwrap();
    let mut text = Vec::new();
    if reset {
        let mut part = [0; 4096];
        while !text.ends_with(b"half") && !text.ends_with(b"half\r\n") {
            let length = client.read(&mut part).await.unwrap();
            assert!(length > 0, "the first half is passed on");
            text.extend_from_slice(&part[..length]);
        }
        upstream.set_zero_linger().unwrap();
    }
    drop(upstream);
    // A connection that is reset has been read as far as it goes.
    let _ = client.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).to_ascii_lowercase()
}

#[tokio::test]
async fn an_answer_has_one_length_on_the_wire() {
    let both: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n\
        5\r\nhello\r\n0\r\n\r\n";
    let text = relayed(both, false).await;
    assert!(!text.contains("content-length"), "{text}");
    assert!(text.contains("transfer-encoding: chunked"), "{text}");
    assert!(text.ends_with("5\r\nhello\r\n0\r\n\r\n"), "{text}");
    for twice in [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\nhello".as_slice(),
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
    ] {
        let text = relayed(twice, false).await;
        assert_eq!(text.matches("content-length").count(), 1, "{text}");
        assert!(text.contains("\r\ncontent-length: 5\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nhello"), "{text}");
    }
}

#[tokio::test]
async fn an_http_1_0_answer_that_is_reset_looks_cut_and_one_that_is_closed_does_not() {
    let answer: &[u8] = b"HTTP/1.0 200 OK\r\n\r\nhalf";
    let cut = relayed(answer, true).await;
    assert!(cut.starts_with("http/1.1 200"), "{cut}");
    assert!(cut.contains("half"), "{cut}");
    assert!(!cut.ends_with("0\r\n\r\n"), "{cut}");
    let whole = relayed(answer, false).await;
    assert!(whole.ends_with("4\r\nhalf\r\n0\r\n\r\n"), "{whole}");
}

#[tokio::test]
async fn a_client_that_disconnects_ends_its_upstream_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(&format!("http://{}", listener.local_addr().unwrap()), &[]).await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    client
        .write_all(b"POST /v1/videos HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
        .await
        .unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut buf = [0; 4096];
    assert!(upstream.read(&mut buf).await.unwrap() > 0);
    drop(client);
    let mut rest = Vec::new();
    let ended =
        tokio::time::timeout(crate::support::PATIENCE, upstream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the upstream connection stays open");
}

#[tokio::test]
async fn a_post_is_sent_once_whatever_happens_to_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(&format!("http://{}", listener.local_addr().unwrap()), &[]).await;
    let client = gateway.client.clone();
    let request = Request::post(client.url("/v1/videos"))
        .body(Full::from("{}"))
        .unwrap();
    let answer = tokio::spawn(async move { client.send(request).await });
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut head = [0; 4096];
    assert!(upstream.read(&mut head).await.unwrap() > 0);
    drop(upstream);
    let answer = answer.await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["code"]),
        (503, &"upstream_unavailable".into())
    );
    let again =
        tokio::time::timeout(std::time::Duration::from_millis(300), listener.accept()).await;
    assert!(again.is_err(), "it was sent again");
}

#[tokio::test]
async fn an_upload_may_take_longer_than_a_head() {
    let (url, _) = counting_upstream().await;
    let gateway = Gateway::start(&url, &[("limits.header_timeout", "200ms")]).await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    let head =
        "POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\nconnection: close\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..6 {
        // Only time can show that nothing happens meanwhile.
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        client.write_all(b"x").await.unwrap();
    }
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with('6'),
        "{answer}"
    );
}

#[tokio::test]
async fn a_request_without_just_one_host_is_refused_and_its_connection_closed() {
    let upstream = Upstream::saying("{}").await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for hosts in ["", "host: a\r\nhost: b\r\n"] {
        let mut client = TcpStream::connect(gateway.address).await.unwrap();
        client
            .write_all(format!("GET /v1/models HTTP/1.1\r\n{hosts}\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 400") && answer.contains("bad_request"),
            "{answer}"
        );
    }
    assert_eq!(upstream.count(), 0);
}
