//! A real nginx as upstream, over TLS and HTTP/2. After `keepalive_requests` it says goodbye to a connection: streams that
//! it has not processed by then go out again on another one.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::support::{Gateway, Identity, eventually, row};

/// How long the server behind nginx takes.
const TAKES: Duration = Duration::from_millis(50);

/// After how many requests nginx says goodbye: about its default. It says so in the middle of what arrives at once.
const KEEPALIVE_REQUESTS: usize = 990;

/// Of each kind: several goodbyes.
const POLLS: usize = 2000;
const WRITES: usize = 2000;

/// An nginx in front of a server that takes its time.
struct Nginx {
    process: Child,
    url: String,
    identity: Identity,
    /// The bodies of all writes that reached the server.
    written: Arc<Mutex<Vec<Bytes>>>,
    _folder: TempDir,
}

impl Nginx {
    /// `None`, and a word about it, where there is no nginx.
    async fn start(keepalive_requests: usize) -> Option<Self> {
        let Some(program) = program() else {
            eprintln!("SKIPPED, for want of nginx: how polls outlive its goodbyes");
            return None;
        };
        let written = Arc::<Mutex<Vec<Bytes>>>::default();
        let server = serve(Arc::clone(&written)).await;
        let identity = Identity::new();
        let folder = tempfile::tempdir().unwrap();
        // nginx cannot say which port it took.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = port.local_addr().unwrap();
        drop(port);
        let config = folder.path().join("nginx.conf");
        let text = configuration(address, server, &identity, keepalive_requests);
        fs::write(&config, text).unwrap();
        let process = Command::new(program)
            .arg("-p")
            .arg(folder.path())
            .args(["-e", "error.log", "-c"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        eventually("nginx listens", async || {
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        Some(Self {
            process,
            url: format!("https://{address}"),
            identity,
            written,
            _folder: folder,
        })
    }

    async fn gateway(&self) -> Gateway {
        let settings = [("upstream.ca_file", self.identity.cert.to_str().unwrap())];
        Gateway::start(&self.url, &settings).await
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([Path::new("/usr/sbin").into()])
        .map(|folder| folder.join("nginx"))
        .find(|program| program.is_file())
}

fn configuration(
    address: SocketAddr,
    server: SocketAddr,
    identity: &Identity,
    keepalive_requests: usize,
) -> String {
    let (cert, key) = (identity.cert.display(), identity.key.display());
    format!(
        "daemon off; master_process off; pid nginx.pid;
        events {{ worker_connections 4096; }}
        http {{
            access_log off;
            client_body_temp_path body; proxy_temp_path proxy;
            fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
            upstream server {{ server {server}; keepalive 512; keepalive_requests 1000000; }}
            server {{
                listen {address} ssl http2;
                ssl_certificate {cert}; ssl_certificate_key {key};
                keepalive_requests {keepalive_requests};
                location / {{
                    proxy_pass http://server;
                    proxy_http_version 1.1; proxy_set_header connection '';
                }}
            }}
        }}"
    )
}

/// The server behind nginx. Answers polls with a task, and writes with their body.
async fn serve(written: Arc<Mutex<Vec<Bytes>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = move |request: Request<Incoming>| {
        let written = Arc::clone(&written);
        async move {
            sleep(TAKES).await;
            let is_poll = request.method() == Method::GET;
            let body = request.into_body().collect().await?.to_bytes();
            let body = if is_poll {
                Bytes::from(row("IN_PROGRESS"))
            } else {
                written.lock().unwrap().push(body.clone());
                body
            };
            Ok::<_, hyper::Error>(Response::new(Full::new(body)))
        }
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let server = hyper::server::conn::http1::Builder::new();
                let stream = TokioIo::new(stream);
                let _ = server.serve_connection(stream, service_fn(answer)).await;
            });
        }
    });
    address
}

/// So many requests at once, so many times; returns the statuses other than 200.
async fn failures<F: Future<Output = StatusCode>>(
    at_once: usize,
    times: usize,
    ask: impl Fn(String) -> F,
) -> Vec<StatusCode> {
    let mut failed = Vec::new();
    for round in 0..times {
        let asked = (0..at_once).map(|number| ask(format!("{at_once}-{round}-{number}")));
        let statuses = join_all(asked).await;
        failed.extend(statuses.into_iter().filter(|status| *status != 200));
    }
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn no_poll_and_no_write_is_lost_to_the_goodbyes_of_nginx() {
    let Some(nginx) = Nginx::start(KEEPALIVE_REQUESTS).await else {
        return;
    };
    let gateway = nginx.gateway().await;
    for at_once in [100, 200] {
        let poll = async |task: String| {
            let path = format!("/v1/videos/{task}");
            gateway.get(&path).await.status
        };
        let failed = failures(at_once, POLLS / at_once, poll).await;
        assert!(failed.is_empty(), "{} polls: {failed:?}", failed.len());
    }
    let write = async |number: String| {
        let request = Request::post(gateway.client.url("/v1/videos"));
        let request = request.body(Full::from(number)).unwrap();
        gateway.client.send(request).await.status
    };
    let failed = failures(100, WRITES / 100, write).await;
    assert!(failed.is_empty(), "{} writes: {failed:?}", failed.len());
    let written = nginx.written.lock().unwrap().clone();
    let different: HashSet<_> = written.iter().collect();
    assert_eq!(
        (written.len(), different.len()),
        (WRITES, WRITES),
        "each once"
    );
    // A goodbye counts as no failure, and takes from no budget.
    for (kind, count) in [("poll", 4000), ("forward", 2000)] {
        let requests = async |code: &str| {
            let series = "pollgate_upstream_requests_total";
            let series = format!("{series}{{code=\"{code}\",kind=\"{kind}\"}}");
            gateway.metric(&series).await
        };
        let counts = (requests("200").await, requests("error").await);
        assert_eq!(counts, (f64::from(count), 0.0), "{kind}");
    }
}

/// Most polls are left by many goodbyes before they are taken.
#[tokio::test(flavor = "multi_thread")]
async fn no_poll_and_no_write_is_lost_where_nginx_takes_ten_at_a_time() {
    let Some(nginx) = Nginx::start(10).await else {
        return;
    };
    let gateway = nginx.gateway().await;
    let poll = async |task: String| {
        let path = format!("/v1/videos/{task}");
        gateway.get(&path).await.status
    };
    let failed = failures(200, POLLS / 200, poll).await;
    assert!(failed.is_empty(), "{} polls: {failed:?}", failed.len());
    let write = async |number: String| {
        let request = Request::post(gateway.client.url("/v1/videos"));
        let request = request.body(Full::from(number)).unwrap();
        gateway.client.send(request).await.status
    };
    let failed = failures(100, 5, write).await;
    assert!(failed.is_empty(), "{} writes: {failed:?}", failed.len());
    assert_eq!(nginx.written.lock().unwrap().len(), 500, "each once");
    let failed = "pollgate_upstream_requests_total{code=\"error\",kind=\"poll\"}";
    assert_eq!(gateway.metric(failed).await, 0.0);
}
