//! An engine in the memory of this process: for tests, and for a fleet within one process. It decides as the real one does
//! ([`super::engine`]), on tokio's clock, and everything that can happen to the real one can be made to happen to it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::engine::{
    Ask, Away, Birth, Board, Boarded, Digest, Engine, EngineTime, EntryKey, FAILURES, Fence, Heard,
    Joined, Land, Landing, Left, Member, NEWS, Position, Push, Pushes, REST, SILENCE, Said, Scope,
    Sealed, Times, Value,
};
use crate::sync::lock;

/// When the engine's clock starts: 2026-01-01, in microseconds.
const EPOCH: u64 = 1_767_225_600_000_000;

/// How long a value is kept after it is of no use.
const AFTERLIFE: Duration = Duration::from_mins(1);

/// How long a link takes to connect again.
const RECONNECT: Duration = Duration::from_millis(50);

/// How many entries the journal has at most.
const JOURNAL: usize = 16_384;

/// How many ends of a model are kept.
const ENDS: usize = 128;

/// Which news a new member hears.
const RECENT: Duration = Duration::from_mins(1);

/// How long after its last beat a member counts.
const MEMBERSHIP: Duration = Duration::from_secs(5);

/// How far in the future a value may have been received, since clocks are not perfect.
const TOLERANCE: Duration = Duration::from_secs(1);

/// An engine in memory. Cheap to clone; clones are the same engine.
#[derive(Clone)]
pub struct MemoryEngine(Arc<Server>);

struct Server {
    state: Mutex<State>,
    /// Whether commands are executed; while not, they wait.
    power: watch::Sender<Power>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Power {
    Running,
    Frozen,
    Down,
}

#[derive(Default)]
struct State {
    start: Option<Instant>,
    /// What was added to the clock, in microseconds.
    stepped: i64,
    full: bool,
    /// How often it was started.
    lives: u64,
    memory: Memory,
    links: HashMap<Member, Arc<LinkState>>,
}

/// What a flush empties.
#[derive(Default)]
struct Memory {
    birth: Birth,
    tasks: HashMap<Digest, Task>,
    marks: HashMap<Scope, Fence>,
    /// The highest fence ever given.
    highest: Fence,
    entries: HashMap<EntryKey, Entry>,
    landings: u64,
    journal: VecDeque<((u64, u64), Sealed)>,
    last: (u64, u64),
    /// The entry dropped last.
    dropped: (u64, u64),
    members: HashMap<Member, EngineTime>,
    ends: HashMap<Digest, VecDeque<Sealed>>,
}

#[derive(Default)]
struct Task {
    mark: Fence,
    last: Fence,
}

#[derive(Default)]
struct Entry {
    lease: Option<Lease>,
    value: Option<(Times, Value)>,
    landed: Option<(Fence, Landing)>,
    failed: Vec<Member>,
    rest: EngineTime,
    /// Members that wait, and the connection that they wait on.
    waiting: Vec<(Member, u64)>,
}

struct Lease {
    fence: Fence,
    ends: EngineTime,
    leader: Member,
}

/// What happens to one command.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fault {
    /// How long it travels.
    pub there: Duration,
    /// How long its answer travels.
    pub back: Duration,
    /// What is lost.
    pub lost: Lost,
    /// Whether it is executed twice.
    pub twice: bool,
}

/// What is lost on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lost {
    /// Nothing.
    #[default]
    Nothing,
    /// The command.
    Command,
    /// Its answer.
    Reply,
}

/// Chooses what happens to a command.
pub type Faults = Box<dyn FnMut(&Ask) -> Fault + Send>;

/// A link to an engine in memory.
#[derive(Clone)]
pub struct MemoryLink {
    server: Arc<Server>,
    own: Arc<LinkState>,
}

struct LinkState {
    member: Member,
    pushes: Pushes,
    line: Mutex<Line>,
    /// Changes when the connection is lost.
    connection: watch::Sender<u64>,
}

struct Line {
    up: bool,
    /// Whether it stays away however long it tries.
    severed: bool,
    faults: Option<Faults>,
}

