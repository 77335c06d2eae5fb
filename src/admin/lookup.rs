//! Why a task is answered as it is: all that is remembered of it, for every caller, in words. Never a body, a URL or a
//! credential.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use http::Method;
use tokio::time::Instant;

use super::html::Escaped;
use super::words::{ago, span};
use crate::cache::freshness::Rule;
use crate::cache::{Acceptance, Remembered, Use};
use crate::config;
use crate::gateway::Gateway;
use crate::request::key::TaskKey;
use crate::request::route::{self, Route, TaskId};
use crate::task::Dialect;
use crate::upstream::breakers::CircuitStatus;

/// How many callers' answers are told of one task.
const MOST: usize = 24;

/// What someone typed: an id as it stands in paths or in documents, or a whole path or URL.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    typed: String,
    task: TaskId,
}

/// What is known of it.
#[derive(Debug)]
pub(super) struct Found {
    wanted: Wanted,
    remembered: Vec<Remembered>,
    in_flight: Vec<(TaskKey, usize)>,
    pauses: Vec<Option<Duration>>,
    status: CircuitStatus,
    cache: std::sync::Arc<config::Cache>,
    now: Instant,
}

impl Wanted {
    /// Reads the `task` of a query string; `None` where there is none or it is empty.
    pub(super) fn read(query: &str) -> Option<Self> {
        let value = query
            .split('&')
            .find_map(|part| part.strip_prefix("task="))?;
        let value = value.replace('+', " ");
        let typed = percent_encoding::percent_decode_str(&value)
            .decode_utf8_lossy()
            .trim()
            .to_owned();
        if typed.is_empty() {
            return None;
        }
        let path = typed
            .find("/v1/video")
            .and_then(|start| typed[start..].split(['?', '#']).next());
        let task = match path.map(|path| Route::read(&Method::DELETE, path)) {
            Some(Route::Write { task, .. } | Route::Poll { task, .. }) => task,
            _ => TaskId::new(&typed),
        };
        Some(Self { typed, task })
    }

    /// As it was typed.
    pub(super) fn typed(&self) -> &str {
        &self.typed
    }

    fn is(&self, task: &str) -> bool {
        task == self.task.as_str() || route::decoded(task) == self.task.as_str()
    }

    /// Looks at everything that is remembered.
    pub(super) fn look(self, gateway: &Gateway) -> Found {
        let (now, cache) = (Instant::now(), gateway.cache_settings());
        let polls = gateway.polls();
        let mut remembered = polls.store.inspect(
            |entry| self.is(entry.task()),
            MOST,
            now,
            cache.credential_ttl,
        );
        remembered.sort_by_key(|one| (format!("{:?}", one.key.caller), one.key.dialect.as_str()));
        let in_flight = polls
            .flights
            .in_flight(|(key, _)| self.is(key.task.as_str()));
        Found {
            in_flight: in_flight
                .into_iter()
                .map(|((key, _), waiters)| (key, waiters))
                .take(MOST)
                .collect(),
            pauses: remembered
                .iter()
                .map(|one| polls.breakers.pause_of(one.key.caller, now))
                .collect(),
            status: polls.breakers.status(now),
            wanted: self,
            remembered,
            cache,
            now,
        }
    }
}

impl Found {
    /// As HTML, to stand below the form.
    pub(super) fn to_html(&self) -> String {
        let mut html = String::new();
        let id = Escaped(self.wanted.task.as_str());
        let time = humantime::format_rfc3339_seconds(SystemTime::now());
        let only_under_way = self
            .in_flight
            .iter()
            .filter(|(key, _)| !self.remembered.iter().any(|one| one.key == *key));
        let _ = write!(
            html,
            "<p class=\"looked\">Looked up <code>{id}</code> at <time>{time}</time>.</p>"
        );
        if self.remembered.is_empty() {
            let _ = write!(
                html,
                "<p class=\"nothing\"><strong>Nothing is remembered of it</strong>, for any caller: the next poll asks upstream.</p>"
            );
        }
        for (one, pause) in self.remembered.iter().zip(&self.pauses) {
            self.tell(&mut html, one, *pause);
        }
        for (key, waiters) in only_under_way {
            heading(&mut html, key);
            fact(
                &mut html,
                "Upstream is asked",
                &format!("right now; {}", waiting(*waiters)),
            );
            html.push_str("</dl></article>");
        }
        if self.remembered.len() == MOST {
            let _ = write!(html, "<p>Only the first {MOST} are shown.</p>");
        }
        html
    }

    fn tell(&self, html: &mut String, one: &Remembered, pause: Option<Duration>) {
        heading(html, &one.key);
        let (entry, snapshot) = (&one.entry, one.entry.reply.snapshot());
        let state = match snapshot {
            Some(task) => format!("{}, {}\u{a0}%", task.state().as_str(), task.progress()),
            None => "upstream says that there is no such task".into(),
        };
        fact(html, "State", &state);
        let left = entry.fresh_until().saturating_duration_since(self.now);
        let stale_if_error = entry.usable_until().saturating_duration_since(self.now);
        fact(html, "Good for", &match one.good_for {
            Use::Fresh => format!("being served from memory for another {}, without asking upstream", span(left)),
            Use::CoolingDown | Use::StaleIfError => format!("standing in for {} more if upstream fails; it is no longer fresh", span(stale_if_error)),
            Use::Invalidated => "nothing: since it was asked for, the task was changed or forgotten here, or upstream refused the caller".into(),
            Use::Expired => "nothing: its time is over".into(),
        });
        let kept = entry
            .fresh_until()
            .saturating_duration_since(entry.reply.received);
        let age = self.now.saturating_duration_since(entry.reply.received);
        fact(html, "Upstream said so", &ago(age));
        fact(
            html,
            "Kept fresh for",
            &format!("{}: {}", span(kept), self.why(one)),
        );
        fact(html, "Upstream is asked", &self.next(one, left, pause));
        fact(html, "Credential", &self.credential(one.acceptance));
        html.push_str("</dl></article>");
    }

