//! A request whose route has been read. From here on its kind is a type: a status poll, a request to forward, or a
//! refused one.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use tokio::time::Instant;

use super::inbound::{Inbound, Interim, Peer};
use super::key::{Caller, CallerKey, Credentials, Identity, detached};
use super::query::{AskedUpstream, Resource};
use crate::error::Error;
use crate::message::body::Body;
use crate::message::method::is_safe;
use crate::route::{AsIsRoute, Matched, RouteLabel, Routes, StatusRoute, TaskId, encoded};
use crate::task::{ErrorForm, texts_at};

/// The largest body of a `POST` that is read for the tasks that it asks for, in bytes. A larger one is forwarded.
pub const LARGEST_ASKING_BODY: usize = 16 * 1024;

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
    /// The form in which its client reads errors.
    pub errors: ErrorForm,
    /// The task that it names.
    pub task: Option<TaskId>,
    /// Who sent it; known for status polls only.
    pub caller: Option<Caller>,
}

/// What has to be done with a request.
#[derive(Debug)]
pub enum Kind {
    /// Tell the status of a task.
    Poll(StatusPoll),
    /// Tell the status of the tasks that its body names, or else pass it on.
    PollByBody(Box<UnreadPoll>),
    /// Pass it on to upstream.
    Forward(Box<Forwardable>),
    /// Tell its client why it is refused.
    Refused(Error),
}

/// A status poll: `GET` or `HEAD` on a task, or a `POST` whose body has been read.
#[derive(Debug)]
pub struct StatusPoll {
    /// Its route.
    pub route: StatusRoute,
    /// The task that it asks for.
    pub task: TaskId,
    /// What it asks for, on a route whose answers are passed on as they come.
    pub resource: Option<Arc<Resource>>,
    /// Who sent it.
    pub caller: Caller,
    /// What makes the caller, with all of the request's headers and its target. The body of a `GET` has no meaning and is
    /// dropped.
    pub credentials: Credentials,
    /// Whether only the head of the answer is wanted.
    pub is_head: bool,
    /// When the whole head had arrived.
    pub received_at: Instant,
    /// Learns whether it made a request to upstream.
    pub asked: AskedUpstream,
}

/// A `POST` that may be a status poll: its body is to be read first.
#[derive(Debug)]
pub struct UnreadPoll {
    /// Its route.
    pub route: Arc<AsIsRoute>,
    /// The request, which is passed on if it asks for no task.
    pub forwardable: Forwardable,
    /// Who sent it.
    pub identity: Identity,
    /// The key by which its body is told from others.
    pub caller_key: CallerKey,
    /// When the whole head had arrived.
    pub received_at: Instant,
    /// Learns whether it made a request to upstream.
    pub asked: AskedUpstream,
}

