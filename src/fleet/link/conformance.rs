//! The real engines and the one in memory, asked the same at the same time, must say the same and push the same.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use super::Link;
use super::script::Scripts;
use crate::fleet::engine::{
    Ask, Away, Birth, Board, Boarded, Digest, Engine, EngineTime, EntryKey, Fence, Heard, Land,
    Left, MAX_PUSH, Member, Position, Push, Said, Scope, Sealed, Times,
};
use crate::fleet::memory::{MemoryEngine, MemoryLink};
use crate::sync::lock;

use super::tests::server::{self, Server};
use super::tests::{Inbox, config, connected, inbox};

const MEMBERS: usize = 4;
const CLOCK: &str = "the clock of the test";

/// Both engines, each with the same members.
struct Both {
    /// In this one, time stands still, so that the clock of the engine in memory is moved by the test alone.
    still: Runtime,
    /// In this one, it does not.
    moving: Runtime,
    memory: MemoryEngine,
    connection: redis::Connection,
    members: Vec<Pair>,
    /// The births of both, each time that they were empty.
    births: Vec<(Birth, Birth)>,
    /// How many answers landed on an engine that had lost its memory.
    strays: usize,
    /// Numbers the contents of values, so that none is like another.
    written: u64,
}

/// A member of both fleets.
struct Pair {
    memory: (MemoryLink, Inbox),
    real: (Arc<Link>, Inbox),
    /// Where it stopped to read the journals.
    heard: (Option<Position>, Option<Position>),
    /// What it leads: the entry, the fence, of which birth, and when.
    leads: Vec<(EntryKey, Fence, Birth, EngineTime)>,
}

impl Both {
    fn start(server: &Server) -> Self {
        let still = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let moving = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let config = config(server.port());
        let mut connection = server.connection();
        redis::cmd("FLUSHALL")
            .exec(&mut connection)
            .expect("an empty engine");
        let memory = MemoryEngine::new();
        let members = (1..=MEMBERS as u64)
            .map(|member| {
                let (in_memory, pushes) = inbox();
                let link = still.block_on(async { memory.connect(Member(member), pushes) });
                let (real, pushes) = inbox();
                let scripts = Scripts::by_clock(CLOCK);
                let _inside = moving.enter();
                let started = Link::with_scripts(scripts, &config, Member(member), pushes);
                let started = started.expect("a link");
                started.start();
                moving.block_on(connected(&started));
                Pair {
                    memory: (link, in_memory),
                    real: (started, real),
                    heard: (None, None),
                    leads: Vec::new(),
                }
            })
            .collect();
        Self {
            still,
            moving,
            memory,
            connection,
            members,
            births: Vec::new(),
            strays: 0,
            written: 0,
        }
    }

    fn now(&self) -> EngineTime {
        self.still.block_on(async { self.memory.now() })
    }

    /// Moves the clocks of both.
    fn step(&mut self, micros: i64) {
        self.memory.step_clock(micros);
        let now = self.now().0;
        redis::cmd("HSET")
            .arg(&[CLOCK, "s", &(now / 1_000_000).to_string()])
            .arg(&["us", &(now % 1_000_000).to_string()])
            .exec(&mut self.connection)
            .expect("a clock");
    }

    /// Asks both, for one member, and compares what is said, and what everybody is pushed.
    fn ask(&mut self, member: usize, ask: &Ask, story: &str) -> Result<Said, Away> {
        let (mut other, mut own) = (ask.clone(), ask.clone());
        let pair = &self.members[member];
        if let Ask::Beat { .. } = ask {
            other = Ask::Beat {
                since: pair.heard.0,
            };
            own = Ask::Beat {
                since: pair.heard.1,
            };
        }
        if let Ask::Land(land) = &mut own {
            let known = self.births.iter().find(|known| known.0 == land.birth);
            land.birth = known.map_or(Birth(0), |known| known.1);
        }
        let expected = self
            .still
            .block_on(async { pair.memory.0.ask(other).await });
        let mut got = self.moving.block_on(pair.real.0.ask(own));
        if let (Ok(Said::Heard(expected)), Ok(Said::Heard(got))) = (&expected, &mut got) {
            self.members[member].heard = (Some(expected.next), Some(got.next));
            assert_eq!(got.next.entry, expected.next.entry, "{story}");
            self.are_born((expected.next.birth, got.next.birth), story);
            *got = Heard {
                next: expected.next,
                ..got.clone()
            };
        }
        if let (
            Ok(Said::Boarded {
                boarded: Boarded::Lead {
                    birth: expected, ..
                },
                ..
            }),
            Ok(Said::Boarded {
                boarded: Boarded::Lead { birth: got, .. },
                ..
            }),
        ) = (&expected, &mut got)
        {
            self.are_born((*expected, *got), story);
            *got = *expected;
        }
        assert_eq!(got, expected, "{story}");
        // A reply comes after all that was pushed before it.
        for pair in &self.members {
            let ends = Ask::Ends {
                model: Digest([0; 16]),
            };
            self.moving
                .block_on(pair.real.0.ask(ends))
                .expect("an answer");
        }
        for (at, pair) in self.members.iter().enumerate() {
            let expected = std::mem::take(&mut *lock(&pair.memory.1));
            let got = std::mem::take(&mut *lock(&pair.real.1));
            assert_eq!(got, expected, "pushed to {at}, {story}");
            let is_stray = |push: &&Push| matches!(push, Push::Stray { .. });
            self.strays += got.iter().filter(is_stray).count();
        }
        expected
    }

