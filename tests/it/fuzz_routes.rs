//! Any JSON from upstream, on any path, by any `[[route]]`: nothing panics, what is passed on is upstream's to the byte,
//! and nothing is remembered as an end that does not tell of one. `FUZZ_SEED` repeats a run, `FUZZ_CONFIGURATIONS` makes it
//! longer.

use std::fmt::Write as _;
use std::process::Output;

use bytes::Bytes;
use fastrand::Rng;
use http::{Method, Request, Uri};
use http_body_util::Full;
use pollgate::route::presets;
use serde_json::{Map, Value, json};

use crate::support::{Gateway, Reply, Upstream, binary};

/// Words for an end, from the documentation of upstream and its vendors, and those that no route lists.
const ENDS: [&str; 25] = [
    "success",
    "failed",
    "completed",
    "failure",
    "succeeded",
    "succeed",
    "cancelled",
    "error",
    "done",
    "complete",
    "finished",
    "fail",
    "canceled",
    "cancel",
    "aborted",
    "expired",
    "timeout",
    "rejected",
    "moderated",
    "content_moderated",
    "request_moderated",
    "ready",
    "active",
    "incomplete",
    "task_not_found",
];

/// Words of routes of one's own.
const OWN_WORDS: [&str; 7] = ["Fertig", "all good", "true", "1", "-", "完成", "?"];

/// Members that mean something on some route.
const MEMBERS: [&str; 24] = [
    "code",
    "data",
    "id",
    "task_id",
    "status",
    "state",
    "task_status",
    "Status",
    "url",
    "video_url",
    "output",
    "content",
    "result",
    "error",
    "message",
    "fail_reason",
    "progress",
    "created_at",
    "completed_at",
    "expires_at",
    "finish_time",
    "done",
    "videos",
    "é",
];

const POINTERS: [&str; 10] = [
    "/status",
    "/data/status",
    "/data/state",
    "/output/task_status",
    "/state",
    "/data/0/status",
    "/a~1b/status",
    "/done",
    "",
    "/é",
];

/// How often a configuration is asked.
const REQUESTS: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_any_route_nothing_is_remembered_as_an_end_that_does_not_tell_of_one() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let seed = number("FUZZ_SEED", fastrand::u64(..));
    println!("FUZZ_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let (mut refused, mut run, mut total) = (0, 0, Seen::default());
    while run < number("FUZZ_CONFIGURATIONS", 10) {
        let (mut routes, names) = (routes(&mut rng), names(&mut rng));
        let config = config(&names, &routes);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pollgate.toml");
        std::fs::write(&file, &config).expect("is written");
        let checked = binary().arg("check").arg("--config").arg(&file).output();
        if is_refused(&checked.expect("it runs"), &config) {
            refused += 1;
            continue;
        }
        run += 1;
        for name in names {
            // One of the routes may have changed it.
            if routes.iter().all(|route| route["name"] != name) {
                routes.push(json!({"name": name}));
            }
        }
        let upstream = Upstream::saying("{}").await;
        let gateway = Gateway::with_file(&upstream.url(), &file).await;
        for case in 0..REQUESTS {
            let key = format!("sk-{run}x{case}");
            total.add(ask(&mut rng, &upstream, &gateway, &routes, &key).await);
        }
        let log = gateway.log().join("\n");
        assert!(!log.contains("panicked"), "{config}\n{log}");
        upstream.now(|_| Reply::json("{}"));
        assert_eq!(gateway.get("/v1/models").await.status, 200, "{config}");
    }
    println!("{refused} configurations refused, {run} run: {total:?}");
    assert!(total.polls > total.all / 10, "{total:?}");
    assert!(total.kept > 0 && total.not_over > total.kept, "{total:?}");
}

/// Whether the configuration is refused, with a reason.
fn is_refused(output: &Output, config: &str) -> bool {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!error.contains("panicked"), "{error}\n{config}");
    match output.status.code() {
        Some(0) => false,
        Some(2) => {
            assert!(error.contains("route"), "{error}\n{config}");
            true
        }
        code => panic!("{code:?}: {error}\n{config}"),
    }
}

/// What became of the requests.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    all: usize,
    polls: usize,
    /// Polls whose second answer came from memory.
    kept: usize,
    /// Polls whose document told of no end.
    not_over: usize,
}

impl Seen {
    fn add(&mut self, one: Self) {
        self.all += one.all;
        self.polls += one.polls;
        self.kept += one.kept;
        self.not_over += one.not_over;
    }
}

