//! What the answer to a create tells, and the document of a task that upstream has accepted and does not know yet.

use std::borrow::Cow;

use bytes::Bytes;

use super::document::without_byte_order_mark;
use super::json::{Json, Object, quote};
use super::writer::object;
use super::{Dialect, ErrorForm, State, values};

/// A task, as the answer to its create tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTask {
    /// Its id, as documents have it.
    pub id: String,
    /// Its model, if that is told.
    pub model: Option<String>,
    /// When it was created, in Unix seconds, if that is told.
    pub created_at: Option<i64>,
}

/// The codes of Midjourney's answers that name a task: submitted, already there, waiting in line.
const MJ_ACCEPTED: [&str; 3] = ["1", "21", "22"];

impl CreatedTask {
    /// Reads a 2xx answer to a create, in any of the family's shapes; `None` if it tells of no task.
    ///
    /// An `id` alone makes no task: most answers of an API have one. It takes a task's other members beside it, or to be the
    /// only one.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(without_byte_order_mark(body)).ok()?;
        let outer = Object::parse(text)?;
        let inner = ["data", "output"]
            .into_iter()
            .find_map(|name| outer.non_null(name)?.object());
        let own = |object: &Object<'_>| {
            let task_id = object.non_null("task_id").and_then(id);
            task_id.or_else(|| {
                let is_task = is_task(object) || object.members().len() == 1;
                object.non_null("id").and_then(id).filter(|_| is_task)
            })
        };
        let bare = |name| outer.non_null(name).and_then(id);
        let told = own(&outer)
            .or_else(|| own(inner.as_ref()?))
            .or_else(|| bare("data").filter(|_| outer.has("code")))
            .or_else(|| {
                let code = outer.get("code")?.as_str();
                bare("result").filter(|_| MJ_ACCEPTED.contains(&code))
            })?;
        let first = |name: &str| {
            let inner = || inner.as_ref()?.non_null(name);
            outer.non_null(name).or_else(inner)
        };
        Some(Self {
            id: told,
            model: first("model")
                .and_then(Json::non_empty)
                .map(|model| model.text_or_escapes().into_owned()),
            created_at: first("created_at").and_then(values::time),
        })
    }

    /// The document of the task where it is queued, as a route with errors of this form has it.
    #[must_use]
    pub fn queued(&self, form: ErrorForm, first_seen: i64) -> Bytes {
        let (id, created_at) = (quote(&self.id), self.created_at.unwrap_or(first_seen));
        let mut out = Vec::with_capacity(256);
        object(&mut out, |outer| match form {
            ErrorForm::NewApi => {
                outer.raw("code", "\"success\"");
                outer.raw("message", "\"\"");
                outer.object("data", |data| {
                    data.raw("task_id", &id);
                    data.raw("status", "\"SUBMITTED\"");
                    data.raw("fail_reason", "\"\"");
                    data.raw("submit_time", &created_at.to_string());
                    data.raw("progress", "\"0%\"");
                    data.null("data");
                });
            }
            ErrorForm::OpenAi => {
                let word = State::Queued.in_dialect(Dialect::OpenAi);
                outer.raw("id", &id);
                outer.raw("task_id", &id);
                outer.raw("object", "\"video\"");
                if let Some(model) = &self.model {
                    outer.raw("model", &quote(model));
                }
                outer.raw("status", &quote(word));
                outer.raw("progress", "0");
                outer.raw("created_at", &created_at.to_string());
            }
            ErrorForm::Midjourney => {
                outer.raw("id", &id);
                outer.raw("status", "\"SUBMITTED\"");
                outer.raw("progress", "\"0%\"");
                outer.raw("submitTime", &(created_at.saturating_mul(1000)).to_string());
                for name in ["imageUrl", "videoUrl", "failReason"] {
                    outer.raw(name, "\"\"");
                }
                outer.null("buttons");
            }
        });
        out.into()
    }
}

/// Whether an object has what tasks have beside their id.
fn is_task(object: &Object<'_>) -> bool {
    let text = |name| object.get(name).and_then(Json::text);
    text("object").as_deref() == Some("video")
        || text("status").is_some_and(|word| State::listed(&word).is_some())
}

/// A text that is more than spaces, or a whole number.
fn id(value: Json<'_>) -> Option<String> {
    match value.non_empty() {
        Some(text) => text.text().map(Cow::into_owned),
        None => value.is_whole_number().then(|| value.as_str().to_owned()),
    }
}

/// The task that the body of a remix, an edit or a deletion names.
#[must_use]
pub fn named_task(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(without_byte_order_mark(body)).ok()?;
    let body = Object::parse(text)?;
    let names = ["task_id", "video_id", "id", "video"];
    names.into_iter().find_map(|name| {
        let value = body.non_null(name)?;
        // `{"video": {"id": …}}` names the video that OpenAI edits or extends.
        match value.object() {
            Some(video) => id(video.non_null("id")?),
            None => id(value),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_an_answer_to_a_create_tells_its_task() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/routes/create.json");
        let file = std::fs::read_to_string(path).expect("a file");
        let file: serde_json::Value = serde_json::from_str(&file).expect("JSON");
        let mut read = 0;
        for case in file["examples"].as_array().expect("cases") {
            let body = case["body"].to_string();
            let created = CreatedTask::read(body.as_bytes()).unwrap_or_else(|| panic!("{body}"));
            assert!(body.contains(&created.id), "{body}");
            let model = case["body"]["model"].as_str();
            assert_eq!(created.model.as_deref(), model, "{body}");
            read += 1;
        }
        assert!(read > 10);
    }

    #[test]
    fn what_tells_of_no_task_is_none() {
        for body in [
            "",
            "[]",
            "\"task_1\"",
            "{}",
            r#"{"id":"chatcmpl-1","object":"chat.completion","model":"m","choices":[]}"#,
            r#"{"id":"resp_1","status":"weird"}"#,
            r#"{"code":23,"description":"full","result":"17"}"#,
            r#"{"code":"success","data":""}"#,
            r#"{"data":"text"}"#,
            r#"{"task_id":""}"#,
            r#"{"task_id":{}}"#,
        ] {
            assert_eq!(CreatedTask::read(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn the_document_of_a_created_task_is_one_of_its_route() {
        use super::super::{Reader, Source};
        let created = CreatedTask {
            id: "a\"b".into(),
            model: Some("m".into()),
            created_at: None,
        };
        for form in [ErrorForm::NewApi, ErrorForm::OpenAi, ErrorForm::Midjourney] {
            let body = created.queued(form, 1_700_000_000);
            let told = Reader::default().read(&Source {
                asked_id: "a\"b",
                status: 200,
                body: &body,
                first_seen: 1,
            });
            assert_eq!(told.expect("a task").state, State::Queued, "{form:?}");
        }
    }

    #[test]
    fn a_remix_names_its_task_in_its_body() {
        for (body, named) in [
            (r#"{"task_id":"t","prompt":"x"}"#, Some("t")),
            (r#"{"video_id":7}"#, Some("7")),
            (r#"{"prompt":"x","video":{"id":"t"}}"#, Some("t")),
            (r#"{"video":{"url":"t"}}"#, None),
            (r#"{"prompt":"x"}"#, None),
            ("x", None),
        ] {
            assert_eq!(named_task(body.as_bytes()).as_deref(), named, "{body}");
        }
    }
}
