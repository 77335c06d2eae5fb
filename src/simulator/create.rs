//! Create requests, parsed from JSON or from the small fields of a form.

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use serde_json::{Map, Value};

use super::reply::Reply;
use super::tasks::TaskOptions;

/// Maximum size of a JSON body.
pub(super) const MAX_JSON: usize = 16 << 20;
/// How much of a form is parsed; the rest is read and dropped.
const FORM_HEAD: usize = 64 << 10;
/// Maximum length of kept strings, in characters.
const MAX_TEXT: usize = 4096;
const MAX_NAME: usize = 512;

/// A create request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct CreateRequest {
    pub(super) model: String,
    pub(super) options: TaskOptions,
}

/// Why a body is rejected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadBody {
    TooLarge,
    Invalid(String),
}

impl BadBody {
    /// The error answer, as a task error.
    pub(super) fn reply(&self) -> Reply {
        let (status, message) = self.describe();
        Reply::task_error(status, "invalid_request", &message)
    }

    /// The status and message of the error answer.
    pub(super) fn describe(&self) -> (StatusCode, String) {
        match self {
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is larger than {MAX_JSON} bytes"),
            ),
            Self::Invalid(message) => (StatusCode::BAD_REQUEST, message.clone()),
        }
    }
}

/// Reads and parses a create request's body.
pub(super) async fn read(headers: &HeaderMap, body: Incoming) -> Result<CreateRequest, BadBody> {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    match kind.and_then(boundary) {
        Some(boundary) => from_members(&form_fields(&form_head(body).await?, &boundary)),
        None => match json(body).await? {
            Value::Object(members) => from_members(&members),
            other => Err(BadBody::Invalid(format!(
                "takes a JSON object, not {other}"
            ))),
        },
    }
}

/// Reads and parses a JSON body of bounded size.
pub(super) async fn json(body: Incoming) -> Result<Value, BadBody> {
    let bytes = match Limited::new(body, MAX_JSON).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(BadBody::TooLarge),
        Err(error) => return Err(BadBody::Invalid(format!("the body is incomplete: {error}"))),
    };
    serde_json::from_slice(&bytes).map_err(|error| BadBody::Invalid(format!("not JSON: {error}")))
}

fn from_members(members: &Map<String, Value>) -> Result<CreateRequest, BadBody> {
    let text = |name: &str, max: usize| -> String {
        let text = members.get(name).and_then(Value::as_str);
        text.unwrap_or_default().chars().take(max).collect()
    };
    let number = |name: &str| {
        let value = members.get(name)?;
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        number.and_then(|number| u32::try_from(number).ok())
    };
    let simulate = match members.get("simulate") {
        // In a form it can only be a string.
        Some(Value::String(text)) => serde_json::from_str(text),
        Some(value) => serde_json::from_value(value.clone()),
        None => Ok(TaskOptions::default()),
    };
    let mut options =
        simulate.map_err(|error| BadBody::Invalid(format!("member `simulate`: {error}")))?;
    if let Some(id) = options
        .id
        .as_ref()
        .filter(|id| id.is_empty() || id.len() > MAX_NAME)
    {
        let length = id.len();
        let message = format!("member `simulate`: an id has 1 to {MAX_NAME} bytes, not {length}");
        return Err(BadBody::Invalid(message));
    }
    options.prompt = text("prompt", MAX_TEXT);
    options.seconds = number("seconds").or_else(|| number("duration"));
    options.size = Some(text("size", 32)).filter(|size| !size.is_empty());
    if let (None, Some(width), Some(height)) = (&options.size, number("width"), number("height")) {
        options.size = Some(format!("{width}x{height}"));
    }
    options.fail_reason = options
        .fail_reason
        .map(|reason| reason.chars().take(MAX_TEXT).collect());
    // Kling's member is `model_name`, Suno's is `mv`.
    let models = ["model", "model_name", "mv"].map(|name| text(name, MAX_NAME));
    let model = models.into_iter().find(|model| !model.is_empty());
    let model = model.unwrap_or_default();
    Ok(CreateRequest { model, options })
}

/// The boundary of a form, from its content type.
fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        let named = name.eq_ignore_ascii_case("boundary");
        named.then(|| value.trim_matches('"').to_owned())
    })
}

