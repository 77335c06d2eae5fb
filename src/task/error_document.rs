//! Error documents: our own, and upstream's brought into the dialect of the path.

use bytes::Bytes;

use super::document::without_byte_order_mark;
use super::json::{Json, Object, Raw, quote};
use super::writer::object;
use super::{Dialect, ErrorForm, Rendering, values};

/// new-api's code, with HTTP 400, for a task that does not exist or belongs to another user.
const TASK_NOT_EXIST: &str = "task_not_exist";

/// How the description of Midjourney's error begins, with HTTP 400, for a task that does not exist.
const TASK_NO_FOUND: &str = "task_no_found";

/// Midjourney's code for what failed, and for what is to be tried again later (HTTP 429).
const MJ_FAILED: &str = "4";
const MJ_GROUP_FULL: &str = "30";

/// An error that the gateway answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorDocument {
    /// For programs, such as `upstream_timeout`.
    pub code: String,
    /// For people.
    pub message: String,
    /// The `type` of the OpenAI dialect, such as `invalid_request_error`.
    pub kind: String,
}

impl ErrorDocument {
    /// Creates an error of the gateway's own.
    #[must_use]
    pub fn new(
        code: impl Into<String>,
        message: impl Into<String>,
        kind: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            kind: kind.into(),
        }
    }

    /// The document for it.
    #[must_use]
    pub fn write(&self, form: ErrorForm) -> Bytes {
        ErrorParts {
            code: Some(quote(&self.code)),
            message: quote(&self.message),
            kind: quote(&self.kind),
        }
        .write(form)
    }
}

/// Upstream's error answer as a client of `dialect` should get it: status and body.
///
/// `status` is upstream's. A body that is no JSON object is replaced by an error with the code `upstream_error`. The
/// verbatim rendering keeps any other as it is; so does the faithful one on the unified path. On the OpenAI path, whose
/// clients lose every error without an envelope, it is put into one, and a missing task becomes a 404. The documented
/// rendering writes every error anew.
#[must_use]
pub fn render_error(
    status: u16,
    body: &Bytes,
    dialect: Dialect,
    rendering: Rendering,
) -> (u16, Bytes) {
    let body = &body.slice_ref(without_byte_order_mark(body));
    let Some(object) = parsed(body) else {
        return (status, unreadable(status).write(ErrorForm::of(dialect)));
    };
    let envelope = object.non_null("error").and_then(Json::object);
    let passes = match rendering {
        Rendering::Faithful => dialect == Dialect::Unified || envelope.is_some(),
        Rendering::Documented => false,
        Rendering::Verbatim => true,
    };
    if passes {
        return (status, body.clone());
    }
    let is_missing = envelope.is_none() && has_code(&object, TASK_NOT_EXIST);
    let answered = match (status, dialect) {
        (400, Dialect::OpenAi) if is_missing => 404,
        _ => status,
    };
    let told = ErrorParts::read(status, &object, envelope.as_ref());
    (answered, told.write(ErrorForm::of(dialect)))
}

/// Whether upstream says that there is no such task, on either path.
///
/// Only the code is compared: texts are translated. It may be early rather than final, since upstream stores
/// a task only after it has answered the submission.
#[must_use]
pub fn is_task_not_exist(status: u16, body: &[u8]) -> bool {
    let object = || parsed(without_byte_order_mark(body));
    matches!(status, 400 | 404)
        && object().is_some_and(|object| {
            let envelope = object.non_null("error").and_then(Json::object);
            has_code(envelope.as_ref().unwrap_or(&object), TASK_NOT_EXIST)
        })
}

/// Whether an answer of a route that is passed on as it comes says that there is no such task: any 404, or a 400 that names it.
#[must_use]
pub fn is_missing_as_is(status: u16, body: &[u8]) -> bool {
    let says_so = || {
        let object = parsed(without_byte_order_mark(body))?;
        let description = object.get("description")?.text()?;
        Some(description.trim_start().starts_with(TASK_NO_FOUND))
    };
    status == 404 || is_task_not_exist(status, body) || (status == 400 && says_so() == Some(true))
}

