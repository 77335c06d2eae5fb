//! Upstream behind the proxy that the environment names.

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use crate::support::{Gateway, Identity, Raw, Upstream, Wire, binary, row};

const PASSWORD: &str = "hunter2";

#[tokio::test]
async fn a_plain_upstream_is_requested_in_absolute_form() {
    let proxy = Raw::start().await;
    let through = format!("http://me:{PASSWORD}@{}", proxy.address);
    let gateway =
        Gateway::with_environment("http://api.test:81/base", &[], &[("http_proxy", &through)])
            .await;
    for (path, target) in [
        ("/v1/videos/t", "http://api.test:81/base/v1/videos/t"),
        ("/v1/models?a=b", "http://api.test:81/base/v1/models?a=b"),
    ] {
        let client = gateway.client.clone();
        let answer = tokio::spawn(async move { client.get(path, "sk", &[]).await });
        let mut asked = proxy.accept().await;
        let head = asked.head().await;
        assert!(
            head.starts_with(&format!("GET {target} HTTP/1.1\r\n")),
            "{head}"
        );
        assert!(head.contains("host: api.test:81\r\n"), "{head}");
        assert!(
            head.contains("proxy-authorization: Basic bWU6aHVudGVyMg==\r\n"),
            "{head}"
        );
        let body = row("SUCCESS");
        let length = body.len();
        asked
            .send(format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
            ))
            .await;
        assert_eq!(answer.await.unwrap().status, 200);
    }
    let log = gateway.log().join("\n");
    let told = format!(
        "through the proxy http://{} (environment http_proxy)",
        proxy.address
    );
    assert!(log.contains(&told), "{log}");
    assert!(!log.contains(PASSWORD), "{log}");
}

#[tokio::test]
async fn an_https_upstream_is_reached_by_connect() {
    let identity = Identity::new();
    let upstream = crate::tls::https_upstream(&identity, &[b"h2", b"http/1.1"]).await;
    let upstream = upstream.strip_prefix("https://").unwrap().to_owned();
    let proxy = Raw::start().await;
    let through = format!("http://me:{PASSWORD}@{}", proxy.address);
    let gateway = Gateway::with_environment(
        "https://api.test",
        &[("upstream.ca_file", identity.cert.to_str().unwrap())],
        &[("HTTPS_PROXY", &through), ("NO_PROXY", "other.test")],
    )
    .await;
    tokio::spawn(async move {
        loop {
            let mut client = proxy.accept().await;
            let head = client.head().await;
            assert!(
                head.starts_with("CONNECT api.test:443 HTTP/1.1\r\n"),
                "{head}"
            );
            assert!(
                head.contains("Proxy-Authorization: Basic bWU6aHVudGVyMg==\r\n"),
                "{head}"
            );
            client.send("HTTP/1.1 200 Fine\r\n\r\n").await;
            let mut stream = client.stream;
            let mut far = TcpStream::connect(&upstream).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut stream, &mut far).await });
        }
    });
    assert_eq!(
        gateway.get("/v1/videos/t").await.json()["status"],
        "completed"
    );
    assert_eq!(gateway.get("/version").await.text(), "HTTP/2.0");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_reported() {
    let proxy = Raw::start().await;
    let through = format!("http://{}", proxy.address);
    let gateway =
        Gateway::with_environment("https://api.test", &[], &[("ALL_PROXY", &through)]).await;
    let client = gateway.client.clone();
    let answer = tokio::spawn(async move { client.get("/v1/models", "sk", &[]).await });
    let mut asked = proxy.accept().await;
    assert!(asked.head().await.starts_with("CONNECT api.test:443 "));
    asked
        .send("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
        .await;
    let answer = answer.await.unwrap();
    assert_eq!(answer.status, 503);
    assert!(
        answer.text().contains("the proxy on the way there failed")
            && answer.text().contains("proxy authorization required"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn loopback_and_no_proxy_are_reached_directly() {
    let proxy = Raw::start().await;
    let through = format!("http://{}", proxy.address);
    let upstream = Upstream::saying("{}").await;
    let gateway =
        Gateway::with_environment(&upstream.url(), &[], &[("HTTP_PROXY", &through)]).await;
    assert_eq!(gateway.get("/v1/models").await.status, 200);
    let excepted = Gateway::with_environment(
        "http://api.invalid",
        &[],
        &[("HTTP_PROXY", &through), ("no_proxy", ".invalid")],
    )
    .await;
    assert_eq!(excepted.get("/v1/models").await.status, 503);
    assert!(proxy.is_left_alone().await);
    assert!(!gateway.log().join("\n").contains("proxy"));
}

#[test]
fn check_names_the_proxy_and_refuses_an_invalid_one() {
    let check = |value: &str| {
        binary()
            .args(["check", "--upstream", "https://api.test"])
            .env("HTTPS_PROXY", value)
            .output()
            .unwrap()
    };
    let good = check("http://me:hunter2@proxy.test:3128");
    let shown = String::from_utf8(good.stdout).unwrap();
    assert!(
        shown.contains("# through the proxy http://proxy.test:3128 (environment HTTPS_PROXY)\n"),
        "{shown}"
    );
    assert!(
        good.status.success() && !shown.contains(PASSWORD),
        "{shown}"
    );
    for bad in [
        "socks5://me:hunter2@p:1",
        "https://p:1",
        "http://me:hunter2@:x",
    ] {
        let refused = check(bad);
        let told = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{told}");
        assert!(
            told.contains("environment HTTPS_PROXY: ") && told.contains("takes http://host:port"),
            "{told}"
        );
        assert!(!told.contains(PASSWORD), "{told}");
    }
}

#[tokio::test]
async fn clients_never_see_the_upstream_proxy() {
    // A client's `Proxy-Authorization` is not meant for upstream's proxy, and is dropped.
    let proxy = Raw::start().await;
    let through = format!("http://{}", proxy.address);
    let gateway =
        Gateway::with_environment("http://api.test", &[], &[("HTTP_PROXY", &through)]).await;
    let mut client = Wire::connect(gateway.address).await;
    client
        .send("GET /v1/models HTTP/1.1\r\nhost: x\r\nproxy-authorization: Basic eA==\r\n\r\n")
        .await;
    let mut asked = proxy.accept().await;
    let head = asked.head().await;
    assert!(!head.contains("proxy-authorization"), "{head}");
    asked
        .send("HTTP/1.1 407 Proxy Authentication Required\r\nproxy-authenticate: Basic\r\ncontent-length: 0\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(!head.contains("proxy-authenticate"), "{head}");
}
