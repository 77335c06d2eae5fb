//! Recent errors, for the admin page. Repeated errors are counted, not listed again, so that memory is bounded whatever
//! clients and upstream do.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::time::Instant;

use crate::request::key::Caller;
use crate::sync::lock;

/// How many kinds of error are kept; beyond that the least recent is dropped.
const KINDS: usize = 32;

/// The longest task id or explanation kept, in characters.
const LETTERS: usize = 120;

/// The recent errors. Allocates nothing while there are none.
#[derive(Debug, Default)]
pub struct RecentErrors(Mutex<VecDeque<ErrorRecord>>);

/// Who saw an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenBy {
    /// Only the gateway: upstream failed to answer a poll or asked for a pause.
    Upstream,
    /// Nobody: the last known state was served instead.
    Hidden,
    /// A client.
    Client,
}

/// Errors of one kind.
#[derive(Debug, Clone)]
pub struct ErrorRecord {
    /// Who saw them.
    pub seen: SeenBy,
    /// The status, or the code of an error made here.
    pub code: String,
    /// The route's name.
    pub route: &'static str,
    /// The latest explanation; never contains a body, a URL or a credential.
    pub detail: String,
    /// How many there were.
    pub count: u64,
    /// The first time.
    pub first: Instant,
    /// The last time.
    pub last: Instant,
    /// The task of the latest, by its id in the path, truncated if very long.
    pub task: Option<String>,
    /// The caller of the latest.
    pub caller: Option<Caller>,
}

/// The context of an error.
#[derive(Debug, Clone, Copy)]
pub struct ErrorContext<'a> {
    /// Who saw it.
    pub seen: SeenBy,
    /// The route's name.
    pub route: &'static str,
    /// The task, by its id in the path.
    pub task: Option<&'a str>,
    /// The caller.
    pub caller: Option<Caller>,
}

impl RecentErrors {
    /// Records an error. `code` is part of its kind; `detail` explains the latest of its kind.
    pub fn record(&self, context: ErrorContext<'_>, code: &str, detail: &str, now: Instant) {
        let ErrorContext {
            seen,
            route,
            task,
            caller,
        } = context;
        let mut records = lock(&self.0);
        let known = records.iter().position(|record| {
            (record.seen, record.route, record.code.as_str()) == (seen, route, code)
        });
        let (count, first) = match known.and_then(|index| records.remove(index)) {
            Some(known) => (known.count + 1, known.first),
            None => (1, now),
        };
        records.truncate(KINDS - 1);
        records.push_front(ErrorRecord {
            seen,
            code: cut(code),
            route,
            detail: cut(detail),
            count,
            first,
            last: now,
            task: task.map(cut),
            caller,
        });
    }

    /// All records, the latest first.
    #[must_use]
    pub fn latest(&self) -> Vec<ErrorRecord> {
        let records = lock(&self.0);
        records.iter().cloned().collect()
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(LETTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(recent: &RecentErrors, code: &str, task: &str) {
        let context = ErrorContext {
            seen: SeenBy::Client,
            route: "openai",
            task: Some(task),
            caller: None,
        };
        recent.record(context, code, "detail", Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_error_is_counted_and_comes_to_the_top() {
        let recent = RecentErrors::default();
        for (code, task) in [("502", "a"), ("504", "b"), ("502", "c")] {
            record(&recent, code, task);
        }
        let seen: Vec<_> = recent
            .latest()
            .into_iter()
            .map(|record| (record.code, record.count, record.task))
            .collect();
        assert_eq!(
            seen,
            [
                ("502".into(), 2, Some("c".into())),
                ("504".into(), 1, Some("b".into()))
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_whatever_comes() {
        let recent = RecentErrors::default();
        let long = "ä".repeat(100_000);
        for code in 0..1000 {
            record(&recent, &code.to_string(), &long);
        }
        let latest = recent.latest();
        assert_eq!((latest.len(), latest[0].code.as_str()), (KINDS, "999"));
        assert!(
            latest
                .iter()
                .all(|record| record.task.as_ref().unwrap().chars().count() == LETTERS + 1)
        );
    }
}