fn parsed(body: &[u8]) -> Option<Object<'_>> {
    Object::parse(std::str::from_utf8(body).ok()?)
}

fn has_code(object: &Object<'_>, code: &str) -> bool {
    object.get("code").and_then(Json::text).as_deref() == Some(code)
}

/// The parts of an error, in their raw spelling.
struct ErrorParts<'a> {
    code: Option<Raw<'a>>,
    message: Raw<'a>,
    kind: Raw<'a>,
}

impl<'a> ErrorParts<'a> {
    /// Reads an error document, `envelope` being its object `error`, if it has one.
    fn read(status: u16, outer: &Object<'a>, envelope: Option<&Object<'a>>) -> Self {
        let text = |object: &Object<'a>, name| {
            let text = object.get(name).and_then(Json::non_empty);
            text.map(Json::raw)
        };
        let object = envelope.unwrap_or(outer);
        let code = object.get("code").and_then(values::code);
        let message = ["message", "detail", "error"]
            .into_iter()
            .find_map(|name| text(object, name))
            .unwrap_or_else(|| quote(&meaning(status)));
        let kind = envelope.and_then(|object| text(object, "type"));
        Self {
            code: code.or_else(|| envelope.is_none().then(|| quote("upstream_error"))),
            message,
            kind: kind.unwrap_or_else(|| quote(kind_of(status))),
        }
    }

    fn write(&self, form: ErrorForm) -> Bytes {
        let mut out = Vec::with_capacity(256);
        object(&mut out, |outer| match form {
            ErrorForm::NewApi => {
                outer.raw("code", self.code.as_ref().unwrap_or(&self.kind));
                outer.raw("message", &self.message);
                outer.null("data");
            }
            ErrorForm::OpenAi => outer.object("error", |error| {
                error.raw("message", &self.message);
                error.raw("type", &self.kind);
                error.null("param");
                error.raw_or_null("code", self.code.as_deref());
            }),
            ErrorForm::Midjourney => {
                let is_pause = self.code.as_deref() == Some("\"rate_limited\"");
                let code = if is_pause { MJ_GROUP_FULL } else { MJ_FAILED };
                outer.raw("code", code);
                outer.raw("description", &self.message);
                outer.raw("type", self.code.as_ref().unwrap_or(&self.kind));
            }
        });
        out.into()
    }
}

/// The error that replaces a body which is empty or no JSON object.
fn unreadable(status: u16) -> ErrorDocument {
    ErrorDocument::new("upstream_error", meaning(status), kind_of(status))
}

