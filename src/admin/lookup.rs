//! Explains why a task is answered as it is: what is cached of it for each caller, until when, and by which rule. Shows
//! no body, no URL and no credential.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use tokio::time::Instant;

use super::html::Escaped;
use super::upstream_state::{State, UpstreamState};
use super::words::{self, ago, span};
use crate::cache::cadence::Cadence;
use crate::cache::created::Created;
use crate::cache::freshness::{self, Rule};
use crate::cache::{Acceptance, Remembered, Use};
use crate::config;
use crate::fleet::Fleet;
use crate::gateway::Gateway;
use crate::request::key::TaskKey;
use crate::route::{self, Matched, Routes, TaskId, Template};

/// The most answers that are shown of one task.
const MOST: usize = 24;

/// The task to look up. It may be typed as an id, percent-encoded or not, or as a whole path or URL.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    typed: String,
    task: TaskId,
}

/// What is known of the task.
#[derive(Debug)]
pub(super) struct Found {
    wanted: Wanted,
    remembered: Vec<Remembered>,
    in_flight: Vec<(TaskKey, usize)>,
    pauses: Vec<Option<Duration>>,
    upstream: UpstreamState,
    cache: config::Cache,
    cadence: Arc<Cadence>,
    created: Arc<Created>,
    now: Instant,
    routes: Arc<Routes>,
    fleet: Option<Arc<Fleet>>,
}

impl Wanted {
    /// Reads the parameter `task` of a query string; `None` if it is missing or empty.
    pub(super) fn read(query: &str, routes: &Routes) -> Option<Self> {
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
        let (target, _) = typed.split_once('#').unwrap_or((&typed, ""));
        let mut targets = target.match_indices('/').map(|(start, _)| &target[start..]);
        let task = targets.find_map(|target| task_of(target, routes));
        let task = task.unwrap_or_else(|| TaskId::new(&typed));
        Some(Self { typed, task })
    }

    /// The text as it was typed.
    pub(super) fn typed(&self) -> &str {
        &self.typed
    }

    fn matches(&self, task: &str) -> bool {
        route::names(task, self.task.as_str())
    }

    /// Looks the task up. Scans the whole cache.
    pub(super) fn look(self, gateway: &Gateway) -> Found {
        let (now, cache) = (Instant::now(), gateway.config().cache.clone());
        let polls = gateway.polls();
        let mut remembered = polls.store.inspect(
            |entry| self.matches(entry.task()),
            MOST,
            now,
            cache.credential_ttl,
        );
        let routes = gateway.routes();
        remembered.sort_by_key(|one| {
            let caller = format!("{:?}", one.key.caller);
            (caller, asked_on(&routes, &one.key))
        });
        let in_flight = polls
            .flights
            .in_flight(|(key, _)| self.matches(key.task.as_str()));
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
            upstream: UpstreamState::read(gateway, now),
            wanted: self,
            remembered,
            cache,
            fleet: polls.fleet.clone(),
            cadence: Arc::clone(&polls.cadence),
            created: Arc::clone(&polls.created),
            now,
            routes,
        }
    }
}

/// The task that a path, with its query, names.
fn task_of(target: &str, routes: &Routes) -> Option<TaskId> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let matched = [Method::GET, Method::DELETE].map(|method| routes.read(&method, path, query));
    matched.into_iter().find_map(|matched| match matched {
        Matched::Poll { task, .. } | Matched::Write { task, .. } => {
            Some(TaskId::new(task.as_str()))
        }
        Matched::PollByBody(_) | Matched::Forward { .. } => None,
    })
}

