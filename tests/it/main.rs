//! Black-box tests: the real binary over real sockets, against a scripted upstream or the simulator.

#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed; gauges are whole numbers; figures are for reading"
)]

mod support;

mod admin;
mod admin_page;
mod command_line;
mod demo;
mod documents;
mod errors;
mod faltering;
mod figures;
mod forwarding;
mod isolation;
mod lifecycle;
mod limits;
mod logs;
mod metrics;
mod readme;
mod remembering;
mod restarting;
mod service_manager;
mod sharing;
mod shipped;
mod tls;
mod waiting;
