//! Whatever upstream does, a client gets an error in the dialect of its path, with upstream's text.

use http::Request;
use http_body_util::Full;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::support::{Answer, Gateway, Reply, Upstream};

const PATHS: [&str; 2] = ["/v1/video/generations/t", "/v1/videos/t"];

/// Returns the error's code after checking that the document is whole and in the dialect of the path.
fn code(path: &str, answer: &Answer) -> String {
    assert_eq!(
        answer.header("content-type"),
        "application/json",
        "{answer:?}"
    );
    assert_ne!(answer.header("x-request-id"), "", "{answer:?}");
    assert!(answer.header("via").ends_with("1.1 pollgate"), "{answer:?}");
    // Without it SDKs give up about a second after the first failure; above 60 s some give up at once.
    let fails = answer.status == 429 || answer.status.is_server_error();
    let pause = answer.header("retry-after").parse::<u64>();
    assert!(
        !fails || pause.is_ok_and(|pause| (1..=60).contains(&pause)),
        "{answer:?}"
    );
    let json = answer.json();
    let error = if path.contains("generations") {
        assert_eq!(json["data"], serde_json::Value::Null);
        &json
    } else {
        assert_eq!(json["error"]["param"], serde_json::Value::Null);
        assert_ne!(json["error"]["type"], serde_json::Value::Null);
        &json["error"]
    };
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|message| message.len() > 5),
        "{json}"
    );
    error["code"].as_str().expect("a text").to_owned()
}

/// The URL of an upstream that is not there.
fn nobody() -> String {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", closed.local_addr().unwrap())
}

#[tokio::test]
async fn an_unreachable_upstream_is_503_with_a_retry_after() {
    let gateway = Gateway::start(&nobody(), &[]).await;
    for path in [PATHS[0], PATHS[1], "/v1/models"] {
        let answer = gateway.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), code(path, &answer).as_str()),
            (503, "upstream_unavailable")
        );
        let seconds: u64 = answer.header("retry-after").parse().expect("whole seconds");
        let millis: u64 = answer
            .header("retry-after-ms")
            .parse()
            .expect("whole milliseconds");
        assert!(
            (1..=60).contains(&seconds) && millis <= seconds * 1000,
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_not_to_be_sent_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = Gateway::start(&format!("http://{}", listener.local_addr().unwrap()), &[]).await;
    tokio::spawn(async move {
        // Takes each request, and goes away.
        while let Ok((mut upstream, _)) = listener.accept().await {
            let _ = upstream.read(&mut [0; 4096]).await;
        }
    });
    for (method, path, is_unknown) in [
        ("POST", "/v1/videos", true),
        ("POST", "/v1/video/generations", true),
        ("DELETE", "/v1/videos/t", true),
        ("GET", "/v1/models", false),
        ("GET", "/v1/videos/t", false),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(gateway.client.url(path))
            .header("authorization", "Bearer sk-test")
            .body(Full::default());
        let answer = gateway.client.send(request.expect("a request")).await;
        assert_eq!(answer.status, 503, "{method} {path}: {answer:?}");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(
            text.contains("may have done"),
            is_unknown,
            "{method} {path}: {text}"
        );
        assert_eq!(code(path, &answer), "upstream_unavailable");
        assert_eq!(answer.header("retry-after-ms"), "2000");
        let advice = if is_unknown { "false" } else { "" };
        assert_eq!(answer.header("x-should-retry"), advice, "{method} {path}");
    }
}

#[tokio::test]
async fn a_403_is_asked_for_once_and_forgets_the_task() {
    let done = r#"{"id":"t","object":"video","status":"completed","progress":100,"metadata":{"url":"https://h/v.mp4"}}"#;
    let upstream = Upstream::saying(done).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    assert_eq!(gateway.get(PATHS[1]).await.status, 200);
    let refused = r#"{"error":{"message":"not yours","type":"new_api_error","code":"forbidden"}}"#;
    upstream.now(move |_| Reply::new(403, "application/json", refused));
    for count in 2..5 {
        let answer = gateway.get(PATHS[0]).await;
        assert_eq!((answer.status.as_u16(), upstream.count()), (403, count));
    }
    upstream.now(move |_| Reply::json(done));
    let answer = gateway.get(PATHS[1]).await;
    assert!(
        answer.header("cache-status").contains("fwd=miss"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn what_was_never_sent_may_be_sent_again() {
    let gateway = Gateway::start(&nobody(), &[]).await;
    let request = Request::post(gateway.client.url("/v1/videos")).body(Full::default());
    let answer = gateway.client.send(request.expect("a request")).await;
    assert_eq!(code("/v1/videos", &answer), "upstream_unavailable");
    assert_eq!(answer.header("x-should-retry"), "");
}

#[tokio::test]
async fn a_silent_upstream_is_504_within_the_timeout() {
    let upstream = Upstream::saying("{}").await;
    upstream.close_gate();
    let gateway = Gateway::start(&upstream.url(), &[("upstream.timeout", "200ms")]).await;
    for path in PATHS {
        let answer = gateway.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), code(path, &answer).as_str()),
            (504, "upstream_timeout")
        );
    }
}

#[tokio::test]
async fn a_success_that_is_not_a_task_is_502_and_never_passed_on() {
    for (content_type, body) in [
        ("text/html", "<html><body>502 Bad Gateway</body></html>"),
        ("application/json", ""),
        (
            "application/json",
            r#"{"code":"success","data":{"task_id":"t","sta"#,
        ),
        (
            "application/json",
            r#"{"code":"success","message":"","data":null}"#,
        ),
        ("application/json", "[]"),
    ] {
        let upstream = Upstream::start(move |_| Reply::new(200, content_type, body)).await;
        let gateway = Gateway::start(&upstream.url(), &[]).await;
        for path in PATHS {
            let answer = gateway.get(path).await;
            assert_eq!(
                (answer.status.as_u16(), code(path, &answer).as_str()),
                (502, "upstream_invalid"),
                "{body}"
            );
            assert!(!answer.text().contains("<html>"));
        }
    }
}