fn kind_of(status: u16) -> &'static str {
    match status {
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

/// A message for an error without one: the status, and what it means for the client.
fn meaning(status: u16) -> String {
    let meaning = match status {
        401 => "the API key was not accepted",
        402 => "the account has no credit left",
        403 => "this API key may not do this",
        404 => "there is nothing at this address",
        408 | 504 => "it took too long; try again",
        413 => "the request is too large",
        429 => "too many requests; try again later",
        400..=499 => "the request was not accepted",
        500..=599 => "upstream is in trouble; try again later",
        _ => "this was not expected",
    };
    format!("upstream answered {status} without a reason: {meaning}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const TASK_ERROR: &str = r#"{"code":"task_not_exist","message":"任务不存在","data":null}"#;
    const ENVELOPE: &str = r#"{"error":{"code":"","message":"Invalid token (request id: 2026)","type":"new_api_error"}}"#;

    fn rendered(
        status: u16,
        body: &'static str,
        dialect: Dialect,
        rendering: Rendering,
    ) -> (u16, Value) {
        let body = Bytes::from_static(body.as_bytes());
        let (status, body) = render_error(status, &body, dialect, rendering);
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[test]
    fn own_faults_are_written_in_either_dialect() {
        let fault = ErrorDocument::new("upstream_timeout", "say \"later\"", "server_error");
        assert_eq!(
            fault.write(ErrorForm::NewApi),
            r#"{"code":"upstream_timeout","message":"say \"later\"","data":null}"#
        );
        assert_eq!(
            fault.write(ErrorForm::OpenAi),
            r#"{"error":{"message":"say \"later\"","type":"server_error","param":null,"code":"upstream_timeout"}}"#
        );
    }

    #[test]
    fn unified_path_keeps_any_json_object_as_it_is() {
        for text in [TASK_ERROR, ENVELOPE, r#"{ "detail": "no" }"#] {
            let body = Bytes::from_static(text.as_bytes());
            let answer = render_error(400, &body, Dialect::Unified, Rendering::Faithful);
            assert_eq!(answer, (400, body));
        }
    }

    #[test]
    fn verbatim_errors_stay_as_they_are_unless_they_are_pages() {
        for dialect in [Dialect::Unified, Dialect::OpenAi] {
            for text in [TASK_ERROR, ENVELOPE] {
                let body = Bytes::from_static(text.as_bytes());
                let answer = render_error(400, &body, dialect, Rendering::Verbatim);
                assert_eq!(answer, (400, body));
            }
            let page = render_error(502, &"<html>".into(), dialect, Rendering::Verbatim);
            assert_eq!(
                page,
                render_error(502, &"<html>".into(), dialect, Rendering::Faithful)
            );
        }
    }

    #[test]
    fn byte_order_mark_is_skipped() {
        let marked = format!("\u{feff}{TASK_ERROR}");
        assert!(is_task_not_exist(400, marked.as_bytes()));
        let (_, body) = render_error(400, &marked.into(), Dialect::Unified, Rendering::Faithful);
        assert_eq!(body, TASK_ERROR);
    }

    #[test]
    fn documented_unified_error_is_always_code_message_and_data() {
        let documented =
            |status, text| rendered(status, text, Dialect::Unified, Rendering::Documented);
        assert_eq!(
            documented(400, TASK_ERROR),
            (400, serde_json::from_str(TASK_ERROR).unwrap())
        );
        assert_eq!(
            documented(401, ENVELOPE).1,
            json!({"code": "new_api_error", "message": "Invalid token (request id: 2026)", "data": null})
        );
        assert_eq!(
            documented(418, r#"{"detail":"teapot"}"#).1,
            json!({"code": "upstream_error", "message": "teapot", "data": null})
        );
        assert_eq!(
            documented(500, r#"{"error":{"code":7,"message":"m"}}"#).1["code"],
            "7"
        );
    }

    #[test]
    fn openai_path_gets_task_errors_in_an_envelope_and_a_missing_task_as_404() {
        for rendering in [Rendering::Faithful, Rendering::Documented] {
            let (status, body) = rendered(400, TASK_ERROR, Dialect::OpenAi, rendering);
            assert_eq!(status, 404);
            assert_eq!(
                body,
                json!({"error": {"message": "任务不存在", "type": "invalid_request_error", "param": null, "code": "task_not_exist"}})
            );
            let text = r#"{"code":"get_task_failed","message":"x","data":null}"#;
            let (status, body) = rendered(500, text, Dialect::OpenAi, rendering);
            assert_eq!(
                (status, &body["error"]["code"]),
                (500, &json!("get_task_failed"))
            );
            assert_eq!(body["error"]["type"], "server_error");
        }
    }

    #[test]
    fn only_a_missing_task_changes_its_status() {
        let text = r#"{"code":"invalid_channel_id","message":"x","data":null}"#;
        for rendering in [Rendering::Faithful, Rendering::Documented] {
            assert_eq!(rendered(400, text, Dialect::OpenAi, rendering).0, 400);
            assert_eq!(rendered(400, ENVELOPE, Dialect::OpenAi, rendering).0, 400);
            assert_eq!(rendered(500, TASK_ERROR, Dialect::OpenAi, rendering).0, 500);
            assert_eq!(
                rendered(400, TASK_ERROR, Dialect::Unified, rendering).0,
                400
            );
        }
    }

    #[test]
    fn every_status_has_a_meaning_of_its_own() {
        let statuses = [301, 400, 401, 402, 403, 404, 408, 413, 429, 500];
        let mut meanings = statuses.map(|status| meaning(status).replace(&status.to_string(), ""));
        meanings.sort();
        assert!(
            meanings.windows(2).all(|pair| pair[0] != pair[1]),
            "{meanings:?}"
        );
        assert_eq!(
            meaning(408).replace("408", ""),
            meaning(504).replace("504", "")
        );
        assert_eq!(
            meaning(418).replace("418", ""),
            meaning(400).replace("400", "")
        );
    }

    #[test]
    fn openai_envelope_stays_or_is_made_whole() {
        let body = Bytes::from_static(ENVELOPE.as_bytes());
        let faithful = render_error(401, &body, Dialect::OpenAi, Rendering::Faithful);
        assert_eq!(faithful, (401, body));
        let (status, whole) = rendered(401, ENVELOPE, Dialect::OpenAi, Rendering::Documented);
        assert_eq!(status, 401);
        assert_eq!(
            whole,
            json!({"error": {"message": "Invalid token (request id: 2026)", "type": "new_api_error", "param": null, "code": null}})
        );
    }

    #[test]
    fn what_is_no_json_object_is_replaced_and_its_status_kept() {
        for text in [
            "",
            " ",
            "<html><h1>502</h1></html>",
            "{\"code\":",
            "null",
            "\"no\"",
        ] {
            for rendering in [Rendering::Faithful, Rendering::Documented] {
                let (status, unified) = rendered(502, text, Dialect::Unified, rendering);
                assert_eq!((status, &unified["code"]), (502, &json!("upstream_error")));
                assert_eq!(unified["data"], Value::Null);
                let message = unified["message"].as_str().unwrap();
                assert!(
                    message.contains("502") && !message.contains('<'),
                    "{message}"
                );
                let (status, openai) = rendered(429, text, Dialect::OpenAi, rendering);
                assert_eq!(
                    (status, &openai["error"]["code"]),
                    (429, &json!("upstream_error"))
                );
                assert_eq!(openai["error"]["type"], "rate_limit_error");
            }
        }
    }

    #[test]
    fn missing_task_is_told_by_its_code_alone() {
        assert!(is_task_not_exist(400, TASK_ERROR.as_bytes()));
        assert!(is_task_not_exist(
            404,
            br#"{"error":{"code":"task_not_exist","message":""}}"#
        ));
        assert!(!is_task_not_exist(500, TASK_ERROR.as_bytes()));
        assert!(!is_task_not_exist(
            400,
            br#"{"code":"x","message":"task_not_exist"}"#
        ));
        assert!(!is_task_not_exist(400, b"task_not_exist"));
    }

    #[test]
    fn texts_keep_their_spelling() {
        let body = Bytes::from_static(br#"{"code":"c","message":"a\ud800\u0026"}"#);
        let (_, answer) = render_error(400, &body, Dialect::OpenAi, Rendering::Faithful);
        let answer = std::str::from_utf8(&answer).unwrap();
        assert!(answer.contains(r#""message":"a\ud800\u0026""#), "{answer}");
    }

    proptest! {
        #[test]
        fn any_error_body_gives_json(
            status in 300_u16..600,
            body in "\\PC*|\\{(\"(code|message|error|data)\":(null|1|\"x\"|\\{\"message\":\"m\"\\}|\\[\\]),?){0,3}\\}",
        ) {
            let body = Bytes::from(body);
            for dialect in [Dialect::Unified, Dialect::OpenAi] {
                let (_, answer) = render_error(status, &body, dialect, Rendering::Documented);
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                let error = if dialect == Dialect::OpenAi { &answer["error"] } else { &answer };
                prop_assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()));
            }
        }
    }
}
