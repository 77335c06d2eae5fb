//! The status routes beside the two of the video API, and their create requests.

use std::time::Duration;

use http_body_util::Full;
use pollgate::simulator::{Fault, Rule, Scope, Status, StatusRoute, TaskOptions};
use serde_json::{Value, json};
use tokio::time::advance;

use crate::world::{OPENAI, World, text};

/// Documents of each route as the real APIs answer them, one a line.
const DOCUMENTS: &str = include_str!("routes.jsonl");

/// A route as a client sees it.
struct Api {
    name: &'static str,
    /// Path and body of a create request.
    create: &'static str,
    body: fn() -> Value,
    /// Where the id is in the answer.
    created_id: &'static str,
    poll: fn(&str) -> String,
    /// Where the id, the status, the result and the failure reason are in a document.
    id: &'static str,
    status: &'static str,
    result: &'static str,
    reason: &'static str,
    /// Statuses of a task that is queued, in progress, succeeded and failed.
    statuses: [&'static str; 4],
    /// Answer for an unknown task.
    missing: (u16, fn() -> Value),
}

const APIS: [Api; 6] = [
    Api {
        name: "octopus",
        create: "/v1/video/create",
        body: || json!({"model": "veo3.1", "prompt": "a cat"}),
        created_id: "/id",
        poll: |id| format!("/v1/video/query?id={id}"),
        id: "/id",
        status: "/status",
        result: "/video_url",
        reason: "/error",
        statuses: ["pending", "processing", "completed", "failed"],
        missing: (400, task_not_exist),
    },
    Api {
        name: "mj",
        create: "/mj/submit/imagine",
        body: || json!({"prompt": "a cat"}),
        created_id: "/result",
        poll: |id| format!("/mj/task/{id}/fetch"),
        id: "/id",
        status: "/status",
        result: "/imageUrl",
        reason: "/failReason",
        statuses: ["SUBMITTED", "IN_PROGRESS", "SUCCESS", "FAILURE"],
        missing: (
            400,
            || json!({"code": 4, "description": "task_no_found ", "type": "upstream_error"}),
        ),
    },
    Api {
        name: "kling",
        create: "/kling/v1/videos/text2video",
        body: || json!({"model_name": "kling-v1-6", "prompt": "a cat"}),
        created_id: "/data/task_id",
        poll: |id| format!("/kling/v1/videos/text2video/{id}"),
        id: "/data/task_id",
        status: "/data/task_status",
        result: "/data/task_result/videos/0/url",
        reason: "/data/task_status_msg",
        statuses: ["submitted", "processing", "succeed", "failed"],
        missing: (
            404,
            || json!({"code": "task_not_found", "message": "Task not found"}),
        ),
    },
    Api {
        name: "suno",
        create: "/suno/submit/MUSIC",
        body: || json!({"mv": "chirp-v4", "prompt": "a song"}),
        created_id: "/data",
        poll: |id| format!("/suno/fetch/{id}"),
        id: "/data/task_id",
        status: "/data/status",
        result: "/data/data/0/audio_url",
        reason: "/data/fail_reason",
        statuses: ["SUBMITTED", "IN_PROGRESS", "SUCCESS", "FAILURE"],
        missing: (400, task_not_exist),
    },
    Api {
        name: "tasks",
        create: "/v1/tasks/doubao",
        body: || json!({"model": "doubao-seedance", "prompt": "a cat"}),
        created_id: "/task_id",
        poll: |id| format!("/v1/tasks/{id}"),
        id: "/task_id",
        status: "/status",
        // There is none.
        result: "",
        reason: "/fail_reason",
        statuses: ["SUBMITTED", "IN_PROGRESS", "SUCCESS", "FAILURE"],
        missing: (
            404,
            || json!({"error": {"message": "Task not found", "type": "invalid_request_error"}}),
        ),
    },
    Api {
        name: "ark",
        create: "/api/v3/contents/generations/tasks",
        body: || json!({"model": "doubao-seedance", "content": [{"type": "text", "text": "a cat"}]}),
        created_id: "/id",
        poll: |id| format!("/api/v3/contents/generations/tasks/{id}"),
        id: "/id",
        status: "/status",
        result: "/content/video_url",
        reason: "/error/message",
        statuses: ["queued", "running", "succeeded", "failed"],
        missing: (
            404,
            || json!({"error": {"code": "task_not_found", "message": "Task not found"}}),
        ),
    },
];

fn task_not_exist() -> Value {
    json!({"code": "task_not_exist", "message": "task_not_exist", "data": null})
}

fn at<'a>(document: &'a Value, pointer: &str) -> &'a str {
    document
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_else(|| panic!("no {pointer} in {document}"))
}