#[tokio::test]
async fn an_answer_over_the_size_limit_is_not_read_to_its_end() {
    let upstream = Upstream::start(|_| Reply::json(vec![b' '; 1 << 20])).await;
    let settings = [
        ("upstream.max_status_body", "4KiB"),
        ("upstream.dialect", "unified"),
    ];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    let answer = gateway.get(PATHS[1]).await;
    assert_eq!(
        (answer.status.as_u16(), code(PATHS[1], &answer).as_str()),
        (502, "upstream_invalid")
    );
    assert!(answer.text().contains("upstream.max_status_body"));
}

#[tokio::test]
async fn a_document_over_the_size_limit_is_passed_through_on_the_path_that_upstream_is_asked_on() {
    const SIZE: usize = 1 << 20;
    let row = || {
        let uri = format!("data:video/mp4;base64,{}", "A".repeat(SIZE));
        format!(r#"{{"id":"t","object":"video","status":"completed","video_url":"{uri}"}}"#)
    };
    let upstream = Upstream::saying(super::support::row("IN_PROGRESS")).await;
    let settings = [
        ("upstream.max_status_body", "4KiB"),
        ("cache.in_flight_ttl", "0s"),
    ];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    assert_eq!(gateway.get(PATHS[1]).await.status, 200, "is running");
    upstream.now(move |_| Reply::json(row()));
    for _ in 0..3 {
        let answer = gateway.get(PATHS[1]).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.text(), row(), "never shown as running again");
        assert_eq!(
            answer.header("cache-status"),
            "pollgate; fwd=bypass; detail=too_large"
        );
        assert_eq!(answer.header("cache-control"), "private, no-store");
    }
}

#[tokio::test]
async fn an_upstream_error_keeps_its_status_and_text() {
    let told = r#"{"code":"get_task_failed","message":"数据库错误","data":null}"#;
    let upstream =
        Upstream::start(move |_| Reply::new(500, "application/json; charset=utf-8", told)).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let unified = gateway.get(PATHS[0]).await;
    assert_eq!((unified.status.as_u16(), unified.text()), (500, told));
    let openai = gateway.get(PATHS[1]).await;
    assert_eq!(
        (openai.status.as_u16(), code(PATHS[1], &openai).as_str()),
        (500, "get_task_failed")
    );
    assert_eq!(openai.json()["error"]["message"], "数据库错误");
}

#[tokio::test]
async fn an_error_without_json_is_replaced_and_keeps_its_status() {
    for (status, content_type, body) in [
        (429, "text/plain", ""),
        (502, "text/html", "<html>bad</html>"),
        (403, "text/html", "<html>"),
    ] {
        let upstream = Upstream::start(move |_| Reply::new(status, content_type, body)).await;
        for path in PATHS {
            // A gateway each: a 429 that names no caller pauses all of its polls.
            let gateway = Gateway::start(&upstream.url(), &[]).await;
            let answer = gateway.get(path).await;
            assert_eq!(
                (answer.status.as_u16(), code(path, &answer).as_str()),
                (status, "upstream_error")
            );
        }
    }
}

#[tokio::test]
async fn a_missing_task_is_404_for_openai_clients_and_stays_400_for_the_others() {
    let missing = r#"{"code":"task_not_exist","message":"task_not_exist","data":null}"#;
    let upstream = Upstream::start(move |_| Reply::new(400, "application/json", missing)).await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let unified = gateway.get(PATHS[0]).await;
    assert_eq!((unified.status.as_u16(), unified.text()), (400, missing));
    let openai = gateway.get(PATHS[1]).await;
    assert_eq!(
        (openai.status.as_u16(), code(PATHS[1], &openai).as_str()),
        (404, "task_not_exist")
    );
}

#[tokio::test]
async fn a_redirect_does_not_answer_a_poll() {
    let upstream = Upstream::start(|_| {
        Reply::new(301, "text/html", "").with("location", "http://127.0.0.1:1/")
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let answer = gateway.get(PATHS[1]).await;
    assert_eq!(
        (answer.status.as_u16(), code(PATHS[1], &answer).as_str()),
        (502, "upstream_invalid")
    );
    let text = answer.text();
    assert!(
        text.contains("http://127.0.0.1:1/; set upstream.url"),
        "{text}"
    );
    assert!(
        !text.contains("retry"),
        "it will not pass by itself: {text}"
    );
}

#[tokio::test]
async fn a_request_id_comes_from_upstream_else_the_client_else_the_gateway() {
    let upstream = Upstream::start(|_| {
        Reply::json(super::support::row("SUCCESS")).with("x-oneapi-request-id", "theirs")
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let mine = [("x-request-id", "mine")];
    let ask = async |headers: &[(&str, &str)]| {
        gateway
            .client
            .get(PATHS[1], "sk-test", headers)
            .await
            .header("x-request-id")
            .to_owned()
    };
    assert_eq!(ask(&mine).await, "theirs", "fresh");
    assert_eq!(ask(&mine).await, "mine", "remembered");
    let (first, second) = (ask(&[]).await, ask(&[]).await);
    assert!(
        first.starts_with("pg-") && first != second,
        "{first} {second}"
    );
}
