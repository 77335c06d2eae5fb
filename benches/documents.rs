//! How long it takes to read a poll's document and to write it anew, and what other JSON readers
//! would take for a part of that.
//!
//! `cargo bench --bench documents`

use std::hint::black_box;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::BytesCount;
use pollgate::task::{Dialect, Rendering, Source, TaskSnapshot, url_expiry, write_task};
use serde::Deserialize;
use serde_json::value::RawValue;

const URL: &str = "https://ark-acg-cn-beijing.tos-cn-beijing.volces.com/doubao-seedance/0217.mp4?X-Tos-Algorithm=TOS4-HMAC-SHA256&X-Tos-Credential=AKLT%2F20261120%2Fcn-beijing%2Ftos%2Frequest&X-Tos-Date=20261120T032525Z&X-Tos-Expires=86400&X-Tos-Signature=ab12&X-Tos-SignedHeaders=host";

const SHAPES: [&str; 6] = [
    "row",
    "running row",
    "unified",
    "openai",
    "64 KiB of metadata",
    "1 MiB of members",
];

fn main() {
    divan::main();
}

fn body(shape: &str) -> Bytes {
    let body = match shape {
        "row" => format!(
            r#"{{"code":"success","message":"","data":{{"id":6,"created_at":1784517678,"updated_at":1784517969,"task_id":"task_EABi9","platform":"54","user_id":1,"group":"Doubao-Seedance","channel_id":8,"quota":5750000,"action":"generate","status":"SUCCESS","fail_reason":"","result_url":"{URL}","submit_time":1784517678,"start_time":1784517684,"finish_time":1784517969,"progress":"100%","properties":{{"input":"","upstream_model_name":"ep-2026","origin_model_name":"doubao-seedance-2-0"}},"data":{{"id":"cgt-2026","model":"doubao-seedance-2-0","status":"succeeded","content":{{"video_url":"{URL}"}},"duration":5,"ratio":"16:9","usage":{{"completion_tokens":108900,"total_tokens":108900}}}}}}}}"#
        ),
        "running row" => r#"{"code":"success","message":"","data":{"id":6,"created_at":1784517678,"updated_at":1784517969,"task_id":"task_EABi9","platform":"54","user_id":1,"group":"Doubao-Seedance","channel_id":8,"quota":5750000,"action":"generate","status":"IN_PROGRESS","fail_reason":"","submit_time":1784517678,"start_time":1784517684,"finish_time":0,"progress":"50%","properties":{"input":"","upstream_model_name":"ep-2026","origin_model_name":"doubao-seedance-2-0"},"data":null}}"#.to_owned(),
        "unified" => format!(
            r#"{{"code":"success","message":"","data":{{"task_id":"task_EABi9","status":"succeeded","url":"{URL}","format":"mp4","metadata":{{"duration":5,"fps":24,"width":1280,"height":720,"seed":7}},"error":null}}}}"#
        ),
        "openai" => format!(
            r#"{{"id":"task_EABi9","object":"video","model":"sora-2","status":"completed","progress":100,"created_at":1784517678,"completed_at":1784517969,"seconds":"8","size":"1280x720","error":null,"metadata":{{"url":"{URL}"}}}}"#
        ),
        "1 MiB of members" => format!(
            r#"{{{}"id":"t","status":"done"}}"#,
            r#""":0,"#.repeat(209_000)
        ),
        _ => format!(
            r#"{{"code":"success","data":{{"task_id":"t","status":"processing","metadata":{{"frames":[{}0]}}}}}}"#,
            r#"{"at":0.04,"note":"x"},"#.repeat(2_800)
        ),
    };
    Bytes::from(body)
}

fn source(body: &Bytes) -> Source<'_> {
    Source {
        asked_id: black_box("task_EABi9"),
        status: 200,
        body: black_box(body),
        first_seen: 1_795_000_000,
    }
}

