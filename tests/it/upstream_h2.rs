//! An upstream that speaks HTTP/2: how it may fail mid-stream, and what clients see of that.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, server};
use http::{HeaderMap, Method, Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use crate::support::{Gateway, Identity, eventually, row};

/// How a request ends.
#[derive(Clone, Copy)]
enum Fate {
    /// A whole answer, with a trailer.
    Answer,
    /// The request's body.
    Echo,
    /// No answer: its stream is reset.
    Reset(Reason),
    /// No answer: the connection breaks.
    GoAway,
    /// Half an answer, and then a reset.
    Cut,
    /// Half an answer, and then nothing until [`H2::cut`].
    Stuck,
    /// As [`Fate::Stuck`], and the connection accepts no other stream.
    Leave,
    /// A whole answer, and a goodbye: the connection accepts no other stream.
    Goodbye,
}

struct H2 {
    url: String,
    identity: Identity,
    asked: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    cut: Arc<Notify>,
}

impl H2 {
    /// Decides a request's fate by its number and path, with this many concurrent streams per connection.
    async fn start(
        streams: u32,
        fate: impl Fn(usize, &str) -> Fate + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::after(Vec::new(), streams, fate).await
    }

    /// As [`H2::start`], after a connection for each of these reasons that [says goodbye](expel) at its first request.
    async fn after(
        reasons: Vec<Reason>,
        streams: u32,
        fate: impl Fn(usize, &str) -> Fate + Clone + Send + Sync + 'static,
    ) -> Self {
        let mut reasons = reasons.into_iter();
        let identity = Identity::new();
        let acceptor = TlsAcceptor::from(identity.server(&[b"h2", b"http/1.1"]));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let connections = Arc::new(AtomicUsize::new(0));
        let connected = Arc::clone(&connections);
        let cut = Arc::new(Notify::new());
        let cutting = Arc::clone(&cut);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connected.fetch_add(1, Ordering::SeqCst);
                let (acceptor, fate, count) = (acceptor.clone(), fate.clone(), Arc::clone(&count));
                let cut = Arc::clone(&cutting);
                let reason = reasons.next();
                tokio::spawn(async move {
                    // A client may leave before it is through: a connection that was opened before is enough.
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                        return plain(stream).await;
                    }
                    if let Some(reason) = reason {
                        return expel(stream, reason).await;
                    }
                    let mut builder = server::Builder::new();
                    let handshake = builder.max_concurrent_streams(streams).handshake(stream);
                    let Ok(mut connection) = handshake.await else {
                        return;
                    };
                    let mut kept = Vec::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let number = count.fetch_add(1, Ordering::SeqCst);
                        let fate = fate(number, request.uri().path());
                        if matches!(fate, Fate::GoAway) {
                            connection.abrupt_shutdown(Reason::INTERNAL_ERROR);
                        } else {
                            if matches!(fate, Fate::Leave | Fate::Goodbye) {
                                connection.graceful_shutdown();
                            }
                            kept.push(meet(fate, request, respond, Arc::clone(&cut)));
                        }
                    }
                });
            }
        });
        Self {
            url,
            identity,
            asked,
            connections,
            cut,
        }
    }

    async fn gateway(&self) -> Gateway {
        let settings = [("upstream.ca_file", self.identity.cert.to_str().unwrap())];
        Gateway::start(&self.url, &settings).await
    }

    /// Truncates one stuck answer.
    fn cut(&self) {
        self.cut.notify_one();
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Answers a single request over HTTP/1.1.
async fn plain(mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut head = vec![0; 4096];
    if stream.read(&mut head).await.is_ok_and(|count| count > 0) {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\nHTTP/1.1";
        stream.write_all(answer.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}

/// Says goodbye, for this reason, at the first request, which it does not process.
async fn expel(mut stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>, reason: Reason) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    const PREFACE: usize = 24;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const ONE_STREAM: [u8; 6] = [0, 3, 0, 0, 0, 1];
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    let frame = |kind, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, 0, 0, 0, 0, 0], payload].concat()
    };
    // The client has taken note that its request is sent once it answers a ping.
    let goodbye = [[0; 4], u32::from(reason).to_be_bytes()].concat();
    let steps = [
        (HEADERS, frame(PING, &[0; 8])),
        (PING, frame(GOAWAY, &goodbye)),
    ];
    // A client that has another connection by then closes this one.
    let expelled: std::io::Result<()> = async {
        stream.write_all(&frame(SETTINGS, &ONE_STREAM)).await?;
        stream.read_exact(&mut [0; PREFACE]).await?;
        for (awaited, then) in steps {
            let mut head = [0; 9];
            while head[3] != awaited {
                stream.read_exact(&mut head).await?;
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                stream.read_exact(&mut vec![0; length as usize]).await?;
            }
            stream.write_all(&then).await?;
        }
        stream.read_to_end(&mut Vec::new()).await.map(drop)
    }
    .await;
    drop(expelled);
}

