//! The API behind pollgate: what is sent there, over which connections.

mod client;
pub mod headers;
mod request;

pub use client::{Upstream, UpstreamProblem};
pub use request::{forward_request, status_request};
