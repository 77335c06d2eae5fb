//! Every case of `tests/documents`: read, and rendered in every way.

use std::path::PathBuf;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Dialect, NEVER_WRITTEN, Rendering, State, TaskSnapshot};

const FIRST_SEEN: i64 = 1_795_000_000;

struct Case {
    name: String,
    document: Value,
    body: Bytes,
    task: Option<TaskSnapshot>,
}

fn cases() -> Vec<Case> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/documents");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect();
    paths.sort();
    assert!(paths.len() >= 40, "only {} cases", paths.len());
    paths.into_iter().map(|path| case(&path)).collect()
}

fn case(path: &std::path::Path) -> Case {
    let name = path.file_stem().unwrap().to_string_lossy().into_owned();
    let document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let upstream = &document["upstream"];
    let body = match upstream["raw"].as_str() {
        Some(raw) => raw.to_owned(),
        None => upstream["body"].to_string(),
    };
    let body = Bytes::from(body);
    let asked = document["asked"]["task_id"].as_str().unwrap();
    let is_success = (200..300).contains(&upstream["status"].as_u64().unwrap());
    let task = is_success.then(|| TaskSnapshot::read(asked, &body, FIRST_SEEN));
    Case {
        name,
        task: task.and_then(Result::ok),
        document,
        body,
    }
}

fn rendered(task: &TaskSnapshot, dialect: Dialect) -> Value {
    serde_json::from_slice(&task.render(dialect, Rendering::Documented)).unwrap()
}

/// The rule for passing bytes through, said once more in terms of parsed documents.
fn is_native(case: &Case, dialect: Dialect) -> bool {
    let Ok(body) = serde_json::from_slice::<Value>(&case.body) else {
        return false;
    };
    match dialect {
        Dialect::Unified => body.get("code").is_some() && !body["data"]["status"].is_null(),
        Dialect::OpenAi => {
            let word = body["status"].as_str().unwrap_or_default();
            let error = &body["error"];
            body["object"] == "video"
                && body["id"] == case.document["asked"]["task_id"]
                && ["queued", "in_progress", "completed", "failed"].contains(&word)
                && (error.is_null() || error["message"].as_str().is_some_and(|m| !m.is_empty()))
        }
    }
}

fn keys(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        Value::Object(members) => members.iter().for_each(|(name, value)| {
            found.push(name.clone());
            keys(value, found);
        }),
        _ => {}
    }
}

#[test]
fn every_case_is_read_as_it_says() {
    for case in cases() {
        let state = case.task.as_ref().map(|task| task.state().as_str());
        let terminal = case
            .task
            .as_ref()
            .is_some_and(|task| task.state().is_terminal());
        let url = case.task.as_ref().and_then(TaskSnapshot::url);
        let read = json!({"state": state, "terminal": terminal, "url": url});
        for (name, value) in read.as_object().unwrap() {
            assert_eq!(*value, case.document[name], "{}: {name}", case.name);
        }
    }
}

#[test]
fn every_case_is_written_as_it_says_in_both_dialects() {
    for case in cases() {
        for dialect in [Dialect::Unified, Dialect::OpenAi] {
            let mut expected = case.document[dialect.as_str()].clone();
            if expected["created_at"] == "<first seen>" {
                expected["created_at"] = FIRST_SEEN.into();
            }
            let written = case.task.as_ref().map(|task| rendered(task, dialect));
            let written = written.unwrap_or(Value::Null);
            assert_eq!(written, expected, "{} as {}", case.name, dialect.as_str());
        }
    }
}

#[test]
fn bytes_pass_through_only_where_they_are_what_was_asked_for() {
    for case in cases() {
        let Some(task) = &case.task else { continue };
        for dialect in [Dialect::Unified, Dialect::OpenAi] {
            let expected = if is_native(&case, dialect) {
                case.body.clone()
            } else {
                task.render(dialect, Rendering::Documented)
            };
            let faithful = task.render(dialect, Rendering::Faithful);
            assert_eq!(faithful, expected, "{} as {}", case.name, dialect.as_str());
        }
    }
}

#[test]
fn private_members_are_absent_from_every_documented_rendering() {
    for case in cases() {
        let Some(task) = &case.task else { continue };
        for dialect in [Dialect::Unified, Dialect::OpenAi] {
            let mut found = Vec::new();
            keys(&rendered(task, dialect), &mut found);
            found.retain(|key| NEVER_WRITTEN.contains(&key.as_str()));
            assert_eq!(found, [""; 0], "{} as {}", case.name, dialect.as_str());
        }
    }
}

#[test]
fn what_a_parsed_tree_would_lose_comes_out_as_it_went_in() {
    let body = Bytes::from_static(
        br#"{"code":"success","data":{"task_id":"t","status":"FAILURE","fail_reason":"bad \ud83d end","progress":"1e1",
        "properties":{"input":"p\udc00","origin_model_name":"m\ud800"},"metadata":{"big":1e400,"k\ud801":[5.0,"\ud802"],"duration":1e400}}}"#,
    );
    let task = TaskSnapshot::read("t", &body, FIRST_SEEN).unwrap();
    assert_eq!((task.state(), task.progress()), (State::Failed, 10));
    let written = |dialect| {
        let bytes = task.render(dialect, Rendering::Documented);
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    assert_eq!(
        written(Dialect::Unified),
        r#"{"code":"success","message":"","data":{"task_id":"t","status":"failed","url":"","format":"mp4","metadata":{"big":1e400,"k\ud801":[5.0,"\ud802"],"duration":1e400},"error":{"code":"task_failed","message":"bad \ud83d end"}}}"#
    );
    assert_eq!(
        written(Dialect::OpenAi),
        format!(
            r#"{{"id":"t","object":"video","model":"m\ud800","status":"failed","progress":10,"created_at":{FIRST_SEEN},"completed_at":null,"expires_at":null,"seconds":null,"size":null,"prompt":"p\udc00","remixed_from_video_id":null,"error":{{"code":"task_failed","message":"bad \ud83d end"}},"metadata":{{"big":1e400,"k\ud801":[5.0,"\ud802"],"duration":1e400,"format":"mp4"}}}}"#
        )
    );
    assert_eq!(task.render(Dialect::Unified, Rendering::Faithful), body);
}
