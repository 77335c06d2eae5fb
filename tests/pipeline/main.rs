//! The task pipeline on paused time, on top of an upstream in memory: what is shared, what faltering costs, and the
//! figures that the gateway promises.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::unnecessary_wraps,
    reason = "a test that cannot go on has failed; figures are for reading; scripts answer with results"
)]

mod faltering;
mod figures;
mod peers;
mod remembering;
mod support;