impl Default for MemoryEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryEngine {
    /// An empty engine.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            lives: 1,
            memory: Memory::born(1),
            ..State::default()
        };
        Self(Arc::new(Server {
            state: Mutex::new(state),
            power: watch::Sender::new(Power::Running),
        }))
    }

    /// Connects a member.
    #[must_use]
    pub fn connect(&self, member: Member, pushes: Pushes) -> MemoryLink {
        let own = Arc::new(LinkState {
            member,
            pushes,
            line: Mutex::new(Line {
                up: true,
                severed: false,
                faults: None,
            }),
            connection: watch::Sender::new(0),
        });
        lock(&self.0.state).links.insert(member, Arc::clone(&own));
        MemoryLink {
            server: Arc::clone(&self.0),
            own,
        }
    }

    /// The time on its clock.
    #[must_use]
    pub fn now(&self) -> EngineTime {
        lock(&self.0.state).now()
    }

    /// Stops to execute anything, without a word (SIGSTOP). Commands that arrive are executed at the [thaw](Self::thaw).
    pub fn freeze(&self) {
        self.0.power.send_replace(Power::Frozen);
    }

    /// Goes on (SIGCONT).
    pub fn thaw(&self) {
        self.0.power.send_replace(Power::Running);
    }

    /// Ends, with all that it knows and all connections.
    pub fn crash(&self) {
        self.0.power.send_replace(Power::Down);
        let links: Vec<_> = {
            let mut state = lock(&self.0.state);
            state.lives += 1;
            state.memory = Memory::born(state.lives);
            state.links.values().cloned().collect()
        };
        for link in links {
            self.0.cut(&link);
        }
    }

    /// Starts again after a [crash](Self::crash), knowing nothing.
    pub fn start(&self) {
        self.thaw();
    }

    /// Forgets everything (FLUSHALL).
    pub fn flush(&self) {
        let mut state = lock(&self.0.state);
        state.lives += 1;
        state.memory = Memory::born(state.lives);
    }

    /// Takes nothing more into its memory, or does again.
    pub fn fill(&self, full: bool) {
        lock(&self.0.state).full = full;
    }

    /// Steps its clock.
    pub fn step_clock(&self, by: i64) {
        lock(&self.0.state).stepped += by;
    }

    /// Drops all but the last `left` entries of the journal.
    pub fn trim_journal(&self, left: usize) {
        lock(&self.0.state).memory.trim(left);
    }

    /// How many entries it has a lease or a value for.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.0.state).memory.entries.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything that it stores, as one who reads its memory would see it.
    #[must_use]
    pub fn dump(&self) -> Vec<u8> {
        let state = lock(&self.0.state);
        let memory = &state.memory;
        let mut dump = Vec::new();
        for (key, entry) in &memory.entries {
            dump.extend(format!("{key:?} {:?}", entry.failed).into_bytes());
            if let Some((times, value)) = &entry.value {
                dump.extend(format!("{times:?} {value:?}").into_bytes());
                dump.extend(&value.sealed.0);
            }
        }
        for (_, sealed) in &memory.journal {
            dump.extend(&sealed.0);
        }
        for (model, ends) in &memory.ends {
            dump.extend(model.0);
            for end in ends {
                dump.extend(&end.0);
            }
        }
        dump
    }

    /// Puts `sealed` in the place of what is stored for each entry, as one who can write to its memory might.
    pub fn tamper(&self, with: impl Fn(&EntryKey, &Sealed) -> Sealed) {
        for (key, entry) in &mut lock(&self.0.state).memory.entries {
            if let Some((_, value)) = &mut entry.value {
                value.sealed = with(key, &value.sealed);
            }
        }
    }

    /// Pushes to every member, as one who can publish on its channels might.
    pub fn forge(&self, push: &Push) {
        let links: Vec<_> = lock(&self.0.state).links.values().cloned().collect();
        for link in links {
            (link.pushes)(push.clone());
        }
    }
}

impl fmt::Debug for MemoryEngine {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("MemoryEngine")
    }
}

impl MemoryLink {
    /// Chooses what happens to each command from now on.
    pub fn set_faults(&self, faults: impl FnMut(&Ask) -> Fault + Send + 'static) {
        lock(&self.own.line).faults = Some(Box::new(faults));
    }

    /// Lets every command through again.
    pub fn clear_faults(&self) {
        lock(&self.own.line).faults = None;
    }

    /// Loses the connection; it connects again by itself.
    pub fn cut(&self) {
        self.server.cut(&self.own);
    }

    /// Cuts the network to the engine.
    pub fn sever(&self) {
        lock(&self.own.line).severed = true;
        self.cut();
    }

