//! The headers that a proxy has to drop and to add (RFC 9110 §7.6), and the trace of a request.

use crate::support::{Gateway, Raw, Reply, Upstream, Wire, row};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn hop_by_hop_fields_are_dropped_both_ways() {
    let upstream = Raw::start().await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let mut client = Wire::connect(gateway.address).await;
    let hop_by_hop = "connection: x-one, X-Two\r\nconnection: close\r\nx-one: 1\r\nx-two: 2\r\nkeep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nproxy-authenticate: Basic\r\nproxy-authorization: Basic eA==\r\nte: gzip\r\nupgrade: foo\r\n";
    client
        .send(format!(
            "GET /v1/models HTTP/1.1\r\nhost: gateway.test\r\nx-end: kept\r\n{hop_by_hop}\r\n"
        ))
        .await;
    let mut served = upstream.accept().await;
    let asked = served.head().await;
    served
        .send(OK.replace("\r\n\r\n", &format!("\r\nx-end: kept\r\n{hop_by_hop}\r\n")))
        .await;
    let answered = client.head().await;
    for head in [&asked, &answered] {
        for gone in [
            "x-one",
            "x-two",
            "keep-alive",
            "proxy-",
            "\r\nte:",
            "upgrade",
        ] {
            assert!(!head.to_lowercase().contains(gone), "{gone}: {head}");
        }
        assert!(head.contains("x-end: kept\r\n"), "{head}");
        assert!(head.contains("via: 1.1 pollgate\r\n"), "{head}");
    }
    assert!(
        asked.contains(&format!("host: {}\r\n", upstream.address)),
        "{asked}"
    );
    assert_eq!(client.rest().await, "ok");
}

#[tokio::test]
async fn forwarding_headers_are_appended_to_those_of_earlier_proxies() {
    let before = [
        ("x-forwarded-for", "203.0.113.7"),
        ("x-forwarded-for", "198.51.100.1"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=203.0.113.7"),
    ];
    for (how, expected) in [
        (
            "off",
            [
                ("x-forwarded-for", "203.0.113.7|198.51.100.1"),
                ("x-forwarded-proto", "https"),
                ("forwarded", "for=203.0.113.7"),
            ],
        ),
        (
            "x-forwarded",
            [
                ("x-forwarded-for", "203.0.113.7, 198.51.100.1, 127.0.0.1"),
                ("x-forwarded-proto", "https, http"),
                ("forwarded", "for=203.0.113.7"),
            ],
        ),
        (
            "rfc7239",
            [
                ("x-forwarded-for", "203.0.113.7|198.51.100.1"),
                ("x-forwarded-proto", "https"),
                (
                    "forwarded",
                    "for=203.0.113.7, for=127.0.0.1;proto=http;host=\"HOST\"",
                ),
            ],
        ),
    ] {
        let upstream = Upstream::saying("{}").await;
        let gateway = Gateway::start(&upstream.url(), &[("listen.forwarded", how)]).await;
        gateway.client.get("/v1/models", "sk", &before).await;
        let asked = &upstream.asked()[0];
        for (name, value) in expected {
            let lines: Vec<_> = asked
                .headers
                .get_all(name)
                .iter()
                .map(|line| line.to_str().unwrap())
                .collect();
            let value = value.replace("HOST", &gateway.address.to_string());
            assert_eq!(lines.join("|"), value, "{how} {name}");
        }
    }
}

#[tokio::test]
async fn every_upstream_request_belongs_to_a_trace() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let upstream = Upstream::start(|asked| {
        Reply::json(if asked.target == "/v1/models" {
            "{}".to_owned()
        } else {
            row("IN_PROGRESS")
        })
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let state = ("tracestate", "vendor=1");
    for (path, headers) in [
        ("/v1/models", &[("traceparent", TRACE), state][..]),
        ("/v1/models", &[]),
        ("/v1/models", &[("traceparent", "00-nonsense"), state]),
        ("/v1/videos/a", &[("traceparent", TRACE), state]),
        ("/v1/videos/b", &[]),
    ] {
        gateway.client.get(path, "sk", headers).await;
    }
    let asked = upstream.asked();
    let parent = |at: usize| asked[at].header("traceparent").to_owned();
    assert_eq!(
        (parent(0).as_str(), asked[0].header("tracestate")),
        (TRACE, "vendor=1")
    );
    let mut traces: Vec<_> = (1..5).map(parent).collect();
    for (at, trace) in traces.iter().enumerate() {
        // A poll has a trace of its own, since its answer may serve several requests.
        assert!(
            trace.len() == 55 && trace.starts_with("00-") && trace.ends_with("-00"),
            "{trace}"
        );
        assert!(!trace.contains("0af7651916cd43dd8448eb211c80319c"));
        assert_eq!(asked[at + 1].header("tracestate"), "");
    }
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), 4, "each its own");
}
