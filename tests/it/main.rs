//! Black-box tests: the real binary over real sockets, against a scripted upstream or the simulator.

#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    clippy::print_stdout,
    reason = "a panic is a failed test; gauges are whole numbers; figures are for reading"
)]

mod support;

mod admin;
mod admin_page;
mod blast_radius;
mod caching;
mod coalescing;
mod command_line;
mod creates;
mod demo;
mod descriptors;
mod documents;
mod errors;
mod example_configs;
mod fairness;
mod figures;
mod forwarding;
mod fuzz;
mod fuzz_routes;
mod http_2_requests;
mod hygiene;
mod idle_admin;
mod idle_connections;
mod isolation;
mod leaks;
mod lifecycle;
mod limits;
mod log_floods;
mod logs;
mod metrics;
mod paths;
mod polls_upstream;
mod proxied;
mod readme;
mod request_ids;
mod request_smuggling;
mod request_smuggling_http_2;
mod restarting;
mod rooms;
mod routes;
mod service_manager;
mod slow;
mod streams;
mod throughput;
mod tls;
mod upgrades;
mod upstream_failures;
mod upstream_h2;
mod upstream_h2_peers;
mod upstream_nginx;
mod upstream_reasons;
mod waiting;
mod wire;
mod writes;
