//! What is cached, for which caller, and for how long.

pub mod cadence;
pub mod created;
mod credential;
mod entries;
mod entry;
mod failures;
pub mod freshness;
mod index;
mod inspect;
mod lease;
mod probation;
mod reclaim;
mod store;

pub use self::credential::Acceptance;
pub use self::entry::{Entry, Looked, Use};
pub use self::failures::Failure;
pub use self::inspect::{CallerCount, Census, Remembered};
pub use self::lease::Lease;
pub use self::store::{Kept, NotAdopted, Store};
