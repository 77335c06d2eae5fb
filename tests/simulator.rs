//! The simulator over real sockets: what a client of the real thing would see.
//!
//! Time is paused: it moves only when a test advances it, or when all that is left to do is to wait.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::client::legacy::{Client, Error, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use pollgate::simulator::{
    Channel, Fault, Forced, Outcome, Rule, Scope, Settings, Simulator, State, Status, TaskOptions,
    content_bytes,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, timeout};

const UNIFIED: &str = "/v1/video/generations";
const OPENAI: &str = "/v1/videos";
/// Under paused time this passes at once, as soon as nothing else can happen.
const EVER: Duration = Duration::from_hours(1);

/// A simulator, listening, and a client.
struct World {
    simulator: Simulator,
    address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
}

/// An answer, read to its end.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl World {
    async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    async fn with(settings: Settings) -> Self {
        let simulator = Simulator::new(settings);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn({
            let simulator = simulator.clone();
            async move { simulator.run(listener, stopped.map(drop)).await }
        });
        Self {
            simulator,
            address,
            client: Client::builder(TokioExecutor::new()).build_http(),
            stop,
            served,
        }
    }

    fn request(&self, method: &str, path: &str) -> hyper::http::request::Builder {
        let url = match path.strip_prefix("http") {
            Some(_) => path.to_owned(),
            None => format!("http://{}{path}", self.address),
        };
        Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("a method"))
            .uri(url)
            .header("authorization", "Bearer sk-K")
    }

    async fn open(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        self.client.request(request).await
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let response = self.open(request).await.expect("an answer");
        let (head, body) = response.into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            body: body.collect().await.expect("a whole body").to_bytes(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(
            self.request("GET", path)
                .body(Full::default())
                .expect("valid"),
        )
        .await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self
            .request("POST", path)
            .header("content-type", "application/json")
            .body(body.to_string().into());
        self.send(request.expect("valid")).await
    }

    async fn as_key(&self, authorization: &str, path: &str) -> Answer {
        let mut request = self
            .request("GET", path)
            .body(Full::default())
            .expect("valid");
        let value = authorization.parse().expect("a header value");
        request.headers_mut().insert("authorization", value);
        self.send(request).await
    }

    /// A task of key K, held in a status.
    fn held(&self, model: &str, status: Status) -> String {
        let options = TaskOptions {
            status: Some(status),
            ..TaskOptions::default()
        };
        self.simulator
            .create("K", model, options)
            .expect("a free id")
    }

    /// Waits until the simulator has counted what is asked for.
    async fn counted(&self, met: impl Fn(&pollgate::simulator::Counts) -> bool) {
        while !met(&self.simulator.counts()) {
            tokio::task::yield_now().await;
        }
    }
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[tokio::test(start_paused = true)]
async fn a_task_lives_from_its_creation_to_its_end_on_both_paths() {
    let world = World::new().await;
    let wish = json!({"model": "unheard-of", "prompt": "a cat", "seconds": "8",
                      "simulate": {"lifetime": "100s"}});
    for (path, other) in [(OPENAI, UNIFIED), (UNIFIED, OPENAI)] {
        let created = world.post(path, &wish).await;
        assert_eq!(created.status, 200);
        assert_eq!(created.header("content-type"), "application/json");
        let created = created.json();
        assert_eq!(created["status"], "queued");
        let id = text(created.get("task_id").unwrap_or(&created["id"])).to_owned();
        assert!(id.starts_with("task_") && id.len() == 37, "{id}");
        let born = Instant::now();
        for (after, state, unified, openai) in [
            (0, State::Queued, "queued", "queued"),
            (50, State::Processing, "processing", "in_progress"),
            (50, State::Succeeded, "succeeded", "completed"),
        ] {
            advance(Duration::from_secs(after)).await;
            assert_eq!(
                world.simulator.truth(&id).map(|truth| truth.state),
                Some(state)
            );
            let answer = world.get(&format!("{UNIFIED}/{id}")).await;
            assert_eq!(answer.json()["data"]["status"], unified);
            let answer = world.get(&format!("{OPENAI}/{id}")).await;
            assert_eq!(answer.json()["status"], openai);
            assert_eq!(answer.header("content-type"), "application/json");
        }
        assert_eq!(world.simulator.polls_of(&id), 6, "{other}");
        let lived = world.simulator.states_between(&id, born, Instant::now());
        let all = vec![State::Queued, State::Processing, State::Succeeded];
        assert_eq!(lived, Some(all));
    }
}

#[tokio::test(start_paused = true)]
async fn news_wait_for_the_next_refresh_round() {
    let world = World::with(Settings {
        refresh: Duration::from_secs(15),
        ..Settings::default()
    })
    .await;
    let wish = |model| json!({"model": model, "simulate": {"lifetime": "16s"}});
    let slow = world.post(OPENAI, &wish("kling")).await.json();
    let live = world.post(OPENAI, &wish("veo-3")).await.json();
    advance(Duration::from_secs(17)).await;
    let status = async |task: &Value| {
        let answer = world.get(&format!("{OPENAI}/{}", text(&task["id"]))).await;
        answer.json()["status"].clone()
    };
    assert_eq!(status(&slow).await, "in_progress");
    assert_eq!(status(&live).await, "completed");
    advance(Duration::from_secs(14)).await;
    assert_eq!(status(&slow).await, "completed");
}

#[tokio::test(start_paused = true)]
async fn every_channel_answers_both_paths_in_every_status() {
    let world = World::new().await;
    for channel in Channel::ALL {
        for status in [
            Status::NotStart,
            Status::InProgress,
            Status::Success,
            Status::Failure,
        ] {
            let id = world.held(channel.name(), status);
            for path in [UNIFIED, OPENAI] {
                let answer = world.get(&format!("{path}/{id}")).await;
                assert_eq!(answer.status, 200);
                assert_eq!(answer.header("content-type"), "application/json");
                assert!(answer.json().is_object(), "{channel:?} {status:?} {path}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn mixed_takes_each_channel_in_turn() {
    let world = World::with(Settings {
        channel: pollgate::simulator::ChannelChoice::Mixed,
        ..Settings::default()
    })
    .await;
    for channel in Channel::ALL {
        let id = world.held("unheard-of", Status::Queued);
        let told = world.get(&format!("/simulator/tasks/{id}")).await.json();
        assert_eq!(told["channel"], channel.name());
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_fails_the_row_but_not_the_vendors_stored_document() {
    let world = World::new().await;
    for model in ["ali", "sora-2"] {
        let options = TaskOptions {
            outcome: Some(Outcome::TimedOut),
            lifetime: Some(Duration::ZERO),
            ..TaskOptions::default()
        };
        let id = world
            .simulator
            .create("K", model, options)
            .expect("a free id");
        let row = world.get(&format!("{UNIFIED}/{id}")).await.json();
        assert_eq!(row["data"]["status"], "FAILURE");
        assert_eq!(row["data"]["result_url"], "任务超时（1440分钟）");
        let object = world.get(&format!("{OPENAI}/{id}")).await.json();
        assert_eq!(object["status"], "in_progress", "{model}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_is_seen_by_its_own_key_only() {
    let world = World::new().await;
    let id = world.held("kling", Status::InProgress);
    for path in [UNIFIED, OPENAI] {
        let path = format!("{path}/{id}");
        for own in ["Bearer sk-K", "bearer K", "K", "sk-K-12"] {
            assert_eq!(world.as_key(own, &path).await.status, 200, "{own}");
        }
        let foreign = world.as_key("Bearer sk-L", &path).await;
        let missing = world.get(&format!("{path}0")).await;
        for answer in [foreign, missing] {
            assert_eq!(answer.status, 400);
            let body = r#"{"code":"task_not_exist","message":"task_not_exist","data":null}"#;
            assert_eq!(answer.body, body);
            assert_eq!(
                answer.header("content-type"),
                "application/json; charset=utf-8"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_missing_unknown_or_revoked_is_unauthorised() {
    let world = World::with(Settings {
        keys: vec!["sk-K".to_owned()],
        ..Settings::default()
    })
    .await;
    let id = world.held("kling", Status::InProgress);
    let path = format!("{UNIFIED}/{id}");
    assert_eq!(world.get(&path).await.status, 200);
    assert_eq!(world.as_key("Bearer sk-L", &path).await.status, 401);
    assert_eq!(world.as_key("Bearer ", &path).await.status, 401);
    world.simulator.revoke("K");
    let answer = world.get(&path).await;
    assert_eq!(answer.status, 401);
    let request_id = answer.header("x-oneapi-request-id");
    let body = format!(
        r#"{{"error":{{"code":"","message":"Invalid token (request id: {request_id})","type":"new_api_error"}}}}"#
    );
    assert_eq!(answer.body, body);
    world.simulator.restore("sk-K-1");
    assert_eq!(world.get(&path).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_request_id_is_given_unless_one_was_brought_along() {
    let world = World::new().await;
    let id = world.held("kling", Status::InProgress);
    let answer = world.get(&format!("{OPENAI}/{id}")).await;
    assert!(answer.header("x-oneapi-request-id").len() > 14);
    assert!(!answer.header("x-new-api-version").is_empty());
    assert_eq!(answer.header("cache-control"), "");
    let request = world
        .request("GET", &format!("{OPENAI}/{id}"))
        .header("x-oneapi-request-id", "mine")
        .header("origin", "http://page")
        .body(Full::default());
    let answer = world.send(request.expect("valid")).await;
    assert_eq!(answer.header("x-oneapi-request-id"), "");
    assert_eq!(answer.header("access-control-allow-origin"), "*");
}

#[tokio::test(start_paused = true)]
async fn what_there_is_not_is_a_404_below_v1_and_a_page_elsewhere() {
    let world = World::new().await;
    let request = world
        .request("DELETE", "/v1/videos/x")
        .body(Full::default());
    let answer = world.send(request.expect("valid")).await;
    assert_eq!(answer.status, 404);
    assert_eq!(
        answer.body,
        r#"{"error":{"message":"Invalid URL (DELETE /v1/videos/x)","type":"invalid_request_error","param":"","code":""}}"#
    );
    assert_eq!(answer.header("cache-control"), "max-age=604800");
    let head = world.request("HEAD", "/v1/videos/x").body(Full::default());
    assert_eq!(world.send(head.expect("valid")).await.status, 404);
    let page = world.get("/pricing").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
}

#[tokio::test(start_paused = true)]
async fn ids_of_any_spelling_are_found() {
    let world = World::new().await;
    for (id, path) in [
        ("sora-2:task_01k", "sora-2:task_01k"),
        ("a/b c", "a%2Fb%20c"),
        ("b64==", "b64%3D%3D"),
    ] {
        let wish = json!({"model": "documented", "simulate": {"id": id, "lifetime": "0s"}});
        assert_eq!(world.post(OPENAI, &wish).await.json()["id"], id);
        let answer = world.get(&format!("{UNIFIED}/{path}")).await.json();
        assert_eq!(answer["data"]["task_id"], id);
        let file = world.get(text(&answer["data"]["url"])).await;
        assert_eq!(file.status, 200);
        assert_eq!(world.post(OPENAI, &wish).await.status, 400);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_create_request_is_told_what_is_wrong() {
    let world = World::new().await;
    for (body, told) in [
        ("{", "not JSON"),
        ("[1]", "a JSON object"),
        (r#"{"simulate":{"lifetime":5}}"#, "simulate"),
    ] {
        let request = world
            .request("POST", OPENAI)
            .body(body.into())
            .expect("valid");
        let answer = world.send(request).await;
        assert_eq!(answer.status, 400);
        assert!(text(&answer.json()["message"]).contains(told), "{answer:?}");
    }
    let large = Bytes::from(vec![b' '; 17 << 20]);
    let request = world
        .request("POST", OPENAI)
        .body(large.into())
        .expect("valid");
    // The answer comes before the body has been read, which some clients see as a broken pipe.
    if let Ok(response) = world.open(request).await {
        assert_eq!(response.status(), 413);
    }
    assert_eq!(world.simulator.counts().creates, 4);
}

#[tokio::test(start_paused = true)]
async fn a_form_creates_a_task_and_a_remix_points_back_to_it() {
    let world = World::new().await;
    let field = |name: &str, value: &str| {
        format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let form = [
        field("model", "sora-2-pro"),
        field("seconds", "12"),
        field("input_reference\"; filename=\"a.png", &"x".repeat(1 << 20)),
        "--B--\r\n".to_owned(),
    ];
    let request = world
        .request("POST", OPENAI)
        .header("content-type", "multipart/form-data; boundary=B")
        .body(form.concat().into());
    let created = world.send(request.expect("valid")).await.json();
    assert_eq!(
        (text(&created["model"]), text(&created["seconds"])),
        ("sora-2-pro", "12")
    );
    let id = text(&created["id"]);
    let path = format!("{OPENAI}/{id}/remix");
    let remix = world.post(&path, &json!({"prompt": "more"})).await.json();
    assert_eq!(remix["remixed_from_video_id"], id);
    let remix = world
        .get(&format!("{OPENAI}/{}", text(&remix["id"])))
        .await
        .json();
    assert_eq!(remix["remixed_from_video_id"], id);
    let missing = world.post("/v1/videos/none/remix", &json!({})).await;
    assert_eq!(missing.json()["code"], "task_not_exist");
}

#[tokio::test(start_paused = true)]
async fn content_comes_whole_in_parts_or_not_at_all() {
    let size = 200_000;
    let world = World::with(Settings {
        video_size: size,
        ..Settings::default()
    })
    .await;
    let id = world.held("kling", Status::InProgress);
    let path = format!("{OPENAI}/{id}/content");
    let early = world.get(&path).await;
    assert_eq!(early.status, 400);
    let told = "Task is not completed yet, current status: IN_PROGRESS";
    assert_eq!(early.json()["error"]["message"], told);
    assert!(world.simulator.force(&id, Status::Success));
    let whole = world.get(&path).await;
    assert_eq!(whole.status, 200);
    assert_eq!(whole.header("content-type"), "video/mp4");
    assert_eq!(whole.body, content_bytes(&id, 0..size));
    let ranged = async |method, range: &str| {
        let request = world.request(method, &path).header("range", range);
        world
            .send(request.body(Full::default()).expect("valid"))
            .await
    };
    let part = ranged("GET", "bytes=65530-131080").await;
    assert_eq!(part.status, 206);
    assert_eq!(part.header("content-range"), "bytes 65530-131080/200000");
    assert_eq!(part.body, whole.body.slice(65_530..131_081));
    let beyond = ranged("GET", "bytes=200000-").await;
    assert_eq!(beyond.status, 416);
    assert_eq!(beyond.header("content-range"), "bytes */200000");
    let head = ranged("HEAD", "bytes=0-").await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (StatusCode::PARTIAL_CONTENT, "200000")
    );
    assert!(head.body.is_empty());
    let foreign = world.as_key("Bearer sk-L", &path).await;
    assert_eq!(foreign.status, 404);
    assert_eq!(foreign.json()["error"]["message"], "Task not found");
}

#[tokio::test(start_paused = true)]
async fn a_signed_url_needs_no_key_and_dies_and_content_with_it() {
    let world = World::with(Settings {
        url_lifetime: Duration::from_mins(1),
        ..Settings::default()
    })
    .await;
    let id = world.held("doubao-seedance", Status::Success);
    let row = world.get(&format!("{UNIFIED}/{id}")).await.json();
    let url = text(&row["data"]["result_url"]).to_owned();
    assert!(url.starts_with(&format!("http://{}/files/", world.address)));
    assert_eq!(row["data"]["data"]["content"]["video_url"], url);
    let content = format!("{OPENAI}/{id}/content");
    assert_eq!(world.as_key("", &url).await.status, 200);
    assert_eq!(world.get(&content).await.status, 200);
    advance(Duration::from_secs(61)).await;
    assert_eq!(world.get(&url).await.status, 403);
    assert_eq!(world.get(&content).await.status, 502);
    let again = world.get(&format!("{UNIFIED}/{id}")).await.json();
    assert_eq!(again["data"]["result_url"], url);
    let platform = world.held("gemini", Status::Success);
    advance(Duration::from_secs(61)).await;
    let path = format!("{OPENAI}/{platform}/content");
    assert_eq!(world.get(&path).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn each_fault_that_is_an_answer_is_the_answer_of_its_name() {
    let world = World::new().await;
    let id = world.held("documented", Status::InProgress);
    let path = format!("{OPENAI}/{id}");
    let right = world.get(&path).await.body;
    for (fault, status, kind, body) in [
        (
            Fault::RateLimited,
            429,
            "application/json",
            Some("当前分组"),
        ),
        (Fault::RateLimitedEmpty, 429, "", None),
        (
            Fault::ServerError,
            500,
            "application/json",
            Some("get_task_failed"),
        ),
        (Fault::BadGateway, 502, "text/html", Some("502 Bad Gateway")),
        (Fault::Unavailable, 503, "text/html", Some("503")),
        (Fault::GatewayTimeout, 504, "text/html", Some("504")),
        (Fault::Html, 200, "text/html", Some("<!doctype html>")),
        (Fault::Empty, 200, "application/json", None),
        (
            Fault::NoData,
            200,
            "application/json",
            Some(r#"{"code":"success","data":null}"#),
        ),
        (
            Fault::TaskNotExist,
            400,
            "application/json",
            Some("task_not_exist"),
        ),
    ] {
        world.simulator.faults().set([Rule::new(fault).next(1)]);
        let answer = world.get(&path).await;
        assert_eq!(answer.status, status, "{fault:?}");
        assert!(answer.header("content-type").starts_with(kind), "{fault:?}");
        let told = String::from_utf8_lossy(&answer.body);
        match body {
            Some(body) => assert!(told.contains(body), "{fault:?}: {told}"),
            None => assert_eq!(told, "", "{fault:?}"),
        }
        let retry_after = if fault == Fault::RateLimited { "1" } else { "" };
        assert_eq!(answer.header("retry-after"), retry_after);
        assert_eq!(world.get(&path).await.body, right);
    }
    world.simulator.faults().set([Fault::Truncated]);
    let cut = world.get(&path).await;
    assert_eq!(cut.body, right.slice(..right.len() / 2));
    assert_eq!(world.simulator.counts().faults[&Fault::Truncated], 1);
}

#[tokio::test(start_paused = true)]
async fn a_fault_strikes_only_in_its_scope() {
    let world = World::new().await;
    let id = world.held("documented", Status::Success);
    let codes = async || {
        let mut codes = Vec::new();
        for path in [
            format!("{UNIFIED}/{id}"),
            format!("{OPENAI}/{id}"),
            format!("{OPENAI}/{id}/content"),
        ] {
            codes.push(world.get(&path).await.status.as_u16());
        }
        codes
    };
    for (scope, expected) in [
        (Scope::Status, [503, 503, 200]),
        (Scope::Unified, [503, 200, 200]),
        (Scope::Openai, [200, 503, 200]),
        (Scope::All, [503, 503, 503]),
    ] {
        world
            .simulator
            .faults()
            .set([Rule::new(Fault::Unavailable).on(scope)]);
        assert_eq!(codes().await, expected, "{scope:?}");
    }
    world.simulator.faults().clear();
    assert_eq!(codes().await, [200, 200, 200]);
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_a_reset_before_or_in_the_middle_of_the_answer() {
    let world = World::new().await;
    let id = world.held("documented", Status::InProgress);
    for (fault, begun) in [(Fault::Reset, false), (Fault::ResetMidBody, true)] {
        world.simulator.faults().set([fault]);
        let mut stream = TcpStream::connect(world.address)
            .await
            .expect("a connection");
        let request = format!("GET {OPENAI}/{id} HTTP/1.1\r\nHost: x\r\nAuthorization: K\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let error = stream.read_to_end(&mut answer).await.expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(answer.starts_with("HTTP/1.1 200"), begun, "{answer}");
        assert_eq!(answer.contains(r#"{"id":"#), begun, "{answer}");
    }
    assert_eq!(world.simulator.counts().abandoned_polls, 1);
}

#[tokio::test(start_paused = true)]
async fn over_http2_a_reset_ends_one_stream_and_not_the_connection() {
    let world = World::new().await;
    let client = Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build_http::<Full<Bytes>>();
    let id = world.held("documented", Status::InProgress);
    let get = || {
        let request = world.request("GET", &format!("{OPENAI}/{id}"));
        client.request(request.body(Full::default()).expect("valid"))
    };
    assert_eq!(get().await.expect("an answer").status(), 200);
    world
        .simulator
        .faults()
        .set([Rule::new(Fault::Reset).next(1)]);
    assert!(get().await.is_err());
    assert_eq!(get().await.expect("an answer").status(), 200);
    world.simulator.faults().set([Fault::ResetMidBody]);
    let half = get().await.expect("a head");
    assert!(half.into_body().collect().await.is_err());
    assert_eq!(world.simulator.counts().connections, 1);
}

#[tokio::test(start_paused = true)]
async fn a_stall_never_ends_by_itself() {
    let world = World::new().await;
    let id = world.held("documented", Status::InProgress);
    let path = format!("{OPENAI}/{id}");
    world.simulator.faults().set([Fault::Stall]);
    {
        let mut stalled = pin!(world.get(&path));
        tokio::select! {
            _ = &mut stalled => panic!("answered"),
            () = world.simulator.await_polls(1) => {}
        }
        assert!(timeout(EVER, &mut stalled).await.is_err());
        assert_eq!(world.simulator.counts().open_polls, 1);
    }
    world
        .counted(|counts| counts.abandoned_polls == 1 && counts.open_polls == 0)
        .await;
    world.simulator.faults().set([Fault::StallMidBody]);
    let request = world
        .request("GET", &path)
        .body(Full::default())
        .expect("valid");
    let mut body = world.open(request).await.expect("a head").into_body();
    assert!(body.frame().await.is_some_and(|frame| frame.is_ok()));
    assert!(timeout(EVER, body.frame()).await.is_err());
    assert_eq!(world.simulator.counts().open_polls, 1);
}

#[tokio::test(start_paused = true)]
async fn latency_and_slow_bodies_take_their_time() {
    let world = World::with(Settings {
        latency: Duration::from_secs(3).into(),
        slow_body: Duration::from_secs(10),
        ..Settings::default()
    })
    .await;
    let id = world.held("documented", Status::InProgress);
    let path = format!("{UNIFIED}/{id}");
    let begin = Instant::now();
    let right = world.get(&path).await.body;
    let quick = begin.elapsed();
    assert!((3..5).contains(&quick.as_secs()), "{quick:?}");
    world.simulator.faults().set([Fault::SlowBody]);
    let begin = Instant::now();
    assert_eq!(world.get(&path).await.body, right);
    assert!(
        begin.elapsed() >= Duration::from_secs(12),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_closed_gate_gathers_polls_and_counts_them() {
    let world = World::new().await;
    let id = world.held("documented", Status::InProgress);
    let path = format!("{UNIFIED}/{id}");
    world.simulator.gate().close();
    let polls = join_all((0..50).map(|_| world.get(&path)));
    let opener = async {
        let gathered = world.simulator.gate().waiting().await_at_least(50);
        timeout(EVER, gathered).await.expect("fifty waiting");
        assert_eq!(world.simulator.counts().open_polls, 50);
        world.simulator.gate().open();
    };
    let (answers, ()) = tokio::join!(polls, opener);
    assert!(answers.iter().all(|answer| answer.status == 200));
    world.counted(|counts| counts.open_polls == 0).await;
    let counts = world.simulator.counts();
    assert_eq!((counts.status_polls, counts.max_open_polls), (50, 50));
    assert_eq!((counts.unified_polls, counts.poll_answers[&200]), (50, 50));
    assert_eq!(world.simulator.polls_of(&id), 50);
}

#[tokio::test(start_paused = true)]
async fn uploads_are_counted_and_chats_are_streamed() {
    let world = World::new().await;
    let body = Bytes::from(vec![7; 3 << 20]);
    let request = world.request("POST", "/v1/files").body(body.clone().into());
    let answer = world.send(request.expect("valid")).await.json();
    assert_eq!(answer["bytes"], 3 << 20);
    assert!(text(&answer["checksum"]).starts_with("fnv1a:"));
    assert_eq!(world.simulator.counts().uploaded_bytes, 3 << 20);
    let request = world
        .request("POST", "/v1/chat/completions")
        .body(json!({"model": "m", "stream": true}).to_string().into());
    let begin = Instant::now();
    let stream = world.send(request.expect("valid")).await;
    assert_eq!(stream.header("content-type"), "text/event-stream");
    let events = String::from_utf8_lossy(&stream.body);
    assert_eq!(events.matches("data: ").count(), 6);
    assert!(events.ends_with("data: [DONE]\n\n"));
    assert!(begin.elapsed() >= Duration::from_millis(500));
    let plain = world
        .post("/v1/chat/completions", &json!({"model": "m"}))
        .await;
    assert_eq!(plain.json()["object"], "chat.completion");
}

#[tokio::test(start_paused = true)]
async fn everything_can_be_steered_over_http() {
    let world = World::new().await;
    let id = world.held("kling", Status::InProgress);
    let status_path = format!("{UNIFIED}/{id}");
    let path = format!("/simulator/tasks/{id}");
    world.get(&status_path).await;
    let told = world.get(&path).await.json();
    assert_eq!(
        told["polls"],
        json!({"openai": 0, "total": 1, "unified": 1})
    );
    assert_eq!(told["truth"]["status"], "IN_PROGRESS");
    let forced = json!({"status": "FAILURE", "fail_reason": "no"});
    assert_eq!(
        world.post(&path, &forced).await.json()["truth"]["state"],
        "failed"
    );
    let row = world.get(&status_path).await.json();
    assert_eq!(row["data"]["fail_reason"], "no");
    let fault = json!({"fault": 503, "next": 1});
    let rules = world.post("/simulator/faults", &fault).await.json();
    assert_eq!(rules["rules"][0]["fault"], "503");
    assert_eq!(world.get(&status_path).await.status, 503);
    world
        .post(
            "/simulator/faults",
            &json!({"rules": [{"fault": "html"}, {"fault": "empty"}]}),
        )
        .await;
    assert_eq!(world.simulator.faults().rules().len(), 2);
    let request = world
        .request("DELETE", "/simulator/faults")
        .body(Full::default());
    world.send(request.expect("valid")).await;
    assert_eq!(world.simulator.faults().rules(), []);
    world.post("/simulator/keys/sk-K/revoke", &json!({})).await;
    assert_eq!(world.get(&status_path).await.status, 401);
    world.post("/simulator/keys/K/restore", &json!({})).await;
    assert_eq!(world.get(&status_path).await.status, 200);
    let gate = world
        .post("/simulator/gate", &json!({"closed": true}))
        .await
        .json();
    assert_eq!(gate, json!({"closed": true, "waiting": 0}));
    let overview = world.get("/simulator").await.json();
    assert_eq!(overview["counts"]["status_polls"], 5);
    assert_eq!(
        overview["counts"]["poll_answers"],
        json!({"200": 3, "401": 1, "503": 1})
    );
    assert_eq!(
        overview["tasks"],
        json!({"by_status": {"FAILURE": 1}, "total": 1})
    );
    let request = world.request("DELETE", "/simulator").body(Full::default());
    world.send(request.expect("valid")).await;
    assert_eq!(world.simulator.counts().requests, 0);
    assert_eq!(world.get(&status_path).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn wrong_orders_are_refused_with_what_would_be_right() {
    let world = World::new().await;
    let id = world.held("kling", Status::InProgress);
    let task = format!("/simulator/tasks/{id}");
    for (path, body, status, told) in [
        (
            "/simulator/faults",
            json!({"fault": "boom"}),
            400,
            "takes 429,",
        ),
        (
            "/simulator/faults",
            json!({"fault": "503", "rate": 7}),
            400,
            "from 0 to 1",
        ),
        (
            "/simulator/faults",
            json!({"fault": "503", "rate": 0.1, "next": 1}),
            400,
            "not both",
        ),
        (
            "/simulator/faults",
            json!({"rules": [{"flaut": "503"}]}),
            400,
            "flaut",
        ),
        (task.as_str(), json!({"status": "DONE"}), 400, "SUCCESS"),
        (
            task.as_str(),
            json!({"status": "SUCCESS", "progress": 101}),
            400,
            "percentage",
        ),
        (
            "/simulator/tasks/none",
            json!({"status": "SUCCESS"}),
            404,
            "no task `none`",
        ),
        ("/simulator/gate", json!({}), 400, "closed"),
        ("/simulator", json!({}), 405, "takes GET, DELETE"),
        (
            "/simulator/coffee",
            json!({}),
            404,
            "POST /simulator/faults",
        ),
    ] {
        let answer = world.post(path, &body).await;
        assert_eq!(answer.status, status, "{path} {body}");
        let error = answer.json();
        assert!(text(&error["error"]).contains(told), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_can_be_forced_to_have_no_url() {
    let world = World::new().await;
    let id = world.held("documented", Status::InProgress);
    let forced = Forced {
        url: Some(String::new()),
        ..Forced::from(Status::Success)
    };
    assert!(world.simulator.force(&id, forced));
    let answer = world.get(&format!("{UNIFIED}/{id}")).await.json();
    assert_eq!(
        (&answer["data"]["status"], &answer["data"]["url"]),
        (&json!("succeeded"), &json!(""))
    );
    assert!(!world.simulator.force("none", Status::Success));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_wait_for_a_stalled_answer() {
    let world = World::new().await;
    let id = world.held("documented", Status::InProgress);
    world.simulator.faults().set([Fault::Stall]);
    let request = world.request("GET", &format!("{OPENAI}/{id}"));
    let stalled = tokio::spawn(
        world
            .client
            .request(request.body(Full::default()).expect("valid")),
    );
    world.simulator.await_polls(1).await;
    world.stop.send(()).expect("still running");
    world.served.await.expect("no panic").expect("served");
    assert!(stalled.await.expect("no panic").is_err());
}
