//! The status routes beside the two that convert: every body of `tests/routes` through the running gateway, on every
//! preset, and what a route of one's own gets.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use pollgate::route::presets;
use serde_json::Value;

use crate::support::{Answer, Client, Gateway, Reply, Upstream};

/// How a task is asked for on each preset: method, target and, for a `POST`, the task in the body where no case tells it.
const REQUESTS: [(&str, &str, &str); 19] = [
    ("octopus", "GET", "/v1/video/query?id=task_1"),
    ("mj", "GET", "/mj/task/task_1/fetch"),
    ("kling", "GET", "/kling/v1/videos/text2video/task_1"),
    ("suno", "GET", "/suno/fetch/task_1"),
    ("tasks", "GET", "/v1/tasks/task_1"),
    (
        "ark",
        "GET",
        "/doubao/api/v3/contents/generations/tasks/task_1",
    ),
    ("suno-batch", "POST", "/suno/fetch"),
    ("mj-batch", "POST", "/mj/task/list-by-condition"),
    (
        "jimeng",
        "POST",
        "/jimeng/?Action=CVSync2AsyncGetResult&Version=2022-08-31",
    ),
    ("dashscope", "GET", "/ali/api/v1/tasks/task_1"),
    ("vidu", "GET", "/ent/v2/tasks/task_1/creations"),
    (
        "minimax",
        "GET",
        "/minimax/v1/query/video_generation?task_id=task_1",
    ),
    ("runway", "GET", "/runwayml/v1/tasks/task_1"),
    ("luma", "GET", "/luma/generations/task_1"),
    ("generations", "GET", "/v2/videos/generations/task_1"),
    ("bfl", "GET", "/bfl/v1/get_result?id=task_1"),
    ("seedance-asset", "POST", "/v1/seedance/asset/GetAsset"),
    ("replicate", "GET", "/replicate/v1/predictions/task_1"),
    ("responses", "GET", "/v1/responses/task_1"),
];

/// How long each kind of answer is fresh, so that they differ.
const SETTINGS: [(&str, &str); 5] = [
    ("cache.in_flight_ttl", "100s"),
    ("cache.in_flight_max", "100s"),
    ("cache.failed_ttl", "200s"),
    ("cache.missing_ttl", "300s"),
    ("cache.succeeded_ttl", "12h"),
];

fn all_presets() -> String {
    let names: Vec<_> = presets().iter().map(|one| one.name.as_str()).collect();
    names.join(",")
}

/// The files of cases that are for a preset.
fn files() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/routes");
    let files = std::fs::read_dir(folder).expect("a folder").map(|file| {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("text");
        serde_json::from_str::<Value>(&text).expect("JSON")
    });
    let is_of_preset = |file: &Value| {
        let name = file["preset"].as_str().unwrap_or_default();
        presets().iter().any(|preset| preset.name == name)
    };
    files.filter(is_of_preset).collect()
}

/// A poll of one route.
#[derive(Clone)]
struct Poll {
    client: Client,
    method: Method,
    target: String,
    body: Bytes,
}

impl Poll {
    async fn send(&self, key: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::builder()
            .method(&self.method)
            .uri(self.client.url(&self.target))
            .header("authorization", format!("Bearer {key}"));
        if !self.body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(self.body.clone()))
            .expect("a request");
        self.client.send(request).await
    }
}

/// A poll on a preset, with the body of its cases' own request.
fn poll_of(gateway: &Gateway, file: &Value) -> Poll {
    let preset = file["preset"].as_str().expect("a preset");
    let request = REQUESTS.iter().find(|(name, ..)| *name == preset);
    let (_, method, target) = request.unwrap_or_else(|| panic!("{preset} has no request"));
    let cases = file["examples"].as_array().expect("examples");
    let asked = cases.iter().find(|case| case["case"] == "request");
    let body = asked.map_or_else(Bytes::new, |asked| asked["body"].to_string().into());
    Poll {
        client: gateway.client.clone(),
        method: method.parse().expect("a method"),
        target: (*target).into(),
        body,
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.expect("after 1970").as_secs()).expect("small")
}

