//! The engine of a fleet, as plain values: what is asked of it, what it says, what it pushes.
//!
//! An engine keeps, for each [`EntryKey`], at most one *value* (a sealed answer) and at most one *lease* (the right to ask
//! upstream, for a moment), both numbered by [`Fence`]. It decides by its own clock, and each decision is atomic. It never
//! learns what a value says.
//!
//! # Marks
//!
//! [`Ask::Forget`] sets the mark of its [`Scope`] to `max(now in µs, mark + 1, highest fence known there + 1)`. The mark *of
//! an entry* is the highest of the marks of the scopes that contain it. A value or lease whose fence is not above the mark
//! of its entry is *void*, as if it were not there.
//!
//! Each task has a record with its mark and the highest fence ever given for it, over all callers. Where that record is
//! missing (a flush, an eviction), nothing is known of the task: its values and leases are void, and the next lead makes
//! the record with a mark just below its own fence. So lost memory costs polls, and never brings back what was forgotten.
//!
//! An engine is *born* again when its memory is lost, or another takes its place. A lead is of the engine that gave it: on a
//! later one its answer counts for nothing, whatever the two clocks say. Those who wait for it are lost with the memory, so
//! that answer is pushed to every member ([`Push::Stray`]), who judge by the news whether it may still be shown.
//!
//! # Delivery
//!
//! A command may be executed although its answer never comes, later than its sender still waits, and more than once. All
//! commands bear that: a repeated board by the holder of the lease gets the same lead, a repeated land is superseded, and a
//! board that arrives after its `expires` is refused.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// A keyed digest: of a task, a caller, a route or a model. It says nothing to whoever does not know the fleet's secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 16]);

/// Lower-case hexadecimal, as in the names of the engine's keys.
impl fmt::Display for Digest {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(const_hex::Buffer::<16>::new().format(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, to)
    }
}

/// What a value or a lease belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryKey {
    /// The task.
    pub task: Digest,
    /// The caller, to whom alone the value may be shown.
    pub caller: Digest,
    /// How upstream is asked: the route, or the dialect of its answers.
    pub dialect: Digest,
}

/// The number of a lease and of the value that came of it. It grows with every lease of an entry, also over a flush of the
/// engine and over steps of its clock: `max(now in µs, last fence of the task + 1, mark of the entry + 1)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Fence(pub u64);

impl Fence {
    /// Below every fence.
    pub const NONE: Self = Self(0);
}

/// A point in time on the engine's clock, in microseconds since 1970. The only clock by which members of a fleet compare
/// times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct EngineTime(pub u64);

impl EngineTime {
    /// The time this much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// The time this much earlier.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(micros))
    }

    /// How long before this `earlier` was; zero if it is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Bytes that only members of the fleet can read, in some cases only those that also know the caller's credential.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Sealed(pub Bytes);

impl fmt::Debug for Sealed {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Sealed({} bytes)", self.0.len())
    }
}

/// A process of the fleet: random, and new at each start. The engine is told of it when it is connected.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Member(pub u64);

/// Sixteen lower-case hexadecimal digits.
impl fmt::Display for Member {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:016x}", self.0)
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, to)
    }
}

/// What is asked of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Wants an answer: gets the value, the lease, or a place among those that wait. Says [`Said::Boarded`].
    Board(Board),
    /// Hands in the answer of a lead. Says [`Said::Landed`].
    Land(Land),
    /// Gives a lease back without an answer; whoever waits is told that it is vacant. Nothing happens unless the lease has
    /// this fence. Says [`Said::Done`] with whether it had.
    Leave {
        /// The entry.
        key: EntryKey,
        /// The fence of the lease.
        fence: Fence,
        /// Why.
        why: Left,
    },
    /// Makes a lease end `lease` from now, also where it is over already and nobody else has taken it. Nothing happens
    /// unless the lease has this fence and is not void.
    /// Says [`Said::Done`] with whether it was renewed.
    Renew {
        /// The entry.
        key: EntryKey,
        /// The fence of the lease.
        fence: Fence,
        /// How long it runs from now on.
        lease: Duration,
    },
    /// Sets a mark. Says [`Said::Forgotten`].
    Forget(Scope),
    /// Appends to the journal and rings the bell of every member ([`Push::Bell`]). Says [`Said::Done`] with `true`.
    Tell {
        /// What is told.
        news: Sealed,
        /// The model whose list of ends it is appended to as well.
        model: Option<Digest>,
    },
    /// Shows that this member lives, and reads on in the journal. Says [`Said::Heard`].
    Beat {
        /// Where it stopped to read; `None` at the start.
        since: Option<Position>,
    },
    /// The list of ends of a model, oldest first. Says [`Said::Ends`].
    Ends {
        /// The model.
        model: Digest,
    },
}

