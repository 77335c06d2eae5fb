//! Commands and replies of the engine, as bytes: which keys and arguments a script is called with, and what its reply and
//! a push say.

use std::fmt::Display;

use bytes::Bytes;
use redis::{PushInfo, PushKind, Value as Wire};

use super::script::{Script, Scripts};
use crate::fleet::engine::{
    Ask, Birth, Board, Boarded, Digest, EngineTime, EntryKey, FAILURES, Fence, Heard, Joined, Land,
    Landing, Left, MAX_PUSH, Member, NEWS, Position, Push, REST, Said, Scope, Sealed, Value,
};

/// How long the mark of a caller, or of everything, is kept at least: longer than any value.
const MARK_KEPT_MS: u64 = 8 * 24 * 60 * 60 * 1000;

/// How long the record of a task is kept at least.
const TASK_KEPT_MS: u64 = 60 * 60 * 1000;

/// A script to be called.
pub(super) struct Call<'a> {
    pub script: &'a Script,
    pub keys: Vec<String>,
    pub args: Vec<Vec<u8>>,
}

/// The names of keys and channels of one fleet, and who speaks.
#[derive(Debug)]
pub(super) struct Names {
    prefix: String,
    member: Member,
}

impl Names {
    pub(super) fn new(fleet: &str, member: Member) -> Self {
        Self {
            prefix: format!("pg1:{fleet}:"),
            member,
        }
    }

    /// The channel of this member, and that of all.
    pub(super) fn channels(&self) -> [String; 2] {
        [format!("{}{}", self.members(), self.member), self.bell()]
    }

    fn members(&self) -> String {
        format!("{}p:", self.prefix)
    }

    fn bell(&self) -> String {
        format!("{}bell", self.prefix)
    }

    fn task(&self, task: Digest) -> String {
        format!("{}{{{task}}}:e", self.prefix)
    }

    fn caller(&self, caller: Digest) -> String {
        format!("{}c:{caller}", self.prefix)
    }

    fn state(&self) -> String {
        format!("{}s", self.prefix)
    }

    fn journal(&self) -> String {
        format!("{}j", self.prefix)
    }

    fn ends(&self, model: Digest) -> String {
        format!("{}k:{model}", self.prefix)
    }

    fn entry(&self, key: &EntryKey) -> [String; 5] {
        let EntryKey {
            task,
            caller,
            dialect,
        } = key;
        let entry = format!("{}{{{task}}}:{caller}:{dialect}", self.prefix);
        [
            self.task(*task),
            format!("{entry}:f"),
            format!("{entry}:w"),
            self.caller(*caller),
            self.state(),
        ]
    }

