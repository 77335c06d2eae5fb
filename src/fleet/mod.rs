//! A fleet: many sidecars that share what they know and ask upstream once for all of them, through a Valkey or Redis.
//!
//! [`engine`] is the narrow interface to it: plain values, no bytes of any protocol. Everything above works on that
//! interface alone and is tested with an engine in memory ([`memory`]) on paused time.
//!
//! The lease on a task only saves polls. What is right hangs on three other things: the *fence* of each answer (a later
//! answer never gives way to an earlier one), the *mark* of each forget (nothing from before it is shown again) and the
//! age guard of the store ([`Store::adopt`](crate::cache::Store::adopt)). An engine that is slow, full, frozen or gone
//! costs a poll at most `fleet.timeout`, and then nothing: the gateway is what it is without a fleet.

pub mod anchor;
pub mod engine;
pub mod envelope;
mod fences;
pub mod health;
pub mod link;
mod membership;
pub mod memory;
mod news;
mod outbox;
pub mod pulse;
pub mod seal;
mod waits;

pub use self::fences::Known;
pub use self::membership::{Asking, Ear, Fleet, Terms, Wish};
pub use self::news::Forget;
pub use self::waits::{Heard, Waiter};
