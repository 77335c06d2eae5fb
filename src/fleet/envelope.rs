//! An answer as the members of a fleet hand it on, before it is sealed: a head in JSON, then upstream's bytes.
//!
//! Members of several versions share one engine, so a head may have fields that are not known here and lack others; a head
//! that cannot be read is as good as no answer.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::time::Instant;

use super::anchor::Anchor;
use super::engine::{EngineTime, Member, Times};
use crate::answer::Landed;
use crate::answer::reply::{Headers, Reply};
use crate::cache::cadence::TaskAge;
use crate::cache::freshness::{CredentialVerdict, Decision, Fault, Lifetime, Rule};
use crate::config;
use crate::request::query::TaskQuery;
use crate::task::{Source, TaskSnapshot};

/// How upstream's answer arrived, and what was decided about it.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When it was asked for.
    pub asked: Instant,
    /// What becomes of it.
    pub decision: Decision,
    /// When the task was first seen, in Unix seconds.
    pub first_seen: i64,
}

/// An answer of another member.
#[derive(Debug)]
pub struct Opened {
    /// Who asked upstream.
    pub by: Member,
    /// What upstream said.
    pub reply: Reply,
    /// Upstream's headers that may leave with it.
    pub headers: Headers,
    /// How it arrived there; its lifetime is cut to the settings here.
    pub arrival: Arrival,
}

#[derive(Serialize, Deserialize)]
struct Head {
    /// Who asked upstream.
    #[serde(default)]
    by: u64,
    /// The times, in microseconds on the engine's clock.
    asked: u64,
    received: u64,
    status: u16,
    /// Whether it tells of a task.
    task: bool,
    first_seen: i64,
    /// Milliseconds.
    #[serde(default)]
    fresh: u64,
    /// Milliseconds.
    #[serde(default)]
    stale_if_error: u64,
    #[serde(default)]
    ends_at: Option<i64>,
    /// `None`: it is not kept.
    #[serde(default)]
    rule: Option<Word<Rule>>,
    /// Milliseconds, when it was received.
    #[serde(default)]
    age: Option<u64>,
    #[serde(default)]
    accepted: Option<bool>,
    #[serde(default)]
    own_fault: bool,
    #[serde(default)]
    forbidden: bool,
    #[serde(default)]
    headers: Vec<(String, String)>,
}

/// A rule by its name.
struct Word<T>(T);

const RULES: [(Rule, &str); 9] = [
    (Rule::Missing, "missing"),
    (Rule::Failed, "failed"),
    (Rule::Succeeded, "succeeded"),
    (Rule::UrlExpiry, "url_expiry"),
    (Rule::RouteLimit, "route_limit"),
    (Rule::UrlAwaited, "url_awaited"),
    (Rule::InFlight, "in_flight"),
    (Rule::Cadence, "cadence"),
    (Rule::Round, "round"),
];

impl Serialize for Word<Rule> {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let word = RULES.iter().find(|(rule, _)| *rule == self.0);
        to.serialize_str(word.map_or("", |(_, word)| word))
    }
}

impl<'de> Deserialize<'de> for Word<Rule> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let word = String::deserialize(from)?;
        let rule = RULES.iter().find(|(_, known)| *known == word);
        // A rule of a later version: kept as short as any.
        Ok(Self(rule.map_or(Rule::InFlight, |(rule, _)| *rule)))
    }
}