    /// Repairs it.
    pub fn mend(&self) {
        let was_severed = mem::take(&mut lock(&self.own.line).severed);
        if was_severed {
            self.server.reconnect(&self.own);
        }
    }
}

impl fmt::Debug for MemoryLink {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "MemoryLink({})", self.own.member)
    }
}

impl Engine for MemoryLink {
    fn ask(&self, ask: Ask) -> BoxFuture<'static, Result<Said, Away>> {
        let fault = {
            let mut line = lock(&self.own.line);
            if !line.up {
                return ready(Err(Away::Disconnected)).boxed();
            }
            line.faults.as_mut().map(|faults| faults(&ask))
        };
        let (server, own) = (Arc::clone(&self.server), Arc::clone(&self.own));
        let connection = *own.connection.borrow();
        if fault.is_none() && *server.power.borrow() == Power::Running {
            return ready(server.execute(&own, connection, &ask)).boxed();
        }
        let fault = fault.unwrap_or_default();
        let (reply, replied) = oneshot::channel();
        let (engine, asker) = (Arc::clone(&server), Arc::clone(&own));
        // What was sent is executed, whether or not anybody still listens.
        tokio::spawn(async move {
            sleep(fault.there).await;
            let mut power = engine.power.subscribe();
            let Ok(power) = power
                .wait_for(|power| *power != Power::Frozen)
                .await
                .map(|now| *now)
            else {
                return;
            };
            if power == Power::Down || fault.lost == Lost::Command {
                // The asker's patience ends it.
                std::future::pending::<()>().await;
            }
            if fault.twice {
                drop(engine.execute(&asker, connection, &ask));
            }
            let said = engine.execute(&asker, connection, &ask);
            sleep(fault.back).await;
            if fault.lost == Lost::Reply {
                std::future::pending::<()>().await;
            }
            drop(reply.send(said));
        });
        let replied = async move {
            let mut lost = own.connection.subscribe();
            let lost = lost.wait_for(|now| *now != connection);
            tokio::select! {
                said = timeout(SILENCE, replied) => match said {
                    Ok(Ok(said)) => said,
                    Ok(Err(_)) => Err(Away::Lost),
                    Err(_) => {
                        server.cut_if(&own, connection);
                        Err(Away::Lost)
                    }
                },
                _ = lost => Err(Away::Lost),
            }
        };
        // Awaited by a task, so that silence is noticed although the asker has gone.
        let answered = tokio::spawn(replied);
        async move { answered.await.unwrap_or(Err(Away::Lost)) }.boxed()
    }
}

impl Server {
    fn cut(self: &Arc<Self>, link: &Arc<LinkState>) {
        let connection = *link.connection.borrow();
        self.cut_if(link, connection);
    }

    fn cut_if(self: &Arc<Self>, link: &Arc<LinkState>, connection: u64) {
        let is_current = link.connection.send_if_modified(|now| {
            let is_current = *now == connection;
            *now += u64::from(is_current);
            is_current
        });
        if is_current {
            let was_up = mem::replace(&mut lock(&link.line).up, false);
            (link.pushes)(Push::Cut);
            if was_up {
                self.reconnect(link);
            }
        }
    }

    fn reconnect(self: &Arc<Self>, link: &Arc<LinkState>) {
        let (server, link) = (Arc::clone(self), Arc::clone(link));
        tokio::spawn(async move {
            let mut power = server.power.subscribe();
            loop {
                sleep(RECONNECT).await;
                if power
                    .wait_for(|power| *power == Power::Running)
                    .await
                    .is_err()
                {
                    return;
                }
                if *power.borrow() == Power::Running {
                    let mut state = lock(&link.line);
                    state.up = !state.severed;
                    return;
                }
            }
        });
    }

    fn execute(&self, link: &LinkState, connection: u64, ask: &Ask) -> Result<Said, Away> {
        let (said, pushes) = {
            let mut state = lock(&self.state);
            let mut out = Vec::new();
            let said = state.execute(link.member, connection, ask, &mut out);
            let pushes: Vec<_> = out
                .into_iter()
                .filter_map(|(to, push)| Some((Arc::clone(state.links.get(&to.0)?), to.1, push)))
                .collect();
            (said, pushes)
        };
        for (to, connection, push) in pushes {
            if connection.is_none_or(|connection| *to.connection.borrow() == connection)
                && lock(&to.line).up
            {
                (to.pushes)(push);
            }
        }
        said
    }
}

