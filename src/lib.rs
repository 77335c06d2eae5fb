//! pollgate is a caching gateway for video-task status polls. It stands in front of OctopusX (an API of the new-api
//! family) as a sidecar; clients reach it by changing their base URL, nothing else.
//!
//! # The way of a request
//!
//! ```text
//! server      a connection, its timeouts, HTTP/1.1 or HTTP/2        src/server/
//!   │  Inbound: the request and its route                           src/exchange.rs, src/route.rs
//!   ▼
//! Observe     counts, logs, signs                                   src/stack/observe.rs
//! Rescue      errors become responses in the dialect of the path    src/stack/rescue.rs
//! Door        a place for each request, or a refusal at once        src/stack/door.rs
//! Dispatch ─┬─ Forward   all that is no status poll: streamed       src/stack/forward.rs
//!           └─ Poll      request → TaskQuery, Answer → response     src/stack/poll.rs
//!               │  the narrow waist: plain values from here on      src/reply.rs
//!               ▼
//!             Hold       waits for news, by asking again            src/stack/hold.rs
//!             Translate  which dialect upstream is asked in         src/stack/translate.rs
//!             Recall     fresh from memory; stale when it fails     src/stack/recall.rs
//!             Coalesce   one poll for all who wait                  src/stack/coalesce.rs
//!             Remember   stores the answer before the poll is over  src/stack/remember.rs
//!             Retry      tries again where that can help            src/stack/retry.rs
//!             Breaker    leaves a failing upstream alone            src/stack/breaker.rs
//!             Fetch      asks upstream, within limits               src/stack/fetch.rs
//! ```
//!
//! [`stack`] puts these together in one place. What they work on lies beside them: [`key`] (whose poll it is),
//! [`store`] (what is remembered), [`freshness`] (for how long), [`cadence`] (for how long while the task runs),
//! [`sync::flights`] (what is under way), [`task`] (documents and dialects), [`upstream`] (who is asked), [`telemetry`] (what
//! is told), [`admin`] (what people see of all that). `task`, `flights` and `cadence` are pure: no HTTP, no sockets.
//!
//! Around the gateway stand the commands: [`daemon`], [`demo`] and [`simulator`], and [`config`] under all of them.

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
