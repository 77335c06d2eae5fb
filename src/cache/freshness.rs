//! What becomes of a reply: how long it is kept, what it says of the caller's credential, and what is learnt from it. One
//! pure function of the reply, what was known before, the time and the settings.

use std::borrow::Cow;
use std::time::Duration;

use super::cadence::{Bounds, Cadence, Changed, Found, Interval, ROUND_STRETCH, Running, TaskAge};
use crate::answer::reply::Reply;
use crate::config;
use crate::task::{State, TaskSnapshot};

/// A task that was seen running within this time is not believed to be missing at the first time.
const EARLY: Duration = Duration::from_secs(30);

/// A success without a URL may still get one for this long after it was first seen.
const URL_FOLLOWS: Duration = Duration::from_mins(1);

/// The longest time for which a task is left alone after upstream failed on it, so that its recovery is noticed soon.
const LONGEST_COOL_DOWN: Duration = Duration::from_secs(2);

/// What was known of a task before.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// What upstream said last.
    pub reply: &'a Reply,
    /// The age of the task, where it was running then.
    pub age: Option<TaskAge>,
    /// Whether it is believed at once that the task does not exist any more.
    pub may_vanish: bool,
}

/// What becomes of a reply.
#[derive(Debug, Clone)]
pub struct Decision {
    /// How long it is kept; `None` for not at all.
    pub lifetime: Option<Lifetime>,
    /// The age of its task, if it tells of one.
    pub age: Option<TaskAge>,
    /// What it says of the caller's credential; `None` for nothing.
    pub credential: Option<CredentialVerdict>,
    /// What failed, where something did.
    pub fault: Option<Fault>,
    /// Whether what was known of the task is dropped, since upstream refuses it to the caller.
    pub forbidden: bool,
    /// The end of a task that was seen running before.
    pub ended: Option<End>,
}

/// What a reply says of the credential that it was asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialVerdict {
    /// Upstream told of the caller's own tasks.
    Accepted,
    /// Upstream refused it: an unknown, spent or banned key.
    Refused,
}

/// What failed on a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The way to upstream: the task is left alone for a moment, so that its recovery is noticed soon.
    Way,
    /// Upstream itself, on this task: it is left alone for longer each time.
    Own,
    /// The task was running a moment ago and is said not to exist: believed only when it is said again.
    EarlyMissing,
}

/// When a task was seen to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its model, as it was told while the task ran: that is the name which will be asked for.
    pub model: Box<str>,
    /// The age at which it was last seen running.
    pub seen_running_at: Duration,
    /// The age at which it was first seen ended.
    pub seen_ended_at: Duration,
}

impl Decision {
    /// How long the reply is served without asking again.
    #[must_use]
    pub fn fresh_for(&self) -> Duration {
        self.lifetime
            .map(|lifetime| lifetime.fresh)
            .unwrap_or_default()
    }

    /// The same for one of many that ask for themselves: what can still change is kept so many times as long, up to `most`,
    /// so that all together ask as often as one.
    #[must_use]
    pub fn stretched(mut self, times: u32, most: Duration) -> Self {
        if let Some(lifetime) = &mut self.lifetime
            && matches!(
                lifetime.rule,
                Rule::UrlAwaited | Rule::InFlight | Rule::Cadence
            )
        {
            let stretched = lifetime.fresh.saturating_mul(times).min(most);
            lifetime.fresh = lifetime.fresh.max(stretched);
        }
        self
    }
}

