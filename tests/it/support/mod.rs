//! The tests' tools: a gateway process, a scripted upstream, a plain client.

mod client;
mod gateway;
mod identity;
pub(crate) mod raw;
pub(crate) mod text_format;
mod upstream;
mod wire;

pub(crate) use client::{Answer, Client, get};
pub(crate) use gateway::{Gateway, Reading, binary};
pub(crate) use identity::{Identity, provider, trusting};
pub(crate) use upstream::{Reply, Upstream};
pub(crate) use wire::{Raw, Wire};

use std::time::Duration;

/// Longer than anything in the tests may take: reaching it is a failure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `holds`, checking repeatedly, and fails after [`PATIENCE`].
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, waiting).await.is_ok(),
        "never came: {what}"
    );
}

/// A task row as new-api sends it on the unified path.
pub(crate) fn row(status: &str) -> String {
    format!(
        r#"{{"code":"success","message":"","data":{{"task_id":"t","status":"{status}","progress":"50%","result_url":"{}"}}}}"#,
        if status == "SUCCESS" {
            "https://cdn.example.com/v.mp4"
        } else {
            ""
        }
    )
}
