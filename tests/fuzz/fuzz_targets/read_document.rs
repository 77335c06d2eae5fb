//! Any bytes are read without panic, and what is written from them reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pollgate::task::{Dialect, NEVER_WRITTEN, Rendering, Source, TaskSnapshot, write_task};
use serde_json::Value;

fuzz_target!(|body: &[u8]| {
    for status in [200, 202] {
        let source = source(status, body);
        if let Ok(task) = TaskSnapshot::read(&source) {
            check(&task, &source);
        }
    }
});

fn check(task: &TaskSnapshot, source: &Source<'_>) {
    let in_openai = write(source, Dialect::OpenAi, Rendering::Documented);
    for dialect in [Dialect::Unified, Dialect::OpenAi] {
        for rendering in [Rendering::Documented, Rendering::Faithful] {
            let written = write(source, dialect, rendering);
            let written = self::source(200, &written);
            let again = TaskSnapshot::read(&written).expect("what was written is a task");
            assert_eq!(again.state(), task.state());
            assert_eq!(again.has_url(), task.has_url());
            if dialect == Dialect::OpenAi {
                assert_eq!(again.url_expires_at(), task.url_expires_at());
            }
            let back_in_openai = write(&written, Dialect::OpenAi, Rendering::Documented);
            // JSON that a parsed tree cannot hold (1e400, lone surrogates, depth) is passed on all the same
            let parsed = [&in_openai, &back_in_openai].map(|document| serde_json::from_slice::<Value>(document));
            if let [Ok(document), Ok(again)] = parsed {
                assert_eq!(again["video_url"], document["video_url"]);
                assert_eq!(again["error"], document["error"]);
            }
            if let Ok(document) = serde_json::from_slice(written.body) {
                assert!(!has_private(&document));
            }
            assert_eq!(write(&written, dialect, rendering), written.body);
        }
    }
}

fn source(status: u16, body: &[u8]) -> Source<'_> {
    Source {
        asked_id: "t",
        status,
        body,
        first_seen: 1,
    }
}

fn write(source: &Source<'_>, dialect: Dialect, rendering: Rendering) -> bytes::Bytes {
    write_task(source, dialect, rendering).expect("it was read before")
}

fn has_private(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_private),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| NEVER_WRITTEN.contains(&name.as_str()) || has_private(value)),
        _ => false,
    }
}
