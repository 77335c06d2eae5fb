//! Every case of `tests/documents` through the running gateway, on both paths, in every combination of settings.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::{Answer, Gateway, Reply, Upstream, eventually};

/// A document from upstream, and the answers it must lead to.
struct Case {
    name: String,
    told: Value,
    body: String,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/documents");
    let mut cases: Vec<_> = std::fs::read_dir(folder)
        .expect("is there")
        .map(|entry| {
            let path = entry.expect("is readable").path();
            let told: Value =
                serde_json::from_slice(&std::fs::read(&path).expect("a file")).expect("JSON");
            let body = told["upstream"]["raw"]
                .as_str()
                .map_or_else(|| told["upstream"]["body"].to_string(), str::to_owned);
            Case {
                name: path
                    .file_stem()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned(),
                told,
                body,
            }
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    cases
}

impl Case {
    fn id(&self) -> &str {
        self.told["asked"]["task_id"].as_str().expect("a text")
    }

    /// The rule for bytes that pass through unchanged, repeated on parsed documents.
    fn may_pass(&self, dialect: &str) -> bool {
        let Ok(body) = serde_json::from_str::<Value>(&self.body) else {
            return false;
        };
        if dialect == "unified" {
            return body.get("code").is_some() && !body["data"]["status"].is_null();
        }
        let words = ["queued", "in_progress", "completed", "failed"];
        let error = &body["error"];
        body["object"] == "video"
            && body["id"] == self.id()
            && words.iter().any(|word| body["status"] == *word)
            && (error.is_null()
                || error["message"]
                    .as_str()
                    .is_some_and(|message| !message.is_empty()))
    }

    fn check(&self, dialect: &str, faithful: bool, answer: &Answer, about: &str) {
        let expected = &self.told[dialect];
        assert_eq!(answer.header("content-type"), "application/json", "{about}");
        if expected.is_null() {
            let json = answer.json();
            let code = if dialect == "unified" {
                &json["code"]
            } else {
                &json["error"]["code"]
            };
            assert_eq!(
                (answer.status.as_u16(), code),
                (502, &"upstream_invalid".into()),
                "{about}"
            );
            return;
        }
        assert_eq!(answer.status, 200, "{about}: {answer:?}");
        if faithful && self.may_pass(dialect) {
            assert_eq!(answer.text(), self.body, "{about}");
            return;
        }
        let mut expected = expected.clone();
        let json = answer.json();
        if expected["created_at"] == "<first seen>" {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("after 1970")
                .as_secs();
            let seen = json["created_at"].as_u64().expect("whole seconds");
            assert!(
                (now - 60..=now).contains(&seen),
                "{about}: first seen {seen}, now {now}"
            );
            expected["created_at"] = seen.into();
        }
        assert_eq!(json, expected, "{about}");
        let terminal = self.told["terminal"] == true;
        assert_eq!(
            answer.header("openai-poll-after-ms").is_empty(),
            terminal,
            "{about}"
        );
    }
}

/// The raw path segment of an id.
fn encoded(id: &str) -> String {
    percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC).to_string()
}

async fn hold_against_every_case(rendering: &str, dialect: &str) {
    let cases = Arc::new(cases());
    // The key names the case, since several cases share an id.
    let script = Arc::clone(&cases);
    let upstream = Upstream::start(move |asked| {
        let number = asked
            .header("authorization")
            .trim_start_matches("Bearer sk-");
        let case = &script[number.parse::<usize>().expect("a number")];
        let content_type = case.told["upstream"]["content_type"]
            .as_str()
            .unwrap_or("application/json");
        let status = case.told["upstream"]["status"]
            .as_u64()
            .and_then(|status| u16::try_from(status).ok());
        Reply::new(status.expect("a status"), content_type, case.body.clone())
    })
    .await;
    let gateway = Gateway::start(
        &upstream.url(),
        &[
            ("answers.rendering", rendering),
            ("upstream.dialect", dialect),
        ],
    )
    .await;
    for (number, case) in cases.iter().enumerate() {
        for (path, asked) in [
            ("/v1/video/generations", "unified"),
            ("/v1/videos", "openai"),
        ] {
            let path = format!("{path}/{}", encoded(case.id()));
            let about = format!("{} on {asked}, {rendering}, {dialect}", case.name);
            let before = upstream.count();
            let answer = gateway
                .client
                .get(&path, &format!("sk-{number}"), &[])
                .await;
            case.check(asked, rendering == "faithful", &answer, &about);
            if let Some(sent) = upstream.asked().get(before) {
                let on = if sent.target.starts_with("/v1/videos/") {
                    "openai"
                } else {
                    "unified"
                };
                assert_eq!(
                    on,
                    if dialect == "match" { asked } else { dialect },
                    "{about}"
                );
            }
            // Cached or fetched again, it is the same document.
            let again = gateway
                .client
                .get(&path, &format!("sk-{number}"), &[])
                .await;
            assert_eq!(
                (again.status, &again.body),
                (answer.status, &answer.body),
                "{about}"
            );
        }
    }
}

#[tokio::test]
async fn documented_answers_from_the_path_that_was_used() {
    hold_against_every_case("documented", "match").await;
}

#[tokio::test]
async fn documented_answers_from_the_unified_path() {
    hold_against_every_case("documented", "unified").await;
}

#[tokio::test]
async fn documented_answers_from_the_openai_path() {
    hold_against_every_case("documented", "openai").await;
}

#[tokio::test]
async fn faithful_answers_from_the_path_that_was_used() {
    hold_against_every_case("faithful", "match").await;
}

#[tokio::test]
async fn faithful_answers_from_the_unified_path() {
    hold_against_every_case("faithful", "unified").await;
}

#[tokio::test]
async fn faithful_answers_from_the_openai_path() {
    hold_against_every_case("faithful", "openai").await;
}

#[tokio::test]
async fn a_task_without_a_creation_time_keeps_the_second_in_which_it_was_first_seen() {
    let upstream =
        Upstream::saying(r#"{"code":"success","data":{"task_id":"t","status":"queued"}}"#).await;
    let gateway = Gateway::start(&upstream.url(), &[("cache.in_flight_ttl", "0s")]).await;
    let first = gateway.get("/v1/videos/t").await.json();
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs()
    };
    let then = now();
    eventually("the next second", async || now() > then).await;
    let second = gateway.get("/v1/videos/t").await.json();
    assert_eq!(upstream.count(), 2);
    assert_eq!(first["created_at"], second["created_at"]);
}
