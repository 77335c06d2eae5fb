//! A writer that never blocks: lines queue in bounded memory until a thread has written them; lines that find no room are
//! dropped and counted.
//!
//! Why not `tracing_appender::non_blocking`: its queue is bounded in lines, not in bytes, and it wakes its thread and writes
//! for each line. Batching took a miss from 5.8 to 4.1 times the cost of nginx's (`docs/performance.md`).

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;
use tracing_subscriber::fmt::MakeWriter;

use super::targets::DROPS;
use crate::sync::lock;

/// Capacity of the queue in bytes; as many may be in the batch being written.
const ROOM: usize = 4 << 20;

/// How much of that memory is kept allocated when the log is quiet.
const USUAL_ROOM: usize = 64 << 10;

/// How long lines are gathered after a write, so that a busy log takes one wake-up and one write for many lines. The
/// first line after a quiet period is written at once.
const GATHER: Duration = Duration::from_millis(10);

/// The number of bytes that ends that wait early.
const PLENTY: usize = ROOM / 4;

/// How long the end of the process waits for a slow reader of the log.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// One counter per process, because there is one log, however many gateways.
static DROPPED: LazyLock<Option<IntCounter>> = LazyLock::new(|| {
    let help = "Log lines dropped because whatever reads the log was too slow, or gone.";
    IntCounter::new("pollgate_log_lines_dropped_total", help).ok()
});

/// The counter of dropped lines.
pub(super) fn dropped() -> Option<&'static IntCounter> {
    DROPPED.as_ref()
}

/// The writer. Clones share one queue.
#[derive(Debug, Clone, Default)]
pub(super) struct NonBlocking(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<u8>,
    /// Lines dropped since that was last reported.
    dropped: u64,
    /// Whether the thread waits for a line and has to be woken.
    idle: bool,
    ending: bool,
    ended: bool,
}

/// Flushes the queue when dropped.
#[derive(Debug)]
pub(super) struct WorkerGuard(NonBlocking);

impl NonBlocking {
    /// Starts the thread that writes to `to`.
    pub(super) fn start(to: impl Write + Send + 'static) -> (Self, WorkerGuard) {
        let writer = Self::default();
        let worker = writer.clone();
        let started = thread::Builder::new()
            .name("log".into())
            .spawn(move || worker.run(to));
        if started.is_err() {
            writer.queue().ended = true;
        }
        (writer.clone(), WorkerGuard(writer))
    }

    fn run(&self, mut to: impl Write) {
        let mut batch = Vec::new();
        loop {
            let idle = |queue: &mut Queue| {
                queue.idle = queue.waiting.is_empty() && !queue.ending;
                queue.idle
            };
            let queue = self.0.changed.wait_while(self.queue(), idle);
            let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
            mem::swap(&mut batch, &mut queue.waiting);
            let dropped = mem::take(&mut queue.dropped);
            if batch.is_empty() {
                queue.ended = true;
                self.0.changed.notify_all();
                return;
            }
            drop(queue);
            if dropped > 0 {
                // There is room again, and the report follows the last line before the gap.
                tracing::warn!(target: DROPS, "dropped {dropped} log lines: whatever reads the log was too slow");
            }
            if to.write_all(&batch).and_then(|()| to.flush()).is_err() {
                // The reader is gone, and nothing can be reported.
                count(lines(&batch));
            }
            batch.clear();
            batch.shrink_to(USUAL_ROOM);
            let few = |queue: &mut Queue| queue.waiting.len() < PLENTY && !queue.ending;
            drop(self.0.changed.wait_timeout_while(self.queue(), GATHER, few));
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.0.queue)
    }
}

impl Write for NonBlocking {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let mut queue = self.queue();
        if queue.waiting.len() + event.len() > ROOM {
            let lines = lines(event);
            queue.dropped += lines;
            drop(queue);
            count(lines);
        } else {
            let before = queue.waiting.len();
            queue.waiting.extend_from_slice(event);
            let enough = before < PLENTY && queue.waiting.len() >= PLENTY;
            let wake = mem::take(&mut queue.idle) || enough;
            drop(queue);
            if wake {
                self.0.changed.notify_all();
            }
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for NonBlocking {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for WorkerGuard {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.ending = true;
        self.0.0.changed.notify_all();
        let unfinished = |queue: &mut Queue| !queue.ended;
        let changed = &self.0.0.changed;
        drop(changed.wait_timeout_while(queue, LAST_WORDS, unfinished));
    }
}

fn lines(text: &[u8]) -> u64 {
    text.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

fn count(lines: u64) {
    if let Some(dropped) = dropped() {
        dropped.inc_by(lines);
    }
}
