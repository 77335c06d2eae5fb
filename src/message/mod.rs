//! HTTP messages as both sides of the gateway need them: bodies, header fields, trace context and request ids. It knows
//! no tasks.

pub mod body;
pub mod fields;
pub mod flatten;
pub mod method;
pub mod replay;
pub mod request_id;
pub mod trace;