    /// Notes births; each of the one engine belongs to one of the other.
    fn are_born(&mut self, births: (Birth, Birth), story: &str) {
        match self.births.iter().find(|known| known.0 == births.0) {
            Some(known) => assert_eq!(*known, births, "{story}"),
            None => self.births.push(births),
        }
    }

    /// Anything that a member may ask.
    fn any(&mut self, member: usize, dice: &mut fastrand::Rng) -> Ask {
        let digest = |kind: u8, which: u8| Digest([kind + which; 16]);
        let key = EntryKey {
            task: digest(10, dice.u8(..2)),
            caller: digest(20, dice.u8(..2)),
            dialect: digest(30, dice.u8(..2)),
        };
        let now = self.now();
        let ms = Duration::from_millis;
        // Mostly of what it leads.
        let leads = &mut self.members[member].leads;
        let born = self.births.last().map_or(Birth(0), |births| births.0);
        let (led, fence, birth, since) = match leads.len() {
            0 => (key, Fence(now.0 - dice.u64(..5000)), born, now),
            count if dice.u8(..8) == 0 => leads[dice.usize(..count)],
            count => leads.swap_remove(dice.usize(..count)),
        };
        match dice.u8(..100) {
            0..45 => Ask::Board(Board {
                key,
                have: if dice.u8(..4) == 0 {
                    fence
                } else {
                    Fence::NONE
                },
                asked_within: (dice.u8(..3) == 0).then(|| ms(dice.u64(..3000))),
                may_lead: dice.u8(..8) != 0,
                lease: ms(dice.u64(100..2000)),
                expires: now.after(ms(1000)).before(ms(dice.u64(..1050))),
            }),
            45..70 => {
                self.written += 1;
                let length = match dice.u8(..10) {
                    0 => MAX_PUSH + dice.usize(..2),
                    1 => 0,
                    _ => dice.usize(..200),
                };
                let mut sealed = format!("{}\n\r\0", self.written).into_bytes();
                sealed.resize(length, b'\n');
                let asked = since.after(Duration::from_micros(dice.u64(1..2000)));
                let asked = if dice.u8(..6) == 0 {
                    since.before(ms(5))
                } else {
                    asked
                };
                let received = asked.after(ms(dice.u64(..3000)));
                let fresh_until = received.after(ms(dice.u64(..3000)));
                Ask::Land(Land {
                    key: led,
                    fence,
                    birth,
                    times: Times {
                        asked,
                        received,
                        fresh_until,
                        useful_until: fresh_until.after(ms(dice.u64(..100_000))),
                    },
                    sealed: Sealed(Bytes::from(sealed)),
                    keep: dice.u8(..5) != 0,
                })
            }
            70..78 => Ask::Leave {
                key: led,
                fence,
                why: [
                    Left::Unused,
                    Left::Failed,
                    Left::Failed,
                    Left::Failed,
                    Left::TimedOut,
                ][dice.usize(..5)],
            },
            78..83 => {
                // A lease that is renewed is still led.
                self.members[member].leads.push((led, fence, birth, since));
                Ask::Renew {
                    key: led,
                    fence,
                    lease: ms(dice.u64(..2000)),
                }
            }
            83..90 => Ask::Forget(match dice.u8(..8) {
                0 => Scope::All,
                1..3 => Scope::Caller(key.caller),
                3..5 => Scope::TaskOf {
                    task: key.task,
                    caller: key.caller,
                },
                _ => Scope::Task(key.task),
            }),
            90..95 => Ask::Tell {
                news: Sealed(Bytes::from(dice.u64(..).to_le_bytes().to_vec())),
                model: (dice.bool()).then(|| digest(40, dice.u8(..2))),
            },
            95..98 => Ask::Beat { since: None },
            _ => Ask::Ends {
                model: digest(40, dice.u8(..2)),
            },
        }
    }
}

