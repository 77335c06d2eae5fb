//! The referee: judges every answer to a poller against the true states that the simulator knows.
//!
//! Pure: answers, states and times are passed in as values. It shares no code with the gateway's own reader of
//! documents, so that a mistake there shows here.

use std::fmt;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::route::Route;
use crate::config::Cache;
use crate::simulator::State;

/// What clocks, sockets and a busy machine may add to a state's age.
const SLACK: Duration = Duration::from_secs(1);

/// Where an answer came from, according to its `cache-status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Cached and fresh.
    Hit,
    /// Another client's upstream poll.
    Shared,
    /// An upstream poll of its own.
    Fetched,
    /// The last known state, while upstream fails.
    Stale,
}

impl Origin {
    /// Parses a `cache-status`. `fwd=stale` alone is not a stale answer: the cached one was stale, so upstream was
    /// asked and answered.
    pub(super) fn read(cache_status: &str) -> Self {
        let mut parameters = cache_status.split(';').map(str::trim).skip(1);
        let says = |word: &str| parameters.clone().any(|parameter| parameter == word);
        if says("detail=stale_if_error") {
            Self::Stale
        } else if says("collapsed") {
            Self::Shared
        } else if parameters.any(|parameter| parameter == "hit") {
            Self::Hit
        } else {
            Self::Fetched
        }
    }
}

/// How old a state may be when a client gets it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    fresh: Duration,
}

impl Allowance {
    /// The allowance of a gateway with these settings.
    pub(super) fn of(cache: &Cache) -> Self {
        let stretched = cache.adaptive.then_some(cache.in_flight_max);
        Self {
            fresh: cache.in_flight_ttl.max(stretched.unwrap_or_default()),
        }
    }

    /// The earliest moment whose state may be in an answer to a poll sent at `start`.
    ///
    /// A stale answer may be as old as its `age` says, which is in whole seconds.
    pub(super) fn since(self, start: Instant, origin: Origin, age: Option<u64>) -> Instant {
        let declared = match origin {
            Origin::Stale => age.map_or(Duration::ZERO, |age| Duration::from_secs(age + 1)),
            _ => Duration::ZERO,
        };
        start
            .checked_sub(self.fresh.max(declared) + SLACK)
            .unwrap_or(start)
    }
}

/// What a poller must never see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Violation {
    /// A state that the task did not have, or an answer without a readable state.
    Wrong(String),
    /// An earlier state than the same poller saw before.
    Backward {
        /// The state that the poller saw last.
        before: State,
        /// The state in this answer.
        now: State,
    },
    /// Data of another task or of another key.
    Foreign(String),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(what) => write!(f, "wrong: {what}"),
            Self::Backward { before, now } => {
                write!(f, "backward: {} after {}", now.name(), before.name())
            }
            Self::Foreign(what) => write!(f, "foreign: {what}"),
        }
    }
}

/// Judges the body of a 200 for task `asked` on `route` and returns the state in it. `truth` holds the states that were
/// true within the allowance, in order, and `before` the state that the poller saw last.
pub(super) fn judge(
    asked: &str,
    route: &Route,
    body: &[u8],
    truth: &[State],
    before: Option<State>,
) -> Result<State, Violation> {
    let document: Value = serde_json::from_slice(body)
        .map_err(|error| Violation::Wrong(format!("not JSON: {error}")))?;
    let (id, word) = (route.id(&document), route.status(&document));
    if id != asked {
        return Err(Violation::Foreign(format!("the id {id}")));
    }
    if let Some(url) = stray_url(&document, asked) {
        return Err(Violation::Foreign(format!("the URL {url}")));
    }
    let state = word
        .as_str()
        .and_then(|word| route.state(word))
        .ok_or_else(|| Violation::Wrong(format!("{word} is not a status of this route")))?;
    if !truth.contains(&state) {
        let names: Vec<_> = truth.iter().map(|state| state.name()).collect();
        let (state, truth) = (state.name(), names.join(", then "));
        return Err(Violation::Wrong(format!("{state}, when it was {truth}")));
    }
    match before {
        Some(before) if !follows(before, state) => Err(Violation::Backward { before, now: state }),
        _ => Ok(state),
    }
}