/// Asks twice for one document. Nothing is fresh but an end.
async fn ask(
    rng: &mut Rng,
    upstream: &Upstream,
    gateway: &Gateway,
    routes: &[Value],
    key: &str,
) -> Seen {
    let poll = Poll::any(rng, routes);
    let status = rng.choice([200, 200, 200, 200, 200, 200, 203, 202, 302, 403, 404, 418]);
    let status = status.expect("one");
    let document = document(rng, &poll);
    let sent = document.clone();
    upstream.now(move |_| Reply::new(status, "application/json", sent.clone()));
    let over = poll.may_be_over(&document) && (200..300).contains(&status);
    let context = || {
        let document = String::from_utf8_lossy(&document);
        format!("{poll:?}: {status} {document}\n{routes:#?}")
    };
    let mut is_poll = false;
    let mut kept = false;
    for times in 1..=2 {
        let before = upstream.count();
        let answer = gateway.client.send(poll.request(gateway, key)).await;
        let told = answer.header("cache-status");
        is_poll |= !told.is_empty();
        assert!(!poll.is_converted() || upstream.count() > before || times > 1);
        if !poll.is_converted() {
            let got = (answer.status.as_u16(), &*answer.body);
            assert_eq!(got, (status, &*document), "{}", context());
        }
        if upstream.count() == before {
            assert!(times > 1 && over, "{told}: {}", context());
            kept = true;
        } else {
            assert_eq!(upstream.count(), before + 1, "{}", context());
            let asked = upstream.asked().pop().expect("was asked");
            assert_eq!((&asked.method, &asked.body), (&poll.method, &poll.body));
            assert!(poll.is_converted() || asked.target == poll.target);
        }
    }
    Seen {
        all: 1,
        polls: usize::from(is_poll),
        kept: usize::from(kept),
        not_over: usize::from(is_poll && !over),
    }
}

/// One request.
#[derive(Debug)]
struct Poll {
    method: Method,
    target: String,
    body: Bytes,
    id: String,
    /// Where its route looks for the status word; nowhere of its own where the request is not quite for it.
    pointers: Vec<String>,
    words: Vec<String>,
}

impl Poll {
    /// One that a route is made for, or nearly so.
    fn any(rng: &mut Rng, routes: &[Value]) -> Self {
        let ids = [
            "t",
            "task_1",
            "7",
            "a%2Fb",
            "a:b=",
            "%E4%BB%BB",
            "-",
            "list",
        ];
        let id = (*rng.choice(&ids).expect("one")).to_owned();
        let route = rng.choice(routes).expect("one");
        let preset = preset(&route["name"]);
        let of = |key: &str| {
            [&route[key], &preset[key]]
                .into_iter()
                .find(|value| !value.is_null())
        };
        let all = |key: &str| of(key).map_or_else(Vec::new, texts);
        let template = rng.choice(all("path")).unwrap_or_else(|| "/{id}".into());
        let segments = template.split('/').map(|segment| match segment {
            "{id}" => id.as_str(),
            segment if segment.starts_with('{') => "any",
            segment => segment,
        });
        let mut target = segments.collect::<Vec<_>>().join("/");
        let mut query = all("when");
        let mut body = Bytes::new();
        let place = all("id").concat();
        if let Some(name) = place.strip_prefix("query:") {
            query.push(format!("{name}={id}"));
        }
        if let Some(pointer) = place.strip_prefix("body:") {
            let mut document = json!({});
            let ids = if rng.bool() { json!([id]) } else { json!(id) };
            put(&mut document, pointer, ids);
            body = document.to_string().into();
        }
        if rng.u8(..4) == 0 {
            query.push("x=1".into());
        }
        if !query.is_empty() {
            let _ = write!(target, "?{}", query.join("&"));
        }
        let mut method = match all("method").concat().as_str() {
            "POST" => Method::POST,
            _ => Method::GET,
        };
        let exact = (method.clone(), target.clone());
        // Not quite what the route is for.
        match rng.u8(..12) {
            0 => target.push('/'),
            1 => target = target.replacen('/', "//", 1),
            2 => target = format!("/x{target}"),
            3 => method = Method::POST,
            4 => method = Method::GET,
            5 => target = target.replacen("task", "Task", 1),
            _ => {}
        }
        if target.parse::<Uri>().is_err() || !target.starts_with('/') {
            "/odd".clone_into(&mut target);
        }
        let is_exact = exact == (method.clone(), target.clone());
        let tells_of_one = is_exact && of("each").is_none();
        Self {
            method,
            target,
            body,
            id,
            pointers: if tells_of_one {
                all("status")
            } else {
                Vec::new()
            },
            words: [all("succeeded"), all("failed")].concat(),
        }
    }

