//! What one process has of its fleet: the engine, the secret, and what it knows of both.

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::anchor::Anchor;
use super::engine::{
    Ask, Away, Birth, Board, Boarded, Digest, Engine, EngineTime, EntryKey, Fence, Land, Landing,
    Left, Member, Push, Pushes, Said, Scope, Sealed, Times,
};
use super::fences::{Fences, Known};
use super::health::Health;
use super::news::{Forget, Item, Told};
use super::outbox::Outbox;
use super::seal::{Secret, Unsealed};
use super::waits::{Waiter, Waits};
use crate::cache::cadence::Cadence;
use crate::cache::freshness::End;
use crate::config;
use crate::request::key::{Caller, Credentials, TaskKey};
use crate::request::query::TaskQuery;
use crate::route::TaskId;
use crate::sync::lock;
use crate::telemetry::FleetMetrics;

/// After this a command that has not been executed is of no use to anybody.
const USEFUL: Duration = Duration::from_secs(1);

/// How often news of callers are told whom upstream never accepted here, at most.
const STRANGERS: Duration = Duration::from_millis(200);

/// How many models are met at most.
const MODELS: usize = 256;

/// What a poll may spend, and how leads are held.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// What one poll may spend on the engine, all its commands together.
    pub timeout: Duration,
    /// How long a lease runs.
    pub lease: Duration,
    /// The largest answer that is shared, in bytes.
    pub max_value: usize,
    /// Whether answers are shared, and the polls that bring them.
    pub answers: bool,
    /// Whether the pauses that upstream asks for are, and that it is down.
    pub pauses: bool,
    /// Whether the ends of tasks are.
    pub cadence: bool,
    /// How often this member polls while the engine is away.
    pub alone: config::Alone,
}

impl Terms {
    /// As the settings say.
    #[must_use]
    pub fn of(config: &config::Fleet) -> Self {
        let shares = |what| config.share.contains(&what);
        Self {
            timeout: config.timeout,
            lease: config.lease,
            max_value: usize::try_from(config.max_value.bytes()).unwrap_or(usize::MAX),
            answers: shares(config::Shared::Answers),
            pauses: shares(config::Shared::Pauses),
            cadence: shares(config::Shared::Cadence),
            alone: config.alone,
        }
    }
}

/// Hears what the engine pushes. It is made before the engine's link, which is given its [`pushes`](Self::pushes).
#[derive(Debug, Default)]
pub struct Ear {
    pub(super) waits: Arc<Waits>,
    /// The journal has news, or the engine should be tried.
    pub(super) bell: Notify,
    /// How often the engine rang.
    rung: AtomicU64,
    /// How many of those rings are followed up: what they told of is known here.
    followed: AtomicU64,
    /// When it turned out that news had been lost before they were heard.
    missed: Mutex<Option<Instant>>,
    fleet: OnceLock<std::sync::Weak<Fleet>>,
}

impl Ear {
    /// Takes pushes.
    #[must_use]
    pub fn pushes(self: &Arc<Self>) -> Pushes {
        let ear = Arc::clone(self);
        Arc::new(move |push| ear.hear(push))
    }

    fn hear(&self, push: Push) {
        match &push {
            Push::Bell => {
                self.rung.fetch_add(1, Ordering::AcqRel);
                self.bell.notify_one();
            }
            Push::Cut => {
                if let Some(fleet) = self.fleet.get().and_then(std::sync::Weak::upgrade) {
                    fleet.metrics.reconnects.inc();
                    fleet.health.failed(&Away::Lost, &fleet.metrics);
                }
                self.bell.notify_one();
            }
            Push::Landed { .. } | Push::Stray { .. } | Push::Vacant { .. } => {}
        }
        self.waits.hear(push);
    }

    /// How often the engine rang so far.
    pub(super) fn rings(&self) -> u64 {
        self.rung.load(Ordering::Acquire)
    }

    /// All that was told by the time of so many rings is known here.
    pub(super) fn follow(&self, rings: u64) {
        self.followed.store(rings, Ordering::Release);
    }

    /// The engine has lost its memory: what it rang for since may be lost.
    pub(super) fn lose(&self) {
        if self.rings() != self.followed.load(Ordering::Acquire) {
            self.miss();
        }
    }

    /// News were lost.
    pub(super) fn miss(&self) {
        *lock(&self.missed) = Some(Instant::now());
    }

