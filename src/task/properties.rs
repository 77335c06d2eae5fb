//! What holds of every document, known or not.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::{Dialect, Rendering, Source, State, TaskSnapshot, url_expiry, write_task};

const FIRST_SEEN: i64 = 1_795_000_000;
const ID: &str = "task:一";

fn source(body: &str) -> Source<'_> {
    Source {
        asked_id: ID,
        status: 200,
        body: body.as_bytes(),
        first_seen: FIRST_SEEN,
    }
}

fn rendered_text(body: &str, dialect: Dialect, rendering: Rendering) -> String {
    let written = write_task(&source(body), dialect, rendering).unwrap();
    String::from_utf8(written.to_vec()).unwrap()
}

fn rendered(document: &Value, dialect: Dialect, rendering: Rendering) -> Value {
    let written = rendered_text(&document.to_string(), dialect, rendering);
    serde_json::from_str(&written).unwrap()
}

fn written(document: &Value, dialect: Dialect) -> Value {
    rendered(document, dialect, Rendering::Documented)
}

fn read(document: &Value) -> TaskSnapshot {
    TaskSnapshot::read(&source(&document.to_string())).unwrap()
}

fn url(body: &str) -> Option<String> {
    let fields = Fields::of(&source(body)).ok()?;
    let (_, url) = fields.url()?;
    Some(url.to_string())
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{1,12}|[\"\\\\/&<é任🎬]{1,6}".prop_filter("says something", |text| !text.trim().is_empty())
}

fn any_url() -> impl Strategy<Value = String> {
    prop_oneof![
        "https?://[a-z]{1,8}\\.example(:[0-9]{1,4})?/[a-z/任]{0,8}(\\.(mp4|webm|MOV|gif|png))?(\\?(Expires=17954352[0-9]{2}|a=%20&b=\"))?",
        "data:(video/(mp4|webm)|text/plain);base64,[A-Za-z0-9+/]{0,16}",
    ]
}

fn state() -> impl Strategy<Value = State> {
    select(vec![
        State::Queued,
        State::Processing,
        State::Succeeded,
        State::Failed,
    ])
}

fn extras() -> impl Strategy<Value = Map<String, Value>> {
    let value = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from),
        Just(json!([{"a": [1.5, "x"]}, {}])),
    ];
    let name = "[b-e]{1,3}|\\PC{1,3}";
    proptest::collection::btree_map(name, value, 0..4).prop_map(|map| map.into_iter().collect())
}

prop_compose! {
    /// A documented wrapper, with a format other than mp4 only where the OpenAI dialect can tell it.
    fn unified()(
        state in state(),
        url in proptest::option::of(any_url()),
        format in select(vec!["mp4", "webm", "quicktime"]),
        metadata in extras(),
        duration in proptest::option::of(select(vec![json!(5), json!(5.5), json!(0.25)])),
        size in proptest::option::of((1_u32..5000, 1_u32..5000)),
        (code, message) in (text(), text()),
    ) -> Value {
        let url = url.filter(|_| state == State::Succeeded).unwrap_or_default();
        let mut metadata = metadata;
        if let Some(duration) = duration {
            metadata.insert("duration".into(), duration);
        }
        if let Some((width, height)) = size {
            metadata.insert("width".into(), width.into());
            metadata.insert("height".into(), height.into());
        }
        let format_is_told = !url.is_empty() || !metadata.is_empty();
        json!({"code": "success", "message": "", "data": {
            "task_id": ID,
            "status": state.as_str(),
            "url": url,
            "format": if format_is_told { format } else { "mp4" },
            "metadata": if metadata.is_empty() { Value::Null } else { metadata.into() },
            "error": (state == State::Failed).then(|| json!({"code": code, "message": message})),
        }})
    }
}

prop_compose! {
    fn openai()(
        state in state(),
        url in proptest::option::of(any_url()),
        extras in extras(),
        (model, prompt, remixed) in (text(), proptest::option::of(text()), proptest::option::of(text())),
        progress in 0_u8..=100,
        (created, completed, expires) in (1_i64..2_000_000_000, 1_i64..2_000_000_000, 1_i64..2_000_000_000),
        seconds in proptest::option::of(select(vec!["4", "8", "12.5"])),
        size in proptest::option::of((1_u32..5000, 1_u32..5000)),
        (code, message) in (text(), text()),
    ) -> Value {
        let is = |wanted| state == wanted;
        let mut document = json!({
            "id": ID,
            "object": "video",
            "model": model,
            "status": state.in_dialect(Dialect::OpenAi),
            "progress": if is(State::Succeeded) { 100 } else { progress },
            "created_at": created,
            "completed_at": state.is_terminal().then_some(completed),
            "expires_at": is(State::Succeeded).then_some(expires),
            "seconds": seconds,
            "size": size.map(|(width, height)| format!("{width}x{height}")),
            "prompt": prompt,
            "remixed_from_video_id": remixed,
            "error": is(State::Failed).then(|| json!({"code": code, "message": message})),
        });
        let mut metadata = extras;
        if let Some(url) = url.filter(|_| is(State::Succeeded)) {
            document["video_url"] = url.clone().into();
            metadata.insert("url".into(), url.into());
        }
        if !metadata.is_empty() {
            metadata.insert("format".into(), "webm".into());
            document["metadata"] = metadata.into();
        }
        document
    }
}