/// What the poll found of a task that was known to run, and the class of tasks that it belongs to.
#[must_use]
pub fn found(
    reply: &Reply,
    known: Option<Known<'_>>,
    model: Option<&str>,
) -> Option<(Box<str>, Found)> {
    let known = known?;
    let (before, age) = (known.reply, known.age?);
    if before.is_terminal() || !reply.is_task() {
        return None;
    }
    let is = reply.snapshot()?;
    let mut changed = None;
    // The stored one is read again only where it differs.
    if *before.body != *reply.body {
        let was = before.snapshot()?;
        let told = |task: &TaskSnapshot| (task.state(), task.progress(), task.updated_at());
        changed = (told(&was) != told(&is)).then(|| Changed {
            is_end: is.state().is_terminal(),
            updated_at: is.updated_at().filter(|at| Some(*at) != was.updated_at()),
        });
    }
    let found = Found {
        before: before.received,
        at: reply.received,
        age: age.at(reply.received),
        changed,
    };
    Some((class(reply, &is, model).into(), found))
}

/// Decides what becomes of `reply`; `has_changed` says whether it is [`found`] changed, `unix_now` is the time in Unix
/// seconds, and `model` what the task's create told. Where documents tell no model, that is the model.
#[must_use]
pub fn decide(
    reply: &Reply,
    known: Option<Known<'_>>,
    model: Option<&str>,
    has_changed: bool,
    unix_now: i64,
    cache: &config::Cache,
    cadence: &Cadence,
) -> Decision {
    let age = match awaited_url(reply, known) {
        Some(awaited) => Some(awaited),
        None => task_age(reply, known, unix_now),
    };
    let in_flight = in_flight_ttl(reply, age, model, has_changed, cache, cadence);
    let fault = fault(reply, known);
    let awaits_url =
        awaited_url(reply, known).is_some_and(|since| since.at(reply.received) < URL_FOLLOWS);
    let kept = lifetime(reply, unix_now, cache, in_flight, awaits_url);
    let kept = kept.and_then(|kept| kept.by_route(reply));
    Decision {
        lifetime: kept.filter(|_| fault.is_none()),
        age,
        credential: credential(reply),
        fault,
        forbidden: reply.is_forbidden(),
        ended: known.and_then(|known| ended(reply, known, model, age?)),
    }
}

/// How long upstream is not asked for a task again after it failed on it: a failing upstream gets no more polls than a
/// healthy one.
#[must_use]
pub fn cool_down(cache: &config::Cache) -> Duration {
    cache.in_flight_ttl.min(LONGEST_COOL_DOWN)
}

/// How long a success has been without a URL, where this is one.
fn awaited_url(reply: &Reply, known: Option<Known<'_>>) -> Option<TaskAge> {
    let awaits = |reply: &Reply| {
        reply.state() == Some(State::Succeeded)
            && reply.snapshot().is_some_and(|snapshot| !snapshot.has_url())
    };
    let since = || known.filter(|known| awaits(known.reply))?.age;
    let begun = || TaskAge::begun(reply.received, Duration::ZERO);
    awaits(reply).then(|| since().unwrap_or_else(begun))
}

/// Counts on from where the task was first seen; a task that is new here is as old as upstream says.
fn task_age(reply: &Reply, known: Option<Known<'_>>, unix_now: i64) -> Option<TaskAge> {
    let snapshot = reply.snapshot()?;
    let told = || u64::try_from(unix_now.saturating_sub(snapshot.created_at())).unwrap_or(0);
    let begun = || TaskAge::begun(reply.received, Duration::from_secs(told()));
    let running = known.filter(|known| !known.reply.is_terminal());
    Some(running.and_then(|known| known.age).unwrap_or_else(begun))
}

/// How long the state of a running task is served without asking again.
fn in_flight_ttl(
    reply: &Reply,
    age: Option<TaskAge>,
    model: Option<&str>,
    has_changed: bool,
    cache: &config::Cache,
    cadence: &Cadence,
) -> Interval {
    match (reply.snapshot(), age) {
        (Some(snapshot), Some(age)) if cache.adaptive && !snapshot.state().is_terminal() => {
            let bounds = Bounds {
                least: cache.in_flight_ttl,
                most: cache.in_flight_max,
            };
            let task = Running {
                at: reply.received,
                age: age.at(reply.received),
                progress: snapshot.progress(),
                has_changed,
            };
            cadence.next(&class(reply, &snapshot, model), task, bounds)
        }
        _ => Interval {
            lasts: cache.in_flight_ttl,
            by_round: false,
        },
    }
}

