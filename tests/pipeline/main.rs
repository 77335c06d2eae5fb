//! The task pipeline on paused time, in front of an upstream in memory: coalescing, caching, upstream failures, the
//! adaptive cadence, and the promised figures.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::unnecessary_wraps,
    reason = "a test that cannot go on has failed; figures are for reading; scripts answer with results"
)]

mod caching;
mod cadence;
mod figures;
mod fleet;
mod peers;
mod support;
mod upstream_failures;