/// Creates a task through a route that ends after ten seconds, and returns its id.
async fn create(world: &World, api: &Api, outcome: &str) -> String {
    let mut body = (api.body)();
    body["simulate"] = json!({"lifetime": "10s", "outcome": outcome, "fail_reason": "no & no"});
    let answer = world.post(api.create, &body).await;
    assert_eq!(answer.status, 200, "{}", api.name);
    at(&answer.json(), api.created_id).to_owned()
}

async fn poll(world: &World, api: &Api, id: &str) -> Value {
    let answer = world.get(&(api.poll)(id)).await;
    assert_eq!(answer.status, 200, "{}", api.name);
    assert_eq!(answer.header("content-type"), "application/json");
    answer.json()
}

#[tokio::test(start_paused = true)]
async fn a_task_runs_from_its_creation_to_its_end_on_every_route() {
    let world = World::new().await;
    for api in &APIS {
        let id = create(&world, api, "succeeded").await;
        let failing = create(&world, api, "failed").await;
        assert_ne!(id, failing);
        let [queued, running, succeeded, failed] = api.statuses;
        for (step, status) in [(0, queued), (5, running), (6, succeeded)] {
            advance(Duration::from_secs(step)).await;
            let document = poll(&world, api, &id).await;
            assert_eq!(at(&document, api.id), id, "{}", api.name);
            assert_eq!(at(&document, api.status), status, "{}", api.name);
        }
        if !api.result.is_empty() {
            let document = poll(&world, api, &id).await;
            let result = at(&document, api.result);
            let base = world.simulator.base_url();
            assert!(result.starts_with(&base), "{}: {result}", api.name);
            assert_eq!(world.get(result).await.status, 200, "{}", api.name);
        }
        let document = poll(&world, api, &failing).await;
        assert_eq!(at(&document, api.status), failed, "{}", api.name);
        assert_eq!(at(&document, api.reason), "no & no", "{}", api.name);
    }
}