    /// Whether all news are known of which the engine told on a connection that has lasted since `then`, when all earlier ones
    /// were. It rings before it acknowledges a forget, and on this connection before it pushes anything later.
    fn has_heard_all_since(&self, then: Instant) -> bool {
        self.rings() == self.followed.load(Ordering::Acquire)
            && lock(&self.missed).is_none_or(|missed| missed < then)
    }
}

/// See the module.
pub struct Fleet {
    engine: Arc<dyn Engine>,
    /// This process.
    pub member: Member,
    /// The secret of the fleet.
    pub secret: Secret,
    /// Whether the engine is asked.
    pub health: Health,
    /// What is counted.
    pub metrics: FleetMetrics,
    pub(super) ear: Arc<Ear>,
    fences: Fences,
    /// The latest moment that the engine told of.
    clock: Mutex<Option<Anchor>>,
    terms: Terms,
    outbox: Outbox,
    /// When a refusal of a caller was told whom nobody knows.
    stranger: Mutex<Option<Instant>>,
    /// The models whose ends were asked for.
    met: Mutex<HashSet<Digest>>,
    members: AtomicU32,
    answers: AtomicU64,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Fleet")
            .field("member", &self.member)
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// Puts it together. It is away until the first heartbeat.
    #[must_use]
    pub fn new(
        member: Member,
        secret: Secret,
        terms: Terms,
        ear: Arc<Ear>,
        engine: Arc<dyn Engine>,
        metrics: FleetMetrics,
    ) -> Arc<Self> {
        let fleet = Arc::new(Self {
            engine,
            member,
            secret,
            health: Health::new(terms.timeout),
            metrics,
            ear,
            fences: Fences::default(),
            clock: Mutex::default(),
            terms,
            outbox: Outbox::default(),
            stranger: Mutex::default(),
            met: Mutex::default(),
            members: AtomicU32::new(0),
            answers: AtomicU64::new(0),
        });
        // Set once: an ear is of one fleet.
        let _ = fleet.ear.fleet.set(Arc::downgrade(&fleet));
        fleet
    }

