//! Every exchange of `tests/wire`: what programs met on the wire, through the running gateway, on both paths and in every
//! rendering. A file's form:
//!
//! ```text
//! about        what it is about
//! settings     settings of the gateway beside the rendering: {"cache.in_flight_ttl": "0s"}
//! renderings   those it is tried in; all three by default
//! paths        those it is tried on, with {task} in them; by default the two status paths
//! steps        what happens, one after the other
//!   upstream     what upstream answers from now on: {status, headers, body | raw | base64}; 200 and JSON by default
//!   request      what a client asks: {method, task, headers}; GET of task_1 by default
//!   eventually   whether it asks again until it gets what is expected
//!   expect       what it gets: a list of {status, headers, body, untouched, asked, upstream_headers}, each on the path and in
//!                the renderings that `on` (unified, openai) and `renderings` name, or else everywhere
//! ```
//!
//! `body` names the members that count, `untouched` says that it is upstream's, byte for byte, `asked` is how often upstream
//! was asked since the first step, `upstream_headers` are those of its last request. An expected text that begins with `~`
//! has to be part of the one that came; so has every expected header. `null` for a header means that there is none, a number
//! for `cache-status` is its `ttl`, give or take the seconds that the test may take.
//!
//! In texts `<task>` is the task's id, `<letters N>` a text of N letters, `<now+N>` a time in Unix seconds (a number, where it
//! is all of the text), `<hex now+N>` the same in hexadecimal, `<jwt now+N>` a JWT that ends then.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::Full;
use serde_json::Value;

use crate::support::{Answer, Client, Gateway, Reply, Upstream, eventually};

/// The paths that an exchange is tried on unless it names others.
const PATHS: [&str; 2] = ["/v1/videos/{task}", "/v1/video/generations/{task}"];

/// How much later than a file says something may happen, in seconds.
const TOLERANCE: i64 = 15;

#[tokio::test]
async fn every_exchange_in_the_faithful_rendering() {
    try_every_exchange("faithful").await;
}

#[tokio::test]
async fn every_exchange_in_the_documented_rendering() {
    try_every_exchange("documented").await;
}

#[tokio::test]
async fn every_exchange_in_the_verbatim_rendering() {
    try_every_exchange("verbatim").await;
}

async fn try_every_exchange(rendering: &str) {
    let mut tried = 0;
    for (name, exchange) in exchanges() {
        let renderings = &exchange["renderings"];
        if renderings.is_null() || names(renderings, rendering) {
            run(&name, &exchange, rendering).await;
            tried += 1;
        }
    }
    assert!(tried > 5, "only {tried} exchanges");
}

fn exchanges() -> Vec<(String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire");
    let mut exchanges: Vec<_> = std::fs::read_dir(folder)
        .expect("is there")
        .map(|entry| {
            let path = entry.expect("is readable").path();
            let text = std::fs::read_to_string(&path).expect("a file");
            let exchange = serde_json::from_str(&text);
            let name = path.file_stem().expect("a name").to_string_lossy();
            (
                name.clone().into_owned(),
                exchange.unwrap_or_else(|error| panic!("{name}: {error}")),
            )
        })
        .collect();
    exchanges.sort_by(|(a, _), (b, _)| a.cmp(b));
    exchanges
}

/// One exchange, on each of its paths.
async fn run(name: &str, exchange: &Value, rendering: &str) {
    let upstream = Upstream::saying("{}").await;
    let mut settings = vec![("answers.rendering", rendering)];
    for (key, value) in exchange["settings"].as_object().into_iter().flatten() {
        settings.push((key, value.as_str().expect("a text")));
    }
    let gateway = Gateway::start(&upstream.url(), &settings).await;
    let paths = match exchange["paths"].as_array() {
        Some(paths) => paths
            .iter()
            .map(|path| path.as_str().expect("a text"))
            .collect(),
        None => PATHS.to_vec(),
    };
    for (number, path) in paths.into_iter().enumerate() {
        let mut scene = Scene {
            upstream: &upstream,
            client: &gateway.client,
            path,
            rendering,
            // each path has a caller of its own, for whom nothing is remembered
            key: format!("sk-{number}"),
            asked_before: upstream.count(),
            sent: Bytes::new(),
        };
        let steps = exchange["steps"].as_array().expect("steps");
        for (number, step) in steps.iter().enumerate() {
            let about = format!("{name}, step {number}, on {path}, {rendering}");
            scene.step(step, &about).await;
        }
    }
}