#[tokio::test(start_paused = true)]
async fn every_document_has_the_members_of_the_real_one() {
    /// Replaces every scalar by the name of its type.
    fn shape(value: &Value) -> Value {
        match value {
            Value::Null => Value::Null,
            Value::Bool(_) => "bool".into(),
            Value::Number(_) => "number".into(),
            Value::String(_) => "string".into(),
            Value::Array(items) => items.iter().map(shape).collect(),
            Value::Object(members) => members
                .iter()
                .map(|(name, member)| (name.clone(), shape(member)))
                .collect(),
        }
    }
    let world = World::new().await;
    let mut seen = 0;
    for line in DOCUMENTS.lines() {
        let case: Value = serde_json::from_str(line).expect("JSON");
        let api = APIS.iter().find(|api| api.name == text(&case["route"]));
        let api = api.expect("a route");
        let options = TaskOptions {
            status: Some(serde_json::from_value(case["status"].clone()).expect("a status")),
            fail_reason: (case["model"] == "cancelling").then(String::new),
            ..TaskOptions::default()
        };
        let id = world.simulator.create("K", text(&case["model"]), options);
        let document = poll(&world, api, &id.expect("an id")).await;
        assert_eq!(shape(&document), shape(&case["body"]), "{line}\n{document}");
        assert_eq!(
            document.pointer(api.status),
            case["body"].pointer(api.status),
            "{line}"
        );
        seen += 1;
    }
    assert_eq!(seen, 23);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_task_and_one_of_another_key_are_missing_in_the_format_of_the_route() {
    let world = World::new().await;
    for api in &APIS {
        let id = create(&world, api, "succeeded").await;
        let (status, body) = api.missing;
        let unknown = world.get(&(api.poll)("none")).await;
        let foreign = world.as_key("Bearer sk-L", &(api.poll)(&id)).await;
        world
            .simulator
            .faults()
            .set([Rule::new(Fault::TaskNotExist).next(1)]);
        let injected = world.get(&(api.poll)(&id)).await;
        for answer in [unknown, foreign, injected] {
            assert_eq!(answer.status, status, "{}", api.name);
            assert_eq!(answer.json(), body(), "{}", api.name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn polls_of_every_route_are_counted_and_a_fault_can_cover_one_route() {
    let world = World::new().await;
    for api in &APIS {
        let id = create(&world, api, "succeeded").await;
        let route: Scope = serde_json::from_value(api.name.into()).expect("a scope");
        world
            .simulator
            .faults()
            .set([Rule::new(Fault::Unavailable).on(route)]);
        assert_eq!(world.get(&(api.poll)(&id)).await.status, 503);
        assert_eq!(world.get(&format!("{OPENAI}/{id}")).await.status, 200);
        world.simulator.faults().clear();
        poll(&world, api, &id).await;
        assert_eq!(world.simulator.polls_of(&id), 3, "{}", api.name);
    }
    let counts = world.simulator.counts();
    assert_eq!(counts.status_polls, 18);
    assert_eq!(counts.openai_polls, 6);
    assert_eq!(counts.creates, 6);
    assert_eq!(counts.native_polls.len(), 6);
    assert!(counts.native_polls.values().all(|polls| *polls == 2));
    assert_eq!(counts.native_polls.get(&StatusRoute::Mj), Some(&2));
}

#[tokio::test(start_paused = true)]
async fn only_get_polls_and_a_mode_or_prefix_is_part_of_the_path() {
    let world = World::new().await;
    let id = world.held("row", Status::InProgress);
    for path in [
        format!("/mj-fast/mj/task/{id}/fetch"),
        format!("/doubao/api/v3/contents/generations/tasks/{id}"),
        format!("/seedance/v3/contents/generations/tasks/{id}"),
        format!("/kling/v1/images/generations/{id}"),
    ] {
        let document = world.get(&path).await.json();
        assert!(document.to_string().contains(&id), "{path}");
    }
    let polls = world.simulator.counts().status_polls;
    for method in ["HEAD", "DELETE", "POST"] {
        let request = world.request(method, &format!("/suno/fetch/{id}"));
        world
            .send(request.body(Full::default()).expect("valid"))
            .await;
    }
    assert_eq!(world.simulator.counts().status_polls, polls);
}

#[tokio::test(start_paused = true)]
async fn a_running_midjourney_task_has_another_url_in_every_answer_and_a_finished_one_has_not() {
    let world = World::new().await;
    let id = world.held("midjourney", Status::InProgress);
    let path = format!("/mj/task/{id}/fetch");
    let first = world.get(&path).await.json();
    advance(Duration::from_nanos(1)).await;
    let mut second = world.get(&path).await.json();
    assert_ne!(first["imageUrl"], second["imageUrl"]);
    second["imageUrl"] = first["imageUrl"].clone();
    assert_eq!(first, second);
    world.simulator.force(&id, Status::Success);
    let third = world.get(&path).await.body;
    advance(Duration::from_secs(1)).await;
    assert_eq!(third, world.get(&path).await.body);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_shows_on_routes_of_the_row_and_not_on_those_of_the_vendors_document() {
    let world = World::new().await;
    for api in &APIS {
        let id = create(&world, api, "timed-out").await;
        advance(Duration::from_secs(11)).await;
        let document = poll(&world, api, &id).await;
        let [_, running, _, failed] = api.statuses;
        let expected = match api.name {
            "kling" | "ark" => running,
            _ => failed,
        };
        assert_eq!(at(&document, api.status), expected, "{}", api.name);
    }
}

#[tokio::test(start_paused = true)]
async fn many_tasks_can_be_created_at_one_moment() {
    let world = World::new().await;
    for api in &APIS {
        let mut ids = std::collections::BTreeSet::new();
        for _ in 0..200 {
            ids.insert(create(&world, api, "succeeded").await);
        }
        assert_eq!(ids.len(), 200, "{}", api.name);
    }
}

#[tokio::test(start_paused = true)]
async fn ids_are_in_the_format_of_their_route() {
    let world = World::new().await;
    for api in &APIS {
        let id = create(&world, api, "succeeded").await;
        let is_right = match api.name {
            "mj" => id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_digit()),
            "octopus" => id.starts_with("veo3.1:"),
            _ => id.starts_with("task_"),
        };
        assert!(is_right, "{}: {id}", api.name);
    }
}
