//! `/simulator`: inspects and controls the simulator over HTTP, without a key.

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Simulator;
use super::channel::Channel;
use super::create;
use super::reply::Reply;
use super::rule::{Fault, Rule};
use super::status_route::StatusRoute;
use super::tasks::Forced;
use crate::sync::lock;

/// All endpoints, for error messages.
const ENDPOINTS: [&str; 10] = [
    "GET /simulator",
    "DELETE /simulator",
    "GET /simulator/tasks/{id}",
    "POST /simulator/tasks/{id}",
    "GET /simulator/faults",
    "POST /simulator/faults",
    "DELETE /simulator/faults",
    "POST /simulator/keys/{key}/revoke",
    "POST /simulator/keys/{key}/restore",
    "POST /simulator/gate",
];

/// Rules that replace all others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Replace {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GateRequest {
    closed: bool,
}

/// Answers a request below `/simulator`; `path` holds the remaining segments.
pub(super) async fn answer(
    simulator: &Simulator,
    method: &Method,
    path: &[String],
    body: Incoming,
) -> Reply {
    let path: Vec<&str> = path
        .iter()
        .map(String::as_str)
        .filter(|s| !s.is_empty())
        .collect();
    match (method.as_str(), path.as_slice()) {
        ("GET", []) => ok(&overview(simulator)),
        ("DELETE", []) => {
            simulator.reset();
            ok(&json!({"reset": true}))
        }
        ("GET", ["tasks", id]) => task(simulator, id),
        ("POST", ["tasks", id]) => match parsed::<Forced>(body).await {
            Ok(forced) if forced.progress.is_some_and(|percent| percent > 100) => refused(
                StatusCode::BAD_REQUEST,
                "progress is a percentage from 0 to 100",
            ),
            Ok(forced) => {
                simulator.force(id, forced);
                task(simulator, id)
            }
            Err(reply) => reply,
        },
        ("GET", ["faults"]) => faults(simulator),
        ("POST", ["faults"]) => match add_faults(simulator, body).await {
            Ok(()) => faults(simulator),
            Err(reply) => reply,
        },
        ("DELETE", ["faults"]) => {
            simulator.faults().clear();
            faults(simulator)
        }
        ("POST", ["keys", key, "revoke"]) => {
            if lock(&simulator.0.keys).revoke(key) {
                ok(&json!({"revoked": true}))
            } else {
                refused(StatusCode::CONFLICT, "too many keys are revoked")
            }
        }
        ("POST", ["keys", key, "restore"]) => {
            ok(&json!({"restored": lock(&simulator.0.keys).restore(key)}))
        }
        ("POST", ["gate"]) => match parsed::<GateRequest>(body).await {
            Ok(GateRequest { closed: true }) => {
                simulator.gate().close();
                ok(&gate(simulator))
            }
            Ok(GateRequest { closed: false }) => {
                simulator.gate().open();
                ok(&gate(simulator))
            }
            Err(reply) => reply,
        },
        (_, path) => unknown(method, path),
    }
}

fn overview(simulator: &Simulator) -> Value {
    let census = lock(&simulator.0.tasks).census(Instant::now());
    let total: usize = census.values().sum();
    json!({
        "base_url": simulator.base_url(),
        "channels": Channel::ALL.map(Channel::name),
        "counts": simulator.counts(),
        "faults": simulator.faults().rules(),
        "gate": gate(simulator),
        "status_routes": StatusRoute::ALL,
        "tasks": {"by_status": census, "total": total},
    })
}

fn gate(simulator: &Simulator) -> Value {
    let gate = simulator.gate();
    json!({"closed": gate.is_closed(), "waiting": gate.waiting().count()})
}

fn task(simulator: &Simulator, id: &str) -> Reply {
    let now = Instant::now();
    let tasks = lock(&simulator.0.tasks);
    let Some(task) = tasks.find(id) else {
        return refused(StatusCode::NOT_FOUND, &format!("no task `{id}`"));
    };
    let clock = simulator.0.clock;
    let history: Vec<_> = task
        .life
        .history(now)
        .map(|step| json!({"since": clock.unix(step.at), "status": step.status}))
        .collect();
    ok(&json!({
        "channel": task.channel,
        "created_at": clock.unix(task.created),
        "history": history,
        "id": task.id,
        "model": task.model,
        "polls": {
            "native": task.polls.native,
            "openai": task.polls.openai,
            "total": task.polls.total(),
            "unified": task.polls.unified,
        },
        "truth": task.life.truth(now),
    }))
}

fn faults(simulator: &Simulator) -> Reply {
    let names = Fault::ALL.map(Fault::name);
    ok(&json!({"names": names, "rules": simulator.faults().rules()}))
}

/// `{"fault":…}` adds a rule; `{"rules":[…]}` replaces all.
async fn add_faults(simulator: &Simulator, body: Incoming) -> Result<(), Reply> {
    let value: Value = parsed(body).await?;
    let wrong = |error: serde_json::Error| {
        let message = format!(
            "{error}; takes {{\"fault\":\"503\",\"rate\":0.1}} (or \"next\":3, and \"scope\", \"retry_after\") \
             to add a rule, {{\"rules\":[…]}} to replace all"
        );
        refused(StatusCode::BAD_REQUEST, &message)
    };
    if value.get("rules").is_some() {
        let replace: Replace = serde_json::from_value(value).map_err(wrong)?;
        simulator.faults().set(replace.rules);
    } else {
        simulator
            .faults()
            .add(serde_json::from_value::<Rule>(value).map_err(wrong)?);
    }
    Ok(())
}

async fn parsed<T: DeserializeOwned>(body: Incoming) -> Result<T, Reply> {
    let value = create::json(body).await.map_err(|error| {
        let (status, message) = error.describe();
        refused(status, &message)
    })?;
    serde_json::from_value(value)
        .map_err(|error| refused(StatusCode::BAD_REQUEST, &error.to_string()))
}

/// 405 if the path has another method, else 404 with a list of all endpoints.
fn unknown(method: &Method, path: &[&str]) -> Reply {
    let asked = path.join("/");
    let allowed: Vec<&str> = ENDPOINTS
        .iter()
        .filter_map(|endpoint| endpoint.split_once(" /simulator"))
        .filter(|(_, pattern)| matches(pattern, path))
        .map(|(method, _)| method)
        .collect();
    if allowed.is_empty() {
        let message = format!(
            "no such endpoint: /simulator/{asked}; endpoints: {}",
            ENDPOINTS.join(", ")
        );
        return refused(StatusCode::NOT_FOUND, &message);
    }
    let allowed = allowed.join(", ");
    let message = format!("/simulator/{asked} does not take {method}; takes {allowed}");
    let reply = refused(StatusCode::METHOD_NOT_ALLOWED, &message);
    reply.header(
        ALLOW,
        HeaderValue::from_str(&allowed).unwrap_or(HeaderValue::from_static("GET")),
    )
}

fn matches(pattern: &str, path: &[&str]) -> bool {
    let pattern: Vec<&str> = pattern.split('/').skip(1).collect();
    pattern.len() == path.len()
        && pattern
            .iter()
            .zip(path)
            .all(|(want, got)| want == got || want.starts_with('{'))
}

fn ok(value: &Value) -> Reply {
    Reply::json(StatusCode::OK, value)
}

fn refused(status: StatusCode, message: &str) -> Reply {
    Reply::json(status, &json!({"error": message}))
}