/// Where an exchange takes place, and how far it has come.
struct Scene<'a> {
    upstream: &'a Upstream,
    client: &'a Client,
    path: &'a str,
    rendering: &'a str,
    key: String,
    asked_before: usize,
    /// The body that upstream answers with.
    sent: Bytes,
}

impl Scene<'_> {
    async fn step(&mut self, step: &Value, about: &str) {
        let task = step["request"]["task"].as_str().unwrap_or("task_1");
        let step = filled(step, task);
        if !step["upstream"].is_null() {
            self.answer_with(&step["upstream"]);
        }
        let expected: Vec<_> = step["expect"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|expected| self.concerns(expected))
            .collect();
        let attempt = async || {
            let answer = self.ask(&step["request"], task).await;
            let checks = expected
                .iter()
                .map(|expected| self.check(expected, &answer));
            (checks.collect::<Result<Vec<_>, _>>(), answer)
        };
        if step["eventually"] == true {
            eventually(about, async || attempt().await.0.is_ok()).await;
        } else {
            let (checked, answer) = attempt().await;
            checked.unwrap_or_else(|why| panic!("{about}: {why}: {answer:?}"));
        }
    }

    fn answer_with(&mut self, told: &Value) {
        let body = match (&told["raw"], &told["base64"]) {
            (Value::String(raw), _) => raw.clone().into(),
            (_, Value::String(base64)) => BASE64_STANDARD.decode(base64).expect("base64").into(),
            _ if told["body"].is_null() => Bytes::new(),
            _ => told["body"].to_string().into(),
        };
        let status = told["status"]
            .as_u64()
            .map_or(200, |status| status.try_into().expect("a status"));
        let headers = &told["headers"];
        let content_type = headers["content-type"]
            .as_str()
            .unwrap_or("application/json");
        let mut reply = Reply::new(status, content_type, body.clone());
        for (name, value) in headers.as_object().into_iter().flatten() {
            if name != "content-type" {
                reply = reply.with(name.clone(), value.as_str().expect("a text"));
            }
        }
        self.sent = body;
        self.upstream.now(move |_| reply.clone());
    }

    async fn ask(&self, request: &Value, task: &str) -> Answer {
        let method = request["method"].as_str().unwrap_or("GET");
        let mut asked = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).expect("a method"))
            .uri(self.client.url(&self.path.replace("{task}", task)));
        let headers = request["headers"].as_object();
        if headers.is_none_or(|headers| !headers.contains_key("authorization")) {
            asked = asked.header("authorization", format!("Bearer {}", self.key));
        }
        for (name, value) in headers.into_iter().flatten() {
            asked = asked.header(name, value.as_str().expect("a text"));
        }
        self.client.send(asked.body(Full::default()).unwrap()).await
    }

    /// Whether an expectation is of this path and this rendering.
    fn concerns(&self, expected: &Value) -> bool {
        let dialect = if self.path.starts_with("/v1/videos/") {
            "openai"
        } else {
            "unified"
        };
        let renderings = &expected["renderings"];
        (expected["on"].is_null() || expected["on"] == dialect)
            && (renderings.is_null() || names(renderings, self.rendering))
    }

    fn check(&self, expected: &Value, answer: &Answer) -> Result<(), String> {
        if let Some(status) = expected["status"].as_u64()
            && status != u64::from(answer.status.as_u16())
        {
            return Err(format!("{} instead of {status}", answer.status));
        }
        check_headers(&expected["headers"], &answer.headers)?;
        if expected["untouched"] == true && answer.body != self.sent {
            return Err("not upstream's own bytes".into());
        }
        if !expected["body"].is_null() {
            let body = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
            check_members("", &expected["body"], &body)?;
        }
        let asked = self.upstream.asked();
        let times = asked.len() - self.asked_before;
        if let Some(expected) = expected["asked"].as_u64()
            && expected != times as u64
        {
            return Err(format!(
                "upstream was asked {times} times instead of {expected}"
            ));
        }
        match (&expected["upstream_headers"], asked.last()) {
            (Value::Null, _) => Ok(()),
            (_, None) => Err("upstream was not asked".into()),
            (expected, Some(last)) => check_headers(expected, &last.headers),
        }
    }
}