/// How long an answer is fresh, in seconds; `None` where it is not kept.
fn lifetime(preset: &str, case: &Value) -> Option<i64> {
    let status = case["http"].as_u64().expect("a status");
    let expect = &case["expect"];
    let is_batch = preset.ends_with("-batch");
    match expect["state"].as_str() {
        Some("queued" | "processing") => (!is_batch).then_some(100),
        Some("failed") => Some(200),
        Some("succeeded") if preset == "replicate" => Some(50 * 60),
        // Some failed.
        Some("succeeded") if is_batch => Some(200),
        Some("succeeded") => {
            let url = expect["url"].as_str();
            let signed = url.and_then(pollgate::task::url_expiry);
            let left = signed.map(|end| (end - unix_now() - 300).max(0));
            match (url, left) {
                (None, _) => Some(100),
                (_, Some(left)) => Some(left.min(12 * 3600)),
                (Some(_), None) => Some(12 * 3600),
            }
        }
        _ if status == 404 => Some(300),
        _ if case["body"]["code"] == "task_not_exist" => Some(300),
        _ if case["body"]["description"] == "task_no_found " => Some(300),
        _ => None,
    }
}

#[tokio::test]
async fn every_answer_of_every_preset_is_passed_on_shared_and_kept_as_its_route_says() {
    let upstream = Upstream::saying("{}").await;
    let presets = all_presets();
    let settings = [&SETTINGS[..], &[("routes.presets", presets.as_str())]].concat();
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    let mut tried = 0;
    for file in files() {
        let preset = file["preset"].as_str().expect("a preset");
        let poll = poll_of(&gateway, &file);
        for case in file["examples"].as_array().expect("examples") {
            let Some(status) = case["http"].as_u64() else {
                continue;
            };
            let name = format!("{preset}: {}", case["case"].as_str().expect("a name"));
            // Odd spacing, which a JSON library would lose.
            let body = format!(" {} ", serde_json::to_string_pretty(&case["body"]).unwrap());
            let (status, sent) = (u16::try_from(status).unwrap(), body.clone());
            upstream
                .now(move |_| Reply::new(status, "application/json; charset=utf-8", sent.clone()));
            let before = upstream.count();
            upstream.close_gate();
            let key = format!("sk-{tried}");
            let crowd: Vec<_> = (0..4)
                .map(|_| {
                    let (poll, key) = (poll.clone(), key.clone());
                    tokio::spawn(async move { poll.send(&key, &[]).await })
                })
                .collect();
            upstream.was_asked(before + 1).await;
            let waiting = "pollgate_waiters";
            crate::support::eventually("all wait", async || gateway.metric(waiting).await >= 4.0)
                .await;
            upstream.open_gate();
            for answer in crowd {
                let answer = answer.await.expect("no panic");
                assert_eq!(answer.status.as_u16(), status, "{name}");
                assert_eq!(answer.body, body, "{name}");
                assert_eq!(
                    answer.header("content-type"),
                    "application/json; charset=utf-8"
                );
            }
            assert_eq!(upstream.count(), before + 1, "{name}: one poll for all");
            let asked = upstream.asked().pop().expect("was asked");
            assert_eq!(
                (&asked.method, &*asked.target),
                (&poll.method, &*poll.target)
            );
            assert_eq!(asked.body, poll.body, "{name}");

            let again = poll.send(&key, &[]).await;
            assert_eq!(
                (again.status.as_u16(), &again.body),
                (status, &Bytes::from(body))
            );
            let cached = again.header("cache-status").to_owned();
            match lifetime(preset, case) {
                Some(0) | None => assert_eq!(upstream.count(), before + 2, "{name}: {cached}"),
                Some(seconds) => {
                    assert_eq!(upstream.count(), before + 1, "{name}: {cached}");
                    let left = cached.rsplit("ttl=").next().unwrap_or_default();
                    let left: i64 = left.parse().unwrap_or_else(|_| panic!("{name}: {cached}"));
                    assert!((seconds - 20..=seconds).contains(&left), "{name}: {cached}");
                }
            }
            let other = poll.send("sk-other", &[]).await;
            assert_eq!(other.status.as_u16(), status);
            assert!(
                other.header("cache-status").contains("fwd="),
                "{name}: another caller"
            );
            gateway.forget_all().await;
            tried += 1;
        }
    }
    assert!(tried > 80, "{tried}");
}