    /// The script that does what is asked.
    pub(super) fn call<'a>(&self, scripts: &'a Scripts, ask: &Ask) -> Call<'a> {
        let me = self.member.to_string();
        match ask {
            Ask::Board(board) => self.board(&scripts.board, me, board),
            Ask::Land(land) => self.land(&scripts.land, me, land),
            Ask::Leave { key, fence, why } => {
                let [_, flight, waiters, ..] = self.entry(key);
                let why = match why {
                    Left::Unused => "unused",
                    Left::Failed => "failed",
                    Left::TimedOut => "timed_out",
                };
                Call {
                    script: &scripts.leave,
                    keys: vec![flight, waiters],
                    args: vec![
                        me.into(),
                        number(fence.0),
                        why.into(),
                        self.members().into(),
                        written(key).into(),
                        number(FAILURES),
                        number(REST.as_micros()),
                    ],
                }
            }
            Ask::Renew { key, fence, lease } => {
                let [task, flight, _, caller, state] = self.entry(key);
                Call {
                    script: &scripts.renew,
                    keys: vec![task, flight, caller, state],
                    args: vec![
                        key.caller.to_string().into(),
                        number(fence.0),
                        number(lease.as_micros()),
                    ],
                }
            }
            Ask::Forget(scope) => {
                let (hash, field, kept) = match scope {
                    Scope::Task(task) => (self.task(*task), "m".to_owned(), TASK_KEPT_MS),
                    Scope::TaskOf { task, caller } => {
                        (self.task(*task), format!("c{caller}"), TASK_KEPT_MS)
                    }
                    Scope::Caller(caller) => (self.caller(*caller), "m".to_owned(), MARK_KEPT_MS),
                    Scope::All => (self.state(), "m".to_owned(), MARK_KEPT_MS),
                };
                let is_task = matches!(scope, Scope::Task(_) | Scope::TaskOf { .. });
                Call {
                    script: &scripts.forget,
                    keys: vec![hash, self.state()],
                    args: vec![field.into(), number(kept), number(u8::from(is_task))],
                }
            }
            Ask::Tell { news, model } => {
                let ends = model.map(|model| self.ends(model));
                Call {
                    script: &scripts.tell,
                    keys: [self.state(), self.journal()]
                        .into_iter()
                        .chain(ends)
                        .collect(),
                    args: vec![news.0.to_vec(), self.bell().into()],
                }
            }
            Ask::Beat { since } => {
                let (birth, entry) = since.map_or_else(Default::default, |since| {
                    let (milliseconds, count) = since.entry;
                    (since.birth.0.to_string(), format!("{milliseconds}-{count}"))
                });
                Call {
                    script: &scripts.beat,
                    keys: vec![self.state(), self.journal(), format!("{}m", self.prefix)],
                    args: vec![
                        me.into(),
                        birth.into(),
                        entry.into(),
                        number(newborn()),
                        number(NEWS),
                    ],
                }
            }
            Ask::Ends { model } => Call {
                script: &scripts.ends,
                keys: vec![self.ends(*model)],
                args: vec![],
            },
        }
    }

    fn board<'a>(&self, script: &'a Script, me: String, board: &Board) -> Call<'a> {
        let within = board
            .asked_within
            .map_or_else(|| "-1".to_owned(), |within| within.as_micros().to_string());
        Call {
            script,
            keys: self.entry(&board.key).into(),
            args: vec![
                me.into(),
                board.key.caller.to_string().into(),
                number(board.have.0),
                within.into(),
                number(u8::from(board.may_lead)),
                number(board.lease.as_micros()),
                number(board.expires.0),
                number(newborn()),
            ],
        }
    }

    fn land<'a>(&self, script: &'a Script, me: String, land: &Land) -> Call<'a> {
        let times = land.times;
        Call {
            script,
            keys: self.entry(&land.key).into(),
            args: vec![
                me.into(),
                land.key.caller.to_string().into(),
                number(land.fence.0),
                number(times.asked.0),
                number(times.received.0),
                number(times.fresh_until.0),
                number(times.useful_until.0),
                number(u8::from(land.keep)),
                land.sealed.0.to_vec(),
                self.members().into(),
                written(&land.key).into(),
                number(MAX_PUSH),
                number(land.birth.0),
                self.bell().into(),
            ],
        }
    }

    /// What the engine pushed; `None` where it is nothing for this member.
    pub(super) fn push(&self, push: PushInfo) -> Option<Push> {
        if push.kind != PushKind::Message {
            return None;
        }
        let mut data = push.data.into_iter();
        let channel = text(data.next()?)?;
        let word = bytes(data.next()?)?;
        if channel == self.bell() && word.is_empty() {
            return Some(Push::Bell);
        }
        let mut parts = word.splitn(5, |byte| *byte == b'\n');
        let kind = parts.next()?;
        let key = read_key(parts.next()?)?;
        let fence = Fence(read(parts.next()?)?);
        match kind {
            b"vacant" => Some(Push::Vacant { key, fence }),
            b"landed" | b"stray" => {
                let at = EngineTime(read(parts.next()?)?);
                // The rest, whatever is in it.
                let sealed = parts
                    .next()
                    .map(|part| Sealed(Bytes::copy_from_slice(part)));
                Some(if kind == b"landed" {
                    Push::Landed {
                        key,
                        at,
                        fence,
                        sealed,
                    }
                } else {
                    Push::Stray { key, fence, sealed }
                })
            }
            _ => None,
        }
    }
}

/// What the engine said to what was asked; `None` where no script says so.
pub(super) fn said(ask: &Ask, reply: Wire) -> Option<Said> {
    Some(match ask {
        Ask::Board(_) => {
            let mut parts = Parts::of(reply)?;
            let at = EngineTime(parts.number()?);
            let boarded = boarded(&mut parts)?;
            Said::Boarded { at, boarded }
        }
        Ask::Land(_) => Said::Landed(match text(reply)?.as_str() {
            "kept" => Landing::Kept,
            "pushed" => Landing::Pushed,
            "superseded" => Landing::Superseded,
            "forgotten" => Landing::Forgotten,
            _ => return None,
        }),
        Ask::Leave { .. } | Ask::Renew { .. } | Ask::Tell { .. } => Said::Done(whole(&reply)? == 1),
        Ask::Forget(_) => Said::Forgotten(Fence(whole(&reply)?)),
        Ask::Beat { .. } => Said::Heard(heard(&mut Parts::of(reply)?)?),
        Ask::Ends { .. } => Said::Ends(list(reply)?),
    })
}