/// Whether an answer with this `cache-status` may be upstream's page, passed on as it came. From memory none may come.
pub(super) fn may_be_a_page(route: &Route, cache_status: &str) -> bool {
    route.passes_on && matches!(Origin::read(cache_status), Origin::Fetched | Origin::Shared)
}

/// Whether the state is terminal.
pub(super) fn is_over(state: State) -> bool {
    matches!(state, State::Succeeded | State::Failed)
}

/// Whether a task may go from one state to the other. A terminal state is the last one.
fn follows(before: State, now: State) -> bool {
    now == before || (now > before && !is_over(before))
}

/// A URL anywhere in the document that does not contain the task's id. All of the simulator's URLs contain theirs.
fn stray_url<'a>(value: &'a Value, asked: &str) -> Option<&'a str> {
    match value {
        Value::String(text) => {
            (text.starts_with("http") && !text.contains(asked)).then_some(text.as_str())
        }
        Value::Array(items) => items.iter().find_map(|item| stray_url(item, asked)),
        Value::Object(members) => members.values().find_map(|member| stray_url(member, asked)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::route::{OTHERS, VIDEO};
    use super::State::{Failed, Processing, Queued, Succeeded};
    use super::*;

    fn object(id: &str, status: &str) -> Vec<u8> {
        json!({"id": id, "object": "video", "status": status})
            .to_string()
            .into()
    }

    fn row(id: &str, status: &str, url: &str) -> Vec<u8> {
        json!({"code": "success", "data": {"task_id": id, "status": status, "data": {"videos": [{"url": url}]}}})
            .to_string()
            .into()
    }

    #[test]
    fn a_true_answer_passes_in_either_dialect() {
        let judged = judge(
            "task_T",
            &VIDEO[1],
            &object("task_T", "in_progress"),
            &[Queued, Processing],
            Some(Queued),
        );
        assert_eq!(judged, Ok(Processing));
        for (word, state) in [
            ("SUBMITTED", Queued),
            ("QUEUED", Queued),
            ("IN_PROGRESS", Processing),
            ("succeeded", Succeeded),
            ("FAILURE", Failed),
        ] {
            assert_eq!(
                judge(
                    "task_T",
                    &VIDEO[0],
                    &row("task_T", word, "http://sim/task_T.mp4"),
                    &[state],
                    None
                ),
                Ok(state)
            );
        }
    }

    #[test]
    fn a_state_that_the_task_never_had_is_wrong() {
        let judged = judge(
            "task_T",
            &VIDEO[1],
            &object("task_T", "completed"),
            &[Queued, Processing],
            None,
        );
        let expected = Violation::Wrong("succeeded, when it was queued, then processing".into());
        assert_eq!(judged, Err(expected));
    }

    #[test]
    fn a_state_that_is_no_longer_true_is_wrong() {
        let judged = judge(
            "task_T",
            &VIDEO[1],
            &object("task_T", "queued"),
            &[Processing],
            None,
        );
        assert!(matches!(judged, Err(Violation::Wrong(_))));
    }

    #[test]
    fn a_status_of_the_other_dialect_is_wrong() {
        for word in ["processing", "IN_PROGRESS", "cancelled", "unknown", ""] {
            let judged = judge(
                "task_T",
                &VIDEO[1],
                &object("task_T", word),
                &[Processing],
                None,
            );
            assert!(matches!(judged, Err(Violation::Wrong(_))), "{word}");
        }
        let judged = judge(
            "task_T",
            &VIDEO[0],
            &row("task_T", "in_progress", ""),
            &[Processing],
            None,
        );
        assert!(matches!(judged, Err(Violation::Wrong(_))));
    }

    #[test]
    fn each_other_route_has_words_of_its_own_and_one_place_for_them() {
        let mj = json!({"id": "7", "status": "IN_PROGRESS", "imageUrl": "http://sim/7?rand=1"});
        let kling = json!({"code": 0, "data": {"task_id": "7", "task_status": "succeed"}});
        let suno = json!({"code": "success", "data": {"task_id": "7", "status": "FAILURE"}});
        let tasks = json!({"task_id": "7", "status": "QUEUED"});
        let ark = json!({"id": "7", "status": "running"});
        let octopus = json!({"id": "7", "status": "pending"});
        let documents = [octopus, mj, kling, suno, tasks, ark];
        let states = [Queued, Processing, Succeeded, Failed, Queued, Processing];
        for ((route, document), state) in OTHERS.iter().zip(&documents).zip(states) {
            let body = document.to_string();
            let judged = |id, truth| judge(id, route, body.as_bytes(), &[truth], None);
            assert_eq!(judged("7", state), Ok(state), "{}", route.name());
            let lie = if state == Queued { Succeeded } else { Queued };
            assert!(matches!(judged("7", lie), Err(Violation::Wrong(_))));
            assert!(matches!(judged("8", state), Err(Violation::Foreign(_))));
            let other = body
                .replace(r#"status":"#, r#"status":"not "#)
                .replace(r#""not ""#, r#""not "#);
            let judged = judge("7", route, other.as_bytes(), &[state], None);
            assert!(matches!(judged, Err(Violation::Wrong(_))), "{other}");
        }
    }

    #[test]
    fn only_where_answers_are_passed_on_may_upstreams_own_page_come() {
        for (route, cache_status, may) in [
            (&OTHERS[0], "pollgate; fwd=miss", true),
            (&OTHERS[0], "pollgate; fwd=stale; collapsed", true),
            (&OTHERS[0], "pollgate; hit; ttl=1", false),
            (
                &OTHERS[0],
                "pollgate; fwd=stale; detail=stale_if_error",
                false,
            ),
            (&VIDEO[0], "pollgate; fwd=miss", false),
            (&VIDEO[1], "pollgate; fwd=miss", false),
        ] {
            assert_eq!(may_be_a_page(route, cache_status), may, "{cache_status}");
        }
    }

    #[test]
    fn a_page_instead_of_a_document_is_wrong() {
        let judged = judge("task_T", &VIDEO[1], b"<html>", &[Queued], None);
        assert!(matches!(judged, Err(Violation::Wrong(_))));
    }

    #[test]
    fn an_earlier_state_than_the_last_one_is_backward() {
        for (before, word, now) in [
            (Processing, "queued", Queued),
            (Succeeded, "in_progress", Processing),
            (Succeeded, "failed", Failed),
            (Failed, "completed", Succeeded),
        ] {
            // Both were true within the allowance, so that the answer is backward and not wrong.
            let judged = judge(
                "task_T",
                &VIDEO[1],
                &object("task_T", word),
                &[before, now],
                Some(before),
            );
            assert_eq!(judged, Err(Violation::Backward { before, now }));
        }
    }

    #[test]
    fn another_tasks_id_or_url_is_foreign() {
        let judged = judge(
            "task_T",
            &VIDEO[1],
            &object("task_U", "queued"),
            &[Queued],
            None,
        );
        assert!(matches!(judged, Err(Violation::Foreign(_))));
        let judged = judge(
            "task_T",
            &VIDEO[0],
            &row("task_T", "SUCCESS", "http://sim/task_U.mp4"),
            &[Succeeded],
            None,
        );
        assert_eq!(
            judged,
            Err(Violation::Foreign("the URL http://sim/task_U.mp4".into()))
        );
    }

    #[test]
    fn an_answers_origin_is_read_from_its_cache_status() {
        for (text, origin) in [
            ("pollgate; hit; ttl=1", Origin::Hit),
            (
                "pollgate; fwd=miss; collapsed; stored; ttl=2",
                Origin::Shared,
            ),
            ("pollgate; fwd=stale; stored; ttl=2", Origin::Fetched),
            (
                "pollgate; fwd=stale; ttl=-3; detail=stale_if_error",
                Origin::Stale,
            ),
        ] {
            assert_eq!(Origin::read(text), origin, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_stale_answer_may_be_older_than_fresh() {
        let cache = Cache {
            adaptive: false,
            ..Cache::default()
        };
        let allowance = Allowance::of(&cache);
        let now = Instant::now();
        let old = |origin, age| now - allowance.since(now, origin, age);
        assert_eq!(old(Origin::Hit, Some(60)), cache.in_flight_ttl + SLACK);
        assert_eq!(
            old(Origin::Stale, Some(60)),
            Duration::from_secs(61) + SLACK
        );
        assert_eq!(old(Origin::Stale, None), cache.in_flight_ttl + SLACK);
    }
}