    /// What a poll may spend, and how leads are held.
    #[must_use]
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }

    /// How many entries this process waits for.
    #[must_use]
    pub fn waits(&self) -> usize {
        self.ear.waits.len()
    }

    /// The engine's name for what a query asks; `None` where it asks for several tasks at once: a forget names one, and would
    /// not find such an answer.
    #[must_use]
    pub fn entry(&self, query: &TaskQuery) -> Option<EntryKey> {
        let (key, label) = (&query.key, query.label());
        if key.task.is_many() {
            return None;
        }
        // How upstream is asked: members may number routes differently, and have others of the same name.
        let resource = query.resource.as_deref();
        let path = resource.map_or("", |resource| &resource.path);
        let body = resource.and_then(|resource| resource.body.as_ref());
        let body = body.map_or(&b""[..], |(body, _)| body);
        let [label, whole, path] = [label.as_str(), key.task.whole(), path].map(str::as_bytes);
        Some(EntryKey {
            task: self.task_digest(&key.task),
            caller: self.caller_digest(key.caller),
            dialect: self.secret.digest("route", &[label, whole, path, body]),
        })
    }

    fn task_digest(&self, task: &TaskId) -> Digest {
        // However the id is percent-encoded.
        self.secret.digest("task", &[task.decoded().as_bytes()])
    }

    fn caller_digest(&self, caller: Caller) -> Digest {
        self.secret.digest("caller", &[caller.as_bytes()])
    }

    /// The entry of which one member at a time has the lease: the one that may probe for a caller that is paused.
    #[must_use]
    pub fn probe_entry(&self, caller: Caller) -> EntryKey {
        EntryKey {
            task: self.secret.digest("probe", &[caller.as_bytes()]),
            caller: self.caller_digest(caller),
            dialect: self.secret.digest("probe", &[]),
        }
    }

    /// What seals and opens a caller's answers, besides the secret.
    #[must_use]
    pub fn credential(&self, credentials: &Credentials) -> [u8; 32] {
        credentials.digest(self.secret.credential_key())
    }

    /// Registers a flight that may have to wait; to be done before it asks.
    #[must_use]
    pub fn register(&self, entry: EntryKey) -> Waiter {
        self.ear.waits.register(entry)
    }

    /// The fence of what the store has of an entry.
    #[must_use]
    pub fn known(&self, entry: &EntryKey) -> Fence {
        self.fences
            .get(entry)
            .map_or(Fence::NONE, |known| known.fence)
    }

    /// Notes what the store has of an entry.
    pub fn note(&self, entry: &EntryKey, known: Known) {
        self.fences.raise(entry, known);
    }

    /// Who asked upstream for what the store has of a task, received at `received`; `None` where it did not come by the fleet.
    /// Looks at all that is known.
    #[must_use]
    pub fn leader(&self, key: &TaskKey, received: Instant) -> Option<Member> {
        let (task, caller) = (self.task_digest(&key.task), self.caller_digest(key.caller));
        self.fences.leader(task, caller, received)
    }

    /// Whether an answer may be shown that was asked for before the engine lost its memory, by one who waits since `then`:
    /// nothing was forgotten meanwhile that is not known here.
    #[must_use]
    pub fn may_show_stray(&self, then: Instant) -> bool {
        self.ear.has_heard_all_since(then)
    }

    /// The engine has lost its memory: fences of before say nothing on its clock.
    pub(super) fn forget_fences(&self) {
        self.fences.clear();
    }

    /// Opens an answer; counted where it does not open.
    ///
    /// # Errors
    /// It was not sealed for this caller, entry and fence in this fleet.
    pub fn open(
        &self,
        entry: &EntryKey,
        fence: Fence,
        credential: &[u8; 32],
        sealed: &Sealed,
    ) -> Result<Vec<u8>, Unsealed> {
        let opened = self.secret.open(entry, fence, credential, sealed);
        if opened.is_err() {
            self.metrics.refused("unsealed");
        }
        opened
    }

    /// Boards.
    pub fn board(self: &Arc<Self>, wish: &Wish) -> Asking {
        let now = Instant::now();
        let expires = lock(&self.clock).map_or(EngineTime(u64::MAX >> 11), |anchor| {
            anchor.engine_time(now).after(USEFUL)
        });
        let board = Board {
            key: wish.entry,
            have: wish.have,
            asked_within: wish.asked_within,
            may_lead: wish.may_lead,
            lease: self.terms.lease,
            expires,
        };
        Asking {
            said: Some(self.engine.ask(Ask::Board(board))),
            fleet: Arc::clone(self),
            entry: wish.entry,
            sent: now,
        }
    }

    /// Lands an answer, once.
    ///
    /// # Errors
    /// Nothing is known of what became of it.
    pub async fn land(
        &self,
        entry: EntryKey,
        (fence, birth): (Fence, Birth),
        times: Times,
        sealed: Sealed,
        keep: bool,
    ) -> Result<Landing, Away> {
        let land = Land {
            key: entry,
            fence,
            birth,
            times,
            sealed,
            keep,
        };
        match self.ask("land", Ask::Land(land)).await? {
            Said::Landed(landing) => Ok(landing),
            _ => Err(nonsense()),
        }
    }

    /// Gives a lease back. The command is queued before this returns.
    pub fn leave(&self, entry: EntryKey, fence: Fence, why: Left) {
        self.metrics.landing("left");
        let leaving = self.ask(
            "leave",
            Ask::Leave {
                key: entry,
                fence,
                why,
            },
        );
        drop(leaving);
    }

    /// Holds a lease for longer; says whether it could.
    ///
    /// # Errors
    /// Nothing is known of what became of it.
    pub fn renew(
        &self,
        entry: EntryKey,
        fence: Fence,
    ) -> impl Future<Output = Result<bool, Away>> + Send + use<> {
        let renewing = self.ask(
            "renew",
            Ask::Renew {
                key: entry,
                fence,
                lease: self.terms.lease,
            },
        );
        async move { Ok(renewing.await? == Said::Done(true)) }
    }

    /// Asks anything. The command is queued before this returns.
    pub(super) fn ask(
        &self,
        command: &'static str,
        ask: Ask,
    ) -> impl Future<Output = Result<Said, Away>> + Send + use<> {
        let (sent, said) = (Instant::now(), self.engine.ask(ask));
        let commands = self.metrics.commands(command);
        async move {
            let said = said.await;
            if said.is_ok() {
                commands.observe(sent.elapsed().as_secs_f64());
            }
            said
        }
    }

    /// Makes all members forget. Resolves when the engine has done so, or when a poll's worth of time is over: then it is
    /// told as soon as it can be. Returns whether it has done so. What is known here is the caller's business.
    pub async fn forget(self: &Arc<Self>, forget: Forget) -> bool {
        let at = Instant::now();
        self.outbox.put(at, forget.clone());
        if !self.health.is_together() {
            return false;
        }
        let (fleet, deadline) = (Arc::clone(self), self.terms.timeout);
        // It goes on although nobody waits for it any more.
        let forgetting = tokio::spawn(async move { fleet.forget_now(at, forget).await });
        match timeout(deadline, forgetting).await {
            Ok(Ok(true)) => return true,
            Ok(_) => self.ear.bell.notify_one(),
            Err(_) => self.health.timed_out(&self.metrics),
        }
        false
    }

    /// Whether all members may be told of a caller: that upstream refused it, or that it writes to a task. Those whom upstream
    /// never accepted are told of now and then only: keys that anybody can make up must not fill the journal.
    pub fn may_tell_of(&self, knows_caller: bool) -> bool {
        if knows_caller {
            return true;
        }
        let mut last = lock(&self.stranger);
        let may = last.is_none_or(|last| last.elapsed() >= STRANGERS);
        if may {
            *last = Some(Instant::now());
        }
        may
    }

    fn scope(&self, forget: &Forget) -> Scope {
        match forget {
            Forget::Task(task) => Scope::Task(self.task_digest(task)),
            Forget::TaskOf(task, caller) => Scope::TaskOf {
                task: self.task_digest(task),
                caller: self.caller_digest(*caller),
            },
            Forget::All => Scope::All,
            Forget::Caller(caller) => Scope::Caller(self.caller_digest(*caller)),
        }
    }

    async fn forget_now(&self, at: Instant, forget: Forget) -> bool {
        let scope = self.scope(&forget);
        let told = self.told(at, forget.item());
        // Both are queued at once, in this order: whoever hears of it finds the mark.
        let forgetting = self.ask("forget", Ask::Forget(scope));
        let telling = told.map(|told| {
            let news = told.seal(&self.secret);
            self.ask("tell", Ask::Tell { news, model: None })
        });
        let forgotten = forgetting.await;
        let is_told = match telling {
            Some(telling) => telling.await.is_ok(),
            None => false,
        };
        let is_done = forgotten.is_ok() && is_told;
        if is_done {
            self.outbox.done(at, &forget);
        }
        is_done
    }

    /// Tells what has not been acknowledged yet.
    pub(super) async fn empty_outbox(&self) {
        while let Some((at, forget)) = self.outbox.first() {
            if !self.forget_now(at, forget).await {
                return;
            }
        }
    }

    /// Tells an engine without memory what it was told within the last minute.
    pub(super) fn tell_again(&self) {
        self.outbox.again();
    }

    /// Tells all members, if the engine can be told.
    pub(super) fn tell(self: &Arc<Self>, item: Item) {
        let model = match &item {
            Item::Ended { model, .. } => Some(self.secret.digest("model", &[model.as_bytes()])),
            _ => None,
        };
        if self.health.is_together()
            && let Some(told) = self.told(Instant::now(), item)
        {
            let news = told.seal(&self.secret);
            drop(self.ask("tell", Ask::Tell { news, model }));
        }
    }

    /// Tells that a task of a model was seen running at an age, and next ended at another.
    pub fn tell_end(self: &Arc<Self>, end: &End) {
        if !self.terms.cadence {
            return;
        }
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.tell(Item::Ended {
            model: (*end.model).to_owned(),
            from: millis(end.seen_running_at),
            to: millis(end.seen_ended_at),
        });
    }

    /// Learns what the fleet knows of the ends of a model, when that model is met for the first time.
    pub fn meet(self: &Arc<Self>, model: &str, cadence: &Arc<Cadence>) {
        if !self.terms.cadence {
            return;
        }
        let digest = self.secret.digest("model", &[model.as_bytes()]);
        {
            let met = &mut *lock(&self.met);
            if met.len() >= MODELS || !met.insert(digest) {
                return;
            }
        }
        let ends = self.ask("ends", Ask::Ends { model: digest });
        let (fleet, cadence, model) = (Arc::clone(self), Arc::clone(cadence), model.to_owned());
        tokio::spawn(async move {
            let Ok(Said::Ends(ends)) = ends.await else {
                lock(&fleet.met).remove(&digest);
                return;
            };
            let millis = Duration::from_millis;
            let ends: Vec<_> = ends
                .iter()
                .filter_map(|sealed| match Told::open(&fleet.secret, sealed)?.item {
                    Item::Ended { from, to, .. } => Some((millis(from), millis(to))),
                    _ => None,
                })
                .collect();
            cadence.relearn(&model, &ends);
        });
    }

    fn told(&self, at: Instant, item: Item) -> Option<Told> {
        let anchor = (*lock(&self.clock))?;
        // Not earlier than in truth: what was asked for before it must look so to everybody.
        Some(Told::new(self.member, anchor.latest(at), item))
    }

    /// The engine's time, if it was ever told.
    pub(super) fn engine_now(&self) -> Option<EngineTime> {
        lock(&self.clock).map(|anchor| anchor.engine_time(Instant::now()))
    }

    /// How many answers came from the fleet.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Counts an answer that came from the fleet.
    pub fn note_answer(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// The members that the engine has seen lately, this one included.
    #[must_use]
    pub fn members(&self) -> u32 {
        self.members.load(Ordering::Relaxed)
    }

    /// How many members ask upstream for themselves, where this one is to ask the less often; else one.
    #[must_use]
    pub fn modesty(&self) -> u32 {
        let is_modest = self.terms.alone == config::Alone::Modest && self.terms.answers;
        if is_modest && !self.health.is_together() {
            self.members().max(1)
        } else {
            1
        }
    }

    pub(super) fn note_members(&self, members: u32) {
        self.members.store(members, Ordering::Relaxed);
        self.metrics.members.set(members.into());
    }

    /// The engine told of a moment.
    pub(super) fn note_time(&self, anchor: Anchor) {
        *lock(&self.clock) = Some(anchor);
    }

    /// A poll was not answered in time: the heartbeat finds out what is wrong.
    pub fn timed_out(&self) {
        self.metrics.board("away");
        self.metrics.alone("timeout");
        self.health.timed_out(&self.metrics);
        if !self.health.is_together() {
            self.ear.bell.notify_one();
        }
    }

    /// A poll could not be asked.
    pub fn failed(&self, away: &Away) {
        self.metrics.board("away");
        self.metrics
            .alone(if *away == Away::Full { "full" } else { "away" });
        self.health.failed(away, &self.metrics);
    }
}

