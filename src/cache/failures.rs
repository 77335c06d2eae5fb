//! Tasks on which upstream itself failed: what it said, and how long each is left alone, for longer each time. What goes
//! wrong with one task says nothing about upstream, so it is kept apart from the circuit breakers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ahash::RandomState;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use tokio::time::Instant;

use super::freshness::Fault;
use super::lease::Lease;
use crate::answer::Landed;
use crate::error::Error;
use crate::request::key::TaskKey;

/// The memory for failing tasks, in bytes: 16,384 whose errors are short. Those beyond are asked for like any other.
const CAPACITY: u64 = 8 << 20;

/// What a failing task takes besides what upstream said of it, in bytes.
const RECORD: usize = 512;

/// The largest body of an error that is kept, in bytes.
const LARGEST: usize = 16 * 1024;

/// The longest time for which a failing task is left alone.
const LONGEST: Duration = Duration::from_secs(30);

/// A failure is forgotten when its task was not asked for during this time.
const FORGOTTEN: Duration = Duration::from_mins(10);

/// What upstream said of a task that it failed on.
pub type Failure = Result<Landed, Error>;

/// See the module.
#[derive(Debug)]
pub(super) struct Failures {
    tasks: Cache<u64, Arc<Record>, RandomState>,
    digests: RandomState,
    /// Whether there ever was one: until then a look-up costs nothing.
    any: AtomicBool,
}

#[derive(Debug)]
struct Record {
    key: TaskKey,
    times: u32,
    until: Instant,
    fault: Fault,
    /// What must not have changed since the task was asked for.
    lease: Lease,
    failure: Failure,
}

impl Record {
    /// The memory it takes, in bytes.
    fn weight(&self) -> u32 {
        let body = self.failure.as_ref();
        let body = body.map_or(0, |landed| landed.reply.body.len());
        u32::try_from(RECORD + self.key.task.whole().len() + body).unwrap_or(u32::MAX)
    }
}

impl Failures {
    pub(super) fn new() -> Self {
        Self {
            tasks: Cache::builder()
                .max_capacity(CAPACITY)
                .weigher(|_, record: &Arc<Record>| record.weight())
                .time_to_idle(FORGOTTEN)
                .eviction_policy(EvictionPolicy::lru())
                .build_with_hasher(RandomState::new()),
            digests: RandomState::new(),
            any: AtomicBool::new(false),
        }
    }

    /// What upstream said of a task that is left alone at `now`, and the lease under which it was asked for.
    pub(super) fn current(&self, key: &TaskKey, now: Instant) -> Option<(Lease, Failure)> {
        let record = self.get(key)?;
        (now < record.until).then(|| (record.lease.clone(), record.failure.clone()))
    }

    /// The fault of a task when it was last asked for, if it was one.
    pub(super) fn last_fault(&self, key: &TaskKey) -> Option<Fault> {
        Some(self.get(key)?.fault)
    }

    /// Records a failure; returns how long the task is left alone: `pause`, doubled each time.
    pub(super) fn record(
        &self,
        key: &TaskKey,
        fault: Fault,
        failure: Failure,
        lease: &Lease,
        now: Instant,
        pause: Duration,
    ) -> Duration {
        let times = self.get(key).map_or(1, |last| last.times.saturating_add(1));
        let pause = pause
            .saturating_mul(1 << (times - 1).min(16))
            .min(LONGEST.max(pause));
        let small = failure
            .as_ref()
            .map_or(true, |landed| landed.reply.body.len() <= LARGEST);
        if small {
            self.any.store(true, Ordering::Relaxed);
            let record = Record {
                key: key.clone(),
                times,
                until: now + pause,
                fault,
                lease: lease.clone(),
                failure,
            };
            self.tasks.insert(self.digest(key), Arc::new(record));
        }
        pause
    }

    /// Upstream did not fail on the task this time.
    pub(super) fn clear(&self, key: &TaskKey) {
        if self.get(key).is_some() {
            self.tasks.invalidate(&self.digest(key));
        }
    }

