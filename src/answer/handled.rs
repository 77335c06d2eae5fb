//! What travels up the outer half of the stack: a response with its facts.

use http::Response;

use super::outcome::Outcome;
use crate::message::body::Body;
use crate::task::State;

/// A response, and what is told of it in metrics and logs.
#[derive(Debug)]
pub struct Handled {
    /// The response itself.
    pub response: Response<Body>,
    /// What is told of it.
    pub facts: Facts,
}

/// What inner layers tell of a request.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// How it was answered.
    pub outcome: Outcome,
    /// The task's state, where there is one.
    pub state: Option<State>,
    /// The code of the error that was made here, where the answer is one.
    pub error: Option<&'static str>,
}

impl Facts {
    /// Nothing is known but how it was answered.
    #[must_use]
    pub fn only(outcome: Outcome) -> Self {
        Self {
            outcome,
            state: None,
            error: None,
        }
    }
}