/// Any JSON, the more often made of words that mean something to the reader.
fn anything() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        4 => select(vec![
            "code", "data", "id", "task_id", "status", "object", "video", "url", "result_url", "metadata",
            "output", "content", "video_url", "fail_reason", "error", "message", "progress", "created_at",
            "finish_time", "expires_at", "seconds", "size", "format", "duration", "width", "height",
            "properties", "model", "done", "failed", "expired", "SUCCESS", "quota", "group", "output", "videos", "video",
            "creations", "task_result", "base_resp", "status_msg", "failure", "request_id", "remixed_from_video_id", "task:一", "https://h/x.mp4?Expires=1795435200",
        ]).prop_map(str::to_owned),
        1 => "\\PC{0,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 60, 8, move |inner| {
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            4 => proptest::collection::btree_map(word.clone(), inner, 0..8)
                .prop_map(|members| json!(members)),
        ]
    })
}

fn without(mut document: Value, names: &[&str]) -> Value {
    for name in names {
        document.as_object_mut().unwrap().remove(*name);
    }
    document
}

proptest! {
    #[test]
    fn unified_to_openai_and_back_is_the_same(document in unified()) {
        prop_assert_eq!(&written(&document, Dialect::Unified), &document);
        for rendering in [Rendering::Documented, Rendering::Faithful] {
            let openai = rendered(&document, Dialect::OpenAi, rendering);
            prop_assert_eq!(written(&openai, Dialect::Unified), document.clone());
        }
    }

    #[test]
    fn openai_to_unified_and_back_keeps_what_both_have(document in openai()) {
        prop_assert_eq!(&written(&document, Dialect::OpenAi), &document);
        for rendering in [Rendering::Documented, Rendering::Faithful] {
            let unified = rendered(&document, Dialect::Unified, rendering);
            let back = rendered(&unified, Dialect::OpenAi, rendering);
            for name in ["id", "object", "status", "seconds", "size", "error", "video_url"] {
                prop_assert_eq!(&back[name], &document[name], "{}", name);
            }
            // the length and the size have no member of their own in the unified dialect
            let own = ["duration", "width", "height"];
            if let Some(metadata) = document.get("metadata") {
                prop_assert_eq!(&without(back["metadata"].clone(), &own), metadata);
            }
            prop_assert_eq!(rendered(&back, Dialect::Unified, rendering), unified);
        }
    }

    #[test]
    fn any_document_is_read_without_panic_and_written_so_that_it_reads_the_same(document in anything()) {
        let body = document.to_string();
        let Ok(task) = TaskSnapshot::read(&source(&body)) else { return Ok(()) };
        let signed_until = url(&body).as_deref().and_then(url_expiry);
        for (dialect, expires_at) in [
            // has no member for the document's own end
            (Dialect::Unified, signed_until),
            (Dialect::OpenAi, task.url_expires_at()),
        ] {
            for rendering in [Rendering::Documented, Rendering::Faithful] {
                let mended = rendered_text(&body, dialect, rendering);
                let again = TaskSnapshot::read(&source(&mended)).unwrap();
                prop_assert_eq!(again.state(), task.state());
                prop_assert_eq!(url(&mended), url(&body));
                if rendering == Rendering::Documented || dialect == Dialect::OpenAi {
                    prop_assert_eq!(again.url_expires_at(), expires_at);
                }
                prop_assert_eq!(rendered_text(&mended, dialect, rendering), mended);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..64)) {
        for status in [200, 202] {
            let _ = TaskSnapshot::read(&Source { status, body: &body, ..source("") });
        }
    }

    #[test]
    fn no_unknown_status_is_terminal(word in "[A-Z_]{1,12}", progress in any::<u8>()) {
        let document = json!({"id": ID, "status": format!("X{word}"), "progress": progress, "completed_at": 5,
            "error": {"message": "boom"}, "url": "https://h/x"});
        prop_assert_eq!(read(&document).state(), State::Processing);
    }
}
