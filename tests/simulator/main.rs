//! The simulator over real sockets: what a client of the real API would see.
//!
//! Time is paused: it advances only when a test advances it, or when every task waits for a timer.

mod content;
mod control;
mod endpoints;
mod faults;
mod keys;
mod routes;
mod tasks;
mod world;
