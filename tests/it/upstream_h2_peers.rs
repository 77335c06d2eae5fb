//! HTTP/2 peers with few streams or with manners of their own, and what polls make of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::server;
use http::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, Notify, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::support::{Gateway, Identity, eventually, row};

type Stream = TlsStream<TcpStream>;

/// Starts a peer, each of whose connections is served by this, and a gateway in front of it.
async fn gateway<F>(serve: impl Fn(Stream) -> F + Clone + Send + 'static) -> Gateway
where
    F: Future<Output = ()> + Send + 'static,
{
    let identity = Identity::new();
    let acceptor = TlsAcceptor::from(identity.server(&[b"h2"]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, serve) = (acceptor.clone(), serve.clone());
            tokio::spawn(async move {
                // A client may leave before it is through: a connection that was opened before is enough.
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream).await;
                }
            });
        }
    });
    let settings = [("upstream.ca_file", identity.cert.to_str().unwrap())];
    Gateway::start(&url, &settings).await
}

/// Starts polls of so many tasks.
fn polls(gateway: &Gateway, tasks: &str, count: usize) -> Vec<tokio::task::JoinHandle<u16>> {
    let poll = |number| {
        let (client, path) = (
            gateway.client.clone(),
            format!("/v1/videos/{tasks}{number}"),
        );
        tokio::spawn(async move {
            let answer = client.get(&path, "sk-test", &[]).await;
            answer.status.as_u16()
        })
    };
    (0..count).map(poll).collect()
}

async fn polls_sent(gateway: &Gateway, code: &str) -> f64 {
    let series = format!("pollgate_upstream_requests_total{{code=\"{code}\",kind=\"poll\"}}");
    gateway.metric(&series).await
}

async fn under_way(gateway: &Gateway, count: u32) {
    eventually("the polls are under way", async || {
        gateway.metric("pollgate_flights").await == f64::from(count)
    })
    .await;
}

/// A peer that takes one request at a time, and answers none before `open` has a permit. It counts what it is asked.
async fn narrow(asked: &Arc<AtomicUsize>, open: &Arc<Semaphore>) -> Gateway {
    let (asked, open) = (Arc::clone(asked), Arc::clone(open));
    gateway(move |stream| {
        let (asked, open) = (Arc::clone(&asked), Arc::clone(&open));
        async move {
            let mut builder = server::Builder::new();
            // However many requests come with a reset behind them, it takes none of them for an attack.
            let builder = builder.max_concurrent_streams(1);
            let builder = builder.max_pending_accept_reset_streams(1000);
            let Ok(mut connection) = builder.handshake(stream).await else {
                return;
            };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                asked.fetch_add(1, Ordering::SeqCst);
                let open = Arc::clone(&open);
                tokio::spawn(async move {
                    let _open = open.acquire().await;
                    // It may have been abandoned.
                    if let Ok(mut body) = respond.send_response(Response::new(()), false) {
                        let _ = body.send_data(Bytes::from(row("SUCCESS")), true);
                    }
                });
            }
        }
    })
    .await
}

#[tokio::test]
async fn polls_that_are_abandoned_while_they_wait_for_a_stream_are_not_sent() {
    let (asked, open) = (Arc::default(), Arc::new(Semaphore::new(0)));
    let gateway = narrow(&asked, &open).await;
    let first = polls(&gateway, "first", 1);
    eventually("it is asked", async || asked.load(Ordering::SeqCst) == 1).await;
    let waiting = polls(&gateway, "waiting", 50);
    under_way(&gateway, 51).await;
    for poll in waiting {
        poll.abort();
    }
    eventually("they are given up", async || {
        polls_sent(&gateway, "499").await == 50.0
    })
    .await;
    open.add_permits(1);
    for poll in first.into_iter().chain(polls(&gateway, "last", 1)) {
        assert_eq!(poll.await.unwrap(), 200);
    }
    // One of them was the next, and had been handed over.
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked <= 3, "asked {asked} times");
}

/// Random schedules: clients leave while their polls wait for a stream, for the head or for the rest of the body.
#[tokio::test]
async fn whenever_polls_are_abandoned_they_hold_up_no_others() {
    for seed in 0..3 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let streams = dice.u32(1..6);
        let gateway = gateway(move |stream| async move {
            let mut builder = server::Builder::new();
            let builder = builder.max_concurrent_streams(streams);
            let builder = builder.max_pending_accept_reset_streams(1000);
            let Ok(mut connection) = builder.handshake(stream).await else {
                return;
            };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    sleep(Duration::from_millis(3)).await;
                    let Ok(mut body) = respond.send_response(Response::new(()), false) else {
                        return;
                    };
                    let answer = row("SUCCESS");
                    let (half, rest) = answer.split_at(20);
                    let _ = body.send_data(Bytes::from(half.to_owned()), false);
                    sleep(Duration::from_millis(3)).await;
                    let _ = body.send_data(Bytes::from(rest.to_owned()), true);
                });
            }
        })
        .await;
        for round in 0..10 {
            let abandoned = polls(&gateway, &format!("abandoned{round}-"), 20);
            for poll in abandoned {
                sleep(Duration::from_micros(dice.u64(0..2000))).await;
                poll.abort();
            }
        }
        let begun = Instant::now();
        for poll in polls(&gateway, "last", 50) {
            assert_eq!(poll.await.unwrap(), 200, "schedule {seed}");
        }
        // Far less than a poll's timeout.
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(5), "schedule {seed}: {took:?}");
        assert_eq!(polls_sent(&gateway, "error").await, 0.0, "schedule {seed}");
    }
}

