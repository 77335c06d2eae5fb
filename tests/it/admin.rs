//! The admin listener: health, metrics, forgetting; never on the clients' port.

use http::Request;
use http_body_util::Full;

use crate::support::{Client, Gateway, Upstream, get, row};

#[tokio::test]
async fn health_readiness_and_the_index_are_there_and_other_methods_are_not() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for path in ["/", "/healthz", "/readyz", "/metrics"] {
        assert_eq!(get(gateway.admin, path).await.status, 200, "{path}");
        let admin = Client::new(gateway.admin);
        let post = admin
            .send(
                Request::post(admin.url(path))
                    .body(Full::default())
                    .unwrap(),
            )
            .await;
        assert_eq!(
            (post.status.as_u16(), post.header("allow")),
            (405, "GET, HEAD"),
            "{path}"
        );
    }
    assert_eq!(
        get(gateway.admin, "/v1/videos/t").await.status,
        404,
        "no polls here"
    );
    assert_eq!(upstream.count(), 0);
    // On the clients' port the same paths are upstream's.
    gateway.get("/metrics").await;
    assert_eq!(upstream.asked()[0].target, "/metrics");
}

#[tokio::test]
async fn forgetting_says_how_many_and_the_next_poll_asks_upstream() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let admin = Client::new(gateway.admin);
    let forget = async |path: &str| {
        let answer = admin
            .send(
                Request::delete(admin.url(path))
                    .body(Full::default())
                    .unwrap(),
            )
            .await;
        answer.json()["forgotten"].as_u64().expect("a count")
    };
    for (path, key) in [
        ("/v1/videos/a", "sk-1"),
        ("/v1/video/generations/a", "sk-1"),
        ("/v1/videos/a", "sk-2"),
        ("/v1/videos/b%2F", "sk-1"),
    ] {
        gateway.client.get(path, key, &[]).await;
    }
    assert_eq!(forget("/cache/a").await, 3, "every caller, both paths");
    assert_eq!(forget("/cache/a").await, 0);
    assert_eq!(forget("/cache/b%2F").await, 1);
    gateway.client.get("/v1/videos/a", "sk-1", &[]).await;
    assert_eq!(upstream.count(), 5);
    assert_eq!(forget("/cache").await, 1);
    gateway.client.get("/v1/videos/a", "sk-1", &[]).await;
    assert_eq!(upstream.count(), 6);
}
