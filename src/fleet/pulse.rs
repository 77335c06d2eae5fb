//! The heartbeat of a member: once a second it shows that it lives, learns the engine's time and hears the news. It is what
//! brings an engine back that was left alone, after the news have been heard.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::anchor::Anchor;
use super::engine::{Ask, Away, Heard, Joined, Position, SILENCE, Said};
use super::membership::Fleet;
use super::news::{HEARSAY, Item, Told};
use crate::cache::Store;
use crate::cache::cadence::Cadence;
use crate::message::fields::unix_now;
use crate::request::key::Caller;
use crate::route::TaskId;
use crate::upstream::breakers::{CircuitBreakers, Trouble};

/// The time between two beats.
const BEAT: Duration = Duration::from_secs(1);

/// The time between two beats while the engine is away.
const SEEK: Duration = Duration::from_millis(200);

/// The shortest time between two beats, however often the bell rings.
const PACE: Duration = Duration::from_millis(20);

/// What hears the news.
#[derive(Debug)]
pub struct Pulse {
    /// The fleet.
    pub fleet: Arc<Fleet>,
    /// The cache, which forgets.
    pub store: Arc<Store>,
    /// What is learnt of the ends of tasks.
    pub cadence: Arc<Cadence>,
    /// The circuit breakers, which hear of pauses and trouble.
    pub breakers: Arc<CircuitBreakers>,
}

impl Pulse {
    /// Beats for as long as the process lives.
    pub async fn run(self) {
        let troubles = Arc::downgrade(&self.fleet);
        self.breakers.on_trouble(Box::new(move |trouble| {
            if let Some(fleet) = troubles.upgrade() {
                fleet.tell_trouble(trouble);
            }
        }));
        let mut since = None;
        loop {
            let more = self.beat(&mut since).await;
            if self.fleet.health.is_together() {
                self.fleet.empty_outbox().await;
            }
            sleep(PACE).await;
            if !more {
                let pause = if self.fleet.health.is_together() {
                    BEAT
                } else {
                    SEEK
                };
                // A bell that rang during the pace is heard at once.
                drop(timeout(pause, self.fleet.ear.bell.notified()).await);
            }
        }
    }

    /// One beat; says whether there are more news.
    async fn beat(&self, since: &mut Option<Position>) -> bool {
        let fleet = &self.fleet;
        let (sent, rings) = (Instant::now(), fleet.ear.rings());
        let beating = fleet.ask("beat", Ask::Beat { since: *since });
        let said = timeout(SILENCE, beating).await;
        let heard = match said {
            Ok(Ok(Said::Heard(heard))) => heard,
            Ok(Ok(_)) => return false,
            Ok(Err(away)) => {
                fleet.health.failed(&away, &fleet.metrics);
                return false;
            }
            Err(_) => {
                fleet.health.failed(&Away::Lost, &fleet.metrics);
                return false;
            }
        };
        let anchor = Anchor {
            at: heard.at,
            sent,
            received: Instant::now(),
        };
        fleet.note_time(anchor);
        fleet.note_members(heard.members);
        let skew = i128::from(heard.at.0) - i128::from(unix_now()) * 1_000_000;
        #[allow(clippy::cast_precision_loss, reason = "a gauge")]
        fleet.metrics.clock_skew.set(skew as f64 / 1e6);
        self.join(heard.joined, since.is_some());
        self.hear(&heard, &anchor);
        *since = Some(heard.next);
        if !heard.more {
            fleet.ear.follow(rings);
            fleet.health.beaten(anchor.took(), &fleet.metrics);
        }
        heard.more
    }

    fn join(&self, joined: Joined, again: bool) {
        match joined {
            Joined::New if again => {
                // The engine has lost its memory, and with it the marks. What is known here is as right as it was.
                tracing::warn!(
                    "fleet: the engine has forgotten everything; it is told the latest again"
                );
                self.fleet.ear.lose();
                self.fleet.forget_fences();
                self.fleet.tell_again();
            }
            Joined::New | Joined::Resumed => {}
            Joined::Gap => {
                self.fleet.ear.miss();
                self.fleet.metrics.journal_gaps.inc();
                tracing::warn!("fleet: news were lost; what is remembered here is dropped");
                self.store.drop_all();
            }
        }
    }

    fn hear(&self, heard: &Heard, anchor: &Anchor) {
        for sealed in &heard.news {
            let Some(told) = Told::open(&self.fleet.secret, sealed) else {
                self.fleet.metrics.refused("unsealed");
                continue;
            };
            let ago = Duration::from_micros(anchor.at.0.saturating_sub(told.at));
            self.fleet.metrics.journal_lag.set(ago.as_secs_f64());
            if told.by == self.fleet.member.0 {
                continue;
            }
            // Not earlier than in truth.
            let at = anchor.received.checked_sub(ago).unwrap_or(anchor.received);
            let caller = Caller::from_bytes;
            let terms = self.fleet.terms();
            match told.item {
                Item::Forget { task } => {
                    self.store.invalidate_as_of(&TaskId::new(&task), at);
                }
                Item::ForgetOf {
                    task,
                    caller: bytes,
                } => {
                    self.store
                        .invalidate_for_as_of(&TaskId::new(&task), caller(bytes), at);
                }
                Item::ForgetAll => {
                    self.store.purge_all_as_of(at);
                }
                Item::Refused { caller: bytes } => self.store.refuse_as_of(caller(bytes), at),
                Item::Paused {
                    caller: bytes,
                    until,
                } if terms.pauses => {
                    let left = Duration::from_micros(until.saturating_sub(anchor.at.0));
                    if !left.is_zero() {
                        self.breakers
                            .hear_pause(caller(bytes), left, Instant::now());
                    }
                }
                Item::Resumed { caller: bytes } if terms.pauses => {
                    self.breakers.hear_over(caller(bytes), at, Instant::now());
                }
                Item::Trouble if terms.pauses && ago < HEARSAY => {
                    self.breakers.hear_trouble(Instant::now());
                }
                Item::Ended { model, from, to } if terms.cadence => {
                    let millis = Duration::from_millis;
                    self.cadence.learn(&model, millis(from), millis(to));
                }
                Item::Trouble
                | Item::Paused { .. }
                | Item::Resumed { .. }
                | Item::Ended { .. }
                | Item::Unknown => {}
            }
        }
    }
}

impl Fleet {
    fn tell_trouble(self: &Arc<Self>, trouble: Trouble) {
        if !self.terms().pauses {
            return;
        }
        let item = match trouble {
            Trouble::Paused(caller, pause) => {
                let Some(now) = self.engine_now() else {
                    return;
                };
                Item::Paused {
                    caller: *caller.as_bytes(),
                    until: now.after(pause).0,
                }
            }
            Trouble::Over(caller) => Item::Resumed {
                caller: *caller.as_bytes(),
            },
            Trouble::Everyone => Item::Trouble,
        };
        self.tell(item);
    }
}
