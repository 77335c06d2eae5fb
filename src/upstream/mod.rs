//! The API behind pollgate: what is sent there, over which connections.

mod client;
mod connect;
mod expect;
pub mod headers;
pub mod interim;
mod request;
mod tunnel;

pub use client::{Upstream, UpstreamProblem};
pub use expect::{Expectation, expect_continue};
pub use request::{Passage, forward_request, status_request};
pub use tunnel::tunnel;
