//! What requests share and wait for, whatever they are about: knows no HTTP and no tasks.

mod lock;

pub mod flights;
pub mod permits;
pub mod shares;

pub use self::lock::{lock, read, write};