/// Writes an answer, and says when it is good by the engine's clock.
#[must_use]
pub fn write(landed: &Landed, arrival: &Arrival, anchor: &Anchor, by: Member) -> (Times, Vec<u8>) {
    let decision = &arrival.decision;
    let lifetime = decision.lifetime;
    let received = anchor.engine_time(landed.received);
    let fresh = decision.fresh_for();
    let stale = lifetime.map(|lifetime| lifetime.stale_if_error);
    let times = Times {
        asked: anchor.engine_time(arrival.asked),
        received,
        fresh_until: received.after(fresh),
        useful_until: received.after(fresh + stale.unwrap_or_default()),
    };
    let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
    let content_type = (CONTENT_TYPE, landed.reply.content_type());
    let headers = landed.headers.as_deref().into_iter().flatten();
    let headers = headers.chain([(&content_type.0, &content_type.1)]);
    let head = Head {
        by: by.0,
        asked: times.asked.0,
        received: received.0,
        status: landed.reply.status.as_u16(),
        task: landed.reply.is_task(),
        first_seen: arrival.first_seen,
        fresh: millis(fresh),
        stale_if_error: stale.map_or(0, millis),
        ends_at: lifetime.and_then(|lifetime| lifetime.ends_at),
        rule: lifetime.map(|lifetime| Word(lifetime.rule)),
        age: decision.age.map(|age| millis(age.at(landed.received))),
        accepted: decision
            .credential
            .map(|verdict| verdict == CredentialVerdict::Accepted),
        own_fault: decision.fault == Some(Fault::Own),
        forbidden: decision.forbidden,
        headers: headers
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), text(value)?)))
            .collect(),
    };
    let mut plain = serde_json::to_vec(&head).unwrap_or_default();
    plain.push(b'\n');
    plain.extend_from_slice(&landed.reply.body);
    (times, plain)
}

/// Reads the answer to a query; `None` where it cannot be read, or says that it comes from the future.
#[must_use]
pub fn read(
    plain: Vec<u8>,
    query: &TaskQuery,
    anchor: &Anchor,
    cache: &config::Cache,
) -> Option<Opened> {
    let end = plain.iter().position(|byte| *byte == b'\n')?;
    let head: Head = serde_json::from_slice(&plain[..end]).ok()?;
    let body = Bytes::from(plain).slice(end + 1..);
    let (asked, received) = (EngineTime(head.asked), EngineTime(head.received));
    if received > anchor.latest(Instant::now()) {
        // The engine's clock has gone back: it cannot be told how old this is.
        return None;
    }
    let (asked, received) = (anchor.instant(asked)?, anchor.instant(received)?);
    let route = query.resource.as_ref().map(|resource| &resource.route);
    let snapshot = if head.task {
        let source = Source {
            asked_id: &query.key.task.decoded(),
            status: head.status,
            body: &body,
            first_seen: head.first_seen,
        };
        let read = match route {
            Some(route) => TaskSnapshot::read_by(&route.reader, &source),
            None => TaskSnapshot::read(&source),
        };
        Some(read.ok()?)
    } else {
        None
    };
    let headers: HeaderMap = head
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, value.parse().ok()?)))
        .collect();
    let status = StatusCode::from_u16(head.status).ok()?;
    let mut reply = match route {
        Some(route) => Reply::as_is(route, status, &headers, body, snapshot),
        None => Reply::new(status, &headers, body, snapshot),
    };
    reply.received = received;
    let lifetime = head.rule.map(|rule| {
        let told = Lifetime {
            fresh: Duration::from_millis(head.fresh),
            stale_if_error: Duration::from_millis(head.stale_if_error),
            rule: rule.0,
            ends_at: head.ends_at,
        };
        told.cut(cache)
    });
    let verdict = |accepted| {
        if accepted {
            CredentialVerdict::Accepted
        } else {
            CredentialVerdict::Refused
        }
    };
    Some(Opened {
        by: Member(head.by),
        headers: reply.headers.clone(),
        arrival: Arrival {
            asked,
            first_seen: head.first_seen,
            decision: Decision {
                lifetime,
                age: head
                    .age
                    .map(|age| TaskAge::begun(received, Duration::from_millis(age))),
                credential: head.accepted.map(verdict),
                fault: head.own_fault.then_some(Fault::Own),
                forbidden: head.forbidden,
                ended: None,
            },
        },
        reply,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
