//! What the inner layers return to the outer ones: a response, and facts about it.

use http::Response;

use super::outcome::Outcome;
use crate::message::body::Body;
use crate::task::State;

/// A response, and what metrics and logs record about it.
#[derive(Debug)]
pub struct Handled {
    /// The response.
    pub response: Response<Body>,
    /// What metrics and logs record about it.
    pub facts: Facts,
}

/// What the inner layers report about a request.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// How it was answered.
    pub outcome: Outcome,
    /// The task's state, if there is a task.
    pub state: Option<State>,
    /// The code of the error that was made here, where the answer is one.
    pub error: Option<&'static str>,
}

impl Facts {
    /// Facts with nothing but the outcome.
    #[must_use]
    pub fn only(outcome: Outcome) -> Self {
        Self {
            outcome,
            state: None,
            error: None,
        }
    }
}