    fn why(&self, one: &Remembered) -> String {
        let cache = &self.cache;
        match one.entry.rule {
            Rule::Missing => {
                "there was no such task, which can be early (cache.missing_ttl)".into()
            }
            Rule::Failed => "the task failed, which can flip upstream (cache.failed_ttl)".into(),
            Rule::Succeeded => "the task succeeded (cache.succeeded_ttl)".into(),
            Rule::UrlExpiry => format!(
                "the task succeeded, and its URL's own signature runs out {} later (cache.url_margin)",
                span(cache.url_margin)
            ),
            Rule::UrlAwaited => {
                "the task succeeded without a URL, which may follow (cache.in_flight_ttl)".into()
            }
            Rule::InFlight => "the task is under way (cache.in_flight_ttl)".into(),
            Rule::Cadence => {
                let age = one.entry.task_age();
                let age = age.map(|age| age.at(one.entry.reply.received));
                let age = age
                    .map(|age| format!(", {},", span(age)))
                    .unwrap_or_default();
                format!(
                    "the task is under way, and few of its model end at its age{age} (cache.adaptive, at most cache.in_flight_max)"
                )
            }
        }
    }

    fn next(&self, one: &Remembered, left: Duration, pause: Option<Duration>) -> String {
        if let Some((_, waiters)) = self.in_flight.iter().find(|(key, _)| *key == one.key) {
            return format!("right now; {}", waiting(*waiters));
        }
        let when = match one.good_for {
            Use::Fresh => format!("with the first poll after {}", span(left)),
            _ if !one.cooldown.is_zero() => {
                format!(
                    "with the first poll after {}: it failed on this task a moment ago",
                    span(one.cooldown)
                )
            }
            _ => "with the next poll".into(),
        };
        let health = match (pause, &self.status) {
            (Some(pause), _) => {
                format!("; it asked this caller for a pause of {} more", span(pause))
            }
            (None, CircuitStatus::Paused { probe_in, .. }) => {
                format!(
                    "; it asked everyone for a pause of {} more",
                    span(*probe_in)
                )
            }
            (None, CircuitStatus::Open { probe_in, .. }) => {
                format!(
                    "; it is down, and the next probe may go in {}",
                    span(*probe_in)
                )
            }
            (None, CircuitStatus::Closed { .. } | CircuitStatus::Stale) => String::new(),
        };
        when + &health
    }

    fn credential(&self, acceptance: Acceptance) -> String {
        match acceptance {
            Acceptance::Accepted(since) => match self.cache.credential_ttl.checked_sub(since) {
                Some(left) => format!(
                    "accepted by upstream {}, which is good for another {} (cache.credential_ttl)",
                    ago(since),
                    span(left)
                ),
                None => format!(
                    "accepted by upstream {}: the next poll has it checked (cache.credential_ttl)",
                    ago(since)
                ),
            },
            Acceptance::Missing => "refused by upstream, or not accepted yet".into(),
        }
    }
}

fn heading(html: &mut String, key: &TaskKey) {
    let path = match key.dialect {
        Dialect::Unified => "/v1/video/generations/…",
        Dialect::OpenAi => "/v1/videos/…",
    };
    let _ = write!(
        html,
        "<article><h3>Caller <code>{:?}</code>, asked on <code>{path}</code></h3><dl>",
        key.caller
    );
}

fn fact(html: &mut String, name: &str, text: &str) {
    let _ = write!(
        html,
        "<div><dt>{}</dt><dd>{}</dd></div>",
        Escaped(name),
        Escaped(text)
    );
}

fn waiting(waiters: usize) -> String {
    match waiters {
        1 => "one client waits for it".into(),
        many => format!("{many} clients wait for it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_as_they_are_typed_pasted_or_written_in_documents() {
        for (query, raw) in [
            ("task=a%2Fb", "a%2Fb"),
            ("x=1&task=a%252Fb", "a%2Fb"),
            ("task=+t+", "t"),
            ("task=%2Fv1%2Fvideos%2Fsora-2%3At", "sora-2:t"),
            (
                "task=http%3A%2F%2Fh%2Fv1%2Fvideo%2Fgenerations%2Ft%3Fa%3D1",
                "t",
            ),
            ("task=http%3A%2F%2Fh%2Fv1%2Fvideos%2Ft%2Fcontent", "t"),
            ("task=%E4%BB%BB", "%E4%BB%BB"),
        ] {
            let wanted = Wanted::read(query).expect(query);
            assert!(wanted.is(raw), "{query}: {wanted:?}");
            assert!(!wanted.is("other"), "{query}");
        }
        for query in ["", "task=", "task=+", "other=t"] {
            assert!(Wanted::read(query).is_none(), "{query}");
        }
    }
}
