//! The figures that the gateway promises, with the real binary over real sockets.
//!
//! An ordinary run checks them at a small scale. The full scale takes minutes and a release build:
//! `cargo test --release --test it figures -- --ignored --nocapture --test-threads 1`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::support::{Client, Gateway, Upstream, binary, eventually, row};
use pollgate::simulator::{Settings, Simulator, TaskOptions};

/// A minimal upstream: one answer to every request.
struct Cheap {
    address: SocketAddr,
    listening: JoinSet<()>,
}

impl Cheap {
    /// Listens on this port, or on a free one.
    async fn start(address: Option<SocketAddr>, body: String) -> Self {
        let address = address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().unwrap();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            // Ends with its connections, so that dropping it makes upstream unreachable.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, answer.clone()));
            }
        });
        Self { address, listening }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn stop(mut self) -> SocketAddr {
        self.listening.shutdown().await;
        self.address
    }
}

async fn serve(mut stream: TcpStream, answer: String) {
    let _ = stream.set_nodelay(true);
    let mut heads = Heads::default();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        for _ in 0..heads.ends_in(&buffer[..read], b"\r\n\r\n") {
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// Counts a phrase in a stream that arrives in pieces.
#[derive(Default)]
struct Heads(usize);

impl Heads {
    fn ends_in(&mut self, piece: &[u8], phrase: &[u8]) -> usize {
        let mut ends = 0;
        for byte in piece {
            // Correct for phrases that repeat nothing but their beginning.
            self.0 = if *byte == phrase[self.0] {
                self.0 + 1
            } else {
                usize::from(*byte == phrase[0])
            };
            if self.0 == phrase.len() {
                (self.0, ends) = (0, ends + 1);
            }
        }
        ends
    }
}

/// All clients connect, all send, and only then upstream answers.
async fn clients_at_once(count: usize) {
    let upstream = Upstream::saying(row("IN_PROGRESS")).await;
    let settings = [("upstream.timeout", "2m"), ("cache.in_flight_ttl", "0s")];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    upstream.close_gate();
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = TcpStream::connect(gateway.address)
            .await
            .expect("is let in");
        let request = b"GET /v1/videos/t HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk\r\nconnection: close\r\n\r\n";
        client.write_all(request).await.expect("is read");
        clients.push(client);
    }
    eventually("all of them wait", async || {
        sleep(Duration::from_millis(50)).await;
        gateway.metric("pollgate_waiters").await == f64::from(u32::try_from(count).unwrap())
    })
    .await;
    let started = Instant::now();
    upstream.let_pass(1);
    let mut reading = JoinSet::new();
    for mut client in clients {
        reading.spawn(async move {
            let mut answer = Vec::new();
            client
                .read_to_end(&mut answer)
                .await
                .expect("a whole answer");
            assert!(
                answer.starts_with(b"HTTP/1.1 200"),
                "{:?}",
                String::from_utf8_lossy(&answer)
            );
        });
    }
    let answered = timeout(Duration::from_mins(1), reading.join_all())
        .await
        .expect("all are answered");
    println!(
        "{} clients at once: {} upstream requests, the last one answered after {:?}, {} MiB resident",
        answered.len(),
        upstream.count(),
        started.elapsed(),
        gateway.resident() >> 20
    );
    assert_eq!((answered.len(), upstream.count()), (count, 1));
}

#[tokio::test]
async fn two_thousand_clients_at_once_on_one_uncached_task_are_one_upstream_request() {
    clients_at_once(2000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes 10,000 open files here and as many in the gateway"]
async fn ten_thousand_clients_at_once_on_one_uncached_task_are_one_upstream_request() {
    clients_at_once(10_000).await;
}

/// Polls this many tasks once each, and calls `look` now and then with the count so far.
async fn flood(gateway: &Gateway, count: usize, mut look: impl FnMut(usize)) {
    const BATCH: usize = 25;
    const CLIENTS: usize = 32;
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut stream = TcpStream::connect(gateway.address)
            .await
            .expect("is let in");
        let next = Arc::clone(&next);
        clients.spawn(async move {
            let mut buffer = [0; 16 * 1024];
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= count {
                    return;
                }
                let mut requests = String::new();
                for number in first..first + BATCH {
                    let _ = write!(
                        requests,
                        "GET /v1/video/generations/task_{number:032} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-flood\r\n\r\n"
                    );
                }
                stream.write_all(requests.as_bytes()).await.expect("is read");
                let (mut heads, mut answered) = (Heads::default(), 0);
                while answered < BATCH {
                    let read = stream.read(&mut buffer).await.expect("an answer");
                    assert_ne!(read, 0, "the connection was closed");
                    answered += heads.ends_in(&buffer[..read], b"IN_PROGRESS");
                }
            }
        });
    }
    let mut ticks = interval(Duration::from_millis(50));
    while !clients.is_empty() {
        tokio::select! {
            ended = clients.join_next() => ended.expect("is one").expect("no panic"),
            _ = ticks.tick() => look(next.load(Ordering::Relaxed)),
        }
    }
}

#[tokio::test]
async fn a_flood_of_tasks_fills_the_cache_and_then_takes_no_more() {
    let upstream = Cheap::start(None, row("IN_PROGRESS")).await;
    let settings = [("cache.capacity", "2MiB"), ("log.requests", "off")];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    flood(&gateway, 5000, |_| ()).await;
    let full = gateway.resident();
    flood(&gateway, 20_000, |_| ()).await;
    let grown = gateway.resident().saturating_sub(full);
    assert!(grown < 6 << 20, "grown by {} KiB", grown >> 10);
    assert!(gateway.metric("pollgate_cache_entries").await > 500.0);
}

#[tokio::test]
async fn what_is_written_for_the_clients_of_one_path_takes_its_room_in_the_cache() {
    const CAPACITY: u64 = 16 << 20;
    const DOCUMENT: u32 = 100 << 10;
    // As OctopusX writes it, so that clients of its own path get its bytes, and those of the other path a rendition.
    let prompt = "a cat ".repeat(100 << 10)[..100 << 10].to_owned();
    let body = row("SUCCESS").replace("task_id", &format!(r#"prompt":"{prompt}","task_id"#));
    let upstream = Upstream::saying(body).await;
    let capacity = CAPACITY.to_string();
    let settings = [
        ("cache.capacity", capacity.as_str()),
        ("upstream.dialect", "unified"),
    ];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    let show = async |number: u64| {
        for path in ["/v1/videos", "/v1/video/generations"] {
            let shown = gateway.get(&format!("{path}/t{number}")).await;
            assert!(shown.body.len() > DOCUMENT as usize, "{}", shown.text());
        }
    };
    for number in 0..20 {
        show(number).await;
    }
    eventually("both are counted", async || {
        let bytes = gateway.metric("pollgate_cache_bytes").await;
        bytes > f64::from(2 * 20 * DOCUMENT)
    })
    .await;
    let few = gateway.resident();
    for number in 20..400 {
        show(number).await;
    }
    let grown = gateway.resident().saturating_sub(few);
    assert!(grown < CAPACITY + CAPACITY / 2, "{} KiB", grown >> 10);
    let entries = gateway.metric("pollgate_cache_entries").await;
    assert!(
        (70.0..=82.0).contains(&entries),
        "{entries} of some 200 KiB"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes, and a release build"]
async fn two_million_tasks_through_64_mib_stay_under_120_mib_resident() {
    let upstream = Cheap::start(None, row("IN_PROGRESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[("log.requests", "off")]).await;
    let empty = gateway.resident();
    let (mut most, mut told) = (0, 0);
    flood(&gateway, 2_000_000, |tasks| {
        most = most.max(gateway.resident());
        if tasks / 200_000 > told {
            told = tasks / 200_000;
            println!("{tasks} tasks: {} KiB resident", gateway.resident() >> 10);
        }
    })
    .await;
    println!(
        "empty {} KiB, at most {} KiB, at the end {} KiB resident for {} entries of {} bytes",
        empty >> 10,
        most >> 10,
        gateway.resident() >> 10,
        gateway.metric("pollgate_cache_entries").await,
        gateway.metric("pollgate_cache_bytes").await,
    );
    assert!(most < 120 << 20, "{} KiB", most >> 10);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute and a half"]
async fn a_minute_without_upstream_fails_no_poll_costs_150_polls_and_is_over_3_seconds_after_its_end()
 {
    let body = row("IN_PROGRESS");
    let mut upstream = Some(Cheap::start(None, body.clone()).await);
    let gateway = Gateway::start(&upstream.as_ref().unwrap().url(), &[]).await;
    let asked = async || {
        gateway
            .metric("pollgate_upstream_requests_total{code=\"error\",kind=\"poll\"}")
            .await
    };
    let (gone, back, end) = (
        Duration::from_secs(5),
        Duration::from_secs(65),
        Duration::from_secs(75),
    );
    let mut ticks = interval(Duration::from_millis(2));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut polls, mut address, mut probes) = (JoinSet::new(), None, None);
    let started = Instant::now();
    let mut returned = None;
    for number in 0.. {
        ticks.tick().await;
        let now = started.elapsed();
        if now >= gone && upstream.is_some() && address.is_none() {
            address = Some(upstream.take().unwrap().stop().await);
        }
        if now >= back && returned.is_none() {
            upstream = Some(Cheap::start(address, body.clone()).await);
            returned = Some(Instant::now());
            probes = Some(asked().await);
        }
        if now >= end {
            break;
        }
        let client = gateway.client.clone();
        polls.spawn(async move {
            let task = number % 50;
            let answer = client.get(&format!("/v1/videos/t{task}"), "sk", &[]).await;
            (task, Instant::now(), answer)
        });
    }
    let back = returned.expect("came back");
    let mut fresh = [None::<Instant>; 50];
    let mut count = 0;
    while let Some(poll) = polls.join_next().await {
        let (task, at, answer) = poll.expect("no panic");
        assert_eq!(answer.status, 200, "{answer:?}");
        count += 1;
        // A hit after the recovery comes from a poll after it: anything earlier is 60 s old.
        if at > back && !answer.header("cache-status").contains("stale_if_error") {
            let first = fresh[task].get_or_insert(at);
            *first = at.min(*first);
        }
    }
    let last = fresh
        .iter()
        .map(|at| at.expect("is fresh again") - back)
        .max()
        .unwrap();
    let probes = probes.expect("were counted");
    println!(
        "{count} polls, none failed; {probes} upstream requests in the outage; all fresh {last:?} after its end"
    );
    assert!(probes <= 150.0 && last <= Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes more than a minute"]
async fn a_hundred_pollers_at_a_second_on_a_task_of_a_minute_are_at_most_32_upstream_polls() {
    let mut simulator = binary()
        .args([
            "simulate",
            "--listen",
            "127.0.0.1:0",
            "--lifetime",
            "60s",
            "--latency",
            "30ms-250ms",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let url = {
        use std::io::BufRead as _;
        let lines = std::io::BufReader::new(simulator.stdout.take().expect("is piped")).lines();
        let line = lines
            .map_while(Result::ok)
            .find(|line| line.contains("127.0.0.1:"));
        let line = line.expect("it tells its address");
        let (_, port) = line.split_once("127.0.0.1:").unwrap();
        let port: String = port.chars().take_while(char::is_ascii_digit).collect();
        format!("http://127.0.0.1:{port}")
    };
    let gateway = Gateway::start(&url, &[]).await;
    let request = http::Request::post(gateway.client.url("/v1/video/generations"))
        .header("authorization", "Bearer sk-test")
        .header("content-type", "application/json")
        .body(http_body_util::Full::from(
            r#"{"model":"sora-2","prompt":"x"}"#,
        ))
        .unwrap();
    let task = gateway.client.send(request).await.json();
    let id = task["task_id"]
        .as_str()
        .or(task["id"].as_str())
        .expect("an id")
        .to_owned();
    let mut pollers = JoinSet::new();
    for number in 0..100 {
        let (client, id) = (Client::new(gateway.address), id.clone());
        pollers.spawn(async move {
            sleep(Duration::from_millis(10 * number)).await;
            let mut ticks = interval(Duration::from_secs(1));
            for polls in 1..=120 {
                ticks.tick().await;
                let answer = client
                    .get(&format!("/v1/video/generations/{id}"), "sk-test", &[])
                    .await;
                assert_eq!(answer.status, 200, "{answer:?}");
                // Upstream's bytes pass through, and with them its own spelling of the status.
                if answer.json()["data"]["status"] == "SUCCESS" {
                    return polls;
                }
            }
            panic!("never came to its end")
        });
    }
    let polls: usize = pollers.join_all().await.into_iter().sum();
    let asked = gateway
        .metric("pollgate_upstream_requests_total{code=\"200\",kind=\"poll\"}")
        .await;
    let _ = simulator.kill();
    let _ = simulator.wait();
    println!("{polls} polls of clients, {asked} upstream");
    assert!(asked <= 32.0, "{asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes half a minute, and the machine for itself"]
async fn a_thousand_waiting_clients_on_a_hundred_tasks_cost_as_many_polls_as_a_hundred() {
    const CADENCE: Duration = Duration::from_secs(2);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let simulator = Simulator::new(Settings::default());
    let server = simulator.clone();
    tokio::spawn(async move { server.run(listener, std::future::pending()).await });
    let gateway = Gateway::start(&url, &[("cache.in_flight_max", "2s")]).await;
    let mut clients = JoinSet::new();
    let mut allowed = 0;
    for number in 0..100 {
        let lifetime = Duration::from_millis(8_000 + 120 * number);
        let options = TaskOptions {
            lifetime: Some(lifetime),
            ..TaskOptions::default()
        };
        let id = simulator
            .create("sk-test", "sora-2", options)
            .expect("a new id");
        // The polls of a single poller at the cadence, the first and the last included.
        allowed += lifetime.as_secs() / CADENCE.as_secs() + 2;
        for _ in 0..10 {
            let (client, simulator, id) = (gateway.client.clone(), simulator.clone(), id.clone());
            clients.spawn(async move {
                let path = format!("/v1/videos/{id}");
                loop {
                    let answer = client.get(&path, "sk-test", &[("prefer", "wait=15")]).await;
                    if answer.json()["status"] == "completed" {
                        return simulator.truth(&id).expect("is there").since.elapsed();
                    }
                }
            });
        }
    }
    let mut lags = clients.join_all().await;
    lags.sort();
    let polls = simulator.counts().status_polls;
    println!(
        "1000 clients on 100 tasks: {polls} upstream polls, {allowed} for 100 pollers; the end is seen after {:?}, {:?} at most",
        lags[500], lags[999]
    );
    assert!(polls <= allowed, "{polls} > {allowed}");
    assert!(
        lags[999] <= CADENCE + Duration::from_millis(50),
        "{:?}",
        lags[999]
    );
    assert_eq!(gateway.metric("pollgate_waiters").await, 0.0);
}
