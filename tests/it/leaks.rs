//! Whichever end disconnects, and whenever: nothing of the request stays behind.

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::{Gateway, Raw, Upstream, Wire, eventually, row};

/// The number of permits: far fewer than the requests that fail here, so that leaking one each would show.
const PLACES: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Dies {
    Client,
    Upstream,
}

/// How far a forwarded request has progressed.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum At {
    HalfAHead,
    Head,
    HalfUp,
    AllUp,
    AnswerHead,
    HalfDown,
    AllDown,
}

const POINTS: [At; 7] = [
    At::HalfAHead,
    At::Head,
    At::HalfUp,
    At::AllUp,
    At::AnswerHead,
    At::HalfDown,
    At::AllDown,
];

const HEAD: &str = "POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\n";

async fn gateway(upstream: &str) -> Gateway {
    let places = PLACES.to_string();
    let settings = [
        ("limits.max_connections", places.as_str()),
        ("cache.in_flight_ttl", "0s"),
    ];
    Gateway::start(upstream, &settings).await
}

fn end(wire: Wire, by_reset: bool) {
    if by_reset {
        wire.reset();
    }
}

/// Waits until every gauge is back at zero.
async fn is_empty(gateway: &Gateway) {
    eventually("all is counted out", async || {
        let mut left = 0.0;
        for gauge in ["connections", "flights", "waiters"] {
            left += gateway.metric(&format!("pollgate_{gauge}")).await;
        }
        left == 0.0
    })
    .await;
}

/// Checks that nothing is left, and that as many requests fit as at the start.
async fn is_as_at_the_start(gateway: &Gateway, upstream: &Raw) {
    is_empty(gateway).await;
    let answers: Vec<_> = (0..PLACES)
        .map(|_| {
            let client = crate::support::Client::new(gateway.address);
            tokio::spawn(async move { client.get("/v1/models", "sk", &[]).await })
        })
        .collect();
    let mut served = Vec::new();
    for _ in 0..PLACES {
        let mut one = upstream.accept().await;
        one.head().await;
        served.push(one);
    }
    for one in &mut served {
        one.send(format!("{ANSWER}0123456789")).await;
    }
    for answer in answers {
        assert_eq!(answer.await.unwrap().text(), "0123456789");
    }
    is_empty(gateway).await;
}

/// Plays both ends up to this point, and then drops one of them.
async fn http_1(gateway: &Gateway, upstream: &Raw, at: At, dies: Dies, by_reset: bool) {
    let mut client = Wire::connect(gateway.address).await;
    client.send(HEAD).await;
    if at == At::HalfAHead {
        return end(client, by_reset);
    }
    client.send("\r\n").await;
    let mut served = upstream.accept().await;
    served.head().await;
    for half in [At::HalfUp, At::AllUp] {
        if at >= half {
            client.send("12345").await;
            served.exactly(5).await;
        }
    }
    if at >= At::AnswerHead {
        served.send(ANSWER).await;
        client.head().await;
    }
    for half in [At::HalfDown, At::AllDown] {
        if at >= half {
            served.send("12345").await;
            client.exactly(5).await;
        }
    }
    if dies == Dies::Client {
        end(client, by_reset);
        served.rest().await;
    } else {
        end(served, by_reset);
        if at < At::AnswerHead {
            let head = client.head().await;
            assert!(head.starts_with("HTTP/1.1 503 "), "{at:?} {head}");
        } else if at < At::AllDown {
            assert_eq!(client.rest().await, "", "{at:?}");
        }
    }
}

#[tokio::test]
async fn a_forwarded_request_of_http_1_that_either_end_kills_leaves_nothing_behind() {
    let upstream = Raw::start().await;
    let gateway = gateway(&upstream.url()).await;
    for at in POINTS {
        for dies in [Dies::Client, Dies::Upstream] {
            for by_reset in [false, true] {
                is_empty(&gateway).await;
                http_1(&gateway, &upstream, at, dies, by_reset).await;
            }
        }
    }
    is_as_at_the_start(&gateway, &upstream).await;
}

/// An HTTP/2 client, and the task that drives its connection.
async fn connect_h2(gateway: &Gateway) -> (SendRequest<Bytes>, JoinHandle<()>) {
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    let driving = tokio::spawn(async move {
        let _ = connection.await;
    });
    (requests.ready().await.unwrap(), driving)
}