/// On a real engine, this takes about a quarter of a millisecond a call.
const CALLS: usize = 4000;

#[test]
#[ignore = "takes an engine: tests/run fleet"]
fn the_same_calls_have_the_same_effect_on_every_engine() {
    let seed = std::env::var("POLLGATE_FLEET_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    for binary in server::binaries() {
        let server = Server::start(&binary, &[]);
        let mut both = Both::start(&server);
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut kinds = std::collections::BTreeMap::<&str, usize>::new();
        both.step(0);
        for call in 0..CALLS {
            match dice.u16(..1000) {
                // A failover to an engine whose clock is behind, or one whose clock is ahead.
                0..3 => both.step(-dice.i64(0..5_000_000)),
                3..6 => both.step(dice.i64(0..120_000_000)),
                6..8 => {
                    both.memory.flush();
                    redis::cmd("FLUSHALL")
                        .exec(&mut both.connection)
                        .expect("empty");
                    both.step(0);
                }
                8..11 => {
                    both.memory.trim_journal(2);
                    redis::cmd("XTRIM")
                        .arg(&["pg1:tests:j", "MAXLEN", "2"])
                        .exec(&mut both.connection)
                        .expect("trimmed");
                }
                // Scripts are loaded again.
                11..13 => redis::cmd("SCRIPT")
                    .arg("FLUSH")
                    .exec(&mut both.connection)
                    .expect("none"),
                _ => both.step(dice.i64(1..400_000) * dice.i64(0..3) / 2 + 1),
            }
            let member = dice.usize(..MEMBERS);
            let ask = both.any(member, &mut dice);
            let story = format!(
                "seed {seed}, {}, call {call} of {member}: {ask:?}",
                binary.display()
            );
            let now = both.now();
            let said = both.ask(member, &ask, &story);
            *kinds.entry(kind(&ask, &said)).or_default() += 1;
            if let (
                Ask::Board(board),
                Ok(Said::Boarded {
                    boarded: Boarded::Lead { fence, birth, .. },
                    ..
                }),
            ) = (&ask, &said)
            {
                let led = (board.key, *fence, *birth, now);
                both.members[member].leads.push(led);
            }
        }
        assert!(both.strays > 0, "no stray, seed {seed}");
        for needed in [
            "fresh",
            "lead",
            "wait",
            "rest",
            "vacant",
            "late",
            "Kept",
            "Pushed",
            "Superseded",
            "Forgotten",
            "done",
            "not done",
            "mark",
            "New",
            "Resumed",
            "Gap",
            "ends",
        ] {
            assert!(
                kinds.contains_key(needed),
                "never seen: {needed}, in {kinds:?}, seed {seed}"
            );
        }
    }
}

fn kind(ask: &Ask, said: &Result<Said, Away>) -> &'static str {
    match said {
        Ok(Said::Boarded { boarded, .. }) => match boarded {
            Boarded::Fresh(_) => "fresh",
            Boarded::Lead { .. } => "lead",
            Boarded::Wait { .. } => "wait",
            Boarded::Rest { .. } => "rest",
            Boarded::Vacant { .. } => "vacant",
            Boarded::Late => "late",
        },
        Ok(Said::Landed(landing)) => match landing {
            crate::fleet::engine::Landing::Kept => "Kept",
            crate::fleet::engine::Landing::Pushed => "Pushed",
            crate::fleet::engine::Landing::Superseded => "Superseded",
            crate::fleet::engine::Landing::Forgotten => "Forgotten",
        },
        Ok(Said::Done(true)) => "done",
        Ok(Said::Done(false)) => "not done",
        Ok(Said::Forgotten(_)) => "mark",
        Ok(Said::Heard(heard)) => match heard.joined {
            crate::fleet::engine::Joined::New => "New",
            crate::fleet::engine::Joined::Resumed => "Resumed",
            crate::fleet::engine::Joined::Gap => "Gap",
        },
        Ok(Said::Ends(_)) => "ends",
        Err(away) => panic!("{ask:?}: {away}"),
    }
}
