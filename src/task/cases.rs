//! Every case of `tests/documents`: read, and rendered in every way.

use std::path::PathBuf;

use bytes::Bytes;
use serde_json::{Value, json};

use super::fields::Fields;
use super::{Dialect, NEVER_WRITTEN, Rendering, Source, State, TaskSnapshot, write_task};

const FIRST_SEEN: i64 = 1_795_000_000;

const DIALECTS: [Dialect; 2] = [Dialect::Unified, Dialect::OpenAi];

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
    assert!(paths.len() >= 70, "only {} cases", paths.len());
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
    let mut case = Case {
        name,
        body: body.into(),
        document,
        task: None,
    };
    let is_success = (200..300).contains(&case.source().status);
    let task = is_success.then(|| TaskSnapshot::read(&case.source()));
    case.task = task.and_then(Result::ok);
    case
}

impl Case {
    fn source(&self) -> Source<'_> {
        let status = self.document["upstream"]["status"].as_u64().unwrap();
        Source {
            asked_id: self.document["asked"]["task_id"].as_str().unwrap(),
            status: status.try_into().unwrap(),
            body: &self.body,
            first_seen: FIRST_SEEN,
        }
    }

    fn written(&self, dialect: Dialect, rendering: Rendering) -> Value {
        let written = write_task(&self.source(), dialect, rendering).unwrap();
        serde_json::from_slice(&written).unwrap()
    }

    fn url(&self) -> Option<String> {
        let fields = Fields::of(&self.source()).ok()?;
        let (_, url) = fields.url()?;
        Some(url.to_string())
    }
}