/// Returns the value that keeps the stream alive.
fn meet(
    fate: Fate,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    cut: Arc<Notify>,
) -> Option<Request<RecvStream>> {
    if let Fate::Reset(reason) = fate {
        respond.send_reset(reason);
        return None;
    }
    if matches!(fate, Fate::Echo) {
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut echo = respond.send_response(Response::new(()), false).unwrap();
            while let Some(Ok(data)) = body.data().await {
                let _ = body.flow_control().release_capacity(data.len());
                echo.send_data(data, false).unwrap();
            }
            echo.send_data(Bytes::new(), true).unwrap();
        });
        return None;
    }
    let whole = row("SUCCESS");
    let response = Response::builder().header("trailer", "x-sum");
    let mut body = respond
        .send_response(response.body(()).unwrap(), false)
        .unwrap();
    match fate {
        Fate::Cut => {
            body.send_data(Bytes::from_static(b"half"), false).unwrap();
            body.send_reset(Reason::INTERNAL_ERROR);
        }
        Fate::Stuck | Fate::Leave => {
            body.send_data(Bytes::from_static(b"half"), false).unwrap();
            tokio::spawn(async move {
                cut.notified().await;
                body.send_reset(Reason::INTERNAL_ERROR);
            });
        }
        _ => {
            body.send_data(whole.into(), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "1".parse().unwrap());
            body.send_trailers(trailers).unwrap();
        }
    }
    Some(request)
}

fn client(
    version: Version,
) -> Client<hyper_util::client::legacy::connect::HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new())
        .http2_only(version == Version::HTTP_2)
        .build_http()
}

async fn ask(
    gateway: &Gateway,
    version: Version,
    method: Method,
    path: &str,
) -> Response<Incoming> {
    let request = Request::builder()
        .method(method)
        .uri(gateway.client.url(path))
        .header("te", "trailers")
        .body(Full::default())
        .unwrap();
    let asked = client(version).request(request);
    let answer = tokio::time::timeout(crate::support::PATIENCE, asked).await;
    answer.expect("an answer in time").expect("an answer")
}

/// Polls of this many new tasks at once, so many times; how many were not answered with 200.
async fn failures(gateway: &Gateway, at_once: usize, times: usize) -> usize {
    let mut failed = 0;
    for round in 0..times {
        let polls = (0..at_once).map(|number| {
            let client = gateway.client.clone();
            async move {
                let path = format!("/v1/videos/t{round}-{number}");
                client.get(&path, "sk-test", &[]).await.status != 200
            }
        });
        let polls = futures_util::future::join_all(polls).await;
        failed += polls.into_iter().filter(|failed| *failed).count();
    }
    failed
}

#[tokio::test]
async fn polls_that_a_goodbye_leaves_unprocessed_go_out_again_on_another_connection() {
    // As nginx says it after keepalive_requests. With few streams some polls still wait for one.
    for streams in [100, 8] {
        let upstream = H2::start(streams, |number, _| match number % 40 {
            39 => Fate::Goodbye,
            _ => Fate::Answer,
        })
        .await;
        let gateway = upstream.gateway().await;
        assert_eq!(failures(&gateway, 50, 20).await, 0);
        // One for each goodbye, not one for each poll that was left.
        let connections = upstream.connections();
        assert!((10..100).contains(&connections), "{connections}");
        let failed = "pollgate_upstream_requests_total{code=\"error\",kind=\"poll\"}";
        assert_eq!(gateway.metric(failed).await, 0.0, "of {streams} streams");
    }
}

#[tokio::test]
async fn whatever_the_reason_of_a_goodbye_what_it_leaves_unprocessed_goes_out_again() {
    for reason in [Reason::INTERNAL_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let upstream = H2::after(vec![reason; 3], 100, |_, _| Fate::Answer).await;
        let gateway = upstream.gateway().await;
        assert_eq!(failures(&gateway, 1, 1).await, 0);
        assert_eq!((upstream.asked(), upstream.connections()), (1, 4));
        let failed = "pollgate_upstream_requests_total{code=\"error\",kind=\"poll\"}";
        assert_eq!(gateway.metric(failed).await, 0.0, "{reason:?}");
    }
}

