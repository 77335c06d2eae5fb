//! Why upstream could not be reached, in words: each reason of the table in `docs/operations.md` is made to happen, and
//! told to the client, in full to operators, and never in the spelling of a library.

use std::collections::BTreeSet;
use std::sync::Arc;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{Client, Gateway, Raw, provider};

const HTML: (&str, &str) = ("accept", "text/html");

/// What is told of an answer that began and did not end, whatever ended it.
const BROKE: &str = "the connection broke in the middle of the answer";

/// The reasons of the table.
fn listed() -> Vec<String> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md");
    let text = std::fs::read_to_string(file).expect("is there");
    let rows = text
        .lines()
        .skip_while(|line| *line != "| reason | look at |");
    rows.skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split('`').nth(1).expect("a reason").to_owned())
        .collect()
}

/// The most specific reason of the table that this is an example of; `…` stands for anything.
fn listed_as(reason: &str) -> Option<String> {
    let matches = |pattern: &String| {
        let mut rest = reason;
        let mut parts = pattern.split('…');
        let starts = parts.next().and_then(|part| rest.strip_prefix(part));
        starts.is_some_and(|start| {
            rest = start;
            let all = parts.all(|part| match rest.split_once(part) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            });
            all && (rest.is_empty() || pattern.ends_with('…'))
        })
    };
    listed().into_iter().filter(matches).max_by_key(String::len)
}

/// Polls a gateway in front of this upstream; returns the reason for operators.
async fn reason(upstream: &str, settings: &[(&str, &str)], environment: &[(&str, &str)]) -> String {
    let gateway = Gateway::with_environment(upstream, settings, environment).await;
    let answer = gateway.get("/v1/videos/t").await;
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "upstream_unavailable", "{answer:?}");
    let message = error["message"].as_str().expect("a text");
    let told = message
        .strip_prefix("the video API could not be reached (")
        .and_then(|rest| rest.rsplit_once("); ").map(|(told, _)| told))
        .unwrap_or_else(|| panic!("{message}"));
    let authority = upstream.split("://").nth(1).expect("a URL");
    let host = authority.split(':').next().expect("a host");
    assert!(
        !told.contains(host) && !told.contains("127.0.0.1"),
        "{told}"
    );

    // Operators are told in full: on the page, and in the log's trace of each failure to connect.
    let page = Client::new(gateway.admin).get("/", "", &[HTML]).await;
    let log = gateway.log().join(
        "
",
    );
    let marker = "upstream request failed: ";
    let line = log.lines().find_map(|line| line.split_once(marker));
    let reason = match line {
        // Behind it stands what the library says.
        Some((_, line)) if told != BROKE => line.split_once(" cause=").expect("a cause").0,
        _ => told,
    };
    assert!(page.text().contains(reason), "{reason}: {}", page.text());
    let generic = reason.replace(&format!("the name {host} could"), "its name could");
    assert_eq!(told, generic);
    for text in [told, reason] {
        let letters: Vec<char> = text.chars().collect();
        let camel = letters
            .windows(2)
            .any(|pair| pair[0].is_lowercase() && pair[1].is_uppercase());
        let of_rust = ["uncategorized", "::", "(os error", "Error"];
        let of_rust = of_rust.iter().any(|word| text.contains(word));
        assert!(!camel && !of_rust, "{text}");
    }
    reason.to_owned()
}

/// A certificate for 127.0.0.1, and a server that shows it; the file is one that a gateway can trust.
struct Server {
    folder: TempDir,
    url: String,
}

impl Server {
    async fn start(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move { acceptor.accept(stream).await });
            }
        });
        Self { folder, url }
    }

    async fn reason(&self) -> String {
        let file = self.folder.path().join("ca.pem");
        let trusted = [("upstream.ca_file", file.to_str().unwrap())];
        reason(&self.url, &trusted, &[]).await
    }
}

/// Every connection is answered with these bytes, once something came, and closed.
async fn saying(bytes: &'static [u8]) -> String {
    let raw = Raw::start().await;
    let address = raw.address.to_string();
    tokio::spawn(async move {
        loop {
            let mut wire = raw.accept().await;
            tokio::spawn(async move {
                wire.bytes(1).await;
                wire.send(bytes).await;
                // What was not read would make a reset of the end.
                let _ = wire.stream.shutdown().await;
                let _ = wire.stream.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    address
}

async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn each_reason_of_the_table_happens_and_is_told() {
    let mut seen = BTreeSet::new();
    let mut saw = |reason: String| {
        let listed = listed_as(&reason);
        seen.insert(listed.unwrap_or_else(|| panic!("not in the table: {reason}")));
    };
    let (http, https) = ("http://", "https://");

    saw(reason("http://no-such-host.invalid", &[], &[]).await);
    saw(reason(&(http.to_owned() + &nobody().await), &[], &[]).await);
    let silent = Raw::start().await;
    let impatient = [("upstream.connect_timeout", "200ms")];
    saw(reason(&format!("{https}{}", silent.address), &impatient, &[]).await);
    saw(reason(
        &(http.to_owned() + &saying(b"220 mail.test ESMTP\r\n\r\n").await),
        &[],
        &[],
    )
    .await);
    let cut = saying(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
    )
    .await;
    saw(reason(&(http.to_owned() + &cut), &[], &[]).await);
    let resetting = Raw::start().await;
    let address = resetting.address;
    tokio::spawn(async move {
        loop {
            let mut wire = resetting.accept().await;
            wire.bytes(1).await;
            wire.reset();
        }
    });
    saw(reason(&format!("{http}{address}"), &[], &[]).await);

    let plain = saying(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    saw(reason(&(https.to_owned() + &plain), &[], &[]).await);
    saw(reason(&(https.to_owned() + &saying(b"").await), &[], &[]).await);
    // Alerts of a server: handshake_failure, protocol_version.
    for alert in [
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x15\x03\x03\x00\x02\x02\x46",
    ] {
        saw(reason(&(https.to_owned() + &saying(alert).await), &[], &[]).await);
    }

    let stranger = Server::start(|_| ()).await;
    saw(reason(&stranger.url, &[], &[]).await);
    let authority = Server::start(|params| {
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    saw(authority.await.reason().await);
    let old = Server::start(|params| params.not_after = date_time_ymd(2001, 1, 1));
    saw(old.await.reason().await);
    let early = Server::start(|params| params.not_before = date_time_ymd(2999, 1, 1));
    saw(early.await.reason().await);
    let other = Server::start(|params| {
        let names = CertificateParams::new(vec!["other.test".into()]);
        params.subject_alt_names = names.unwrap().subject_alt_names;
    });
    saw(other.await.reason().await);

    let through = async |proxy: String| {
        let variable = format!("http://{proxy}");
        reason("https://api.test", &[], &[("HTTPS_PROXY", &variable)]).await
    };
    let refused = through(nobody().await).await;
    assert!(refused.ends_with(": connection refused"), "{refused}");
    saw(refused);
    for answer in [
        &b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"[..],
        b"HTTP/1.1 502 Bad Gateway\r\n\r\n",
    ] {
        saw(through(saying(answer).await).await);
    }

    let listed: BTreeSet<_> = listed().into_iter().collect();
    assert_eq!(seen, listed);
}
