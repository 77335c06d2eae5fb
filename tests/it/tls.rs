//! HTTPS on both sides: to upstream, with a private CA, and for clients, with either HTTP version.

use std::convert::Infallible;
use std::path::PathBuf;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{Gateway, Identity, Upstream, binary, eventually, row, trusting};

/// An HTTPS upstream that answers with the HTTP version of the request.
pub(crate) async fn https_upstream(identity: &Identity, protocols: &[&[u8]]) -> String {
    let acceptor = TlsAcceptor::from(identity.server(protocols));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let answer = service_fn(|request: Request<Incoming>| async move {
                    let body = if request.uri().path().starts_with("/v1/videos/") {
                        row("SUCCESS")
                    } else {
                        format!("{:?}", request.version())
                    };
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(body)))
                });
                let _ = auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
            });
        }
    });
    url
}

#[tokio::test]
async fn upstream_is_reached_over_https_with_a_private_ca_in_its_newest_http_version() {
    let identity = Identity::new();
    for (protocols, version) in [
        (&[&b"h2"[..], b"http/1.1"][..], "HTTP/2.0"),
        (&[b"http/1.1"], "HTTP/1.1"),
    ] {
        let url = https_upstream(&identity, protocols).await;
        let gateway = Gateway::start(
            &url,
            &[("upstream.ca_file", identity.cert.to_str().unwrap())],
        )
        .await;
        assert_eq!(
            gateway.get("/v1/videos/t").await.json()["status"],
            "completed"
        );
        assert_eq!(gateway.get("/version").await.text(), version);
    }
}

#[tokio::test]
async fn an_upstream_with_an_untrusted_certificate_gets_no_request() {
    let url = https_upstream(&Identity::new(), &[b"http/1.1"]).await;
    let gateway = Gateway::start(&url, &[]).await;
    let answer = gateway.get("/v1/videos/t").await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["code"]),
        (503, &"upstream_unavailable".into())
    );
    assert!(answer.text().contains("TLS failed"), "{answer:?}");
}

/// A client that trusts these certificates only, with its own connections.
fn client(
    trusted: Vec<CertificateDer<'static>>,
    version: Version,
) -> Client<HttpsConnector<HttpConnector>, Full<Bytes>> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(trusting(trusted))
        .https_only();
    let connector = if version == Version::HTTP_2 {
        connector.enable_http2().build()
    } else {
        connector.enable_http1().build()
    };
    Client::builder(TokioExecutor::new()).build(connector)
}

#[tokio::test]
async fn sighup_reloads_the_certificate_and_keeps_the_old_one_on_failure() {
    let (identity, next) = (Identity::new(), Identity::new());
    let first = identity.certificates();
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &identity.settings()).await;
    let url: http::Uri = format!("https://{}/v1/videos/t", gateway.address)
        .parse()
        .unwrap();
    let serves = async |trusted: &[CertificateDer<'static>]| {
        let client = client(trusted.to_vec(), Version::HTTP_11);
        client.get(url.clone()).await.is_ok()
    };
    let told = async |words: &str| {
        eventually(words, async || {
            gateway.log().iter().any(|line| line.contains(words))
        })
        .await;
    };
    let open = client(first.clone(), Version::HTTP_2);
    assert!(open.get(url.clone()).await.is_ok());

    identity.turn_into(&next);
    gateway.signal("-HUP");
    told("reloaded: no setting changed; the files of listen.tls were read again").await;
    assert!(serves(&next.certificates()).await && !serves(&first).await);
    assert!(
        open.get(url.clone()).await.is_ok(),
        "connections that stand live on"
    );
    std::fs::write(&identity.key, "no key\n").unwrap();
    gateway.signal("-HUP");
    told(
        "not reloaded, nothing changed: environment POLLGATE_LISTEN__TLS__KEY: listen.tls.key: got",
    )
    .await;
    assert!(serves(&next.certificates()).await);
}

#[tokio::test]
async fn clients_are_served_over_https_in_either_http_version() {
    let identity = Identity::new();
    let upstream = Upstream::saying(row("SUCCESS")).await;
    let gateway = Gateway::start(&upstream.url(), &identity.settings()).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let client = client(identity.certificates(), version);
        let url = format!("https://{}/v1/videos/t", gateway.address);
        let request = Request::get(url)
            .header("authorization", "Bearer sk-test")
            .body(Full::default());
        let answer = client.request(request.unwrap()).await.expect("an answer");
        assert_eq!((answer.version(), answer.status().as_u16()), (version, 200));
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&body).unwrap()["status"],
            "completed"
        );
    }
}

#[test]
fn an_unusable_certificate_is_reported_before_ports_are_bound() {
    let (identity, other) = (Identity::new(), Identity::new());
    let missing = PathBuf::from("no-such.pem");
    for (cert, key, told) in [
        (
            &missing,
            &identity.key,
            "listen.tls.cert: got \"no-such.pem\"",
        ),
        (
            &identity.cert,
            &missing,
            "listen.tls.key: got \"no-such.pem\"",
        ),
        (&identity.cert, &identity.cert, "listen.tls.key"),
        (
            &identity.cert,
            &other.key,
            "listen.tls: takes a certificate and the key that belongs to it",
        ),
    ] {
        let output = binary()
            .args(["--listen", "127.0.0.1:0", "--admin", "off"])
            .env("POLLGATE_LISTEN__TLS__CERT", cert)
            .env("POLLGATE_LISTEN__TLS__KEY", key)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(told), "{told}: {error}");
    }
}