/// The rule for passing bytes through, said once more in terms of parsed documents.
fn is_native(case: &Case, dialect: Dialect) -> bool {
    let Ok(body) = serde_json::from_slice::<Value>(&case.body) else {
        return false;
    };
    let is_listed = |status: &Value| {
        status
            .as_str()
            .is_some_and(|word| State::listed(word).is_some())
    };
    match dialect {
        Dialect::Unified => {
            let is_outer = is_listed(&body["status"]);
            body.get("code").is_some() && !body["data"]["status"].is_null() && !is_outer
        }
        Dialect::OpenAi => {
            let word = body["status"].as_str().unwrap_or_default();
            let error = &body["error"];
            let is_whole = |name| body[name].is_null() || body[name].is_i64();
            let is_text = |name| body[name].is_null() || body[name].is_string();
            body["object"] == "video"
                && body["id"] == case.document["asked"]["task_id"]
                && ["queued", "in_progress", "completed", "failed"].contains(&word)
                && (error.is_null() || error["message"].as_str().is_some_and(|m| !m.is_empty()))
                && ["progress", "created_at", "completed_at", "expires_at"]
                    .into_iter()
                    .all(is_whole)
                && [
                    "model",
                    "seconds",
                    "size",
                    "prompt",
                    "remixed_from_video_id",
                ]
                .into_iter()
                .all(is_text)
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
        let read = json!({"state": state, "terminal": terminal, "url": case.url()});
        for (name, value) in read.as_object().unwrap() {
            assert_eq!(*value, case.document[name], "{}: {name}", case.name);
        }
    }
}

#[test]
fn every_case_is_written_as_it_says_in_both_dialects() {
    for case in cases() {
        for dialect in DIALECTS {
            let mut expected = case.document[dialect.as_str()].clone();
            if expected["created_at"] == "<first seen>" {
                expected["created_at"] = FIRST_SEEN.into();
            }
            let written = match case.task {
                Some(_) => case.written(dialect, Rendering::Documented),
                None => Value::Null,
            };
            assert_eq!(written, expected, "{} as {}", case.name, dialect.as_str());
        }
    }
}

#[test]
fn bytes_pass_through_only_where_they_are_what_was_asked_for() {
    for case in cases() {
        let Some(task) = &case.task else { continue };
        for dialect in DIALECTS {
            let passes = |rendering: Rendering| rendering.passes(task.native(), dialect);
            let about = format!("{} as {}", case.name, dialect.as_str());
            assert_eq!(
                passes(Rendering::Faithful),
                is_native(&case, dialect),
                "{about}"
            );
            assert!(
                !passes(Rendering::Documented) && passes(Rendering::Verbatim),
                "{about}"
            );
        }
    }
}

#[test]
fn a_mended_document_has_all_that_the_documented_one_has() {
    for case in cases() {
        let Some(_) = &case.task else { continue };
        for dialect in DIALECTS {
            let documented = case.written(dialect, Rendering::Documented);
            let mended = case.written(dialect, Rendering::Faithful);
            let (documented, mended) = match dialect {
                Dialect::Unified => (&documented["data"], &mended["data"]),
                Dialect::OpenAi => (&documented, &mended),
            };
            for (name, value) in documented.as_object().unwrap() {
                let about = format!("{} as {}: {name}", case.name, dialect.as_str());
                assert_eq!(mended[name], *value, "{about}");
            }
        }
    }
}

#[test]
fn mending_keeps_what_has_no_meaning_here_and_a_document_of_the_same_dialect_whole() {
    let mended = |body: &str, dialect| {
        let source = Source {
            asked_id: "t",
            status: 200,
            body: body.as_bytes(),
            first_seen: FIRST_SEEN,
        };
        let written = write_task(&source, dialect, Rendering::Faithful).unwrap();
        serde_json::from_slice::<Value>(&written).unwrap()
    };
    let video = r#"{"id":"t","object":"video","status":"processing","progress":"45%","created_at":"2026-11-23T12:00:00Z",
        "seconds":8,"usage":{"cost":1,"quota":2},"group":"g","video":{"id":1},"detail":[1e2]}"#;
    let openai = mended(video, Dialect::OpenAi);
    let expected = json!({"status": "in_progress", "progress": 45, "created_at": 1_795_435_200, "seconds": "8",
        "usage": {"cost": 1}, "group": null, "video": {"id": 1}, "detail": [100.0]});
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(openai[name], *value, "{name}");
    }
    assert!(openai.get("group").is_none());
    let unified = mended(video, Dialect::Unified);
    assert_eq!(unified["data"]["usage"], json!({"cost": 1}));
    assert_eq!(unified["data"].get("video"), None, "it is read from");
    assert_eq!(
        unified["data"].get("progress"),
        None,
        "it is the other dialect's"
    );

    let task = r#"{"task_id":"t","status":"SUCCESS","result_url":"https://h/1","submit_time":5,"action":"generate","user_id":7,
        "data":{"content":{"video_url":"https://h/2"},"quota":1}}"#;
    let unified = mended(task, Dialect::Unified);
    assert_eq!(
        unified["data"],
        json!({"task_id": "t", "status": "succeeded", "url": "https://h/1", "format": "mp4", "metadata": null, "error": null,
            "result_url": "https://h/1", "submit_time": 5, "action": "generate", "data": {"content": {"video_url": "https://h/2"}}})
    );
    let openai = mended(task, Dialect::OpenAi);
    assert_eq!(openai["action"], "generate");
    for name in ["task_id", "result_url", "submit_time", "data"] {
        assert_eq!(openai.get(name), None, "{name}");
    }
}

#[test]
fn private_members_are_absent_from_all_that_is_written() {
    for case in cases() {
        let Some(_) = &case.task else { continue };
        for dialect in DIALECTS {
            for rendering in [Rendering::Documented, Rendering::Faithful] {
                let mut found = Vec::new();
                keys(&case.written(dialect, rendering), &mut found);
                found.retain(|key| NEVER_WRITTEN.contains(&key.as_str()));
                assert_eq!(found, [""; 0], "{} as {}", case.name, dialect.as_str());
            }
        }
    }
}

#[test]
fn what_a_parsed_tree_would_lose_comes_out_as_it_went_in() {
    let body =
        br#"{"code":"success","data":{"task_id":"t","status":"FAILURE","fail_reason":"bad \ud83d end","progress":"1e1",
        "properties":{"input":"p\udc00","origin_model_name":"m\ud800"},"metadata":{"big":1e400,"k\ud801":[5.0,"\ud802"],"duration":1e400}}}"#;
    let source = Source {
        asked_id: "t",
        status: 200,
        body,
        first_seen: FIRST_SEEN,
    };
    let task = TaskSnapshot::read(&source).unwrap();
    assert_eq!((task.state(), task.progress()), (State::Failed, 10));
    assert_eq!(task.native(), Some(Dialect::Unified));
    let written = |dialect| {
        let bytes = write_task(&source, dialect, Rendering::Documented).unwrap();
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
}
