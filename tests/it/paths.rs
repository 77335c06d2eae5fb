//! Paths that different servers may read differently.

use crate::support::{Gateway, Reply, Upstream, Wire, row};

async fn ask(gateway: &Gateway, target: &str) -> String {
    let mut client = Wire::connect(gateway.address).await;
    client
        .send(format!(
            "GET {target} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk\r\nconnection: close\r\n\r\n"
        ))
        .await;
    client.rest().await
}

fn targets(upstream: &Upstream) -> Vec<String> {
    upstream
        .asked()
        .into_iter()
        .map(|asked| asked.target)
        .collect()
}

#[tokio::test]
async fn a_path_other_than_a_status_path_is_never_a_poll_and_reaches_upstream_unchanged() {
    let upstream = Upstream::start(|_| Reply::json(row("SUCCESS"))).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let paths = [
        "/",
        "//",
        "/%",
        "/%zz",
        "/v1",
        "/v1/videos",
        "/v1/videos/",
        "/v1/videos//",
        "/v1/videos//x",
        "//v1/videos/x",
        "/v1//videos/x",
        "/./v1/videos/x",
        "/v1/./videos/x",
        "/v1/videos/./x",
        "/v1/videos/x/.",
        "/v1/videos/x/..",
        "/v1/videos/../videos/x",
        "/v1/videos/.",
        "/v1/videos/..",
        "/v1/videos/%2e",
        "/v1/videos/%2E%2e",
        "/v1/videos/.%2E",
        "/v1/videos/%2e%2e/x",
        "/v1/videos/..%2Fx/y",
        "/v1/videos/x/",
        "/v1/videos/x//",
        "/v1/videos/x/content",
        "/v1/videos/x;/content",
        "/v1%2Fvideos/x",
        "/v1/videos%2Fx",
        "/v1%2fvideos%2fx",
        "/%76%31/videos/x",
        "/V1/videos/x",
        "/v1/VIDEOS/x",
        "/v1/video/generations",
        "/v1/video/generations/",
        "/v1/video//generations/x",
        "/v1/video/generations/../../videos/x",
        "/v1/video/generations/x/content",
        "/v1/video/query",
        "/v1/video/query?id=x&id=y",
        "/v1/videos?x=/v1/videos/y",
        "/v1/videos/edits",
        "/v1/videos/edits?x=y",
        "/v1/videos/characters/x",
        "/v1/models?a=%3F%23&b=%2F..%2F&&=?",
        "/\\v1\\videos\\x",
    ];
    for path in paths {
        let answer = ask(&gateway, path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        assert!(!answer.contains("cache-status"), "{path}: {answer}");
    }
    assert_eq!(targets(&upstream), paths);
}

#[tokio::test]
async fn ids_that_differ_upstream_differ_in_the_cache() {
    let upstream = Upstream::start(|_| Reply::json(row("SUCCESS"))).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let ids = [
        "x", "X", "x;", "x;y", "x;v=1", "x%3By", "x%3by", "x%2Fy", "x%2fy", "x%", "x%20", "x+",
        "x.", ".x", "...", "x%2E", "x%2e", "x%00", "x%3F", "x%23", "x:y", "x=", "x==", "x~",
        "x%7E", "x?", "x?a=1", "x?a=2", "x?a=%31", "x?A=1", "x?a=1&", "x??",
    ];
    for id in ids {
        for base in ["/v1/videos", "/v1/video/generations"] {
            let answer = ask(&gateway, &format!("{base}/{id}")).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{id}: {answer}");
            assert!(
                answer.contains("cache-status: pollgate; fwd="),
                "{id} was taken for another: {answer}"
            );
        }
    }
    let expected: Vec<_> = ids
        .iter()
        .flat_map(|id| {
            [
                format!("/v1/videos/{id}"),
                format!("/v1/video/generations/{id}"),
            ]
        })
        .collect();
    assert_eq!(targets(&upstream), expected);
    // And each equals itself.
    for id in ids {
        let answer = ask(&gateway, &format!("/v1/videos/{id}")).await;
        assert!(answer.contains("cache-status: pollgate; hit"), "{answer}");
    }
}