/// A request that is passed on.
#[derive(Debug)]
pub struct Forwardable {
    /// The task that it may change.
    pub writes: Option<TaskId>,
    /// Who sent it, where its method is not safe.
    pub caller: Option<Caller>,
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
    pub fn read(inbound: Inbound, routes: &Routes, caller_key: &CallerKey) -> Self {
        let Inbound {
            request,
            peer,
            received_at,
            interim,
            refusal,
        } = inbound;
        let (method, uri) = (request.method(), request.uri());
        let read = || routes.read(method, uri.path(), uri.query());
        if let Some(error) = refusal {
            return Self {
                subject: Subject::forwarded(read().errors(), None),
                kind: Kind::Refused(error),
            };
        }
        let forward = |errors, writes: Option<TaskId>, request: Request<Body>| Self {
            subject: Subject::forwarded(errors, writes.clone()),
            kind: Kind::Forward(Box::new(Forwardable {
                writes,
                caller: (!is_safe(request.method())).then(|| {
                    let query = request.uri().query();
                    caller_key.identify(request.headers(), query).caller
                }),
                request,
                peer,
                interim: interim.clone(),
            })),
        };
        match read() {
            Matched::Poll {
                route,
                task,
                rest_of_query,
            } => {
                let query = match &rest_of_query {
                    Some(rest) => Some(rest.as_str()).filter(|rest| !rest.is_empty()),
                    None => uri.query(),
                };
                let identity = caller_key.identify(request.headers(), query);
                let (head, _) = request.into_parts();
                let caller = identity.caller;
                let resource = match &route {
                    StatusRoute::Converted(_) => None,
                    StatusRoute::AsIs(route) => Some(Arc::new(Resource {
                        route: Arc::clone(route),
                        path: head.uri.path().into(),
                        body: None,
                    })),
                };
                Self {
                    subject: Subject {
                        route: route.label(),
                        errors: route.errors(),
                        task: Some(task.clone()),
                        caller: Some(caller),
                    },
                    kind: Kind::Poll(StatusPoll {
                        route,
                        task,
                        resource,
                        caller,
                        credentials: caller_key.credentials(identity, head.headers, head.uri),
                        is_head: head.method == Method::HEAD,
                        received_at,
                        asked: AskedUpstream::default(),
                    }),
                }
            }
            Matched::PollByBody(route) if may_ask(request.headers()) => {
                let identity = caller_key.identify(request.headers(), uri.query());
                Self {
                    subject: Subject {
                        route: route.label,
                        errors: route.errors,
                        task: None,
                        caller: Some(identity.caller),
                    },
                    kind: Kind::PollByBody(Box::new(UnreadPoll {
                        route,
                        forwardable: Forwardable {
                            writes: None,
                            caller: Some(identity.caller),
                            request,
                            peer,
                            interim,
                        },
                        identity,
                        caller_key: caller_key.clone(),
                        received_at,
                        asked: AskedUpstream::default(),
                    })),
                }
            }
            Matched::PollByBody(route) => forward(route.errors, None, request),
            Matched::Write { errors, task } => forward(errors, Some(task), request),
            Matched::Forward { errors } => forward(errors, None, request),
        }
    }
}

/// Whether the body of a request can be read for the tasks that it asks for, as far as its head tells.
fn may_ask(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).map(HeaderValue::to_str);
    let fits = match length {
        None => true,
        Some(Ok(length)) => length
            .trim()
            .parse()
            .is_ok_and(|length: usize| length <= LARGEST_ASKING_BODY),
        Some(Err(_)) => false,
    };
    fits && !headers.contains_key(CONTENT_ENCODING)
}

/// Whether this type says that a body is JSON.
fn is_json(content_type: &HeaderValue) -> bool {
    let text = content_type.to_str().unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

impl UnreadPoll {
    /// The status poll that the request is with this body; `None` if it names no task.
    #[must_use]
    pub fn with_body(&self, body: &Bytes) -> Option<StatusPoll> {
        const JSON: HeaderValue = HeaderValue::from_static("application/json");
        let ids = texts_at(body, self.route.ids.as_ref()?)?;
        if ids.len() > 1 && self.route.reader.each.is_none() {
            // One document does not tell of several tasks.
            return None;
        }
        let ids: Vec<_> = ids.iter().map(|id| encoded(id)).collect();
        let request = &self.forwardable.request;
        let (headers, uri) = (request.headers(), request.uri());
        let mut digest = self.caller_key.digest_of(body);
        let content_type = headers.get(CONTENT_TYPE).map_or(JSON, detached);
        if !is_json(&content_type) {
            // Upstream may take the same bytes for something else.
            digest.push_str(&self.caller_key.digest_of(content_type.as_bytes()));
        }
        let (headers, uri): (HeaderMap, Uri) = (headers.clone(), uri.clone());
        Some(StatusPoll {
            route: StatusRoute::AsIs(Arc::clone(&self.route)),
            task: TaskId::within(ids.iter().map(AsRef::as_ref), uri.path(), Some(&digest)),
            resource: Some(Arc::new(Resource {
                route: Arc::clone(&self.route),
                path: uri.path().into(),
                body: Some((body.clone(), content_type)),
            })),
            caller: self.identity.caller,
            credentials: self.caller_key.credentials(self.identity, headers, uri),
            is_head: false,
            received_at: self.received_at,
            asked: self.asked.clone(),
        })
    }
}

impl Subject {
    fn forwarded(errors: ErrorForm, task: Option<TaskId>) -> Self {
        Self {
            route: RouteLabel::FORWARD,
            errors,
            task,
            caller: None,
        }
    }
}