fn names(list: &Value, word: &str) -> bool {
    let list = list.as_array().expect("a list");
    list.iter().any(|named| named == word)
}

fn check_headers(expected: &Value, headers: &HeaderMap) -> Result<(), String> {
    for (name, expected) in expected.as_object().into_iter().flatten() {
        let value = headers.get(name).map(|value| value.to_str().expect("text"));
        let fits = match (expected, value) {
            (Value::Null, value) => value.is_none(),
            (Value::String(part), Some(value)) => value.contains(part.as_str()),
            (Value::Number(ttl), Some(value)) => ttl_of(value).is_some_and(|left| {
                let most = ttl.as_i64().expect("whole seconds");
                (most - TOLERANCE..=most).contains(&left)
            }),
            _ => false,
        };
        if !fits {
            return Err(format!("{name} is {value:?} instead of {expected}"));
        }
    }
    Ok(())
}

/// The `ttl` of a `cache-status`.
fn ttl_of(cache_status: &str) -> Option<i64> {
    let mut parameters = cache_status.split(';').map(str::trim);
    parameters
        .find_map(|parameter| parameter.strip_prefix("ttl="))?
        .parse()
        .ok()
}

/// Whether all that is expected is there; more may be.
fn check_members(path: &str, expected: &Value, value: &Value) -> Result<(), String> {
    match (expected, value) {
        (Value::Object(expected), Value::Object(_)) => {
            expected.iter().try_for_each(|(name, expected)| {
                check_members(&format!("{path}/{name}"), expected, &value[name])
            })
        }
        (Value::String(expected), Value::String(text)) if expected.starts_with('~') => {
            let is_part = text.contains(&expected[1..]);
            is_part
                .then_some(())
                .ok_or_else(|| format!("{path} is {text:?}, without {expected}"))
        }
        _ if expected == value => Ok(()),
        _ => Err(format!("{path} is {value} instead of {expected}")),
    }
}

/// A step with everything in place of its placeholders.
fn filled(value: &Value, task: &str) -> Value {
    match value {
        Value::String(text) => filled_text(text, task),
        Value::Array(items) => items.iter().map(|item| filled(item, task)).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| (name.clone(), filled(value, task)))
            .collect(),
        other => other.clone(),
    }
}

fn filled_text(text: &str, task: &str) -> Value {
    let alone = text
        .strip_prefix('<')
        .and_then(|text| text.strip_suffix('>'));
    if let Some(time) = alone.and_then(time) {
        return time.into();
    }
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, name, after)) = next_placeholder(rest) {
        let value = placeholder(name, task).unwrap_or_else(|| format!("<{name}>"));
        filled.extend([before, &value]);
        rest = after;
    }
    filled.push_str(rest);
    filled.into()
}

fn next_placeholder(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('<')?;
    let (name, after) = rest.split_once('>')?;
    Some((before, name, after))
}

fn placeholder(name: &str, task: &str) -> Option<String> {
    if name == "task" {
        return Some(task.to_owned());
    }
    match name.split_once(' ') {
        None => Some(time(name)?.to_string()),
        Some(("hex", name)) => Some(format!("{:x}", time(name)?)),
        Some(("jwt", name)) => Some(jwt(time(name)?)),
        Some(("letters", count)) => Some("A".repeat(count.parse().ok()?)),
        Some(_) => None,
    }
}

/// `now+N`, in Unix seconds.
fn time(text: &str) -> Option<u64> {
    let offset = text.strip_prefix("now")?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let offset = if offset.is_empty() {
        Some(0)
    } else {
        offset.strip_prefix('+')?.parse().ok()
    };
    Some(now.as_secs() + offset?)
}

fn jwt(expiry: u64) -> String {
    let [header, claims] = [
        r#"{"alg":"HS256"}"#.to_owned(),
        format!(r#"{{"exp":{expiry}}}"#),
    ];
    let [header, claims] = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    format!("{header}.{claims}.c2ln")
}
