//! What came in: a client's request, whose it is, which task it asks for, and what its client prefers.

pub mod inbound;
pub mod key;
pub mod preferences;
pub mod query;
pub mod routed;
