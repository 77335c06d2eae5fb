//! Counts of the requests that the simulator receives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde::Serialize;
use tokio::sync::watch;

use super::rule::Fault;
use super::status_route::StatusRoute;
use crate::sync::lock;

/// Counts since the start or the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// TCP connections accepted.
    pub connections: u64,
    /// Requests of every kind, except those to `/simulator`.
    pub requests: u64,
    /// Status polls that arrived, on every route, whatever their result.
    pub status_polls: u64,
    /// Of these, on `/v1/video/generations/{id}`.
    pub unified_polls: u64,
    /// Of these, on `/v1/videos/{id}`.
    pub openai_polls: u64,
    /// Of these, on the other routes.
    pub native_polls: BTreeMap<StatusRoute, u64>,
    /// Status polls in flight, until the last byte of the answer.
    pub open_polls: u64,
    /// Maximum number of status polls in flight at a time.
    pub max_open_polls: u64,
    /// Status polls whose client disconnected before the answer, including connections that were reset.
    pub abandoned_polls: u64,
    /// Answers to status polls by HTTP status.
    pub poll_answers: BTreeMap<u16, u64>,
    /// Create requests on every route, and remixes.
    pub creates: u64,
    /// `/v1/videos/{id}/content`.
    pub contents: u64,
    /// Requests of signed result URLs, `/files/{id}.mp4`.
    pub files: u64,
    /// `POST /v1/files`.
    pub uploads: u64,
    /// Bytes read from uploads.
    pub uploaded_bytes: u64,
    /// `POST /v1/chat/completions`.
    pub chats: u64,
    /// All other requests.
    pub others: u64,
    /// Injected faults.
    pub faults: BTreeMap<Fault, u64>,
}

impl Counts {
    /// Status polls that arrived on a route.
    pub(crate) fn polls_on(&self, route: StatusRoute) -> u64 {
        match route {
            StatusRoute::Unified => self.unified_polls,
            StatusRoute::Openai => self.openai_polls,
            _ => self.native_polls.get(&route).copied().unwrap_or(0),
        }
    }
}

/// Kind of a counted request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Poll(StatusRoute),
    Create,
    Content,
    File,
    Upload,
    Chat,
    Other,
}

/// The counters; a cheap handle.
#[derive(Debug, Clone, Default)]
pub(super) struct Counter {
    counts: Arc<Mutex<Counts>>,
    polls: Arc<watch::Sender<u64>>,
}

/// One request in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct Visit {
    counter: Counter,
    is_poll: bool,
    answered: bool,
}

impl Counter {
    pub(super) fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }

    /// Resets all counts but those of polls in flight.
    pub(super) fn reset(&self) {
        let mut counts = lock(&self.counts);
        *counts = Counts {
            open_polls: counts.open_polls,
            max_open_polls: counts.open_polls,
            ..Counts::default()
        };
        self.polls.send_replace(0);
    }

    pub(super) fn connected(&self) {
        lock(&self.counts).connections += 1;
    }

    pub(super) fn uploaded(&self, bytes: u64) {
        lock(&self.counts).uploaded_bytes += bytes;
    }

    pub(super) fn struck(&self, fault: Fault) {
        *lock(&self.counts).faults.entry(fault).or_default() += 1;
    }

    /// Counts a request that arrived.
    pub(super) fn arrive(&self, kind: Kind) -> Visit {
        let mut counts = lock(&self.counts);
        counts.requests += 1;
        match kind {
            Kind::Poll(route) => {
                counts.status_polls += 1;
                match route {
                    StatusRoute::Unified => counts.unified_polls += 1,
                    StatusRoute::Openai => counts.openai_polls += 1,
                    _ => *counts.native_polls.entry(route).or_default() += 1,
                }
                counts.open_polls += 1;
                counts.max_open_polls = counts.max_open_polls.max(counts.open_polls);
                self.polls.send_replace(counts.status_polls);
            }
            Kind::Create => counts.creates += 1,
            Kind::Content => counts.contents += 1,
            Kind::File => counts.files += 1,
            Kind::Upload => counts.uploads += 1,
            Kind::Chat => counts.chats += 1,
            Kind::Other => counts.others += 1,
        }
        Visit {
            counter: self.clone(),
            is_poll: matches!(kind, Kind::Poll(_)),
            answered: false,
        }
    }

    /// Waits until at least `n` status polls have arrived.
    pub(super) async fn await_polls(&self, n: u64) {
        let _ = self.polls.subscribe().wait_for(|polls| *polls >= n).await;
    }
}

impl Visit {
    /// Counts the answer.
    pub(super) fn answered(&mut self, status: u16) {
        self.answered = true;
        if self.is_poll {
            *lock(&self.counter.counts)
                .poll_answers
                .entry(status)
                .or_default() += 1;
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if self.is_poll {
            let mut counts = lock(&self.counter.counts);
            counts.open_polls -= 1;
            counts.abandoned_polls += u64::from(!self.answered);
        }
    }
}