    /// Whether a document tells, or may be taken to tell, that the task is over. Where the route has a place of its own for
    /// the status word, and there is one, it alone counts.
    fn may_be_over(&self, document: &[u8]) -> bool {
        let Ok(value) = serde_json::from_slice::<Value>(document) else {
            return false;
        };
        let mut found = self
            .pointers
            .iter()
            .filter_map(|pointer| value.pointer(pointer));
        let text = String::from_utf8_lossy(document);
        match found.find(|word| !word.is_null()) {
            Some(Value::String(word)) => is_end(word),
            Some(other) => is_end(&other.to_string()),
            // A member may be there twice.
            None => tells_end(&value) || text.split('"').any(is_end),
        }
    }

    /// Whether it may be on one of the two routes whose documents convert.
    fn is_converted(&self) -> bool {
        let is_below = |path| self.target.starts_with(path);
        is_below("/v1/videos/") || is_below("/v1/video/generations/")
    }

    fn request(&self, gateway: &Gateway, key: &str) -> Request<Full<Bytes>> {
        Request::builder()
            .method(&self.method)
            .uri(gateway.client.url(&self.target))
            .header("authorization", format!("Bearer {key}"))
            .header("content-type", "application/json")
            .body(Full::new(self.body.clone()))
            .expect("a request")
    }
}

/// Every preset, as a file would spell it.
fn all_presets() -> Vec<Value> {
    let spelled = presets()
        .iter()
        .map(|one| serde_json::to_value(one).expect("JSON"));
    spelled.collect()
}

fn preset(name: &Value) -> Value {
    let found = all_presets()
        .into_iter()
        .find(|preset| preset["name"] == *name);
    found.unwrap_or_default()
}

/// The text, or the texts of a list.
fn texts(value: &Value) -> Vec<String> {
    let items = value
        .as_array()
        .map_or(std::slice::from_ref(value), Vec::as_slice);
    let texts = items
        .iter()
        .filter_map(|item| Some(item.as_str()?.to_owned()));
    texts.collect()
}

/// Routes as a person may write them: most with a meaning, some on the paths of a preset, some wrong.
fn routes(rng: &mut Rng) -> Vec<Value> {
    (0..rng.usize(1..4))
        .map(|number| route(rng, number))
        .collect()
}

fn route(rng: &mut Rng, number: usize) -> Value {
    let mut route = match rng.u8(..16) {
        0..=3 => json!({"name": rng.choice(all_presets()).expect("one")["name"]}),
        4..=6 => json!({"method": "POST", "path": format!("/own{number}/fetch"),
            "id": some(rng, &["body:/id", "body:/ids", "body:/a/0", "body:/a~1b"])}),
        7 => json!({"path": format!("/own{number}/query"), "id": "query:id"}),
        8 => json!({"path": format!("/own{number}/{{a}}/{{id}}/{{a}}/x")}),
        9 => json!({"path": "/{a}/{b}/{id}"}),
        10 => {
            json!({"path": some(rng, &["", "own/{id}", "/a b/{id}", "/{id}/{id}", "/é/{id}", "/x{id}", "/own"])})
        }
        _ => {
            json!({"path": [format!("/own{number}/task/{{id}}"), format!("/own{number}/{{mode}}/t/{{id}}/x")]})
        }
    };
    let own_name = || json!(format!("own-{number}"));
    let members = route.as_object_mut().expect("an object");
    members.entry("name").or_insert_with(own_name);
    for (key, values) in [
        ("when", json!(["Action=Get", ["Action=Get", "v=1"]])),
        ("unless", json!(["x", ["stream", "x"]])),
        ("succeeded", json!(OWN_WORDS)),
        ("failed", json!(OWN_WORDS)),
        ("each", json!(["", "/data", "/data/list"])),
        ("keep", json!(["task", "share"])),
        ("max_ttl", json!(["50m", "0s", "1h"])),
        ("errors", json!(["newapi", "openai", "mj"])),
    ] {
        if rng.u8(..6) == 0 {
            let value = rng.choice(values.as_array().expect("a list"));
            members.insert(key.to_owned(), value.expect("one").clone());
        }
    }
    for key in ["status", "result", "error", "progress", "volatile"] {
        if rng.bool() {
            let pointers: Vec<_> = (0..rng.usize(..3)).map(|_| some(rng, &POINTERS)).collect();
            members.insert(key.to_owned(), json!(pointers));
        }
    }
    // Wrong.
    if rng.u8(..24) == 0 {
        let keys: Vec<_> = members.keys().cloned().collect();
        let key = rng.choice(keys).expect("one");
        let value = [
            json!(7),
            json!("?"),
            json!(["/ok", 1]),
            json!({"a": "b"}),
            json!([]),
        ];
        members.insert(key, rng.choice(value).expect("one"));
    }
    route
}

fn some(rng: &mut Rng, texts: &[&str]) -> String {
    (*rng.choice(texts).expect("one")).to_owned()
}