/// Reads the start of a form; the rest is read, so that the client can finish, and dropped.
async fn form_head(mut body: Incoming) -> Result<Bytes, BadBody> {
    let mut head = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| BadBody::Invalid(format!("the body is incomplete: {error}")))?;
        if let Some(data) = frame.data_ref() {
            let room = FORM_HEAD - head.len();
            head.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(head.freeze())
}

/// The fields of a form that are not files.
fn form_fields(head: &[u8], boundary: &str) -> Map<String, Value> {
    let text = String::from_utf8_lossy(head);
    let delimiter = format!("--{boundary}");
    let fields = text.split(delimiter.as_str()).filter_map(|part| {
        let (headers, value) = part.split_once("\r\n\r\n")?;
        let name = headers.split("name=\"").nth(1)?.split('"').next()?;
        let value = value.strip_suffix("\r\n")?;
        let is_file = headers.contains("filename=");
        (!is_file).then_some((name, value))
    });
    let mut members = Map::new();
    for (name, value) in fields {
        // OpenAI's SDKs write a member of an object as `simulate[lifetime]`.
        let member = name.strip_suffix(']').and_then(|name| name.split_once('['));
        match member {
            Some((object, name)) => {
                members
                    .entry(object)
                    .or_insert_with(|| Map::new().into())
                    .as_object_mut()
                    .map(|object| object.insert(name.to_owned(), value.into()));
            }
            None => {
                members.insert(name.to_owned(), value.into());
            }
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::life::Outcome;
    use super::*;

    fn parse(value: &Value) -> Result<CreateRequest, BadBody> {
        from_members(value.as_object().expect("an object"))
    }

    #[test]
    fn every_option_is_parsed() {
        let request = parse(&json!({
            "model": "sora-2", "prompt": "a cat", "seconds": "8", "width": 720, "height": 1280,
            "simulate": {"lifetime": "5s", "outcome": "failure", "channel": "v1-rc30", "id": "x:1",
                         "not_start": "200ms", "fail_reason": "no"},
        }))
        .expect("valid");
        assert_eq!(request.model, "sora-2");
        assert_eq!(request.options.lifetime, Some(Duration::from_secs(5)));
        assert_eq!(request.options.outcome, Some(Outcome::Failed));
        assert_eq!(request.options.seconds, Some(8));
        assert_eq!(request.options.size.as_deref(), Some("720x1280"));
    }

    #[test]
    fn an_invalid_option_is_rejected_by_name() {
        for (simulate, expected) in [
            (json!({"lifetime": "soon"}), "takes `5s`"),
            (json!({"lifetme": "5s"}), "lifetme"),
            (json!({"outcome": "maybe"}), "succeeded"),
            (json!({"id": ""}), "1 to 512 bytes"),
        ] {
            let error = parse(&json!({"simulate": simulate})).expect_err(expected);
            assert!(error.describe().1.contains(expected), "{error:?}");
        }
    }

    #[test]
    fn a_form_yields_its_fields_but_not_its_files() {
        let form = "--B\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nkling\r\n\
                    --B\r\nContent-Disposition: form-data; name=\"input_reference\"; filename=\"a.png\"\r\n\
                    Content-Type: image/png\r\n\r\n\u{1}\u{2}\r\n--B--\r\n";
        let fields = form_fields(form.as_bytes(), "B");
        assert_eq!(Value::Object(fields), json!({"model": "kling"}));
        let form = "--B\r\nContent-Disposition: form-data; name=\"simulate[lifetime]\"\r\n\r\n5s\r\n\
                    --B\r\nContent-Disposition: form-data; name=\"simulate[outcome]\"\r\n\r\nfailed\r\n--B--\r\n";
        let fields = form_fields(form.as_bytes(), "B");
        assert_eq!(
            Value::Object(fields),
            json!({"simulate": {"lifetime": "5s", "outcome": "failed"}})
        );
        let kind = boundary("multipart/form-data; charset=utf-8; boundary=\"B\"");
        assert_eq!(kind.as_deref(), Some("B"));
        assert_eq!(boundary("application/json; boundary=B"), None);
    }
}