#[tokio::test]
async fn polls_that_wait_for_a_stream_until_their_connection_breaks_go_out_again() {
    let (breaks, number) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (broken, asked) = (Arc::clone(&breaks), Arc::clone(&number));
    let gateway = gateway(move |stream| {
        let (breaks, asked) = (Arc::clone(&broken), Arc::clone(&asked));
        async move {
            let mut builder = server::Builder::new();
            let handshake = builder.max_concurrent_streams(1).handshake(stream);
            let Ok(mut connection) = handshake.await else {
                return;
            };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                if asked.fetch_add(1, Ordering::SeqCst) == 0 {
                    breaks.notified().await;
                    return;
                }
                let mut body = respond.send_response(Response::new(()), false).unwrap();
                body.send_data(Bytes::from(row("SUCCESS")), true).unwrap();
            }
        }
    })
    .await;
    let first = polls(&gateway, "first", 1);
    eventually("it is asked", async || number.load(Ordering::SeqCst) == 1).await;
    let waiting = polls(&gateway, "waiting", 30);
    under_way(&gateway, 31).await;
    breaks.notify_one();
    for poll in join_all(first.into_iter().chain(waiting)).await {
        assert_eq!(poll.unwrap(), 200);
    }
    // The one that was asked, and the next, which had been handed over.
    let failed = polls_sent(&gateway, "error").await;
    assert!(failed <= 2.0, "{failed} failed");
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[0, high, low, kind, flags, 0, 0, 0, stream], payload].concat()
}

async fn until_request(stream: &mut Stream) -> std::io::Result<()> {
    const PREFACE: usize = 24;
    stream.read_exact(&mut [0; PREFACE]).await?;
    let mut head = [0; 9];
    while head[3] != HEADERS {
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).await?;
    }
    Ok(())
}

/// Takes the first request, says goodbye to all others, and answers that one once as many connections as the barrier waits
/// for have one.
async fn take_one(stream: &mut Stream, answer: &Barrier) -> std::io::Result<()> {
    const DATA: u8 = 0;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    until_request(stream).await?;
    let goodbye = frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
    stream.write_all(&goodbye).await?;
    answer.wait().await;
    // 200, in HPACK's static table (RFC 7541 §A).
    let answer = [
        frame(HEADERS, END_HEADERS, 1, &[0x88]),
        frame(DATA, END_STREAM, 1, row("SUCCESS").as_bytes()),
    ];
    stream.write_all(&answer.concat()).await?;
    stream.read_to_end(&mut Vec::new()).await.map(drop)
}

#[tokio::test]
async fn a_poll_goes_out_again_however_often_a_goodbye_takes_others_and_leaves_it() {
    const POLLS: usize = 20;
    let answer = Arc::new(Barrier::new(POLLS));
    let gateway = gateway(move |mut stream| {
        let answer = Arc::clone(&answer);
        async move { drop(take_one(&mut stream, &answer).await) }
    })
    .await;
    for poll in polls(&gateway, "t", POLLS) {
        assert_eq!(poll.await.unwrap(), 200);
    }
    assert_eq!(polls_sent(&gateway, "error").await, 0.0);
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_not_asked_for_ever() {
    let connections = Arc::new(AtomicUsize::new(0));
    let opened = Arc::clone(&connections);
    let gateway = gateway(move |mut stream| {
        let opened = Arc::clone(&opened);
        async move {
            opened.fetch_add(1, Ordering::SeqCst);
            let settings = frame(SETTINGS, 0, 0, &[]);
            let goodbye = frame(GOAWAY, 0, 0, &[0; 8]);
            let said = stream.write_all(&[settings, goodbye].concat()).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
            drop(said);
        }
    })
    .await;
    for poll in polls(&gateway, "t", 100) {
        assert_eq!(poll.await.unwrap(), 503);
    }
    // As many at once as are opened while it is not known that they will be shared; and five tries each, shared by all.
    let connections = connections.load(Ordering::SeqCst);
    assert!(connections < 200, "{connections} connections");
}

#[tokio::test]
async fn how_a_connection_ended_is_told() {
    for (resets, told) in [
        (false, "the connection broke"),
        (true, "connection reset by peer"),
    ] {
        let gateway = gateway(move |mut stream| async move {
            if until_request(&mut stream).await.is_err() {
                return;
            }
            if resets {
                stream.get_ref().0.set_zero_linger().unwrap();
            } else {
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        })
        .await;
        let answer = gateway.get("/v1/videos/t").await;
        let told = format!("could not be reached ({told})");
        assert!(answer.text().contains(&told), "{}", answer.text());
    }
}