/// The class of tasks that a reply's task belongs to, if it tells of one.
#[must_use]
pub fn class_of(reply: &Reply, model: Option<&str>) -> Option<String> {
    let snapshot = reply.snapshot()?;
    Some(class(reply, &snapshot, model).into_owned())
}

/// The tasks that a task ends like: those of its model, on routes of other tasks apart from each other.
fn class<'m>(reply: &Reply, task: &'m TaskSnapshot, model: Option<&'m str>) -> Cow<'m, str> {
    let told = Some(task.model()).filter(|told| !told.is_empty());
    let model = told.or(model).unwrap_or_default();
    match reply.as_is_route() {
        None => Cow::Borrowed(model),
        Some(route) => format!("{} {model}", route.label.as_str()).into(),
    }
}

fn fault(reply: &Reply, known: Option<Known<'_>>) -> Option<Fault> {
    // The row is written after the submit was answered, and replicas lag: a running task does not vanish.
    let is_early = |known: Known<'_>| {
        let since = reply
            .received
            .saturating_duration_since(known.reply.received);
        !known.may_vanish && known.age.is_some() && !known.reply.is_terminal() && since < EARLY
    };
    if reply.is_missing() {
        known.is_some_and(is_early).then_some(Fault::EarlyMissing)
    } else if reply.is_own_fault() {
        Some(Fault::Own)
    } else {
        reply.is_upstream_failing().then_some(Fault::Way)
    }
}

fn credential(reply: &Reply) -> Option<CredentialVerdict> {
    if reply.is_refusal() {
        Some(CredentialVerdict::Refused)
    } else {
        let told = reply.is_task() || reply.is_task_not_exist();
        told.then_some(CredentialVerdict::Accepted)
    }
}

fn ended(reply: &Reply, known: Known<'_>, model: Option<&str>, age: TaskAge) -> Option<End> {
    if !reply.is_terminal() || known.reply.is_terminal() {
        return None;
    }
    Some(End {
        model: class(known.reply, &*known.reply.snapshot()?, model).into(),
        seen_running_at: age.at(known.reply.received),
        seen_ended_at: age.at(reply.received),
    })
}

/// The lifetime of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// Served without asking again.
    pub fresh: Duration,
    /// After that, served only while upstream is failing.
    pub stale_if_error: Duration,
    /// What decided it.
    pub rule: Rule,
    /// When the URL's signature ends, less the margin, in Unix seconds: nothing is served after that.
    pub ends_at: Option<i64>,
}

impl Lifetime {
    /// Whether the answer is not kept at all.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.fresh.is_zero() && self.stale_if_error.is_zero()
    }
}

/// The rule that decides how long an answer is fresh; the look-up names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The task does not exist: `cache.missing_ttl`.
    Missing,
    /// The task failed: `cache.failed_ttl`.
    Failed,
    /// The task succeeded: `cache.succeeded_ttl`.
    Succeeded,
    /// The task succeeded, and the signature of its URL expires earlier: that, less `cache.url_margin`.
    UrlExpiry,
    /// The task succeeded, and its route's `max_ttl` is shorter than `cache.succeeded_ttl`.
    RouteLimit,
    /// The task succeeded, and its URL may follow: `cache.in_flight_ttl`.
    UrlAwaited,
    /// The task is running: `cache.in_flight_ttl`.
    InFlight,
    /// The task is running, and few of its model end at its age: up to `cache.in_flight_max`.
    Cadence,
    /// The task is running, and upstream's next round is known: until just after it, at most twice `cache.in_flight_max`.
    Round,
}

