//! A fleet: many sidecars that share what they know and ask upstream once for all of them, through a Valkey or Redis.
//!
//! [`engine`] is the narrow interface to it: plain values, no bytes of any protocol. Everything above works on that
//! interface alone and is tested with an engine in memory on paused time.
//!
//! The lease on a task only saves polls. What is right hangs on three other things: the *fence* of each answer (a later
//! answer never gives way to an earlier one), the *mark* of each forget (nothing from before it is shown again) and the
//! age guard of the store. An engine that is slow, full, frozen or gone costs a poll at most `fleet.timeout`, and then
//! nothing: the gateway is what it is without a fleet.

pub mod engine;
pub mod seal;