/// What a poll wants of the engine.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The entry.
    pub entry: EntryKey,
    /// The fence of what is known and not good enough.
    pub have: Fence,
    /// How long ago upstream may have been asked at most.
    pub asked_within: Option<Duration>,
    /// Whether this process would ask upstream.
    pub may_lead: bool,
}

/// A board on its way. What it brings when nobody waits for it any more, a lead, is given back.
#[must_use]
pub struct Asking {
    fleet: Arc<Fleet>,
    entry: EntryKey,
    said: Option<BoxFuture<'static, Result<Said, Away>>>,
    sent: Instant,
}

impl Future for Asking {
    type Output = Result<(Anchor, Boarded), Away>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(said) = &mut self.said else {
            return Poll::Pending;
        };
        let said = ready!(said.as_mut().poll(cx));
        self.said = None;
        Poll::Ready(match said {
            Ok(Said::Boarded { at, boarded }) => {
                let anchor = Anchor {
                    at,
                    sent: self.sent,
                    received: Instant::now(),
                };
                self.fleet.metrics.command("board", anchor.took());
                Ok((anchor, boarded))
            }
            Ok(_) => Err(nonsense()),
            Err(away) => Err(away),
        })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let (Some(said), Ok(runtime)) = (self.said.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        let (fleet, entry) = (Arc::clone(&self.fleet), self.entry);
        runtime.spawn(async move {
            if let Ok(Said::Boarded {
                boarded: Boarded::Lead { fence, .. },
                ..
            }) = said.await
            {
                fleet.leave(entry, fence, Left::Unused);
            }
        });
    }
}

impl fmt::Debug for Asking {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Asking")
            .field("entry", &self.entry)
            .finish_non_exhaustive()
    }
}

/// The answer to another command.
fn nonsense() -> Away {
    Away::Refused("it answers something else than it was asked".into())
}