fn read(body: &Bytes) -> TaskSnapshot {
    TaskSnapshot::read(&source(body)).expect("a task")
}

fn read_and_write(body: &Bytes, dialect: Dialect, rendering: Rendering) -> (TaskSnapshot, Bytes) {
    let written = write_task(&source(body), dialect, rendering);
    (read(body), written.expect("a task"))
}

#[divan::bench(args = SHAPES)]
fn read_only(bencher: Bencher<'_, '_>, shape: &str) {
    let body = body(shape);
    bencher
        .counter(BytesCount::new(body.len()))
        .bench_local(|| read(&body));
}

#[divan::bench(args = SHAPES)]
fn read_and_write_unified(bencher: Bencher<'_, '_>, shape: &str) {
    let body = body(shape);
    bencher
        .counter(BytesCount::new(body.len()))
        .bench_local(|| read_and_write(&body, Dialect::Unified, Rendering::Documented));
}

#[divan::bench(args = SHAPES)]
fn read_and_write_openai(bencher: Bencher<'_, '_>, shape: &str) {
    let body = body(shape);
    bencher
        .counter(BytesCount::new(body.len()))
        .bench_local(|| read_and_write(&body, Dialect::OpenAi, Rendering::Documented));
}

/// In the other dialect, with the members that no field is read from.
#[divan::bench(args = SHAPES)]
fn read_and_mend(bencher: Bencher<'_, '_>, shape: &str) {
    let body = body(shape);
    bencher
        .counter(BytesCount::new(body.len()))
        .bench_local(|| read_and_write(&body, Dialect::OpenAi, Rendering::Faithful));
}

#[divan::bench]
fn expiry_of_a_signed_url() -> Option<i64> {
    url_expiry(black_box(URL))
}

/// One pass over the row, and nothing done with it: what the choice of a JSON reader decides.
#[divan::bench_group]
mod one_pass_over_the_row {
    use super::{Bencher, Bytes, Deserialize, RawValue, black_box, body};

    fn row() -> Bytes {
        body("row")
    }

    /// As built, one level of it: values stay text. Nothing is lost, nothing is copied.
    #[derive(Deserialize)]
    struct Lazy<'a> {
        #[serde(borrow)]
        code: &'a RawValue,
        #[serde(borrow)]
        data: &'a RawValue,
    }

    #[divan::bench]
    fn serde_json_raw_value(bencher: Bencher<'_, '_>) {
        let row = row();
        bencher.bench_local(|| {
            let lazy: Lazy<'_> = serde_json::from_slice(black_box(&row)).expect("a row");
            lazy.code.get().len() + lazy.data.get().len()
        });
    }

    /// Refuses lone surrogates and 1e400.
    #[divan::bench]
    fn serde_json_value(bencher: Bencher<'_, '_>) {
        let row = row();
        bencher.bench_local(|| {
            serde_json::from_slice::<serde_json::Value>(black_box(&row)).expect("a row")
        });
    }

    #[divan::bench]
    fn sonic_rs_value(bencher: Bencher<'_, '_>) {
        let row = row();
        bencher.bench_local(|| {
            sonic_rs::from_slice::<sonic_rs::Value>(black_box(&row)).expect("a row")
        });
    }

    #[divan::bench]
    fn sonic_rs_lazy_value(bencher: Bencher<'_, '_>) {
        let row = row();
        bencher.bench_local(|| {
            let lazy: sonic_rs::LazyValue<'_> =
                sonic_rs::from_slice(black_box(&row)).expect("a row");
            lazy.as_raw_str().len()
        });
    }

    /// Writes into its input, which therefore is copied first.
    #[divan::bench]
    fn simd_json_borrowed_value(bencher: Bencher<'_, '_>) {
        let row = row();
        bencher.bench_local(|| {
            let mut copy = black_box(&row).to_vec();
            simd_json::to_borrowed_value(&mut copy).is_ok()
        });
    }
}
