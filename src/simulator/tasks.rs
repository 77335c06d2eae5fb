//! The simulator's tasks, bounded in number.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use tokio::time::Instant;

use super::channel::Channel;
use super::life::{Life, Outcome, Status};

/// Number of tasks searched for a finished one before an unfinished one is dropped.
const SEARCHED: usize = 64;

/// Options of a new task; most can be set by `"simulate":{…}` in a create request.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskOptions {
    /// Time from submission to the end; by default picked from the settings' range.
    #[serde(deserialize_with = "duration")]
    pub lifetime: Option<Duration>,
    /// Time in `NOT_START` before submission; by default as in the settings.
    #[serde(deserialize_with = "duration")]
    pub not_start: Option<Duration>,
    /// How the task ends; by default it fails with the settings' probability.
    pub outcome: Option<Outcome>,
    /// Keeps the task in this status until it is forced into another.
    pub status: Option<Status>,
    /// Failure reason, if it fails.
    pub fail_reason: Option<String>,
    /// The channel; by default the model's.
    pub channel: Option<Channel>,
    /// The id; by default `task_` and 32 letters and digits.
    pub id: Option<String>,
    /// The prompt, which some channels show.
    #[serde(skip)]
    pub prompt: String,
    /// The video's length in seconds.
    #[serde(skip)]
    pub seconds: Option<u32>,
    /// The video's size, such as `1280x720`.
    #[serde(skip)]
    pub size: Option<String>,
    /// The task that this one is a remix of.
    #[serde(skip)]
    pub remixed_from: Option<String>,
}

/// A status to force a task into, as in `POST /simulator/tasks/{id}`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forced {
    /// The status from now on.
    pub status: Status,
    /// Failure reason.
    #[serde(default)]
    pub fail_reason: Option<String>,
    /// Percent; by default unchanged, 0 before processing and 100 at the end.
    #[serde(default)]
    pub progress: Option<u8>,
    /// The result URL of a success; `""` for a success without one.
    #[serde(default)]
    pub url: Option<String>,
}

impl From<Status> for Forced {
    fn from(status: Status) -> Self {
        Self {
            status,
            fail_reason: None,
            progress: None,
            url: None,
        }
    }
}

/// A task.
#[derive(Debug, Clone)]
pub(super) struct Task {
    pub(super) id: String,
    /// The owner's key in its normal form.
    pub(super) owner: String,
    /// The row's number in new-api's database.
    pub(super) number: u64,
    /// The vendor's id.
    pub(super) vendor_id: String,
    pub(super) channel: Channel,
    pub(super) model: String,
    pub(super) prompt: String,
    pub(super) seconds: u32,
    pub(super) size: String,
    pub(super) remixed_from: String,
    pub(super) fail_reason: String,
    /// Replaces the channel's result URL.
    pub(super) url: Option<String>,
    pub(super) created: Instant,
    pub(super) life: Life,
    pub(super) polls: Polls,
}

/// Status polls of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Polls {
    pub(super) unified: u64,
    pub(super) openai: u64,
    /// On all other routes.
    pub(super) native: u64,
}

impl Polls {
    pub(super) fn total(self) -> u64 {
        self.unified + self.openai + self.native
    }
}

/// All tasks, up to a maximum number.
#[derive(Debug)]
pub(super) struct Tasks {
    by_id: HashMap<String, Task>,
    /// Every id once, roughly oldest first.
    order: VecDeque<String>,
    max: usize,
    created: u64,
}

impl Task {
    pub(super) fn force(&mut self, now: Instant, forced: Forced) {
        self.life.force(now, forced.status, forced.progress);
        if let Some(reason) = forced.fail_reason {
            self.fail_reason = reason;
        }
        if forced.url.is_some() {
            self.url = forced.url;
        }
    }
}

impl Tasks {
    pub(super) fn new(max: usize) -> Self {
        Self {
            by_id: HashMap::new(),
            order: VecDeque::new(),
            max,
            created: 0,
        }
    }

    /// The number of the next task's row.
    pub(super) fn next_number(&self) -> u64 {
        self.created + 1
    }

