//! The link to a Valkey or Redis: one connection, and the watch over it.
//!
//! The client library frames commands and replies. What a fleet relies on is here: a bounded queue and none while there is
//! no connection; a connection that owes an answer for [`SILENCE`] is closed, since nothing else shows that the other side
//! is frozen or the network swallows everything; connecting again forever, after a while drawn by chance.

mod bounds;
#[cfg(test)]
mod conformance;
mod dial;
mod script;
#[cfg(test)]
mod tests;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, ServerErrorKind, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

pub use self::dial::LinkConfig;
use self::dial::{Dialer, Driver, QUEUE, in_words};
use self::script::Scripts;
use self::wire::{Call, Names};
use super::engine::{Ask, Away, Engine, Member, Push, Pushes, SILENCE, Said};
use crate::sync::lock;

/// How many bytes of commands are unanswered at most.
const QUEUED_BYTES: usize = 4 << 20;

/// The time until the first try to connect again, at most; it doubles with every try.
const SHORTEST: Duration = Duration::from_millis(50);

/// The time between two tries, at most.
const LONGEST: Duration = Duration::from_secs(2);

/// How a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether there is a connection.
    pub connected: bool,
    /// How often a connection came about.
    pub connections: u64,
    /// Why the last connection was lost, or the last try failed.
    pub problem: Option<Arc<str>>,
}

/// A link to an engine. Dropping it closes the connection.
pub struct Link {
    shared: Arc<Shared>,
    jobs: mpsc::UnboundedSender<Job>,
    /// Until it is started.
    keeper: Mutex<Option<Keeper>>,
    stop: CancellationToken,
}

impl fmt::Debug for Link {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Link({:?})", self.status())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What the link and its task both look at.
#[derive(Debug)]
struct Shared {
    names: Names,
    scripts: Scripts,
    connected: AtomicBool,
    connections: AtomicU64,
    problem: Mutex<Option<Arc<str>>>,
    commands: AtomicUsize,
    bytes: AtomicUsize,
}

/// A command to be sent.
struct Job {
    ask: Ask,
    room: Room,
    reply: oneshot::Sender<Result<Said, Away>>,
}

/// The room that a command takes up until it is answered.
struct Room {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Room {
    /// `None` if there is no room left.
    fn take(shared: &Arc<Shared>, bytes: usize) -> Option<Self> {
        let room = Self {
            shared: Arc::clone(shared),
            bytes,
        };
        // Counted first, so that the room is given back in one place.
        let commands = shared.commands.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = shared.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (commands <= QUEUE && bytes <= QUEUED_BYTES).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.commands.fetch_sub(1, Ordering::Relaxed);
        self.shared.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Link {
    /// Reads what it needs, and connects to nothing yet.
    ///
    /// # Errors
    /// A file of TLS cannot be used; in words, with the setting's name.
    pub fn new(config: &LinkConfig, member: Member, pushes: Pushes) -> Result<Arc<Self>, String> {
        Self::with_scripts(Scripts::new(), config, member, pushes)
    }

    fn with_scripts(
        scripts: Scripts,
        config: &LinkConfig,
        member: Member,
        pushes: Pushes,
    ) -> Result<Arc<Self>, String> {
        let dialer = Dialer::new(config)?;
        let shared = Arc::new(Shared {
            names: Names::new(&config.name, member),
            scripts,
            connected: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            problem: Mutex::default(),
            commands: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        });
        let (jobs, queued) = mpsc::unbounded_channel();
        let keeper = Keeper {
            dialer,
            shared: Arc::clone(&shared),
            queued,
            pushes,
        };
        Ok(Arc::new(Self {
            shared,
            jobs,
            keeper: Mutex::new(Some(keeper)),
            stop: CancellationToken::new(),
        }))
    }

    /// Starts to connect, and goes on for as long as the link lives; says whether it was not started before. Takes a tokio
    /// runtime.
    pub fn start(&self) -> bool {
        let Some(keeper) = lock(&self.keeper).take() else {
            return false;
        };
        let stop = self.stop.clone();
        tokio::spawn(async move {
            stop.run_until_cancelled(Box::pin(keeper.keep())).await;
        });
        true
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            connected: self.shared.connected.load(Ordering::Acquire),
            connections: self.shared.connections.load(Ordering::Relaxed),
            problem: lock(&self.shared.problem).clone(),
        }
    }
}

impl Engine for Link {
    fn ask(&self, ask: Ask) -> BoxFuture<'static, Result<Said, Away>> {
        if !self.shared.connected.load(Ordering::Acquire) {
            return ready(Err(Away::Disconnected)).boxed();
        }
        let Some(room) = Room::take(&self.shared, size(&ask)) else {
            return ready(Err(Away::Full)).boxed();
        };
        let (reply, replied) = oneshot::channel();
        if self.jobs.send(Job { ask, room, reply }).is_err() {
            return ready(Err(Away::Disconnected)).boxed();
        }
        async move { replied.await.unwrap_or(Err(Away::Lost)) }.boxed()
    }
}

/// About how many bytes a command takes until it is answered.
fn size(ask: &Ask) -> usize {
    let sealed = match ask {
        Ask::Land(land) => land.sealed.0.len(),
        Ask::Tell { news, .. } => news.0.len(),
        _ => 0,
    };
    sealed + 1024
}

/// Keeps one connection, and sends what is asked over it.
struct Keeper {
    dialer: Dialer,
    shared: Arc<Shared>,
    queued: mpsc::UnboundedReceiver<Job>,
    pushes: Pushes,
}

impl Keeper {
    async fn keep(mut self) {
        let mut longest = SHORTEST;
        loop {
            let problem = match self.connect().await {
                Ok((connection, driver)) => {
                    longest = SHORTEST;
                    self.shared.connections.fetch_add(1, Ordering::Relaxed);
                    self.shared.connected.store(true, Ordering::Release);
                    let problem = self.serve(&connection, driver).await;
                    self.shared.connected.store(false, Ordering::Release);
                    // What was queued meanwhile is not kept for the next connection.
                    while let Ok(job) = self.queued.try_recv() {
                        drop(job.reply.send(Err(Away::Lost)));
                    }
                    (self.pushes)(Push::Cut);
                    problem
                }
                Err(problem) => problem,
            };
            *lock(&self.shared.problem) = Some(problem.into());
            sleep(longest.mul_f64(fastrand::f64())).await;
            longest = (longest * 2).min(LONGEST);
        }
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, Driver), String> {
        let (shared, pushes) = (Arc::clone(&self.shared), Arc::clone(&self.pushes));
        let on_push = Arc::new(move |push| {
            if let Some(push) = shared.names.push(push) {
                pushes(push);
            }
        });
        let (mut connection, mut driver) = self.dialer.dial(on_push).await?;
        let channels = self.shared.names.channels();
        let subscribed = connection.subscribe(&channels[..]);
        tokio::select! {
            biased;
            subscribed = timeout(SILENCE, subscribed) => {
                subscribed.map_err(|_| silent())?.map_err(|error| in_words(&error))?;
            }
            () = &mut driver => return Err(closed()),
        }
        Ok((connection, driver))
    }