/// How long `reply` is kept when it arrives at `now` (Unix seconds); `None` for not at all. `in_flight` is for how long
/// the state of a running task is served without asking again, and `awaits_url` whether a success without a URL may still
/// get one.
///
/// A failed task is kept for less than a finished one, since live channels can flip it upstream; a success without
/// a URL for a minute only like a task in flight, since the URL may follow; "no such task" only briefly, since the row is written
/// after the submit was answered. No other error is ever kept.
#[must_use]
pub fn lifetime(
    reply: &Reply,
    now: i64,
    cache: &config::Cache,
    in_flight: Interval,
    awaits_url: bool,
) -> Option<Lifetime> {
    let Some(snapshot) = reply.snapshot() else {
        return reply.is_task_not_exist().then_some(Lifetime {
            fresh: cache.missing_ttl,
            stale_if_error: Duration::ZERO,
            rule: Rule::Missing,
            ends_at: None,
        });
    };
    let kept = |fresh, rule| Lifetime {
        fresh,
        stale_if_error: cache.stale_if_error,
        rule,
        ends_at: None,
    };
    Some(match snapshot.state() {
        State::Failed => kept(cache.failed_ttl, Rule::Failed),
        State::Succeeded if snapshot.is_mixed() => {
            kept(cache.failed_ttl.min(cache.succeeded_ttl), Rule::Failed)
        }
        State::Succeeded if !awaits_url => {
            let kept = kept(cache.succeeded_ttl, Rule::Succeeded);
            match snapshot.url_expires_at() {
                Some(expires_at) => {
                    let margin = i64::try_from(cache.url_margin.as_secs()).unwrap_or(i64::MAX);
                    let limit = until(expires_at, now).saturating_sub(cache.url_margin);
                    kept.within(limit, expires_at.saturating_sub(margin))
                }
                None => kept,
            }
        }
        State::Succeeded => kept(cache.in_flight_ttl, Rule::UrlAwaited),
        State::Queued | State::Processing if in_flight.by_round => {
            kept(in_flight.lasts, Rule::Round)
        }
        State::Queued | State::Processing if in_flight.lasts > cache.in_flight_ttl => {
            kept(in_flight.lasts, Rule::Cadence)
        }
        State::Queued | State::Processing => kept(in_flight.lasts, Rule::InFlight),
    })
}

impl Lifetime {
    /// What the route of a reply that is passed on as it comes leaves of it.
    fn by_route(self, reply: &Reply) -> Option<Self> {
        let Some(route) = reply.as_is_route() else {
            return Some(self);
        };
        // Of several tasks, nothing is kept before all that were asked for have ended.
        let is_partial = route.reader.each.is_some() && !reply.is_terminal();
        if route.shares_only || is_partial {
            return None;
        }
        let limit = route
            .max_ttl
            .filter(|_| reply.state() == Some(State::Succeeded));
        Some(match limit {
            Some(limit) => {
                let fresh = self.fresh.min(limit);
                let is_cut = fresh < self.fresh;
                Self {
                    fresh,
                    stale_if_error: self.stale_if_error.min(limit.saturating_sub(fresh)),
                    rule: if is_cut { Rule::RouteLimit } else { self.rule },
                    ..self
                }
            }
            None => self,
        })
    }

    /// The same where other settings decided it: never longer than these allow.
    #[must_use]
    pub fn cut(self, cache: &config::Cache) -> Self {
        let most = match self.rule {
            Rule::Missing => cache.missing_ttl,
            Rule::Failed => cache.failed_ttl,
            Rule::Succeeded | Rule::UrlExpiry | Rule::RouteLimit => cache.succeeded_ttl,
            Rule::Cadence if cache.adaptive => cache.in_flight_max.max(cache.in_flight_ttl),
            Rule::Round if cache.adaptive && cache.in_flight_max > cache.in_flight_ttl => {
                cache.in_flight_max * ROUND_STRETCH
            }
            Rule::UrlAwaited | Rule::InFlight | Rule::Cadence | Rule::Round => cache.in_flight_ttl,
        };
        Self {
            fresh: self.fresh.min(most),
            stale_if_error: self.stale_if_error.min(cache.stale_if_error),
            ..self
        }
    }

