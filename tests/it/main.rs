//! Black-box tests: the real binary over real sockets, against a scripted upstream or the simulator.

#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "a test that cannot go on has failed; gauges are whole numbers"
)]

mod support;

mod admin;
mod command_line;
mod demo;
mod documents;
mod errors;
mod forwarding;
mod isolation;
mod lifecycle;
mod limits;
mod logs;
mod readme;
mod remembering;
mod sharing;
mod tls;
mod waiting;
