//! What requests share and wait for, whatever they are about: knows no HTTP and no tasks.

pub mod flights;
pub mod permits;