    /// Ends with the URL's signature.
    fn within(self, limit: Duration, ends_at: i64) -> Self {
        let fresh = self.fresh.min(limit);
        let is_cut = fresh < self.fresh;
        Self {
            fresh,
            stale_if_error: self.stale_if_error.min(limit.saturating_sub(fresh)),
            rule: if is_cut { Rule::UrlExpiry } else { self.rule },
            ends_at: Some(ends_at),
        }
    }
}

fn until(time: i64, now: i64) -> Duration {
    Duration::from_secs(u64::try_from(time.saturating_sub(now)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode};
    use tokio::time::{Instant, advance};

    use super::*;
    use crate::route::{Definition, Routes, Row, StatusRoute};
    use crate::task::Source;

    const CREATED: i64 = 1_000_000;

    fn task(status: &str, url: &str) -> Reply {
        let body = format!(
            r#"{{"id":"t","object":"video","status":"{status}","model":"m","created_at":{CREATED},"video_url":"{url}"}}"#
        );
        let body = Bytes::from(body);
        let source = Source {
            asked_id: "t",
            status: 200,
            body: &body,
            first_seen: CREATED,
        };
        let snapshot = TaskSnapshot::read(&source).expect("is a task");
        Reply::new(StatusCode::OK, &HeaderMap::new(), body, Some(snapshot))
    }

    fn error(status: StatusCode, body: &'static str) -> Reply {
        Reply::new(status, &HeaderMap::new(), body.into(), None)
    }

    fn decided(reply: &Reply, known: Option<Known<'_>>) -> Decision {
        decide(
            reply,
            known,
            None,
            found(reply, known, None).is_some_and(|(_, found)| found.changed.is_some()),
            CREATED + 30,
            &config::Cache::default(),
            &Cadence::new(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_reply_has_its_lifetime_and_its_verdict_on_the_credential() {
        use CredentialVerdict::{Accepted, Refused};
        let cache = config::Cache::default();
        let missing = r#"{"code":"task_not_exist","message":"task_not_exist","data":null}"#;
        for (reply, fresh, rule, credential) in [
            (
                task("queued", ""),
                Some(cache.in_flight_ttl),
                Some(Rule::InFlight),
                Some(Accepted),
            ),
            (
                task("failed", ""),
                Some(cache.failed_ttl),
                Some(Rule::Failed),
                Some(Accepted),
            ),
            (
                task("completed", "https://cdn.example/v.mp4"),
                Some(cache.succeeded_ttl),
                Some(Rule::Succeeded),
                Some(Accepted),
            ),
            (
                error(StatusCode::BAD_REQUEST, missing),
                Some(cache.missing_ttl),
                Some(Rule::Missing),
                Some(Accepted),
            ),
            (
                error(StatusCode::UNAUTHORIZED, "{}"),
                None,
                None,
                Some(Refused),
            ),
            (
                error(StatusCode::INTERNAL_SERVER_ERROR, "{}"),
                None,
                None,
                None,
            ),
        ] {
            let decision = decided(&reply, None);
            let lifetime = decision.lifetime;
            assert_eq!(lifetime.map(|lifetime| lifetime.fresh), fresh, "{reply:?}");
            assert_eq!(lifetime.map(|lifetime| lifetime.rule), rule, "{reply:?}");
            assert_eq!(decision.credential, credential, "{reply:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_reply_is_a_fault_of_the_way_or_its_own_and_is_not_kept() {
        let decision = decided(&error(StatusCode::BAD_GATEWAY, ""), None);
        assert_eq!(decision.fault, Some(Fault::Way));
        assert!(decision.lifetime.is_none() && decision.age.is_none());
        assert_eq!(decided(&task("queued", ""), None).fault, None);
        let own = error(StatusCode::NOT_IMPLEMENTED, r#"{"code":"not_implemented"}"#);
        assert_eq!(decided(&own, None).fault, Some(Fault::Own));
        let page = error(StatusCode::NOT_FOUND, "404 page not found");
        let page = decided(&page, None);
        assert_eq!((page.fault, page.credential), (Some(Fault::Way), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_running_task_is_believed_to_be_missing_only_when_it_is_said_again_or_late() {
        let running = task("in_progress", "");
        let missing = r#"{"error":{"message":"Video not found","code":"video_not_found"}}"#;
        let known = |may_vanish| Known {
            reply: &running,
            age: decided(&running, None).age,
            may_vanish,
        };
        let missing = || error(StatusCode::NOT_FOUND, missing);
        assert_eq!(
            decided(&missing(), Some(known(false))).fault,
            Some(Fault::EarlyMissing)
        );
        assert_eq!(decided(&missing(), Some(known(true))).fault, None);
        assert_eq!(decided(&missing(), None).fault, None);
        advance(EARLY).await;
        assert_eq!(decided(&missing(), Some(known(false))).fault, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_without_a_url_is_final_a_minute_after_it_was_first_seen() {
        let (bare, mut age) = (task("completed", ""), None);
        let rule = |decision: &Decision| decision.lifetime.map(|lifetime| lifetime.rule);
        for _ in 0..6 {
            let known = age.map(|age| Known {
                reply: &bare,
                age: Some(age),
                may_vanish: false,
            });
            let decision = decided(&task("completed", ""), known);
            assert_eq!(rule(&decision), Some(Rule::UrlAwaited));
            assert_eq!(decision.ended, None);
            age = decision.age;
            advance(Duration::from_secs(10)).await;
        }
        let known = Known {
            reply: &bare,
            age,
            may_vanish: false,
        };
        let decision = decided(&task("completed", ""), Some(known));
        assert_eq!(rule(&decision), Some(Rule::Succeeded));
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_is_served_no_longer_than_its_route_says_not_even_while_upstream_fails() {
        for (max_ttl, fresh, stale) in [
            ("50m", Duration::from_mins(50), Duration::ZERO),
            ("725m", Duration::from_hours(12), Duration::from_mins(5)),
            ("24h", Duration::from_hours(12), Duration::from_mins(10)),
        ] {
            let own = Definition {
                name: "own".into(),
                path: Some(vec!["/own/{id}".into()]),
                max_ttl: Some(max_ttl.into()),
                ..Definition::default()
            };
            let routes = Routes::new(&[], &[own]).expect("no mistakes");
            let Some(StatusRoute::AsIs(route)) = routes.rows().last().map(Row::route) else {
                panic!("there is no row");
            };
            let (body, source) = (
                r#"{"id":"t","status":"done","url":"https://h/v"}"#,
                |body| Source {
                    asked_id: "t",
                    status: 200,
                    body,
                    first_seen: CREATED,
                },
            );
            let snapshot = TaskSnapshot::read_by(&route.reader, &source(body.as_bytes()));
            let (status, headers) = (StatusCode::OK, HeaderMap::new());
            let reply = Reply::as_is(route, status, &headers, body.into(), snapshot.ok());
            let lifetime = decided(&reply, None).lifetime.expect("is kept");
            assert_eq!((lifetime.fresh, lifetime.stale_if_error), (fresh, stale));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_403_in_json_is_about_the_task_and_one_in_html_about_nothing() {
        let json = decided(&error(StatusCode::FORBIDDEN, "{}"), None);
        assert_eq!((json.forbidden, json.credential), (true, None));
        let html = decided(&error(StatusCode::FORBIDDEN, "<html>"), None);
        assert_eq!((html.forbidden, html.fault), (false, Some(Fault::Way)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_has_changed_with_its_state_its_progress_or_the_time_that_it_tells() {
        let told = |status: &str, more: &str| {
            let body = format!(r#"{{"task_id":"t","status":"{status}","model":"m"{more}}}"#);
            let body = Bytes::from(body);
            let source = Source {
                asked_id: "t",
                status: 200,
                body: &body,
                first_seen: CREATED,
            };
            let snapshot = TaskSnapshot::read(&source).expect("is a task");
            Reply::new(StatusCode::OK, &HeaderMap::new(), body, Some(snapshot))
        };
        let before = told("running", r#","progress":"10%","updated_at":1000"#);
        let known = Known {
            reply: &before,
            age: decided(&before, None).age,
            may_vanish: false,
        };
        let changed = |is_end, updated_at| Some(Changed { is_end, updated_at });
        for (status, more, change) in [
            ("running", r#","progress":"10%","updated_at":1000"#, None),
            ("running", r#","progress":10,"updated_at":1000,"x":1"#, None),
            (
                "running",
                r#","progress":"20%","updated_at":1000"#,
                changed(false, None),
            ),
            (
                "running",
                r#","progress":"10%","updated_at":1007"#,
                changed(false, Some(1007)),
            ),
            ("success", r#","updated_at":"soon""#, changed(true, None)),
            ("failed", r#","progress":"10%""#, changed(true, None)),
        ] {
            let now = told(status, more);
            let (class, found) = found(&now, Some(known), None).expect("was known to run");
            assert_eq!(class.as_ref(), "m");
            assert_eq!(found.changed, change, "{status} {more}");
        }
        let ended = told("success", "");
        let known = Known {
            reply: &ended,
            ..known
        };
        assert_eq!(found(&ended, Some(known), None), None);
        assert_eq!(found(&before, None, None), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_model_of_a_create_stands_in_where_documents_tell_none() {
        let told = |status: &str, model: &str| {
            let body = format!(r#"{{"id":"t","status":"{status}","created_at":{CREATED}{model}}}"#);
            let source = Source {
                asked_id: "t",
                status: 200,
                body: body.as_bytes(),
                first_seen: CREATED,
            };
            let snapshot = TaskSnapshot::read(&source).expect("a task");
            let (status, headers) = (StatusCode::OK, HeaderMap::new());
            Reply::new(status, &headers, Bytes::from(body.clone()), Some(snapshot))
        };
        for (own, learnt) in [("", "made"), (r#","model":"m""#, "m")] {
            let running = told("running", own);
            let known = Known {
                reply: &running,
                age: Some(TaskAge::begun(Instant::now(), Duration::ZERO)),
                may_vanish: false,
            };
            let (cache, cadence) = (config::Cache::default(), Cadence::new());
            let ended = told("failed", own);
            let decision = decide(
                &ended,
                Some(known),
                Some("made"),
                true,
                CREATED,
                &cache,
                &cadence,
            );
            assert_eq!(decision.ended.expect("is an end").model.as_ref(), learnt);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_learnt_from_the_age_at_which_it_was_seen() {
        let running = task("in_progress", "");
        let before = decided(&running, None);
        assert_eq!(
            before.age.map(|age| age.at(Instant::now())),
            Some(Duration::from_secs(30))
        );
        assert_eq!(before.ended, None);
        advance(Duration::from_secs(5)).await;
        let known = Known {
            reply: &running,
            age: before.age,
            may_vanish: false,
        };
        let end = decided(&task("failed", ""), Some(known))
            .ended
            .expect("is an end");
        assert_eq!(end.model.as_ref(), "m");
        assert_eq!(end.seen_running_at, Duration::from_secs(30));
        assert_eq!(end.seen_ended_at, Duration::from_secs(35));
        let ended = task("failed", "");
        let known = Known {
            reply: &ended,
            age: None,
            may_vanish: false,
        };
        assert_eq!(
            decided(&task("failed", ""), Some(known)).ended,
            None,
            "only once"
        );
    }
}