impl Found {
    /// The findings as HTML, for below the form.
    pub(super) fn to_html(&self) -> String {
        let mut html = String::new();
        let id = Escaped(self.wanted.task.as_str());
        let time = humantime::format_rfc3339_seconds(SystemTime::now());
        let only_in_flight = self
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
                "<p class=\"nothing\"><strong>Nothing is cached of it</strong> for any caller: \
                 the next poll asks upstream.</p>"
            );
        }
        for (one, pause) in self.remembered.iter().zip(&self.pauses) {
            self.write(&mut html, one, *pause);
        }
        for (key, waiters) in only_in_flight {
            heading(&mut html, &self.routes, key);
            fact(
                &mut html,
                "Next upstream poll",
                &format!("now; {}", waiting(*waiters)),
            );
            html.push_str("</dl></article>");
        }
        if self.remembered.len() == MOST {
            let _ = write!(html, "<p>Only the first {MOST} are shown.</p>");
        }
        html
    }

    fn write(&self, html: &mut String, one: &Remembered, pause: Option<Duration>) {
        heading(html, &self.routes, &one.key);
        let (entry, snapshot) = (&one.entry, one.entry.reply.snapshot());
        let state = match snapshot {
            Some(task) => format!("{}, {}\u{a0}%", task.state().as_str(), task.progress()),
            None => "upstream says that no such task exists".into(),
        };
        fact(html, "State", &state);
        let left = entry.fresh_until().saturating_duration_since(self.now);
        let stale_if_error = entry.usable_until().saturating_duration_since(self.now);
        let good_for = match one.good_for {
            Use::Fresh => format!(
                "fresh: polls are answered from memory for another {}",
                span(left)
            ),
            Use::CoolingDown | Use::StaleIfError => format!(
                "stale: it is served for another {} only while upstream fails",
                span(stale_if_error)
            ),
            Use::Invalidated => "invalidated: since upstream sent it, the task was changed or \
                                 removed from the cache, or upstream refused the caller"
                .into(),
            Use::Expired => "expired: it is not served any more".into(),
        };
        fact(html, "Answer", &good_for);
        let kept = entry
            .fresh_until()
            .saturating_duration_since(entry.reply.received);
        let age = self.now.saturating_duration_since(entry.reply.received);
        let by = self.fleet.as_ref().and_then(|fleet| {
            let leader = fleet.leader(&one.key, entry.reply.received)?;
            Some(if leader == fleet.member {
                ", led by this gateway".into()
            } else {
                format!(", led by {leader} of the fleet")
            })
        });
        fact(html, "Received", &(ago(age) + by.as_deref().unwrap_or("")));
        fact(
            html,
            "Fresh for",
            &format!("{}: {}", span(kept), self.why(one)),
        );
        fact(html, "Next upstream poll", &self.next(one, left, pause));
        fact(html, "Credential", &self.credential(one.acceptance));
        html.push_str("</dl></article>");
    }

    fn why(&self, one: &Remembered) -> String {
        let cache = &self.cache;
        match one.entry.rule {
            Rule::Missing => "no such task exists, or not yet (cache.missing_ttl)".into(),
            Rule::Failed => {
                "the task failed, which upstream may still revise (cache.failed_ttl)".into()
            }
            Rule::Succeeded => "the task succeeded (cache.succeeded_ttl)".into(),
            Rule::UrlExpiry => format!(
                "the task succeeded, and the signature of its URL expires {} later (cache.url_margin)",
                span(cache.url_margin)
            ),
            Rule::UrlAwaited => {
                "the task succeeded without a URL, which may still follow (cache.in_flight_ttl)"
                    .into()
            }
            Rule::InFlight => "the task is running (cache.in_flight_ttl)".into(),
            Rule::RouteLimit => "the task succeeded (max_ttl of its route)".into(),
            Rule::Round => {
                let created = self.created.get(one.key.caller, &one.key.task);
                let model = created
                    .as_ref()
                    .and_then(|created| created.task.model.as_deref());
                let class = freshness::class_of(&one.entry.reply, model);
                match class.and_then(|class| self.cadence.rounds(&class, self.now)) {
                    Some(rounds) => format!(
                        "the task is running, and upstream looks {}",
                        words::rounds(&rounds, SystemTime::now())
                    ),
                    None => "the task is running, and upstream was seen to look in rounds".into(),
                }
            }
            Rule::Cadence => {
                let age = one.entry.task_age();
                let age = age.map(|age| age.at(one.entry.reply.received));
                let age = age
                    .map(|age| format!(" of {}", span(age)))
                    .unwrap_or_default();
                format!(
                    "the task is running, and few tasks of its model end at an age{age} \
                     (cache.adaptive, at most cache.in_flight_max)"
                )
            }
        }
    }

    fn next(&self, one: &Remembered, left: Duration, pause: Option<Duration>) -> String {
        if let Some((_, waiters)) = self.in_flight.iter().find(|(key, _)| *key == one.key) {
            return format!("now; {}", waiting(*waiters));
        }
        let when = match one.good_for {
            Use::Fresh => format!("on the first client poll after {}", span(left)),
            _ if !one.cooldown.is_zero() => {
                format!(
                    "on the first client poll after {}: upstream has just failed on this task",
                    span(one.cooldown)
                )
            }
            _ => "on the next client poll".into(),
        };
        let probe_in = span(self.upstream.probe_in);
        let health = match (pause, self.upstream.state) {
            (Some(pause), _) => {
                format!(
                    "; upstream asked this caller to pause for another {}",
                    span(pause)
                )
            }
            (None, State::Paused) => {
                format!("; upstream asked all callers to pause for another {probe_in}")
            }
            (None, State::Down) => {
                format!("; upstream is down, and the next probe is allowed in {probe_in}")
            }
            (None, State::Unknown | State::Up | State::Failing | State::Stale) => String::new(),
        };
        when + &health
    }

    fn credential(&self, acceptance: Acceptance) -> String {
        match acceptance {
            Acceptance::Accepted(since) => match self.cache.credential_ttl.checked_sub(since) {
                Some(left) => format!(
                    "accepted by upstream {}, and good for another {} (cache.credential_ttl)",
                    ago(since),
                    span(left)
                ),
                None => format!(
                    "accepted by upstream {}; the next poll checks it again (cache.credential_ttl)",
                    ago(since)
                ),
            },
            Acceptance::Missing => "refused by upstream, or not accepted yet".into(),
        }
    }
}