async fn http_2(gateway: &Gateway, upstream: &Raw, at: At, dies: Dies, by_reset: bool) {
    let (mut requests, driving) = connect_h2(gateway).await;
    let request = Request::post(gateway.client.url("/v1/files")).header("content-length", "10");
    let (answer, mut body) = requests
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let mut served = upstream.accept().await;
    served.head().await;
    for half in [At::HalfUp, At::AllUp] {
        if at >= half {
            body.send_data(Bytes::from_static(b"12345"), half == At::AllUp)
                .unwrap();
            served.exactly(5).await;
        }
    }
    let mut answer = Some(answer);
    let mut down = None;
    if at >= At::AnswerHead {
        served.send(ANSWER).await;
        down = Some(answer.take().unwrap().await.unwrap().into_body());
    }
    for half in [At::HalfDown, At::AllDown] {
        if at >= half {
            served.send("12345").await;
            let data = down.as_mut().unwrap().data().await;
            assert_eq!(data.unwrap().unwrap(), "12345");
        }
    }
    if dies == Dies::Client {
        if by_reset {
            // Only the stream ends; the connection stays open.
            body.send_reset(h2::Reason::CANCEL);
            drop((answer, down, body));
        } else {
            driving.abort();
        }
        served.rest().await;
    } else {
        end(served, by_reset);
        if at < At::AnswerHead {
            let answer = answer.take().unwrap().await.unwrap();
            assert_eq!(answer.status(), 503, "{at:?}");
        } else if at < At::AllDown {
            let data = down.as_mut().unwrap().data().await;
            assert!(data.unwrap().is_err(), "{at:?}");
        }
    }
    driving.abort();
    let _ = driving.await;
}

#[tokio::test]
async fn a_forwarded_request_of_http_2_that_either_end_kills_leaves_nothing_behind() {
    let upstream = Raw::start().await;
    let gateway = gateway(&upstream.url()).await;
    for at in POINTS.into_iter().skip(1) {
        for dies in [Dies::Client, Dies::Upstream] {
            for by_reset in [false, true] {
                is_empty(&gateway).await;
                http_2(&gateway, &upstream, at, dies, by_reset).await;
            }
        }
    }
    is_as_at_the_start(&gateway, &upstream).await;
}

#[tokio::test]
async fn a_poll_whose_client_disconnects_leaves_nothing_behind() {
    let upstream = Raw::start().await;
    let gateway = gateway(&upstream.url()).await;
    for headers in ["", "prefer: wait=60\r\n", "accept: text/event-stream\r\n"] {
        for answered in ["", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"] {
            for by_reset in [false, true] {
                is_empty(&gateway).await;
                let mut client = Wire::connect(gateway.address).await;
                let head = format!("GET /v1/videos/t HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
                client.send(head).await;
                let mut served = upstream.accept().await;
                served.head().await;
                served.send(answered).await;
                end(client, by_reset);
                assert_eq!(served.rest().await, "", "upstream is let go");
            }
        }
        is_empty(&gateway).await;
        let (mut requests, driving) = connect_h2(&gateway).await;
        let mut request = Request::get(gateway.client.url("/v1/videos/t"));
        if let Some((name, value)) = headers.trim_end().split_once(": ") {
            request = request.header(name, value);
        }
        let (answer, _) = requests
            .send_request(request.body(()).unwrap(), true)
            .unwrap();
        let mut served = upstream.accept().await;
        served.head().await;
        drop(answer);
        assert_eq!(served.rest().await, "", "upstream is let go");
        driving.abort();
        let _ = driving.await;
    }
    is_as_at_the_start(&gateway, &upstream).await;
}

#[tokio::test]
async fn waits_and_event_streams_whose_clients_disconnect_leave_nothing_behind() {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let gateway = Gateway::start(
        &upstream.url(),
        &[
            ("limits.max_connections", "2"),
            ("cache.in_flight_ttl", "100ms"),
        ],
    )
    .await;
    for _ in 0..3 {
        let mut held = Wire::connect(gateway.address).await;
        held.send("GET /v1/videos/t HTTP/1.1\r\nhost: x\r\nprefer: wait=60\r\n\r\n")
            .await;
        let mut follower = Wire::connect(gateway.address).await;
        follower
            .send("GET /v1/videos/t HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n")
            .await;
        follower.until("event: status").await;
        eventually("both wait", async || {
            gateway.metric("pollgate_waiters").await == 2.0
        })
        .await;
        held.reset();
        drop(follower);
        is_empty(&gateway).await;
    }
    assert_eq!(gateway.get("/v1/videos/t").await.status, 200);
}

#[tokio::test]
async fn a_poll_whose_upstream_dies_leaves_nothing_behind() {
    for (answered, by_reset) in [
        ("", false),
        ("", true),
        ("HTTP/1.1 200 OK\r\ncontent-le", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", false),
        ("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", true),
    ] {
        let upstream = Raw::start().await;
        let gateway = gateway(&upstream.url()).await;
        let client = gateway.client.clone();
        let mut poll = tokio::spawn(async move {
            let request = Request::builder()
                .method(Method::GET)
                .uri(client.url("/v1/videos/t"))
                .header("connection", "close");
            client
                .send(request.body(http_body_util::Full::default()).unwrap())
                .await
        });
        // Once per attempt.
        let answer = loop {
            tokio::select! {
                mut served = upstream.accept() => {
                    served.head().await;
                    served.send(answered).await;
                    end(served, by_reset);
                }
                answer = &mut poll => break answer.unwrap(),
            }
        };
        assert_eq!(answer.status, 503, "{answer:?}");
        is_as_at_the_start(&gateway, &upstream).await;
    }
}