/// The presets that are on.
fn names(rng: &mut Rng) -> Vec<Value> {
    let all = all_presets().into_iter().map(|one| one["name"].clone());
    match rng.u8(..3) {
        0 => Vec::new(),
        1 => all.collect(),
        _ => vec![json!("kling"), json!("suno-batch")],
    }
}

fn config(names: &[Value], routes: &[Value]) -> String {
    let config = json!({
        "cache": {"in_flight_ttl": "0s", "missing_ttl": "0s", "adaptive": false},
        "log": {"level": "trace"},
        "routes": {"presets": names},
        "route": routes,
    });
    toml::to_string(&config).expect("TOML")
}

/// A document, often one that means something on the route, and now and then a broken one.
fn document(rng: &mut Rng, poll: &Poll) -> Bytes {
    let may_end = rng.bool();
    let word = |rng: &mut Rng| word(rng, poll, may_end);
    let mut document = match rng.u8(..6) {
        0 => json!({"id": poll.id, "status": word(rng), "video_url": "https://h/v.mp4"}),
        1 => {
            json!({"code": "success", "data": {"task_id": poll.id, "status": word(rng), "url": "https://h/v"}})
        }
        2 => json!([{"id": poll.id, "status": word(rng)}, {"id": "u", "status": word(rng)}]),
        3 => json!({"data": [{"task_id": poll.id, "status": word(rng), "fail_reason": "boom"}]}),
        _ => any_value(rng, 4, &word),
    };
    if rng.bool() {
        for pointer in &poll.pointers {
            let value = word(rng);
            put(&mut document, pointer, value);
        }
    }
    if rng.bool()
        && let Value::Object(members) = &mut document
        && let Value::Object(more) = any_value(rng, 3, &word)
    {
        members.extend(more);
    }
    let mut text = document.to_string().into_bytes();
    if !poll.is_converted() && poll.pointers.is_empty() {
        let at = rng.usize(..text.len());
        match rng.u8(..16) {
            0 => text.truncate(at),
            1 => text[at] = rng.u8(..),
            2 => drop(text.drain(at..)),
            _ => {}
        }
    }
    text.into()
}

fn word(rng: &mut Rng, poll: &Poll, may_end: bool) -> Value {
    let end = match rng.choice(&poll.words) {
        Some(own) if rng.bool() => own.as_str(),
        // The common ones come first.
        _ => ENDS[rng.usize(..ENDS.len()).min(rng.usize(..ENDS.len()))],
    };
    let word = match rng.u8(..if may_end { 16 } else { 9 }) {
        9.. => match rng.u8(..3) {
            0 => end.to_uppercase(),
            1 => format!(" {} ", end.replace('_', " ")),
            _ => end.to_owned(),
        },
        // Nearly a word for an end.
        2 => format!("{end}!"),
        3 => format!("not {end}"),
        4 => format!("{end}{end}"),
        5 => end.chars().flat_map(|c| [c, '\u{200b}']).collect(),
        6 => {
            return rng
                .choice([json!(null), json!(7), json!({}), json!([])])
                .expect("one");
        }
        7 => some(rng, &["", "processing", "QUEUED", "In-Progress", "unknown"]),
        _ => some(
            rng,
            &["https://h/v.mp4", "boom", "100%", "task_not_exist", "任务"],
        ),
    };
    word.into()
}

fn any_value(rng: &mut Rng, depth: usize, word: &impl Fn(&mut Rng) -> Value) -> Value {
    match rng.u8(..8) {
        0 if depth > 0 => (0..rng.usize(..4))
            .map(|_| any_value(rng, depth - 1, word))
            .collect(),
        1..=4 if depth > 0 => {
            let members =
                (0..rng.usize(..6)).map(|_| (some(rng, &MEMBERS), any_value(rng, depth - 1, word)));
            Value::Object(members.collect::<Map<_, _>>())
        }
        5 => rng.i32(..).into(),
        _ => word(rng),
    }
}

/// Puts a value where a pointer leads to, in the place of what is in the way.
fn put(document: &mut Value, pointer: &str, value: Value) {
    let mut place = document;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        if let (Value::Array(items), Ok(index)) = (&*place, token.parse::<usize>())
            && index < items.len()
        {
            place = &mut place[index];
            continue;
        }
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[&token];
    }
    *place = value;
}

/// Whether any value is a word for an end.
fn tells_end(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(tells_end),
        Value::Object(members) => members.values().any(tells_end),
        Value::String(text) => is_end(text),
        other => is_end(&other.to_string()),
    }
}

/// Whether it is a word for an end, in any case and spelling.
fn is_end(word: &str) -> bool {
    let normal = |word: &str| word.trim().to_lowercase().replace(['-', ' '], "_");
    let mut ends = ENDS.into_iter().chain(OWN_WORDS);
    ends.any(|end| normal(end) == normal(word))
}