/// The path on which upstream was asked, with … for the task.
fn asked_on(routes: &Routes, key: &TaskKey) -> String {
    let Some(row) = routes.row(key.route) else {
        return "a route that has changed since".into();
    };
    let path = match key.task.path() {
        Some(path) => {
            let is_id = |segment: &str| segment == key.task.as_str();
            let segments = path.split('/');
            let segments = segments.map(|segment| if is_id(segment) { "…" } else { segment });
            segments.collect::<Vec<_>>().join("/")
        }
        None => row
            .templates()
            .first()
            .map_or("", Template::as_str)
            .replace("{id}", "…"),
    };
    match row.asks() {
        ("POST", _) => format!("POST {path}"),
        (_, id) => match id.strip_prefix("query:") {
            Some(name) => format!("{path}?{name}=…"),
            None => path,
        },
    }
}

fn heading(html: &mut String, routes: &Routes, key: &TaskKey) {
    let path = asked_on(routes, key);
    let path = Escaped(&path);
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
        1 => "one client is waiting".into(),
        many => format!("{many} clients are waiting"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::DEFAULT_PRESETS;

    #[test]
    fn ids_are_found_as_they_are_typed_pasted_or_written_in_documents() {
        let presets = DEFAULT_PRESETS.map(str::to_owned);
        let routes = Routes::new(&presets, &[]).expect("no mistakes");
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
            ("task=https%3A%2F%2Fh%2Ffast%2Fmj%2Ftask%2F17%2Ffetch", "17"),
            ("task=%2Fv1%2Fvideo%2Fquery%3Fa%3D1%26id%3Dveo%3At", "veo:t"),
        ] {
            let wanted = Wanted::read(query, &routes).expect(query);
            assert!(wanted.matches(raw), "{query}: {wanted:?}");
            assert!(!wanted.matches("other"), "{query}");
        }
        for query in ["", "task=", "task=+", "other=t"] {
            assert!(Wanted::read(query, &routes).is_none(), "{query}");
        }
    }
}