/// A wish for an answer.
///
/// The engine decides in this order, where a void value or lease is none:
/// 1. After `expires`: [`Boarded::Late`].
/// 2. A value with a fence above `have`, fresh by now, received no later than a second from now (the clock may have
///    stepped back) and asked for within `asked_within`: [`Boarded::Fresh`].
/// 3. A running lease: of this member, the same [`Boarded::Lead`] again; of another, [`Boarded::Wait`], and this member is
///    told when it lands, is left or renewed by somebody else.
/// 4. A rest that has not ended: [`Boarded::Rest`].
/// 5. Not `may_lead`: [`Boarded::Vacant`].
/// 6. A new lease: [`Boarded::Lead`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// The entry.
    pub key: EntryKey,
    /// The fence of the value that is known already and is not good enough.
    pub have: Fence,
    /// How long ago upstream may have been asked at most; `None` for any time.
    pub asked_within: Option<Duration>,
    /// Whether this member would ask upstream.
    pub may_lead: bool,
    /// How long a new lease runs.
    pub lease: Duration,
    /// When it is refused unread: nobody waits for it any more.
    pub expires: EngineTime,
}

/// The answer of a lead.
///
/// The engine decides in this order:
/// 1. The engine was born again since the lead, or the record of the task is missing: [`Landing::Forgotten`]. The lease is
///    freed if it has this fence; every member is pushed [`Push::Stray`].
/// 2. The fence or `times.asked` is not above the mark of the entry: [`Landing::Forgotten`]. The lease is freed if it has
///    this fence; those who wait are told that it is vacant.
/// 3. The fence is below that of the last landing: [`Landing::Superseded`]. It is the very one: as it was then, and nothing
///    is pushed again.
/// 4. The value is replaced, or deleted unless `keep`; failures and rest are cleared; the lease is freed unless its fence
///    is higher; every member that waits is pushed [`Push::Landed`]: [`Landing::Kept`], or [`Landing::Pushed`] where it is
///    not stored, because of `keep` or since the engine is full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Land {
    /// The entry.
    pub key: EntryKey,
    /// The fence of the lease.
    pub fence: Fence,
    /// The engine that gave the lease.
    pub birth: Birth,
    /// When it was asked for, and until when it is good.
    pub times: Times,
    /// The answer.
    pub sealed: Sealed,
    /// Whether it is stored, or only given to those who wait.
    pub keep: bool,
}

impl Land {
    /// What of it is pushed: nothing that is too large.
    #[must_use]
    pub fn pushed(&self) -> Option<Sealed> {
        (self.sealed.0.len() <= MAX_PUSH).then(|| self.sealed.clone())
    }
}

/// The times of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// When upstream was asked: not later than in truth.
    pub asked: EngineTime,
    /// When upstream's answer was complete: not later than in truth.
    pub received: EngineTime,
    /// Until when it is served without asking again.
    pub fresh_until: EngineTime,
    /// Until when it is kept, for those whose upstream fails. The value expires a minute after that.
    pub useful_until: EngineTime,
}

/// Why a lease is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Left {
    /// Upstream was not asked: this member drains, or nobody waits for the answer here any more.
    Unused,
    /// Upstream failed. When three different members have failed in a row, the entry rests.
    Failed,
    /// Upstream did not answer in time: the entry rests at once, since nobody who waits has time left for another try.
    TimedOut,
}

/// How long an entry rests after upstream failed on it: every [`Board`] is told so.
pub const REST: Duration = Duration::from_secs(2);

/// How many members have to fail before an entry rests.
pub const FAILURES: usize = 3;

/// The size from which on a value is not pushed but announced: those who wait board again to get it.
pub const MAX_PUSH: usize = 8 << 10;

/// What a [mark](self#marks) is set for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A task, for every caller.
    Task(Digest),
    /// A task, for one caller.
    TaskOf {
        /// The task.
        task: Digest,
        /// The caller.
        caller: Digest,
    },
    /// Everything of one caller.
    Caller(Digest),
    /// Everything.
    All,
}

/// An engine's memory: a number drawn by chance when there is none, below 2^53, which every language keeps exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Birth(pub u64);

/// A place in the journal of one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The engine that the journal is of.
    pub birth: Birth,
    /// The entry that was read last: milliseconds and a number, as Redis numbers the entries of a stream.
    pub entry: (u64, u64),
}

/// What the engine says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// To [`Ask::Board`].
    Boarded {
        /// When it was decided.
        at: EngineTime,
        /// What was decided.
        boarded: Boarded,
    },
    /// To [`Ask::Land`].
    Landed(Landing),
    /// To [`Ask::Leave`], [`Ask::Renew`] and [`Ask::Tell`]: whether anything was done.
    Done(bool),
    /// To [`Ask::Forget`]: the mark.
    Forgotten(Fence),
    /// To [`Ask::Beat`].
    Heard(Heard),
    /// To [`Ask::Ends`].
    Ends(Vec<Sealed>),
}