    /// Sends what is asked until the connection is lost, and tells why it was.
    async fn serve(&mut self, connection: &MultiplexedConnection, mut driver: Driver) -> String {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                () = &mut driver => return closed(),
                Some(done) = running.next() => {
                    if let Err(problem) = done {
                        return problem;
                    }
                }
                job = self.queued.recv() => match job {
                    Some(job) => running.push(run(&self.shared, connection.clone(), job)),
                    None => return closed(),
                },
            }
        }
    }
}

/// Sends one command and hands its answer over, whether or not anybody waits for it.
///
/// # Errors
/// The connection is of no use any more: in words, why.
async fn run(shared: &Shared, connection: MultiplexedConnection, job: Job) -> Result<(), String> {
    let Job { ask, room, reply } = job;
    let call = shared.names.call(&shared.scripts, &ask);
    let (said, problem) = match timeout(SILENCE, sent(connection, &call)).await {
        Err(_) => (Err(Away::Lost), Some(silent())),
        Ok(Ok(value)) => match wire::said(&ask, value) {
            Some(said) => (Ok(said), None),
            None => (
                Err(Away::Refused("it answers in an unknown way".into())),
                None,
            ),
        },
        Ok(Err(error)) => failed(&error),
    };
    drop(room);
    drop(reply.send(said));
    problem.map_or(Ok(()), Err)
}

async fn sent(mut connection: MultiplexedConnection, call: &Call<'_>) -> Result<Value, RedisError> {
    let mut send = async |command: Cmd| {
        connection
            .send_packed_command(&command)
            .await?
            .extract_error()
    };
    match send(call.script.call(&call.keys, &call.args)).await {
        // It was restarted, or its scripts were flushed.
        Err(error) if error.kind() == ServerErrorKind::NoScript.into() => {
            send(call.script.load_and_call(&call.keys, &call.args)).await
        }
        reply => reply,
    }
}

/// What an error means for whoever asked, and why the connection is given up where it is.
fn failed(error: &RedisError) -> (Result<Said, Away>, Option<String>) {
    let words = in_words(error);
    // Redis 6 wraps what goes wrong inside a script.
    let wrapped = words
        .rsplit_once(": -")
        .and_then(|(_, inner)| inner.split(' ').next());
    match wrapped.or(error.code()) {
        Some("OOM" | "MISCONF" | "NOREPLICAS") => (Err(Away::Full), None),
        // It has become a replica, is still reading its memory, or is busy with somebody's script: another may be reached.
        Some("READONLY" | "LOADING" | "MASTERDOWN" | "BUSY" | "UNBLOCKED") => {
            (Err(Away::Lost), Some(words))
        }
        Some("MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN" | "TRYAGAIN") => {
            let words = format!("it is a node of a cluster, which a fleet cannot use: {words}");
            (Err(Away::Refused(words.into())), None)
        }
        Some(_) => (Err(Away::Refused(words.into())), None),
        None => (Err(Away::Lost), Some(words)),
    }
}

fn silent() -> String {
    format!("no answer within {SILENCE:?}")
}

fn closed() -> String {
    "the connection was closed".into()
}
