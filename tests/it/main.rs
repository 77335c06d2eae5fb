//! Black-box tests: the real binary over real sockets, against a scripted upstream or the simulator.

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
mod remembering;
mod sharing;
