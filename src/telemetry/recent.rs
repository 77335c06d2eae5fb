//! What went wrong lately, for people: the same trouble again is counted, not listed again, so that memory is bounded
//! whatever clients and upstream do.

use std::collections::VecDeque;
use std::sync::Mutex;

use tokio::time::Instant;

use crate::request::key::Caller;
use crate::sync::lock;

/// How many kinds of trouble are kept; beyond it the one that was seen longest ago goes.
const KINDS: usize = 32;

/// How much of a task's id, and of an explanation, is kept, in characters.
const LETTERS: usize = 120;

/// The latest troubles. Costs nothing where there are none.
#[derive(Debug, Default)]
pub struct RecentErrors(Mutex<VecDeque<ErrorRecord>>);

/// Who saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeenBy {
    /// The gateway: upstream failed to answer a poll, or asked for a pause.
    Upstream,
    /// Nobody: the last known state stood in.
    Hidden,
    /// A client got an error.
    Client,
}

/// One kind of trouble, and when it last was.
#[derive(Debug, Clone)]
pub struct ErrorRecord {
    /// Who saw it.
    pub seen: SeenBy,
    /// The status, or the code of an error made here.
    pub code: String,
    /// The route's name.
    pub route: &'static str,
    /// In words: never a body, a URL or a credential.
    pub detail: String,
    /// How often.
    pub count: u64,
    /// The first time.
    pub first: Instant,
    /// The last time.
    pub last: Instant,
    /// The task it was about, the last time; its raw id, cut where it is very long.
    pub task: Option<String>,
    /// Whose it was, the last time.
    pub caller: Option<Caller>,
}

/// The circumstances of an error.
#[derive(Debug, Clone, Copy)]
pub struct ErrorContext<'a> {
    /// Who saw it.
    pub seen: SeenBy,
    /// The route's name.
    pub route: &'static str,
    /// The task's raw id.
    pub task: Option<&'a str>,
    /// Whose it was.
    pub caller: Option<Caller>,
}

impl RecentErrors {
    /// Notes one: its `code` tells kinds apart, `detail` explains the latest.
    pub fn record(&self, circumstances: ErrorContext<'_>, code: &str, detail: &str, now: Instant) {
        let ErrorContext {
            seen,
            route,
            task,
            caller,
        } = circumstances;
        let mut troubles = lock(&self.0);
        let known = troubles.iter().position(|trouble| {
            (trouble.seen, trouble.route, trouble.code.as_str()) == (seen, route, code)
        });
        let (count, first) = match known.and_then(|place| troubles.remove(place)) {
            Some(known) => (known.count + 1, known.first),
            None => (1, now),
        };
        troubles.truncate(KINDS - 1);
        troubles.push_front(ErrorRecord {
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

    /// All that are kept, the latest first.
    #[must_use]
    pub fn latest(&self) -> Vec<ErrorRecord> {
        let troubles = lock(&self.0);
        troubles.iter().cloned().collect()
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
        let circumstances = ErrorContext {
            seen: SeenBy::Client,
            route: "openai",
            task: Some(task),
            caller: None,
        };
        recent.record(circumstances, code, "detail", Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_trouble_is_counted_and_comes_to_the_top() {
        let recent = RecentErrors::default();
        for (code, task) in [("502", "a"), ("504", "b"), ("502", "c")] {
            record(&recent, code, task);
        }
        let seen: Vec<_> = recent
            .latest()
            .into_iter()
            .map(|trouble| (trouble.code, trouble.count, trouble.task))
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
                .all(|trouble| trouble.task.as_ref().unwrap().chars().count() == LETTERS + 1)
        );
    }
}
