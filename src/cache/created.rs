//! Tasks that upstream has accepted a moment ago, as the answers to their creates told. A poll can come before upstream
//! knows its own task: it writes the row after it has answered the create.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ahash::RandomState;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use crate::message::fields::unix_now;
use crate::request::key::Caller;
use crate::route::TaskId;
use crate::task::CreatedTask;

/// The memory for tasks, in bytes: that of 16,384 whose answers are as long as usual. The most recent ones are kept.
const CAPACITY: u64 = 16 << 20;

/// What a task takes besides the answer to its create, in bytes.
const RECORD: usize = 384;

/// How long a task is kept after it was last asked for: its model tells when it is likely to end.
const KEPT: Duration = Duration::from_hours(1);

/// For this long after its create, a task that upstream does not know is not missing but early.
const EARLY: Duration = Duration::from_secs(10);

/// The longest id, model or answer that is kept, in bytes.
const LONGEST: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct Created {
    tasks: Cache<(Caller, Box<str>), Arc<Record>, RandomState>,
    /// Whether there ever was one: until then a look-up costs nothing.
    any: AtomicBool,
}

/// A task, and when it was created.
#[derive(Debug)]
pub struct Record {
    /// What the answer to its create told.
    pub task: CreatedTask,
    /// When that came.
    pub at: Instant,
    /// The same in Unix seconds.
    pub first_seen: i64,
    /// The whole answer.
    pub answer: bytes::Bytes,
}

impl Default for Created {
    fn default() -> Self {
        Self {
            tasks: Cache::builder()
                .max_capacity(CAPACITY)
                .weigher(|_, record: &Arc<Record>| record.weight())
                .time_to_idle(KEPT)
                .eviction_policy(EvictionPolicy::lru())
                .build_with_hasher(RandomState::new()),
            any: AtomicBool::new(false),
        }
    }
}

impl Created {
    /// Records what a create of this caller was answered.
    pub fn record(&self, caller: Caller, answer: &[u8], now: Instant) {
        let Some(task) = CreatedTask::read(answer).filter(|_| answer.len() <= LONGEST) else {
            return;
        };
        self.any.store(true, Ordering::Relaxed);
        let id = task.id.as_str().into();
        let record = Record {
            task,
            at: now,
            first_seen: unix_now(),
            answer: bytes::Bytes::copy_from_slice(answer),
        };
        self.tasks.insert((caller, id), Arc::new(record));
    }

    /// What is known of a task from its create.
    #[must_use]
    pub fn get(&self, caller: Caller, task: &TaskId) -> Option<Arc<Record>> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        self.tasks.get(&(caller, task.decoded().into()))
    }
}

impl Record {
    /// The memory it takes, in bytes, at most: its id and its model are copies of parts of the answer.
    fn weight(&self) -> u32 {
        u32::try_from(RECORD + 2 * self.answer.len()).unwrap_or(u32::MAX)
    }

    /// Whether the task was created so recently that upstream may not know it yet.
    #[must_use]
    pub fn is_early(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < EARLY
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Uri};
    use tokio::time::advance;

    use super::*;
    use crate::request::key::{CallerKey, Credentials};

    fn caller(target: &'static str) -> Caller {
        let credentials = Credentials::new(HeaderMap::new(), Uri::from_static(target));
        CallerKey::new([7; 32]).caller(&credentials)
    }

    #[tokio::test(start_paused = true)]
    async fn long_answers_take_no_more_memory_than_short_ones() {
        let created = Created::default();
        for number in 0..10_000 {
            let answer = format!(r#"{{"task_id":"{number}","prompt":"{:3900}"}}"#, "");
            created.record(caller("/"), answer.as_bytes(), Instant::now());
        }
        created.tasks.run_pending_tasks();
        assert!(created.tasks.weighted_size() <= CAPACITY);
        let kept = created.tasks.entry_count();
        assert!((1500..2500).contains(&kept), "{kept}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_is_early_for_ten_seconds_and_only_for_who_created_it() {
        let created = Created::default();
        let (own, other) = (caller("/?key=1"), caller("/?key=2"));
        let task = TaskId::new("a%2Fb");
        assert!(created.get(own, &task).is_none());
        created.record(own, br#"{"task_id":"a/b","model":"m"}"#, Instant::now());
        assert!(created.get(other, &task).is_none());
        assert!(created.get(own, &TaskId::new("a")).is_none());
        let record = created
            .get(own, &task)
            .expect("is there, however the id is written");
        assert_eq!(record.task.model.as_deref(), Some("m"));
        advance(Duration::from_millis(9_999)).await;
        assert!(record.is_early(Instant::now()));
        advance(Duration::from_millis(1)).await;
        assert!(!record.is_early(Instant::now()));
        assert!(created.get(own, &task).is_some(), "its model still serves");
    }
}
