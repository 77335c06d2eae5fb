//! Any error body gives an error document in the dialect of the path.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pollgate::task::{Dialect, Rendering, is_task_not_exist, render_error};

fuzz_target!(|input: (u16, &[u8])| {
    let (status, body) = input;
    let body = Bytes::copy_from_slice(body);
    let _ = is_task_not_exist(status, &body);
    for dialect in [Dialect::Unified, Dialect::OpenAi] {
        let _ = render_error(status, &body, dialect, Rendering::Faithful);
        let (answered, written) = render_error(status, &body, dialect, Rendering::Documented);
        assert!(answered == status || (status, answered) == (400, 404));
        let (_, again) = render_error(answered, &written, dialect, Rendering::Documented);
        assert_eq!(again, written);
    }
});