/// To whom pushes go: a member, on one connection or on any.
type Out = Vec<((Member, Option<u64>), Push)>;

impl State {
    fn now(&mut self) -> EngineTime {
        let start = *self.start.get_or_insert_with(Instant::now);
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        EngineTime((EPOCH + micros).saturating_add_signed(self.stepped))
    }

    fn execute(
        &mut self,
        member: Member,
        connection: u64,
        ask: &Ask,
        out: &mut Out,
    ) -> Result<Said, Away> {
        let (now, full) = (self.now(), self.full);
        let memory = &mut self.memory;
        Ok(match ask {
            Ask::Board(board) => {
                let boarded = memory.board(board, (member, connection), now, full)?;
                Said::Boarded { at: now, boarded }
            }
            Ask::Land(land) => {
                let landing = memory.land(land, now, full, out);
                // Whoever lands has it.
                out.retain(|((to, _), _)| *to != member);
                if landing.is_none() {
                    let stray = Push::Stray {
                        key: land.key,
                        fence: land.fence,
                        sealed: land.pushed(),
                    };
                    for member in self.links.keys() {
                        out.push(((*member, None), stray.clone()));
                    }
                }
                Said::Landed(landing.unwrap_or(Landing::Forgotten))
            }
            Ask::Leave { key, fence, why } => {
                Said::Done(memory.leave(key, *fence, *why, member, now, out))
            }
            Ask::Renew { key, fence, lease } => {
                Said::Done(memory.renew(key, *fence, now.after(*lease)))
            }
            Ask::Forget(_) | Ask::Tell { .. } if full => return Err(Away::Full),
            Ask::Forget(scope) => Said::Forgotten(memory.forget(*scope, now)),
            Ask::Tell { news, model } => {
                memory.tell(news, *model, now);
                for member in self.links.keys() {
                    out.push(((*member, None), Push::Bell));
                }
                Said::Done(true)
            }
            Ask::Beat { since } => Said::Heard(memory.beat(member, *since, now)),
            Ask::Ends { model } => {
                let ends = memory.ends.get(model);
                Said::Ends(ends.map_or_else(Vec::new, |ends| ends.iter().cloned().collect()))
            }
        })
    }
}

impl Memory {
    fn born(birth: u64) -> Self {
        Self {
            birth: Birth(birth),
            ..Self::default()
        }
    }

    /// The mark of an entry; `None` where nothing is known of its task.
    fn mark(&self, key: &EntryKey) -> Option<Fence> {
        let is_known = self.highest != Fence::NONE && self.tasks.contains_key(&key.task);
        is_known.then(|| self.highest_mark(key))
    }

    fn highest_mark(&self, key: &EntryKey) -> Fence {
        let of = Scope::TaskOf {
            task: key.task,
            caller: key.caller,
        };
        let task = self.tasks.get(&key.task);
        let task = task.map_or(Fence::NONE, |task| task.mark);
        [of, Scope::Caller(key.caller), Scope::All]
            .iter()
            .filter_map(|scope| self.marks.get(scope).copied())
            .fold(task, Fence::max)
    }

