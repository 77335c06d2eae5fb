//! A request whose route has been read. From here on its kind is a type: a status poll, a request to forward, or a
//! refused one.

use http::{Method, Request};
use tokio::time::Instant;

use super::inbound::{Inbound, Interim, Peer};
use super::key::{Caller, CallerKey, Credentials};
use super::query::AskedUpstream;
use super::route::{Route, RouteLabel, TaskId};
use crate::error::Error;
use crate::message::body::Body;
use crate::task::Dialect;

/// A request, and how metrics, logs and errors refer to it.
#[derive(Debug)]
pub struct Routed {
    /// How metrics, logs and errors refer to it.
    pub subject: Subject,
    /// What has to be done.
    pub kind: Kind,
}

/// How metrics, logs and errors refer to a request.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The label of its route.
    pub route: RouteLabel,
    /// The language in which its client reads errors.
    pub dialect: Dialect,
    /// The task that its path names.
    pub task: Option<TaskId>,
    /// Who sent it; known for status polls only.
    pub caller: Option<Caller>,
}

/// What has to be done with a request.
#[derive(Debug)]
pub enum Kind {
    /// Tell the status of a task.
    Poll(StatusPoll),
    /// Pass it on to upstream.
    Forward(Box<Forwardable>),
    /// Tell its client why it is refused.
    Refused(Error),
}

/// A status poll: `GET` or `HEAD` on a task.
#[derive(Debug)]
pub struct StatusPoll {
    /// The dialect of its path.
    pub dialect: Dialect,
    /// The task that it asks for.
    pub task: TaskId,
    /// Who sent it.
    pub caller: Caller,
    /// What makes the caller, with all of the request's headers and its target. The body of a poll has no meaning and is
    /// dropped.
    pub credentials: Credentials,
    /// Whether only the head of the answer is wanted.
    pub is_head: bool,
    /// When the whole head had arrived.
    pub received_at: Instant,
    /// Learns whether it made a request to upstream.
    pub asked: AskedUpstream,
}

/// A request that is passed on.
#[derive(Debug)]
pub struct Forwardable {
    /// The task that it may change, and who wants that.
    pub writes: Option<(TaskId, Caller)>,
    /// The request itself.
    pub request: Request<Body>,
    /// The other end of the client's connection.
    pub peer: Peer,
    /// Passes interim responses on to the client.
    pub interim: Option<Interim>,
}

impl Routed {
    /// Reads the route of a request and, where it is a status poll, who sent it.
    #[must_use]
    pub fn read(inbound: Inbound, caller_key: &CallerKey) -> Self {
        let Inbound {
            request,
            peer,
            received_at,
            interim,
            refusal,
        } = inbound;
        let (method, uri) = (request.method(), request.uri());
        if let Some(error) = refusal {
            return Self {
                subject: Subject::forwarded(Route::read(method, uri.path()).dialect(), None),
                kind: Kind::Refused(error),
            };
        }
        let forward = |dialect, writes: Option<(TaskId, Caller)>, request| Self {
            subject: Subject::forwarded(dialect, writes.as_ref().map(|(task, _)| task.clone())),
            kind: Kind::Forward(Box::new(Forwardable {
                writes,
                request,
                peer,
                interim,
            })),
        };
        match Route::read(method, uri.path()) {
            Route::Poll { dialect, task } => {
                let identity = caller_key.identify(request.headers(), uri.query());
                let (head, _) = request.into_parts();
                let caller = identity.caller;
                Self {
                    subject: Subject {
                        route: RouteLabel::of(dialect),
                        dialect,
                        task: Some(task.clone()),
                        caller: Some(caller),
                    },
                    kind: Kind::Poll(StatusPoll {
                        dialect,
                        task,
                        caller,
                        credentials: caller_key.credentials(identity, head.headers, head.uri),
                        is_head: head.method == Method::HEAD,
                        received_at,
                        asked: AskedUpstream::default(),
                    }),
                }
            }
            Route::Write { dialect, task } => {
                let identity = caller_key.identify(request.headers(), uri.query());
                forward(dialect, Some((task, identity.caller)), request)
            }
            Route::Forward { dialect } => forward(dialect, None, request),
        }
    }
}

impl Subject {
    fn forwarded(dialect: Dialect, task: Option<TaskId>) -> Self {
        Self {
            route: RouteLabel::Forward,
            dialect,
            task,
            caller: None,
        }
    }
}
