//! Servers on hyper with nothing around it: the floor for pollgate, and an upstream that costs little.

use std::convert::Infallible;
use std::io::Read as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Answers every request with the headers and the body on standard input, an HTTP response such as `curl -i` prints.
pub(crate) async fn constant(delay: Duration) {
    let mut given = Vec::new();
    std::io::stdin()
        .read_to_end(&mut given)
        .expect("an answer to give");
    let given = String::from_utf8(given).expect("is text");
    let (head, body) = given.split_once("\r\n\r\n").expect("a head and a body");
    let headers: HeaderMap = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        // hyper's own.
        .filter(|(name, _)| !["date", "content-length"].contains(name))
        .map(|(name, value)| {
            (
                HeaderName::from_bytes(name.as_bytes()).expect("a name"),
                HeaderValue::from_str(value).expect("a value"),
            )
        })
        .collect();
    let body = Bytes::from(body.to_owned());
    serve(delay, None, move |_| {
        let mut response = Response::new(Full::new(body.clone()));
        *response.headers_mut() = headers.clone();
        response
    })
    .await;
}

/// Knows every task, and counts how often it is asked; `/count` tells.
pub(crate) async fn upstream(state: String, delay: Duration, tls: Option<TlsAcceptor>) {
    let url = format!(
        "https://cdn.example.com/videos/{}.mp4",
        "0217abcdef".repeat(50)
    );
    let polls = Arc::new(AtomicUsize::new(0));
    serve(delay, tls, move |request| {
        let id = request.uri().path().rsplit('/').next().unwrap_or_default();
        if id == "count" {
            let count = polls.load(Ordering::Relaxed).to_string();
            return Response::new(Full::new(Bytes::from(count)));
        }
        polls.fetch_add(1, Ordering::Relaxed);
        let body = format!(
            r#"{{"code":"success","message":"","data":{{"task_id":"{id}","status":"{state}","url":"{url}","format":"mp4","metadata":{{"duration":5,"fps":24}},"error":null}}}}"#
        );
        let mut response = Response::new(Full::new(Bytes::from(body)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // For Envoy, which takes no other word for it that an answer to `Authorization` may be kept.
        headers.insert(
            CACHE_CONTROL,
            HeaderValue::from_static("public, max-age=43200"),
        );
        headers.insert(
            HeaderName::from_static("x-oneapi-request-id"),
            HeaderValue::from_static("20261123120000ab12"),
        );
        response
    })
    .await;
}

async fn serve(
    delay: Duration,
    tls: Option<TlsAcceptor>,
    answer: impl Fn(&Request<Incoming>) -> Response<Full<Bytes>> + Clone + Send + 'static,
) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a free port");
    println!("listening on {}", listener.local_addr().expect("is bound"));
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer.clone();
        let service = service_fn(move |request| {
            let response = answer(&request);
            async move {
                if !delay.is_zero() {
                    tokio::time::sleep(delay).await;
                }
                Ok::<_, Infallible>(response)
            }
        });
        let _ = stream.set_nodelay(true);
        let http1 = http1::Builder::new();
        match &tls {
            // Not a branch of one future: connections without TLS are measured, and have no room for a session.
            None => drop(tokio::spawn(
                http1.serve_connection(TokioIo::new(stream), service),
            )),
            Some(tls) => {
                let handshake = tls.accept(stream);
                drop(tokio::spawn(async move {
                    // A client that breaks off is no concern of a benchmark.
                    if let Ok(stream) = handshake.await {
                        let _ = http1.serve_connection(TokioIo::new(stream), service).await;
                    }
                }));
            }
        }
    }
}