    fn board(
        &mut self,
        board: &Board,
        asker: (Member, u64),
        now: EngineTime,
        full: bool,
    ) -> Result<Boarded, Away> {
        if now > board.expires {
            return Ok(Boarded::Late);
        }
        let mark = self.mark(&board.key);
        let counts = |fence: Fence| mark.is_some_and(|mark| fence > mark);
        let entry = self.entries.get(&board.key);
        let value = entry
            .and_then(|entry| entry.value.as_ref())
            .filter(|(_, value)| counts(value.fence) && value.fence > board.have);
        if let Some((times, value)) = value {
            let is_recent = board
                .asked_within
                .is_none_or(|within| times.asked >= now.before(within));
            if now < times.fresh_until && times.received <= now.after(TOLERANCE) && is_recent {
                return Ok(Boarded::Fresh(value.clone()));
            }
        }
        let before = value
            .filter(|(times, _)| now < times.useful_until.after(AFTERLIFE))
            .map(|(_, value)| value.clone());
        let lease = entry
            .and_then(|entry| entry.lease.as_ref())
            .filter(|lease| counts(lease.fence) && now < lease.ends);
        if let Some(lease) = lease {
            let (fence, leader, rest) = (lease.fence, lease.leader, lease.ends.since(now));
            if leader == asker.0 {
                return Ok(Boarded::Lead {
                    fence,
                    birth: self.birth,
                    before,
                });
            }
            if full {
                return Err(Away::Full);
            }
            let waiting = &mut self.entries.entry(board.key).or_default().waiting;
            if !waiting.contains(&asker) {
                waiting.push(asker);
            }
            return Ok(Boarded::Wait {
                fence,
                rest,
                leader,
                before,
            });
        }
        if let Some(rest) = entry.map(|entry| entry.rest).filter(|rest| *rest > now) {
            return Ok(Boarded::Rest {
                rest: rest.since(now),
                before,
            });
        }
        if !board.may_lead {
            return Ok(Boarded::Vacant { before });
        }
        if full {
            return Err(Away::Full);
        }
        let last = self
            .tasks
            .get(&board.key.task)
            .map_or(0, |task| task.last.0);
        let marked = self.highest_mark(&board.key).0;
        let landed = entry.and_then(|entry| entry.landed);
        let landed = landed.map_or(0, |(fence, _)| fence.0);
        let next = last.max(marked).max(landed) + 1;
        let fence = Fence(now.0.max(next));
        if self.highest == Fence::NONE {
            self.marks.insert(Scope::All, Fence(fence.0 - 1));
        }
        self.highest = self.highest.max(fence);
        let task = self.tasks.entry(board.key.task).or_insert(Task {
            mark: Fence(fence.0 - 1),
            last: fence,
        });
        task.last = fence;
        self.entries.entry(board.key).or_default().lease = Some(Lease {
            fence,
            ends: now.after(board.lease),
            leader: asker.0,
        });
        Ok(Boarded::Lead {
            fence,
            birth: self.birth,
            before,
        })
    }

    /// `None` where the memory was lost since the lead.
    fn land(&mut self, land: &Land, now: EngineTime, full: bool, out: &mut Out) -> Option<Landing> {
        let mark = self.mark(&land.key).filter(|_| land.birth == self.birth);
        self.sweep(now);
        let entry = self.entries.entry(land.key).or_default();
        let frees = |entry: &mut Entry, of: &dyn Fn(Fence) -> bool| {
            if entry.lease.as_ref().is_some_and(|lease| of(lease.fence)) {
                entry.lease = None;
            }
        };
        let Some(mark) = mark else {
            frees(entry, &|fence| fence == land.fence);
            return None;
        };
        if land.fence <= mark || land.times.asked.0 <= mark.0 {
            frees(entry, &|fence| fence == land.fence);
            let vacant = Push::Vacant {
                key: land.key,
                fence: land.fence,
            };
            let led_on = |lease: &Lease| lease.fence > land.fence;
            if !entry.lease.as_ref().is_some_and(led_on) {
                entry.release(&vacant, out);
            }
            return Some(Landing::Forgotten);
        }
        if let Some(task) = self.tasks.get_mut(&land.key.task) {
            task.last = task.last.max(land.fence);
        }
        match entry.landed {
            Some((fence, landing)) if fence == land.fence => return Some(landing),
            Some((fence, _)) if fence > land.fence => return Some(Landing::Superseded),
            _ => {}
        }
        let keeps = land.keep && !full;
        let value = Value {
            fence: land.fence,
            sealed: land.sealed.clone(),
        };
        entry.value = keeps.then_some((land.times, value));
        let landing = if keeps {
            Landing::Kept
        } else {
            Landing::Pushed
        };
        entry.landed = Some((land.fence, landing));
        entry.failed.clear();
        entry.rest = EngineTime::default();
        frees(entry, &|fence| fence <= land.fence);
        let push = Push::Landed {
            key: land.key,
            at: now,
            fence: land.fence,
            sealed: land.pushed(),
        };
        entry.release(&push, out);
        Some(landing)
    }

    fn leave(
        &mut self,
        key: &EntryKey,
        fence: Fence,
        why: Left,
        member: Member,
        now: EngineTime,
        out: &mut Out,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(key) else {
            return false;
        };
        if entry
            .lease
            .as_ref()
            .is_none_or(|lease| lease.fence != fence)
        {
            return false;
        }
        entry.lease = None;
        match why {
            Left::Unused => {}
            Left::Failed => {
                if !entry.failed.contains(&member) {
                    entry.failed.push(member);
                }
                if entry.failed.len() >= FAILURES {
                    entry.rest = now.after(REST);
                    entry.failed.clear();
                }
            }
            Left::TimedOut => entry.rest = now.after(REST),
        }
        entry.release(&Push::Vacant { key: *key, fence }, out);
        true
    }