#[tokio::test]
async fn polls_on_refused_streams_go_out_again_outside_of_any_budget() {
    let upstream = H2::start(100, |number, _| match number % 3 {
        0 => Fate::Reset(Reason::REFUSED_STREAM),
        _ => Fate::Answer,
    })
    .await;
    let gateway = upstream.gateway().await;
    assert_eq!(failures(&gateway, 1, 200).await, 0);
}

/// Random schedules: a peer that takes few or many streams refuses some of them once or twice, and says goodbye at times.
#[tokio::test]
async fn whatever_a_peer_refuses_every_poll_is_processed_once_and_answered() {
    for seed in 0..5 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let (streams, at_once) = (dice.u32(1..60), dice.usize(1..60));
        let refused = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
        let refusals = Arc::clone(&refused);
        let dice = Arc::new(Mutex::new(dice));
        let upstream = H2::start(streams, move |_, path| {
            let mut dice = dice.lock().unwrap();
            let mut refusals = refusals.lock().unwrap();
            let refused = refusals.entry(path.into()).or_default();
            if *refused < 2 && dice.u8(..4) == 0 {
                *refused += 1;
                return Fate::Reset(Reason::REFUSED_STREAM);
            }
            match dice.u8(..30) {
                0 => Fate::Goodbye,
                _ => Fate::Answer,
            }
        })
        .await;
        let gateway = upstream.gateway().await;
        let schedule = format!("schedule {seed}: {at_once} at once, {streams} streams");
        assert_eq!(failures(&gateway, at_once, 5).await, 0, "{schedule}");
        let refusals: usize = refused.lock().unwrap().values().sum();
        assert_eq!(upstream.asked(), 5 * at_once + refusals, "{schedule}");
        let failed = "pollgate_upstream_requests_total{code=\"error\",kind=\"poll\"}";
        assert_eq!(gateway.metric(failed).await, 0.0, "{schedule}");
    }
}

#[tokio::test]
async fn a_get_that_is_forwarded_goes_out_again_where_its_stream_was_refused() {
    let upstream = H2::start(100, |number, _| match number % 2 {
        0 => Fate::Reset(Reason::REFUSED_STREAM),
        _ => Fate::Answer,
    })
    .await;
    let gateway = upstream.gateway().await;
    for number in 1..=10 {
        let answer = ask(&gateway, Version::HTTP_11, Method::GET, "/v1/models").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(upstream.asked(), 2 * number);
    }
}

#[tokio::test]
async fn a_post_that_upstream_refused_goes_out_again_whole() {
    let upstream = H2::start(100, |number, _| match number % 2 {
        0 => Fate::Reset(Reason::REFUSED_STREAM),
        _ => Fate::Echo,
    })
    .await;
    let gateway = upstream.gateway().await;
    let post = async |size: usize| {
        let body = Bytes::from("x".repeat(size));
        let request = Request::post(gateway.client.url("/v1/videos"));
        let answer = gateway.client.send(request.body(Full::new(body)).unwrap());
        answer.await
    };
    for (number, size) in [(1, 0), (2, 1), (3, 20_000), (4, 60_000)] {
        let answer = post(size).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (200, size));
        assert_eq!(upstream.asked(), 2 * number);
    }
    // How much of a large one has been read by then is chance.
    let answer = post(1 << 20).await;
    assert!(answer.status == 503 || answer.body.len() == 1 << 20);
}

#[tokio::test]
async fn requests_that_wait_for_a_stream_until_a_goodbye_go_out_again() {
    for method in [Method::POST, Method::GET] {
        let upstream = H2::after(vec![Reason::INTERNAL_ERROR], 100, |_, _| Fate::Echo).await;
        let gateway = upstream.gateway().await;
        let requests = (0..20).map(|_| {
            let request = Request::builder().method(&method);
            let request = request.uri(gateway.client.url("/v1/files"));
            let body = match method {
                Method::POST => "a video",
                _ => "",
            };
            let request = request.body(Full::new(Bytes::from_static(body.as_bytes())));
            gateway.client.send(request.unwrap())
        });
        for answer in futures_util::future::join_all(requests).await {
            assert_eq!(answer.status, 200, "{method}: {:?}", answer.body);
        }
    }
}

