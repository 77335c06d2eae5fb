//! What the inner layers return to the outer ones: a response, and facts about it.

use http::Response;

use super::outcome::Outcome;
use crate::message::body::Body;
use crate::request::routed::Subject;
use crate::route::{RouteLabel, TaskId};
use crate::task::State;

/// A response, and what metrics and logs record about it.
#[derive(Debug)]
pub struct Handled {
    /// The response.
    pub response: Response<Body>,
    /// What metrics and logs record about it.
    pub facts: Facts,
    /// The tasks that the request's body named, or that it named none.
    pub named: Option<Box<Named>>,
}

/// What a request turned out to be once its body was read.
#[derive(Debug)]
pub enum Named {
    /// A status poll of these tasks.
    Tasks(TaskId),
    /// Not a status poll.
    Nothing,
}

impl Named {
    /// Completes how metrics and logs refer to the request.
    pub fn tell(self, subject: &mut Subject) {
        match self {
            Self::Tasks(task) => subject.task = Some(task),
            Self::Nothing => {
                subject.route = RouteLabel::FORWARD;
                subject.caller = None;
            }
        }
    }
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