    fn renew(&mut self, key: &EntryKey, fence: Fence, ends: EngineTime) -> bool {
        let counts = self.mark(key).is_some_and(|mark| fence > mark);
        let lease = self
            .entries
            .get_mut(key)
            .and_then(|entry| entry.lease.as_mut());
        match lease.filter(|lease| counts && lease.fence == fence) {
            Some(lease) => {
                lease.ends = ends;
                true
            }
            None => false,
        }
    }

    fn forget(&mut self, scope: Scope, now: EngineTime) -> Fence {
        let known = |task| self.tasks.get(&task).map_or(self.highest, |task| task.last);
        let last = match scope {
            Scope::Task(task) | Scope::TaskOf { task, .. } => known(task),
            Scope::Caller(_) | Scope::All => self.highest,
        };
        let next = |mark: Fence| Fence(now.0.max(mark.0 + 1).max(last.0 + 1));
        if let Scope::Task(task) = scope {
            let task = self.tasks.entry(task).or_default();
            task.mark = next(task.mark);
            task.last = task.mark;
            return task.mark;
        }
        let mark = self.marks.entry(scope).or_default();
        *mark = next(*mark);
        if let Scope::TaskOf { task, .. } = scope {
            let (mark, last) = (*mark, *mark);
            self.tasks.entry(task).or_insert(Task { mark, last });
        }
        *mark
    }

    fn tell(&mut self, news: &Sealed, model: Option<Digest>, now: EngineTime) {
        let millis = now.0 / 1000;
        self.last = if millis > self.last.0 {
            (millis, 0)
        } else {
            (self.last.0, self.last.1 + 1)
        };
        self.journal.push_back((self.last, news.clone()));
        self.trim(JOURNAL);
        if let Some(model) = model {
            let ends = self.ends.entry(model).or_default();
            ends.push_back(news.clone());
            if ends.len() > ENDS {
                ends.pop_front();
            }
        }
    }

    fn trim(&mut self, left: usize) {
        while self.journal.len() > left {
            if let Some((entry, _)) = self.journal.pop_front() {
                self.dropped = entry;
            }
        }
    }

    fn beat(&mut self, member: Member, since: Option<Position>, now: EngineTime) -> Heard {
        self.members.insert(member, now);
        self.members
            .retain(|_, seen| now.since(*seen) <= MEMBERSHIP);
        let (joined, after) = match since.filter(|since| since.birth == self.birth) {
            Some(since) if since.entry < self.dropped => (Joined::Gap, (0, 0)),
            Some(since) => (Joined::Resumed, since.entry),
            None => (Joined::New, (now.before(RECENT).0 / 1000, 0)),
        };
        let mut later = self.journal.iter().filter(|(entry, _)| *entry > after);
        let heard: Vec<_> = later.by_ref().take(NEWS).cloned().collect();
        let more = later.next().is_some();
        let last = heard.last().map(|(entry, _)| *entry);
        Heard {
            at: now,
            members: u32::try_from(self.members.len()).unwrap_or(u32::MAX),
            joined,
            next: Position {
                birth: self.birth,
                entry: last.unwrap_or(if joined == Joined::Resumed {
                    after
                } else {
                    self.last
                }),
            },
            news: heard.into_iter().map(|(_, news)| news).collect(),
            more,
        }
    }

    /// Drops what has expired, now and then.
    fn sweep(&mut self, now: EngineTime) {
        self.landings += 1;
        if self.landings.is_multiple_of(1024) {
            self.entries.retain(|_, entry| {
                let is_led = entry.lease.as_ref().is_some_and(|lease| now < lease.ends);
                let until = entry.value.as_ref().map(|(times, _)| times.useful_until);
                is_led || until.is_some_and(|until| now < until.after(AFTERLIFE))
            });
        }
    }
}

impl Entry {
    /// Tells those that wait.
    fn release(&mut self, push: &Push, out: &mut Out) {
        for (member, connection) in mem::take(&mut self.waiting) {
            out.push(((member, Some(connection)), push.clone()));
        }
    }
}