#[tokio::test]
async fn a_post_that_upstream_drops_is_not_retried() {
    for fate in [Fate::Reset(Reason::INTERNAL_ERROR), Fate::GoAway] {
        let upstream = H2::start(100, move |_, _| fate).await;
        let gateway = upstream.gateway().await;
        let answer = ask(&gateway, Version::HTTP_11, Method::POST, "/v1/videos").await;
        assert_eq!(answer.status(), 503);
        assert_eq!(upstream.asked(), 1);
    }
}

#[tokio::test]
async fn a_poll_that_upstream_drops_is_retried() {
    for fate in [
        Fate::Reset(Reason::INTERNAL_ERROR),
        Fate::Reset(Reason::REFUSED_STREAM),
        Fate::GoAway,
        Fate::Cut,
    ] {
        let upstream = H2::start(100, move |number, _| match number {
            0 => fate,
            _ => Fate::Answer,
        })
        .await;
        let gateway = upstream.gateway().await;
        let answer = ask(&gateway, Version::HTTP_11, Method::GET, "/v1/videos/t").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(upstream.asked(), 2);
    }
}

#[tokio::test]
async fn polls_share_a_connection_until_its_goaway() {
    let upstream = H2::start(100, |number, _| match number {
        5 => Fate::Leave,
        _ => Fate::Answer,
    })
    .await;
    let gateway = upstream.gateway().await;
    let poll = async |task: &str| {
        let path = format!("/v1/videos/{task}");
        let answer = ask(&gateway, Version::HTTP_11, Method::GET, &path).await;
        assert_eq!(answer.status(), 200);
    };
    for task in ["a", "b", "c", "d", "e"] {
        poll(task).await;
        assert_eq!(upstream.connections(), 1);
    }
    // One poll is still in flight on the connection that accepts no more.
    let rest = async {
        eventually("f is under way", async || upstream.asked() == 6).await;
        for task in 0..1000 {
            poll(&task.to_string()).await;
            if upstream.connections() > 1 {
                break;
            }
        }
        assert_eq!(upstream.connections(), 2);
        upstream.cut();
    };
    tokio::join!(poll("f"), rest);
}

#[tokio::test]
async fn a_truncated_answer_is_truncated_for_clients_of_either_version() {
    let upstream = H2::start(100, |_, _| Fate::Stuck).await;
    let gateway = upstream.gateway().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let answer = ask(&gateway, version, Method::GET, "/v1/videos/t/content").await;
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
        upstream.cut();
        assert!(answer.into_body().collect().await.is_err(), "{version:?}");
    }
}

#[tokio::test]
async fn trailers_reach_clients_of_either_version() {
    let upstream = H2::start(100, |_, _| Fate::Answer).await;
    let gateway = upstream.gateway().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let answer = ask(&gateway, version, Method::GET, "/v1/anything").await;
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-sum"], "1", "{version:?}");
    }
}

#[tokio::test]
async fn downloads_that_fill_a_connection_delay_nothing_else() {
    let upstream = H2::start(40, |_, path| match path {
        "/v1/videos/t/content" => Fate::Stuck,
        _ => Fate::Answer,
    })
    .await;
    let gateway = upstream.gateway().await;
    let mut stuck = Vec::new();
    for _ in 0..60 {
        stuck.push(
            ask(
                &gateway,
                Version::HTTP_11,
                Method::GET,
                "/v1/videos/t/content",
            )
            .await,
        );
    }
    let poll = ask(&gateway, Version::HTTP_11, Method::GET, "/v1/videos/t").await;
    assert_eq!(poll.status(), 200);
    // Beyond HTTP/2's stream limit, further connections open.
    let forward = ask(&gateway, Version::HTTP_11, Method::GET, "/v1/models").await;
    let body = forward.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "HTTP/1.1");
    drop(stuck);
    crate::support::eventually("there is room again in HTTP/2", async || {
        let forward = ask(&gateway, Version::HTTP_11, Method::GET, "/v1/models").await;
        forward.into_body().collect().await.unwrap().to_bytes() != "HTTP/1.1"
    })
    .await;
}

#[tokio::test]
async fn an_upgrade_is_requested_over_http_1_1() {
    let upstream = H2::start(100, |_, _| Fate::Answer).await;
    let gateway = upstream.gateway().await;
    let request = Request::get(gateway.client.url("/v1/realtime"))
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .body(Full::default())
        .unwrap();
    assert_eq!(gateway.client.send(request).await.text(), "HTTP/1.1");
    assert_eq!(upstream.asked(), 0, "nothing went over HTTP/2");
}