/// What becomes of a [`Board`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boarded {
    /// The value is fresh.
    Fresh(Value),
    /// This member asks upstream.
    Lead {
        /// The fence under which it lands.
        fence: Fence,
        /// The engine that says so.
        birth: Birth,
        /// The value so far, which is not good enough; `None` where there is none above [`Board::have`].
        before: Option<Value>,
    },
    /// Another member asks upstream.
    Wait {
        /// The fence under which it will land.
        fence: Fence,
        /// How long its lease still runs.
        rest: Duration,
        /// The member that leads.
        leader: Member,
        /// The value so far, which is not good enough; `None` where there is none above [`Board::have`].
        before: Option<Value>,
    },
    /// Upstream failed on this entry for several members: for this long it is left alone.
    Rest {
        /// For how long.
        rest: Duration,
        /// The last value, which may stand in; `None` where there is none above [`Board::have`].
        before: Option<Value>,
    },
    /// Nobody asks upstream, and this member would not.
    Vacant {
        /// The last value, which may stand in; `None` where there is none above [`Board::have`].
        before: Option<Value>,
    },
    /// The board came after [`Board::expires`].
    Late,
}

/// A sealed answer, and the fence it landed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The fence.
    pub fence: Fence,
    /// The answer.
    pub sealed: Sealed,
}

/// What becomes of a [`Land`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Landing {
    /// It is stored, and those who waited have it.
    Kept,
    /// Those who waited have it; it is not stored.
    Pushed,
    /// The engine has a later value.
    Superseded,
    /// The entry was forgotten since.
    Forgotten,
}

/// What a member hears at a beat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The time.
    pub at: EngineTime,
    /// How many members have beaten within the last five seconds, this one included.
    pub members: u32,
    /// How the news follow on what was heard before.
    pub joined: Joined,
    /// Entries of the journal, oldest first; at most [`NEWS`].
    pub news: Vec<Sealed>,
    /// Where they end.
    pub next: Position,
    /// Whether there are more: the next beat need not wait.
    pub more: bool,
}

/// How many news a beat brings at most.
pub const NEWS: usize = 1024;

/// How news follow on what was heard before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Joined {
    /// A position of another engine, or none: the news are those of the last minute.
    New,
    /// Nothing is missing.
    Resumed,
    /// The journal has dropped entries that this member has not heard. The news are all that are left.
    Gap,
}

/// What the engine tells a member unasked. It may be lost, repeated, and come before the reply that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Push {
    /// An answer has landed that this member waits for.
    Landed {
        /// The entry.
        key: EntryKey,
        /// When it landed.
        at: EngineTime,
        /// The fence that it landed with.
        fence: Fence,
        /// The answer; `None` where it is too large to push ([`MAX_PUSH`]).
        sealed: Option<Sealed>,
    },
    /// The lease of this fence is over without an answer.
    Vacant {
        /// The entry.
        key: EntryKey,
        /// The fence.
        fence: Fence,
    },
    /// An answer has landed on an engine that has forgotten who waits for it, and what was forgotten before: told to every
    /// member, the sender included.
    Stray {
        /// The entry.
        key: EntryKey,
        /// The fence of its lead.
        fence: Fence,
        /// The answer; `None` where it is too large to push ([`MAX_PUSH`]).
        sealed: Option<Sealed>,
    },
    /// The journal has news.
    Bell,
    /// The connection was lost, and every push since may be.
    Cut,
}

/// Takes pushes. It is called in the order in which they arrive, on the task that reads the connection, and must not block;
/// a push that arrives before a reply is taken before that reply.
pub type Pushes = Arc<dyn Fn(Push) + Send + Sync>;

/// Why the engine did not answer. Whether the command was executed is not known, except where it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Away {
    /// There is no connection; the command was not sent.
    Disconnected,
    /// The connection was lost while the answer was awaited.
    Lost,
    /// Too many commands are waiting to be sent, or the engine's memory is full. It was not executed.
    Full,
    /// The engine refuses such commands: no permission, a cluster, a version that is too old. In words, for the log.
    Refused(Arc<str>),
}

impl fmt::Display for Away {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disconnected => to.write_str("not connected"),
            Self::Lost => to.write_str("the connection was lost"),
            Self::Full => to.write_str("it is full"),
            Self::Refused(why) => to.write_str(why),
        }
    }
}

impl std::error::Error for Away {}

/// One member's link to the engine. It was given a [`Member`] and a [`Pushes`] when it was made.
///
/// Whoever asks gives up on its own, and may still await the answer later (a late lead is worth having); the answer comes
/// within [`SILENCE`], or the link closes the connection, says [`Away::Lost`], pushes [`Push::Cut`] and connects again.
/// Dropping the answer does not take the command back.
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// Asks the engine. The command is queued before this returns, in the order of the calls; the queue is bounded.
    fn ask(&self, ask: Ask) -> BoxFuture<'static, Result<Said, Away>>;
}

/// How long a command may go unanswered before the connection counts as dead.
pub const SILENCE: Duration = Duration::from_millis(500);