#[tokio::test]
async fn an_answer_that_is_no_task_is_passed_on_and_held_against_nobody() {
    let upstream = Upstream::saying("{}").await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    for (status, kind, body) in [
        (200, "text/html", "<html>not a task</html>"),
        (200, "application/json", ""),
        (200, "application/json", "[]"),
        (200, "application/json", "{\"cut\":"),
        (200, "application/json", r#"{"code":50411,"data":null}"#),
        (200, "application/json", "\"done\""),
        (203, "text/plain", "done"),
        (302, "text/html", "elsewhere"),
        (403, "application/json", r#"{"error":"no"}"#),
        (409, "application/json", r#"{"error":"wait"}"#),
        (418, "text/plain", "short and stout"),
    ] {
        for target in ["/kling/v1/videos/text2video/t", "/v1/video/query?id=t"] {
            upstream.now(move |_| Reply::new(status, kind, body).with("location", "/there"));
            let before = upstream.count();
            for times in 1..=12 {
                let answer = gateway.client.get(target, "sk-test", &[]).await;
                let told = (
                    answer.status.as_u16(),
                    answer.text(),
                    answer.header("content-type"),
                );
                assert_eq!(told, (status, body, kind), "{target}");
                assert_eq!(answer.header("location") == "/there", status == 302);
                assert!(status != 302 || answer.header("retry-after").is_empty());
                assert_eq!(
                    upstream.count(),
                    before + times,
                    "{status} {body}: asked once a poll"
                );
            }
        }
    }
    assert!((gateway.metric("pollgate_upstream_up").await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_202_is_under_way() {
    let upstream = Upstream::start(|_| Reply::new(202, "application/json", "")).await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.in_flight_ttl", "1h")]).await;
    for _ in 0..2 {
        let answer = gateway.get("/v1/tasks/t").await;
        assert_eq!((answer.status.as_u16(), answer.text()), (202, ""));
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn a_create_on_the_path_of_polls_is_never_shared_and_never_kept() {
    let upstream =
        Upstream::start(|_| Reply::json(r#"{"code":10000,"data":{"task_id":"t"}}"#)).await;
    let presets = all_presets();
    let gateway = Gateway::start(&upstream.url(), &[("routes.presets", &presets)]).await;
    let large = format!(r#"{{"task_id":"t","pad":"{}"}}"#, "x".repeat(20_000));
    let exact = r#"{"task_id":"t","req_key":"k"}"#;
    let creates = [
        ("/jimeng/?Action=CVSync2AsyncSubmitTask", exact),
        (
            "/jimeng/?Action=CVSync2AsyncGetResult&Action=CVSync2AsyncSubmitTask",
            exact,
        ),
        ("/jimeng/", exact),
        ("/jm?Action=CVSync2AsyncGetResult", r#"{"prompt":"a cat"}"#),
        (
            "/jm?Action=CVSync2AsyncGetResult",
            r#"{"task_id":["a","b"]}"#,
        ),
        ("/jm?Action=CVSync2AsyncGetResult", "no JSON"),
        ("/jm?Action=CVSync2AsyncGetResult", ""),
        ("/jm?Action=CVSync2AsyncGetResult", &large),
        ("/suno/fetch", r#"{"ids":[]}"#),
        ("/suno/fetch", r#"{"ids":[7]}"#),
        ("/mj/submit/imagine", exact),
        ("/kling/v1/videos/text2video", exact),
        ("/v1/tasks/kling", exact),
    ];
    for (target, body) in creates {
        let poll = Poll {
            client: gateway.client.clone(),
            method: Method::POST,
            target: target.into(),
            body: body.to_owned().into(),
        };
        let before = upstream.count();
        upstream.close_gate();
        let sent: Vec<_> = (0..2)
            .map(|_| {
                let poll = poll.clone();
                tokio::spawn(async move { poll.send("sk-test", &[]).await })
            })
            .collect();
        upstream.was_asked(before + 2).await;
        upstream.open_gate();
        for answer in sent {
            let answer = answer.await.expect("no panic");
            assert_eq!(answer.header("cache-status"), "", "{target} is forwarded");
        }
        assert_eq!(upstream.count(), before + 2, "{target} {body:.40}");
        for asked in &upstream.asked()[before..] {
            assert_eq!((&*asked.target, &*asked.body), (target, body.as_bytes()));
        }
    }
    let forwarded = r#"pollgate_requests_total{code="200",outcome="forwarded",route="forward"}"#;
    let expected = 2 * creates.len();
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let expected = expected as f64;
    assert!((gateway.metric(forwarded).await - expected).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_body_that_comes_in_chunks_is_read_or_passed_on_whole() {
    let upstream = Upstream::start(|asked| Reply::json(asked.body.clone())).await;
    let gateway = Gateway::start(&upstream.url(), &[("routes.presets", "suno-batch")]).await;
    let long = "y".repeat(40_000);
    for (chunks, is_poll) in [
        (vec![r#"{"ids":["#, r#""t"]}"#], true),
        (vec![r#"{"ids":["t"],"pad":""#, &long, "\"}"], false),
        (vec!["{", "}"], false),
    ] {
        let mut request = String::from(
            "POST /suno/fetch HTTP/1.1\r\nhost: h\r\nauthorization: Bearer k\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        );
        for chunk in &chunks {
            let _ = write!(request, "{:x}\r\n{chunk}\r\n", chunk.len());
        }
        request.push_str("0\r\n\r\n");
        let answers = crate::support::raw::send(gateway.address, request.as_bytes()).await;
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].body, chunks.concat().as_bytes());
        let is_status = answers[0].head.contains("cache-status");
        assert_eq!(is_status, is_poll, "{}", answers[0].head);
    }
}

#[tokio::test]
async fn what_is_volatile_is_in_the_bytes_and_not_in_the_etag() {
    let upstream = Upstream::saying("{}").await;
    let settings = [("cache.in_flight_ttl", "0s")];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    let say = |rand: u32, progress: u32| {
        upstream.now(move |_| {
            Reply::json(format!(
                r#"{{"id":"7","status":"IN_PROGRESS","imageUrl":"https://h/7?rand={rand}","progress":"{progress}%"}}"#
            ))
        });
    };
    let path = "/mj/task/7/fetch";
    say(1, 10);
    let first = gateway.get(path).await;
    say(2, 10);
    let second = gateway.get(path).await;
    assert!(second.text().contains("rand=2"));
    let etag = first.header("etag").to_owned();
    assert!(etag.starts_with("W/"), "{etag}: bytes that differ have it");
    assert_eq!(second.header("etag"), etag);
    let known = [("if-none-match", etag.as_str())];
    let same = gateway.client.get(path, "sk-test", &known).await;
    assert_eq!(same.status, 304);
    say(3, 20);
    let moved = gateway.client.get(path, "sk-test", &known).await;
    assert_eq!(moved.status, 200);
    assert_ne!(moved.header("etag"), etag);
}

#[tokio::test]
async fn a_result_that_follows_is_news_although_its_place_is_volatile() {
    let upstream = Upstream::saying("{}").await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.in_flight_ttl", "0s")]).await;
    let say = |url: &'static str| {
        upstream.now(move |_| {
            Reply::json(format!(
                r#"{{"id":"7","status":"SUCCESS","imageUrl":"{url}"}}"#
            ))
        });
    };
    say("");
    let bare = gateway.get("/mj/task/7/fetch").await;
    say("https://h/7.png");
    let known = [("if-none-match", bare.header("etag"))];
    let whole = gateway
        .client
        .get("/mj/task/7/fetch", "sk-test", &known)
        .await;
    assert_eq!(whole.status, 200);
    assert!(whole.text().contains("https://h/7.png"));
}

#[tokio::test]
async fn a_404_that_is_no_json_is_nobodys_word_on_a_task() {
    let upstream = Upstream::saying(r#"{"id":"t","status":"running"}"#).await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.in_flight_ttl", "0s")]).await;
    gateway.get("/v1/tasks/t").await;
    upstream.now(|_| Reply::new(404, "text/plain", "404 page not found"));
    for _ in 0..3 {
        let answer = gateway.get("/v1/tasks/t").await;
        assert_eq!(answer.status, 200, "the last known state stands in");
        assert!(answer.header("cache-status").contains("stale_if_error"));
    }
    let other = gateway.get("/v1/tasks/other").await;
    assert_eq!(
        (other.status.as_u16(), other.text()),
        (404, "404 page not found")
    );
    upstream.now(|_| Reply::new(404, "application/json", r#"{"error":{"message":"no"}}"#));
    let before = upstream.count();
    for _ in 0..2 {
        let answer = gateway.get("/v1/tasks/none").await;
        assert_eq!(answer.status, 404);
    }
    assert_eq!(upstream.count(), before + 1, "kept for cache.missing_ttl");
}

#[tokio::test]
async fn the_same_bytes_of_another_type_are_another_question() {
    let upstream = Upstream::start(|asked| {
        let kind = asked.header("content-type");
        Reply::json(format!(
            r#"{{"data":[{{"task_id":"t","status":"SUCCESS","kind":"{kind}"}}]}}"#
        ))
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[("routes.presets", "suno-batch")]).await;
    for (kind, asks) in [
        ("application/json", 1),
        ("Application/JSON; charset=utf-8", 1),
        ("text/plain", 2),
        ("application/x-www-form-urlencoded", 3),
        ("text/plain", 3),
    ] {
        let request = Request::post(gateway.client.url("/suno/fetch"))
            .header("authorization", "Bearer sk-test")
            .header("content-type", kind)
            .body(Full::from(r#"{"ids":["t"]}"#))
            .expect("a request");
        let answer = gateway.client.send(request).await;
        assert_eq!(answer.status, 200);
        assert_eq!(upstream.count(), asks, "{kind}");
        let is_json = kind.to_ascii_lowercase().contains("json");
        assert_eq!(answer.text().contains("json"), is_json, "{kind}");
    }
}

#[tokio::test]
async fn a_write_forgets_a_task_however_its_id_is_encoded() {
    let upstream = Upstream::saying(r#"{"id":"veo:1","status":"running"}"#).await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.in_flight_ttl", "1h")]).await;
    for (target, write) in [
        ("/v1/video/query?id=veo%3A1", "/v1/videos/veo:1/remix"),
        ("/v1/tasks/veo:2", "/v1/tasks/veo%3a2/cancel"),
        ("/kling/v1/videos/text2video/a%2Fb", "/v1/tasks/a%2fb"),
    ] {
        for _ in 0..2 {
            gateway.get(target).await;
        }
        let before = upstream.count();
        let write = Request::post(gateway.client.url(write))
            .header("authorization", "Bearer sk-test")
            .body(Full::default())
            .expect("a request");
        gateway.client.send(write).await;
        gateway.get(target).await;
        assert_eq!(upstream.count(), before + 2, "{target} is asked for anew");
    }
}

#[tokio::test]
async fn all_that_polls_have_these_have() {
    let upstream = Upstream::saying("{}").await;
    let settings = [("cache.in_flight_ttl", "50ms"), ("limits.max_wait", "20s")];
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    let say = |status: &'static str| {
        upstream.now(move |_| {
            Reply::json(format!(
                r#"{{"code":0,"data":{{"task_id":"7","task_status":"{status}","task_result":{{"videos":[{{"url":"https://h/v.mp4"}}]}}}}}}"#
            ))
        });
    };
    let path = "/kling/v1/videos/image2video/7";
    say("processing");
    let running = gateway.get(path).await;
    assert!(
        running
            .header("openai-poll-after-ms")
            .parse::<u32>()
            .is_ok()
    );

    // A held poll returns with the change, an event stream with every one.
    let etag = running.header("etag").to_owned();
    let held = {
        let (client, etag) = (gateway.client.clone(), etag.clone());
        tokio::spawn(async move {
            let headers = [("prefer", "wait=15"), ("if-none-match", etag.as_str())];
            client.get(path, "sk-test", &headers).await
        })
    };
    let streamed = {
        let client = gateway.client.clone();
        tokio::spawn(async move {
            let headers = [("accept", "text/event-stream")];
            client.get(path, "sk-test", &headers).await
        })
    };
    let before = upstream.count();
    upstream.was_asked(before + 2).await;
    say("succeed");
    let held = held.await.expect("no panic");
    assert_eq!(held.header("preference-applied"), "wait");
    assert_eq!(held.json()["data"]["task_status"], "succeed");
    let streamed = streamed.await.expect("no panic");
    let events: Vec<_> = streamed.text().matches("event: status").collect();
    assert!(
        !events.is_empty()
            && streamed
                .text()
                .contains(r#"data: {"code":0,"data":{"task_id":"7","task_status":"succeed""#)
    );

    // The last known state stands in.
    say("processing");
    let path = "/kling/v1/videos/image2video/8";
    assert_eq!(gateway.get(path).await.status, 200);
    upstream.now(|_| Reply::new(502, "text/html", "<center>nginx</center>"));
    crate::support::eventually("the state stands in", async || {
        let answer = gateway.get(path).await;
        assert_eq!(answer.json()["data"]["task_status"], "processing");
        answer.header("cache-status").contains("stale_if_error")
    })
    .await;

    // Errors of the gateway's own have the form of the route.
    let settings = [("upstream.timeout", "1s")];
    let silent = crate::support::Raw::start().await;
    let lone = Gateway::start(&silent.url(), &settings).await;
    for (path, member) in [
        ("/mj/task/7/fetch", "/type"),
        ("/suno/fetch/7", "/code"),
        ("/v1/tasks/7", "/error/code"),
    ] {
        let answer = lone.get(path).await;
        assert_eq!(answer.status, 504, "{path}");
        let code = answer.json().pointer(member).cloned();
        assert_eq!(code, Some("upstream_timeout".into()), "{path}");
    }
    let series = r#"pollgate_requests_total{code="504",outcome="failed",route="mj"}"#;
    assert!((lone.metric(series).await - 1.0).abs() < f64::EPSILON);
}

#[tokio::test]
async fn a_write_on_the_path_of_a_task_forgets_it_on_every_route() {
    let upstream = Upstream::start(|_| {
        Reply::json(r#"{"id":"t","status":"succeeded","content":{"video_url":"https://h/v.mp4"}}"#)
    })
    .await;
    let gateway = Gateway::start(&upstream.url(), &[]).await;
    let ark = "/api/v3/contents/generations/tasks/t";
    for path in [ark, "/v1/tasks/t", "/v1/videos/t"] {
        for (method, target, forgets) in [
            ("OPTIONS", ark, false),
            ("DELETE", ark, true),
            ("POST", "/v1/videos/t/remix", true),
        ] {
            let first = gateway.get(path).await;
            assert_eq!(first.status, 200);
            assert!(
                gateway
                    .get(path)
                    .await
                    .header("cache-status")
                    .contains("hit")
            );
            let write = Request::builder()
                .method(method)
                .uri(gateway.client.url(target))
                .header("authorization", "Bearer sk-test")
                .body(Full::default());
            gateway.client.send(write.expect("a request")).await;
            let after = gateway.get(path).await;
            let was_asked = after.header("cache-status").contains("fwd=miss");
            assert_eq!(was_asked, forgets, "{method} {target}, then {path}");
        }
    }
}

#[tokio::test]
async fn a_reload_brings_routes_and_takes_them_and_keeps_nothing_of_one_that_changed() {
    let upstream = Upstream::saying(r#"{"id":"t","phase":"over"}"#).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pollgate.toml");
    let write = |keys: &str| {
        let route = "[[route]]\nname = \"own\"\npath = \"/own/{id}\"\nstatus = \"/phase\"\n";
        let route = if keys.is_empty() { "" } else { route };
        let cache = "[cache]\nin_flight_ttl = \"1h\"\nfailed_ttl = \"1h\"\n";
        std::fs::write(&file, format!("{cache}{route}{keys}")).expect("is written");
    };
    write("failed = \"over\"\n");
    let gateway = Gateway::with_file(&upstream.url(), &file).await;
    let told = async || {
        let answer = gateway.get("/own/t").await;
        assert_eq!(answer.text(), r#"{"id":"t","phase":"over"}"#);
        answer.header("cache-status").to_owned()
    };
    assert!(told().await.contains("fwd=miss; stored"));
    assert!(told().await.contains("hit"));
    let mut reloads = 0;
    let mut reload = async |keys: &str| {
        write(keys);
        gateway.signal("-HUP");
        reloads += 1;
        crate::support::eventually("the reload", async || {
            let log = gateway.log();
            log.iter()
                .filter(|line| line.contains("reloaded: route"))
                .count()
                == reloads
        })
        .await;
    };
    // It means something else now.
    reload("succeeded = \"over\"\n").await;
    assert!(told().await.contains("fwd=miss"));
    // Concurrent polls alone share.
    reload("keep = \"share\"\n").await;
    for _ in 0..2 {
        let status = told().await;
        assert!(
            status.contains("fwd=miss") && !status.contains("stored"),
            "{status}"
        );
    }
    reload("").await;
    assert_eq!(told().await, "", "is forwarded");
}
