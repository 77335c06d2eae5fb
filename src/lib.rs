//! pollgate is a caching gateway for video-task status polls. It stands in front of OctopusX (an API of the new-api
//! family) as a sidecar; clients reach it by changing their base URL, nothing else.
//!
//! # Three journeys
//!
//! ```text
//! server      a connection, its timeouts, HTTP/1.1 or HTTP/2          src/server/mod.rs
//!   │  Inbound: the request, and why the server refuses it, if so     src/request/inbound.rs
//!   ▼
//! Observe     reads the route; counts, logs and signs                 src/stack/observe.rs, src/request/routed.rs
//! Rescue      errors become responses in the dialect of the path      src/stack/rescue.rs
//! Shed        a permit for each request, or a refusal at once         src/stack/shed.rs
//! Dispatch ─┬─ Forward   passes all other requests on, streamed       src/stack/forward.rs
//!           └─ Status    request → TaskQuery, Answer → response       src/stack/status.rs
//!               │  the narrow waist: plain values from here on        src/request/query.rs, src/answer/mod.rs
//!               ▼
//!             Hold       waits for news by asking again               src/stack/hold.rs
//!             Recall     from memory while fresh, or while upstream fails  src/stack/recall.rs
//!             Coalesce   one flight for all waiters                   src/stack/coalesce.rs
//!             Remember   decides how long the answer is kept, and keeps it  src/stack/remember.rs
//!             Retry      tries again where that can help              src/stack/retry.rs
//!             Breaker    leaves a failing upstream alone              src/stack/breaker.rs
//!             Fetch      asks upstream, within limits                 src/stack/fetch.rs
//! ```
//!
//! - **A hit** ends at Recall: [`cache`] finds the entry, [`answer`] writes the response.
//! - **A miss** goes all the way down. Coalesce starts a flight ([`sync`]`::flights`) or joins the one in progress; a flight
//!   is a task of its own, so a client that hangs up changes nothing for its followers. What becomes of the reply, and how
//!   long it is kept, is decided by one pure function, `cache::freshness::decide`.
//! - **Everything else** is forwarded ([`upstream`]`::exchange`), streamed both ways and unread; a write to a task
//!   invalidates what is remembered of it.
//!
//! What a status route is, and which task a path names, is decided in `request/route.rs`. The stack is assembled in
//! `stack/mod.rs`, and put together anew when the settings change ([`gateway`]).
//!
//! # The rooms
//!
//! From the ground up; a room imports only from those above it in this table, which a test checks.
//!
//! | room | holds |
//! |---|---|
//! | [`task`] | task documents and the two dialects: pure, no HTTP, no clock |
//! | [`error`] | everything that can go wrong with a request |
//! | [`message`] | HTTP messages: bodies, fields, trace context, request ids |
//! | [`sync`] | flights, permits, locks: no HTTP, no tasks |
//! | [`config`] | the settings: defaults, file, environment, flags |
//! | [`request`] | what came in: route, caller, preferences, query |
//! | [`answer`] | what goes out: reply, outcome, response, events |
//! | [`cache`] | what is remembered, for whom, and for how long |
//! | [`telemetry`] | metrics and log lines |
//! | [`upstream`] | sockets out: connections, requests, circuit breakers |
//! | [`server`] | sockets in: connections, the guard against request smuggling, TLS |
//! | [`stack`] | the middleware, one layer a file |
//! | [`gateway`] | shared state, and the stack in front of it |
//! | [`admin`] | the page, metrics, health, purging |
//! | [`daemon`] | the process: ports, passed sockets, signals, reload |
//! | [`simulator`] | an upstream that shares no code with the rest |
//! | [`demo`] | a crowd, a referee and a picture |
//! | [`cli`] | what can be typed |

pub mod admin;
pub mod answer;
pub mod cache;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod error;
pub mod gateway;
pub mod message;
pub mod request;
pub mod server;
pub mod simulator;
pub mod stack;
pub mod sync;
pub mod task;
pub mod telemetry;
pub mod upstream;