fn boarded(parts: &mut Parts) -> Option<Boarded> {
    let what = parts.text()?;
    if what == "late" {
        return Some(Boarded::Late);
    }
    let fence = Fence(parts.number()?);
    let value = match parts.next()? {
        Wire::Nil | Wire::Boolean(false) => None,
        value => Some(Value {
            fence,
            sealed: Sealed(bytes(value)?.into()),
        }),
    };
    Some(match what.as_str() {
        "fresh" => Boarded::Fresh(value?),
        "lead" => Boarded::Lead {
            before: value,
            fence: Fence(parts.number()?),
            birth: Birth(parts.text()?.parse().ok()?),
        },
        "wait" => Boarded::Wait {
            before: value,
            fence: Fence(parts.number()?),
            rest: parts.micros()?,
            leader: Member(u64::from_str_radix(&parts.text()?, 16).ok()?),
        },
        "rest" => Boarded::Rest {
            before: value,
            rest: parts.micros()?,
        },
        "vacant" => Boarded::Vacant { before: value },
        _ => return None,
    })
}

fn heard(parts: &mut Parts) -> Option<Heard> {
    let at = EngineTime(parts.number()?);
    let members = parts.number()?.try_into().ok()?;
    let joined = match parts.text()?.as_str() {
        "new" => Joined::New,
        "resumed" => Joined::Resumed,
        "gap" => Joined::Gap,
        _ => return None,
    };
    let birth = Birth(parts.text()?.parse().ok()?);
    let entry = parts.text()?;
    let (milliseconds, count) = entry.split_once('-')?;
    let next = Position {
        birth,
        entry: (milliseconds.parse().ok()?, count.parse().ok()?),
    };
    Some(Heard {
        at,
        members,
        joined,
        next,
        more: parts.number()? == 1,
        news: list(parts.next()?)?,
    })
}

/// The elements of a reply, one by one.
struct Parts(std::vec::IntoIter<Wire>);

impl Parts {
    fn of(reply: Wire) -> Option<Self> {
        match reply {
            Wire::Array(parts) => Some(Self(parts.into_iter())),
            _ => None,
        }
    }

    fn next(&mut self) -> Option<Wire> {
        self.0.next()
    }

    fn number(&mut self) -> Option<u64> {
        whole(&self.next()?)
    }

    fn micros(&mut self) -> Option<std::time::Duration> {
        self.number().map(std::time::Duration::from_micros)
    }

    fn text(&mut self) -> Option<String> {
        text(self.next()?)
    }
}

fn whole(value: &Wire) -> Option<u64> {
    match value {
        Wire::Int(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn bytes(value: Wire) -> Option<Vec<u8>> {
    match value {
        Wire::BulkString(bytes) => Some(bytes),
        Wire::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

fn text(value: Wire) -> Option<String> {
    String::from_utf8(bytes(value)?).ok()
}

fn list(value: Wire) -> Option<Vec<Sealed>> {
    match value {
        Wire::Array(items) => items
            .into_iter()
            .map(|item| Some(Sealed(bytes(item)?.into())))
            .collect(),
        _ => None,
    }
}

/// A birth for an engine that has none.
fn newborn() -> u64 {
    fastrand::u64(1..1 << 53)
}

fn number(number: impl Display + Copy) -> Vec<u8> {
    format!("{number}").into_bytes()
}

fn read(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// An entry, as pushes name it.
fn written(key: &EntryKey) -> String {
    format!("{}:{}:{}", key.task, key.caller, key.dialect)
}

fn read_key(text: &[u8]) -> Option<EntryKey> {
    let mut parts = text.split(|byte| *byte == b':').map(|part| {
        let mut digest = [0; 16];
        const_hex::decode_to_slice(part, &mut digest).ok()?;
        Some(Digest(digest))
    });
    let key = EntryKey {
        task: parts.next()??,
        caller: parts.next()??,
        dialect: parts.next()??,
    };
    parts.next().is_none().then_some(key)
}
