//! pollgate is a caching gateway for video-task status polls. It stands in front of OctopusX (an API of the new-api
//! family) as a sidecar; clients reach it by changing their base URL, nothing else.
//!
//! # The path of a request
//!
//! ```text
//! server      a connection, its timeouts, HTTP/1.1 or HTTP/2          src/server/mod.rs
//!   │  Inbound: the request, and the reason if it is to be refused    src/request/inbound.rs
//!   ▼
//! Observe     reads the route; metrics, log line, request id          src/stack/observe.rs, src/request/routed.rs
//! Rescue      errors become responses in the dialect of the path      src/stack/rescue.rs
//! Shed        load shedding: a permit, or a refusal at once           src/stack/shed.rs
//! Dispatch ─┬─ Forward   streams every other request to upstream      src/stack/forward.rs
//!           └─ Status    request → TaskQuery, Answer → response       src/stack/status.rs
//!               │  plain values, no HTTP, from here on                src/request/query.rs, src/answer/mod.rs
//!               ▼
//!             Hold       long polls: asks again until a change        src/stack/hold.rs
//!             Recall     cache hits, and stale answers on errors      src/stack/recall.rs
//!             Coalesce   one flight for a leader and its followers    src/stack/coalesce.rs
//!             Fleet      one poll and one memory for many sidecars     src/stack/fleet/mod.rs, src/fleet/mod.rs
//!             Remember   stores answers as `cache::freshness` decides   src/stack/remember.rs
//!             Retry      retries what a second try may solve          src/stack/retry.rs
//!             Breaker    circuit breaker: does not ask while down     src/stack/breaker.rs
//!             Fetch      one upstream request, within limits          src/stack/fetch.rs
//! ```
//!
//! - **A hit** ends at Recall: [`cache`] finds the entry, [`answer`] writes the response.
//! - **A miss** reaches Fetch. Coalesce starts a flight ([`sync`]`::flights`) or joins the one in progress. Its leader's
//!   request drives a flight as long as nobody else waits for it; from the second waiter on it is a tokio task of its own,
//!   so that its followers get the answer if the leader's client hangs up. It is aborted when the last of them has left.
//!   How long a reply is kept is decided by one pure function, `cache::freshness::decide`.
//! - **Everything else** is forwarded ([`upstream`]`::exchange`), streamed in both directions and unread; a write to a
//!   task invalidates its cached answers.
//!
//! Status routes are rows of a table ([`route`]). Two of them have documents that convert into one another
//! (`task/dialect.rs`); those of all others are passed on as they come, read by the pointers and words of their row
//! (`task/reader.rs`), so that a further one takes no code: `route/presets.toml` holds those that are shipped. The stack is
//! assembled in `stack/mod.rs`, and rebuilt when the configuration is reloaded ([`gateway`]).
//!
//! # The modules
//!
//! In order of dependency: a module imports only from those above it in this table, which a test checks.
//!
//! | module | holds |
//! |---|---|
//! | [`task`] | task documents and the two dialects: pure, no HTTP, no clock |
//! | [`error`] | the errors that a client can get |
//! | [`message`] | HTTP messages: bodies, fields, trace context, request ids |
//! | [`sync`] | flights, permits, locks: no HTTP, no tasks |
//! | [`route`] | the table of status routes: which requests ask for a task, and how its documents are read |
//! | [`config`] | the settings: defaults, file, environment, flags |
//! | [`request`] | what is read from a request: kind, caller, preferences, query |
//! | [`answer`] | what an answer is made of: reply, outcome, response, events |
//! | [`cache`] | cached answers: their keys, freshness and eviction |
//! | [`telemetry`] | metrics and log lines |
//! | [`upstream`] | the client side: connections, requests, circuit breakers |
//! | [`fleet`] | what many sidecars share: the engine behind them |
//! | [`server`] | the server side: connections, the guard against request smuggling, TLS |
//! | [`stack`] | the middleware, one layer per file |
//! | [`gateway`] | shared state, and the stack in front of it |
//! | [`admin`] | the page, metrics, health, purging |
//! | [`daemon`] | the process: ports, passed sockets, signals, reload |
//! | [`simulator`] | an upstream that shares no code with the rest |
//! | [`demo`] | `pollgate demo`: simulated clients, their checks, the terminal display |
//! | [`cli`] | the command line |

mod admin;
pub mod answer;
pub mod cache;
pub mod cli;
pub mod config;
mod daemon;
mod demo;
pub mod error;
pub mod fleet;
pub mod gateway;
pub mod message;
pub mod request;
pub mod route;
pub mod server;
pub mod simulator;
pub mod stack;
pub mod sync;
pub mod task;
pub mod telemetry;
pub mod upstream;
