//! The admin listener: health, metrics and purges, never on the clients' port.

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
}

#[tokio::test]
async fn neither_listener_answers_for_the_other() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let ask = async |client: &Client, method: &str, path: &str| {
        let request = Request::builder().method(method).uri(client.url(path));
        client.send(request.body(Full::default()).unwrap()).await
    };
    let admin = Client::new(gateway.admin);
    for (method, path) in [
        ("GET", "/v1/videos/t"),
        ("GET", "/v1/video/generations/t"),
        ("POST", "/v1/videos"),
        ("GET", "/v1/models"),
    ] {
        assert_eq!(ask(&admin, method, path).await.status, 404, "{path}");
    }
    assert_eq!(upstream.count(), 0, "nothing of it reached upstream");

    gateway.get("/v1/videos/kept").await;
    let upstreams = [
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("DELETE", "/cache"),
        ("DELETE", "/cache/kept"),
    ];
    for (method, path) in upstreams {
        assert_eq!(
            ask(&gateway.client, method, path).await.text(),
            row("SUCCESS"),
            "upstream's own answer"
        );
    }
    let asked: Vec<_> = upstream.asked()[1..]
        .iter()
        .map(|asked| (asked.method.to_string(), asked.target.clone()))
        .collect();
    assert_eq!(
        asked,
        upstreams.map(|(method, path)| (method.to_owned(), path.to_owned()))
    );
    gateway.get("/v1/videos/kept").await;
    assert_eq!(upstream.count(), 1 + upstreams.len(), "still remembered");
}

#[tokio::test]
async fn a_purge_says_how_many_and_the_next_poll_goes_upstream() {
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let admin = Client::new(gateway.admin);
    let purge = async |path: &str| {
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
    assert_eq!(purge("/cache/a").await, 3, "every caller, both paths");
    assert_eq!(purge("/cache/a").await, 0);
    assert_eq!(purge("/cache/b%2F").await, 1);
    gateway.client.get("/v1/videos/a", "sk-1", &[]).await;
    assert_eq!(upstream.count(), 5);
    assert_eq!(purge("/cache").await, 1);
    gateway.client.get("/v1/videos/a", "sk-1", &[]).await;
    assert_eq!(upstream.count(), 6);
}
