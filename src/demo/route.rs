//! Status routes as clients know them: where a task is created and polled, and where the answers tell what of it.

use std::slice;

use serde_json::Value;

use crate::simulator::{State, StatusRoute};

/// A status route.
#[derive(Debug)]
pub(super) struct Route {
    /// The simulator's name for it, and pollgate's.
    pub(super) simulated: StatusRoute,
    /// Path of the create request.
    pub(super) create: &'static str,
    /// Member of the create request that names the model.
    pub(super) model: &'static str,
    /// Pointer to the id in the answer to it.
    created: &'static str,
    /// What is before and after the id in the target of a poll.
    poll: (&'static str, &'static str),
    /// Pointer to the id in the answer to a poll.
    id: &'static str,
    /// Pointer to the status word.
    status: &'static str,
    /// Status words of a task that is queued, processing, succeeded and failed. `NOT_START`, which is queued in some
    /// channels and processing in others, is missing: no task of the demo is ever in it.
    words: [&'static [&'static str]; 4],
    /// Whether pollgate passes all answers on as they come, be they documents or not.
    pub(super) passes_on: bool,
}

/// The routes of one task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// Where it is created.
    pub(super) create: &'static Route,
    /// Where it is polled; its pollers take these in turn.
    pub(super) polls: &'static [Route],
}

/// The two routes of the video API. On the unified path upstream's own row statuses pass through.
pub(super) static VIDEO: [Route; 2] = [
    Route {
        simulated: StatusRoute::Unified,
        create: "/v1/video/generations",
        model: "model",
        created: "/task_id",
        poll: ("/v1/video/generations/", ""),
        id: "/data/task_id",
        status: "/data/status",
        words: [
            &["queued", "SUBMITTED", "QUEUED"],
            &["processing", "IN_PROGRESS"],
            &["succeeded", "SUCCESS"],
            &["failed", "FAILURE"],
        ],
        passes_on: false,
    },
    Route {
        simulated: StatusRoute::Openai,
        create: "/v1/videos",
        model: "model",
        created: "/id",
        poll: ("/v1/videos/", ""),
        id: "/id",
        status: "/status",
        words: [&["queued"], &["in_progress"], &["completed"], &["failed"]],
        passes_on: false,
    },
];

/// Words of new-api's rows.
const ROW: [&[&str]; 4] = [
    &["SUBMITTED", "QUEUED"],
    &["IN_PROGRESS"],
    &["SUCCESS"],
    &["FAILURE"],
];

/// The routes of other APIs, which are on by default.
pub(super) static OTHERS: [Route; 6] = [
    Route {
        simulated: StatusRoute::Octopus,
        create: "/v1/video/create",
        model: "model",
        created: "/id",
        poll: ("/v1/video/query?id=", ""),
        id: "/id",
        status: "/status",
        words: [
            // Sora's document says `queued`, all others say `pending`.
            &["pending", "queued"],
            &["processing"],
            &["completed"],
            &["failed"],
        ],
        passes_on: true,
    },
    Route {
        simulated: StatusRoute::Mj,
        create: "/mj/submit/imagine",
        model: "model",
        created: "/result",
        poll: ("/mj/task/", "/fetch"),
        id: "/id",
        status: "/status",
        words: ROW,
        passes_on: true,
    },
    Route {
        simulated: StatusRoute::Kling,
        create: "/kling/v1/videos/text2video",
        model: "model_name",
        created: "/data/task_id",
        poll: ("/kling/v1/videos/text2video/", ""),
        id: "/data/task_id",
        status: "/data/task_status",
        words: [&["submitted"], &["processing"], &["succeed"], &["failed"]],
        passes_on: true,
    },
    Route {
        simulated: StatusRoute::Suno,
        create: "/suno/submit/MUSIC",
        model: "mv",
        created: "/data",
        poll: ("/suno/fetch/", ""),
        id: "/data/task_id",
        status: "/data/status",
        words: ROW,
        passes_on: true,
    },
    Route {
        simulated: StatusRoute::Tasks,
        create: "/v1/tasks/doubao",
        model: "model",
        created: "/task_id",
        poll: ("/v1/tasks/", ""),
        id: "/task_id",
        status: "/status",
        words: ROW,
        passes_on: true,
    },
    Route {
        simulated: StatusRoute::Ark,
        create: "/api/v3/contents/generations/tasks",
        model: "model",
        created: "/id",
        poll: ("/api/v3/contents/generations/tasks/", ""),
        id: "/id",
        status: "/status",
        words: [&["queued"], &["running"], &["succeeded"], &["failed"]],
        passes_on: true,
    },
];

impl Route {
    /// Name in what the demo prints.
    pub(super) const fn name(&self) -> &'static str {
        self.simulated.name()
    }

    /// Path and query of a status poll.
    pub(super) fn target(&self, id: &str) -> String {
        let (before, after) = self.poll;
        format!("{before}{id}{after}")
    }

    /// The id in the answer to a create request.
    pub(super) fn created_id<'a>(&self, document: &'a Value) -> Option<&'a str> {
        document.pointer(self.created)?.as_str()
    }

    /// The id in the answer to a poll.
    pub(super) fn id<'a>(&self, document: &'a Value) -> &'a Value {
        document.pointer(self.id).unwrap_or(&Value::Null)
    }

    /// The status word in the answer to a poll.
    pub(super) fn status<'a>(&self, document: &'a Value) -> &'a Value {
        document.pointer(self.status).unwrap_or(&Value::Null)
    }

    /// The state that a status word means; `None` if it is not a status of this route.
    pub(super) fn state(&self, word: &str) -> Option<State> {
        let states = [
            State::Queued,
            State::Processing,
            State::Succeeded,
            State::Failed,
        ];
        let words = self.words.iter().zip(states);
        words
            .into_iter()
            .find_map(|(words, state)| words.contains(&word).then_some(state))
    }
}

impl Slot {
    /// Slot number `number` of the video API: tasks are created on its two routes in turn, and polled on both.
    pub(super) fn video(number: usize) -> Self {
        Self {
            create: &VIDEO[number % VIDEO.len()],
            polls: &VIDEO,
        }
    }

    /// A slot of another route.
    pub(super) fn other(route: &'static Route) -> Self {
        Self {
            create: route,
            polls: slice::from_ref(route),
        }
    }

    /// The route of poller number `number`.
    pub(super) fn polled(self, number: usize) -> &'static Route {
        &self.polls[number % self.polls.len()]
    }
}