    pub(super) fn clear_all(&self) {
        self.tasks.invalidate_all();
    }

    /// Forgets the failures of a task for every caller.
    pub(super) fn clear_task(&self, task: &str) {
        if self.any.load(Ordering::Relaxed) {
            for (digest, record) in &self.tasks {
                if record.key.task.names(task) {
                    self.tasks.invalidate(&*digest);
                }
            }
        }
    }

    fn get(&self, key: &TaskKey) -> Option<Arc<Record>> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        // The digest only finds it: whether it is the right one, its own key says.
        let record = self.tasks.get(&self.digest(key))?;
        (record.key == *key).then_some(record)
    }

    fn digest(&self, key: &TaskKey) -> u64 {
        self.digests.hash_one(key)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::{HeaderMap, StatusCode, Uri};

    use super::super::credential::CredentialState;
    use super::*;
    use crate::answer::Origin;
    use crate::answer::reply::{Reply, SharedReply};
    use crate::request::key::{CallerKey, Credentials};
    use crate::route::{RouteId, TaskId};
    use crate::task::Dialect;

    const SECOND: Duration = Duration::from_secs(1);

    fn key(task: &str) -> TaskKey {
        let credentials = Credentials::new(HeaderMap::new(), Uri::from_static("/"));
        let callers = CallerKey::random().expect("random bytes");
        TaskKey {
            caller: callers.caller(&credentials),
            route: RouteId::of(Dialect::Unified),
            task: TaskId::new(task),
        }
    }

    fn lease() -> Lease {
        Lease {
            slot: 0,
            writes: 0,
            credential: CredentialState::new(),
        }
    }

    fn failure() -> Failure {
        Err(Error::NotATask("no".into()))
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_task_is_left_alone_for_longer_each_time_until_it_succeeds() {
        let (failures, key, now) = (Failures::new(), key("t"), Instant::now());
        for seconds in [2, 4, 8, 16, 30, 30] {
            let pause = failures.record(&key, Fault::Own, failure(), &lease(), now, 2 * SECOND);
            assert_eq!(pause, seconds * SECOND);
            assert!(
                failures
                    .current(&key, now + pause - SECOND / 1000)
                    .is_some()
            );
            assert!(failures.current(&key, now + pause).is_none());
        }
        failures.clear(&key);
        assert_eq!(
            failures.record(&key, Fault::Own, failure(), &lease(), now, 2 * SECOND),
            2 * SECOND
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_anew_each_time_is_never_left_alone() {
        let (failures, key, now) = (Failures::new(), key("t"), Instant::now());
        for _ in 0..3 {
            assert_eq!(
                failures.record(&key, Fault::Own, failure(), &lease(), now, Duration::ZERO),
                Duration::ZERO
            );
            assert!(failures.current(&key, now).is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn long_errors_take_no_more_memory_than_short_ones() {
        let (failures, now) = (Failures::new(), Instant::now());
        let body = Bytes::from(vec![b'x'; LARGEST]);
        let reply = Reply::new(StatusCode::BAD_GATEWAY, &HeaderMap::new(), body, None);
        let landed = Landed {
            reply: SharedReply::new(Arc::new(reply)),
            headers: None,
            received: now,
            fresh_until: now,
            origin: Origin::Upstream { stored: false },
        };
        for number in 0..1000 {
            let key = key(&number.to_string());
            failures.record(&key, Fault::Own, Ok(landed.clone()), &lease(), now, SECOND);
        }
        failures.tasks.run_pending_tasks();
        assert!(failures.tasks.weighted_size() <= CAPACITY);
        assert!((400..512).contains(&failures.tasks.entry_count()));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_of_other_tasks_stay() {
        let (failures, one, other, now) =
            (Failures::new(), key("one"), key("other"), Instant::now());
        for key in [&one, &other] {
            failures.record(key, Fault::Own, failure(), &lease(), now, SECOND);
        }
        failures.clear_task("one");
        assert!(failures.current(&one, now).is_none());
        assert!(failures.current(&other, now).is_some());
    }
}
