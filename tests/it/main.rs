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
mod ambiguous;
mod ambiguous_http_2;
mod command_line;
mod demo;
mod descriptors;
mod documents;
mod errors;
mod fairness;
mod faltering;
mod figures;
mod forwarding;
mod fuzz;
mod http_2_requests;
mod hygiene;
mod idle_admin;
mod isolation;
mod leaks;
mod lifecycle;
mod limits;
mod log_floods;
mod logs;
mod metrics;
mod paths;
mod proxied;
mod readme;
mod remembering;
mod request_ids;
mod restarting;
mod resting;
mod service_manager;
mod sharing;
mod shipped;
mod slow;
mod streams;
mod throughput;
mod tls;
mod upgrades;
mod upstream_h2;
mod waiting;