    /// Adds a task, dropping another when full; returns it as an error if its id is taken.
    pub(super) fn insert(&mut self, now: Instant, task: Task) -> Result<(), Box<Task>> {
        if self.by_id.contains_key(&task.id) {
            return Err(Box::new(task));
        }
        while self.by_id.len() >= self.max {
            self.drop_one(now);
        }
        self.created += 1;
        self.order.push_back(task.id.clone());
        self.by_id.insert(task.id.clone(), task);
        Ok(())
    }

    pub(super) fn find(&self, id: &str) -> Option<&Task> {
        self.by_id.get(id)
    }

    pub(super) fn find_mut(&mut self, id: &str) -> Option<&mut Task> {
        self.by_id.get_mut(id)
    }

    /// The task, if `owner` owns it.
    pub(super) fn of(&self, owner: &str, id: &str) -> Option<&Task> {
        self.find(id).filter(|task| task.owner == owner)
    }

    pub(super) fn clear(&mut self) {
        self.by_id.clear();
        self.order.clear();
    }

    /// Number of tasks in each status.
    pub(super) fn census(&self, now: Instant) -> BTreeMap<Status, usize> {
        let mut census = BTreeMap::new();
        for task in self.by_id.values() {
            *census.entry(task.life.at(now).status).or_default() += 1;
        }
        census
    }

    /// Drops the oldest finished task near the front; failing that, the oldest.
    fn drop_one(&mut self, now: Instant) {
        let finished = |id: &String| {
            self.find(id)
                .is_none_or(|task| task.life.at(now).status.is_final())
        };
        let at = self.order.iter().take(SEARCHED).position(finished);
        if let Some(id) = self.order.remove(at.unwrap_or(0)) {
            self.by_id.remove(&id);
        }
        // Unfinished tasks at the front must not hide finished ones behind them for good.
        if at.is_none() {
            let searched = SEARCHED.min(self.order.len());
            self.order.rotate_left(searched);
        }
    }
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| {
        humantime::parse_duration(&text).map_err(|error| {
            serde::de::Error::custom(format!("`{text}`: {error}; takes `5s`, `200ms`"))
        })
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    use super::super::clock::Clock;
    use super::super::life::Rounds;
    use super::*;

    fn task(id: &str, status: Status) -> Task {
        let now = Instant::now();
        let rounds = Rounds {
            every: Duration::ZERO,
            clock: Clock::start(),
        };
        Task {
            id: id.to_owned(),
            owner: "K".to_owned(),
            number: 1,
            vendor_id: String::new(),
            channel: Channel::Row,
            model: String::new(),
            prompt: String::new(),
            seconds: 5,
            size: String::new(),
            remixed_from: String::new(),
            fail_reason: String::new(),
            url: None,
            created: now,
            life: Life::frozen(now, status, rounds),
            polls: Polls::default(),
        }
    }

    fn insert(tasks: &mut Tasks, id: &str, status: Status) {
        tasks
            .insert(Instant::now(), task(id, status))
            .expect("a free id");
    }

    #[test]
    fn the_oldest_finished_task_is_dropped_first() {
        let mut tasks = Tasks::new(3);
        insert(&mut tasks, "running", Status::InProgress);
        insert(&mut tasks, "done", Status::Success);
        insert(&mut tasks, "failed", Status::Failure);
        insert(&mut tasks, "new", Status::Submitted);
        assert!(tasks.find("done").is_none());
        assert!(tasks.find("running").is_some() && tasks.find("failed").is_some());
    }

    #[test]
    fn the_maximum_holds_even_when_no_task_is_finished() {
        let mut tasks = Tasks::new(100);
        for n in 0..1_000 {
            insert(&mut tasks, &n.to_string(), Status::InProgress);
        }
        assert_eq!(tasks.by_id.len(), 100);
        assert_eq!(tasks.order.len(), 100);
    }

    #[test]
    fn an_id_belongs_to_one_task() {
        let mut tasks = Tasks::new(3);
        insert(&mut tasks, "one", Status::Success);
        let again = tasks.insert(Instant::now(), task("one", Status::Queued));
        assert!(again.is_err());
    }
}
