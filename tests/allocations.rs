//! The memory of a status poll in the assembled stack: its allocations, counted on the answering thread from a parsed
//! request to a response, without hyper's server and without upstream; and what it keeps while it waits.
//!
//! The figures: `cargo test --test allocations -- --nocapture`

#![allow(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "figures are for reading"
)]

#[path = "../benches/stack/scenes.rs"]
#[allow(dead_code, reason = "some of it is for the benchmark alone")]
mod scenes;

use std::future::Future as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use pollgate::config::{Config, UpstreamUrl};
use pollgate::gateway::Gateway;
use pollgate::message::body::Body;
use pollgate::request::inbound::{Inbound, Peer};
use scenes::{Scene, Stage};
use tower::Service as _;

const REQUESTS: usize = 1_000;

/// The mean over enough requests to hide rare allocations, such as the growth of a table.
fn allocations(scene: Scene) -> f64 {
    let mut stage = Stage::new(scene);
    let requests = stage.requests(REQUESTS);
    let counted = allocation_counter::measure(|| stage.run(requests));
    let (count, bytes) = (
        counted.count_total as f64 / REQUESTS as f64,
        counted.bytes_total as f64 / REQUESTS as f64,
    );
    println!(
        "{}: {count:.2} allocations, {bytes:.0} bytes",
        scene.as_str()
    );
    count
}

/// The limit for a hit: its headers, the values computed for each answer, and its copy of a small document, which costs
/// less than reference counting does.
const HIT: f64 = 11.5;

/// A hit, and the future of a follower.
const SHARED: f64 = 15.0;

/// A hit, and an upstream poll: the request, hyper's client, the document, the flight and the entry.
const MISS: f64 = 55.0;

/// The conversion of the document for the other path, after which its entry is weighed again.
const CONVERSION: f64 = 17.5;

#[test]
fn a_hit_allocates_little() {
    assert!(allocations(Scene::Hit) <= HIT);
    assert!(allocations(Scene::ConvertedHit) <= HIT);
}

#[test]
fn a_shared_answer_allocates_little() {
    assert!(allocations(Scene::Shared) <= SHARED);
}

#[test]
fn a_miss_allocates_a_bounded_number_of_times() {
    assert!(allocations(Scene::Miss) <= MISS);
    assert!(allocations(Scene::ConvertedMiss) <= MISS + CONVERSION);
}

/// A piece of a connection's read buffer.
struct Piece(
    &'static str,
    #[expect(dead_code, reason = "is only counted")] Arc<()>,
);

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[tokio::test]
async fn a_poll_that_waits_keeps_nothing_of_the_buffer_it_was_read_into() {
    // It never answers.
    let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = upstream.local_addr().expect("is bound");
    let mut config = Config::default();
    config.upstream.url = UpstreamUrl::parse(&format!("http://{address}")).expect("a URL");
    config.routes.presets = vec!["suno-batch".to_owned(), "tasks".to_owned()];
    let peer = Peer {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 50_000)),
        tls: false,
    };
    for (method, target, (name, value), body) in [
        (Method::GET, "/v1/videos/t?a=b", ("prefer", "wait=60"), ""),
        (
            Method::GET,
            "/v1/videos/t?a=b",
            ("accept", "text/event-stream"),
            "",
        ),
        (Method::GET, "/v1/tasks/t?a=b", ("prefer", "wait=60"), ""),
        (
            Method::POST,
            "/suno/fetch?a=b",
            ("prefer", "wait=60"),
            r#"{"ids":["t"]}"#,
        ),
    ] {
        let pieces = Arc::new(());
        let piece = |text| Bytes::from_owner(Piece(text, Arc::clone(&pieces)));
        let mut request = Request::new(Body::full(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = Uri::from_maybe_shared(piece(target)).expect("a target");
        for (name, value) in [
            (name, value),
            ("host", "127.0.0.1:8080"),
            ("authorization", "Bearer sk-test"),
            ("user-agent", "OpenAI/Python 2.8.0"),
            ("if-none-match", r#""known""#),
            ("last-event-id", "known"),
            ("x-request-id", "request-1"),
            ("content-type", "application/json"),
        ] {
            let value = HeaderValue::from_maybe_shared(piece(value)).expect("a value");
            request
                .headers_mut()
                .insert(HeaderName::from_static(name), value);
        }
        assert_eq!(Arc::strong_count(&pieces), 10, "all are in the request");
        let mut gateway = Gateway::new(&config).expect("a gateway");
        let mut poll = pin!(gateway.call(Inbound::new(request, peer)));
        let polled = poll.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "{method} {target}");
        assert_eq!(Arc::strong_count(&pieces), 1, "{method} {target}, {name}");
    }
}
