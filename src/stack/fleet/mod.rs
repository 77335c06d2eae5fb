//! Lets the sidecars of a fleet share one poll and one memory. It is below Coalesce, so that a process asks the fleet once
//! for all who wait, and above Remember, which runs only where upstream is asked. What the fleet knows is adopted into the
//! store first, also when it is stale; all layers above work on the store as ever.
//!
//! Without a fleet, and while its engine is away, a poll passes straight through.

mod common;
mod leader;
mod leads;

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tower::{Service, ServiceExt as _};

use self::common::Config;
use self::leader::{Grant, Lead, Leader};
use self::leads::Flown;
use super::shared::Shared;
use super::state::{LeasedQuery, PollState};
use crate::answer::{Landed, Origin};
use crate::cache::freshness::{self, Fault};
use crate::cache::{Looked, NotAdopted, Use};
use crate::config;
use crate::error::Error;
use crate::fleet::anchor::Anchor;
use crate::fleet::engine::{Away, Boarded, EntryKey, FAILURES, Fence, Sealed, Value};
use crate::fleet::envelope::{self, Arrival, Opened};
use crate::fleet::{Asking, Heard, Known, Waiter, Wish};
use crate::request::preferences::CacheMode;
use crate::upstream::breakers::{CircuitStatus, Outlook};

/// How often a poll asks the fleet before it goes on alone: once more than upstream may fail for other members before they
/// leave the entry alone.
const ROUNDS: usize = FAILURES + 1;

/// Through how many tasks of this process an answer of the engine goes at most, from the socket to a poll.
const HANDS: usize = 4;

/// How much longer than a lease its waiters wait, at most: they are not to return all at once.
const OVERTIME: Duration = Duration::from_millis(50);

/// How long those whose connection was cut wait before they go on alone, at most.
const SPREAD: Duration = Duration::from_millis(100);

/// How long a member whose own poll failed, or is likely to, leaves the others to take over.
const HANDOVER: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Debug)]
pub struct Fleet<S> {
    inner: Shared<S>,
    shared: Option<Arc<Config>>,
}

impl<S> Fleet<S> {
    pub(super) fn new(
        inner: S,
        state: &PollState,
        cache: &Arc<config::Cache>,
        config: &config::Config,
    ) -> Self {
        let shared = state.fleet.as_ref().map(|fleet| Config {
            fleet: Arc::clone(fleet),
            store: Arc::clone(&state.store),
            cadence: Arc::clone(&state.cadence),
            breakers: Arc::clone(&state.breakers),
            cache: Arc::clone(cache),
            timeout: config.upstream.timeout,
            out_of_time: state.out_of_time.clone(),
            leads: Arc::default(),
        });
        Self {
            inner: Shared::new(inner),
            shared: shared.map(Arc::new),
        }
    }
}

impl<S> Clone for Fleet<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<S> Service<LeasedQuery> for Fleet<S>
where
    S: Service<LeasedQuery, Response = Landed, Error = Error, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    type Response = Landed;
    type Error = Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Landed, Error>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, leased: LeasedQuery) -> Self::Future {
        let Some(shared) = &self.shared else {
            return Either::Left(self.inner.call(leased));
        };
        let fleet = &shared.fleet;
        let is_together = fleet.health.is_together();
        if fleet.terms().answers && !is_together {
            fleet.metrics.alone("away");
        }
        let entry = (fleet.terms().answers && is_together)
            .then(|| fleet.entry(&leased.query))
            .flatten();
        let Some(entry) = entry else {
            let (inner, shared) = (self.inner.clone(), Arc::clone(shared));
            return Either::Right(Box::pin(shared.lonely(inner, leased)));
        };
        let flight = Flight {
            inner: self.inner.clone(),
            entry,
            credential: shared.fleet.credential(&leased.query.credentials),
            config: Arc::clone(shared),
            leased,
        };
        Either::Right(Box::pin(flight.fly()))
    }
}

/// One flight of this process.
struct Flight<S> {
    inner: Shared<S>,
    config: Arc<Config>,
    leased: LeasedQuery,
    entry: EntryKey,
    credential: [u8; 32],
}

/// What a member can expect of upstream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Chance {
    /// An answer.
    Good,
    /// When it was last asked, it was out of reach. Others are let go first: they would all wait for what is likely to fail.
    Doubtful,
    /// Not to be asked: another member finds out whether a pause is over.
    OthersProbe,
    /// Not to be asked.
    None,
}

impl Chance {
    const fn may_ask(self) -> bool {
        matches!(self, Self::Good | Self::Doubtful)
    }
}

/// How a wait ended.
enum Waited {
    /// With an answer.
    Landed(Landed),
    /// With a reason to ask the engine again.
    Again,
    /// With the loss of the connection.
    Cut,
    /// There is no time left.
    OutOfTime,
}

impl<S> Flight<S>
where
    S: Service<LeasedQuery, Response = Landed, Error = Error, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
{
    async fn fly(self) -> Result<Landed, Error> {
        let fleet = &self.config.fleet;
        let start = Instant::now();
        let mut have = match self.look_again(start) {
            Ok(landed) => return Ok(landed),
            Err(fence) => fence,
        };
        let give_up = start + self.config.timeout;
        let mut budget = fleet.terms().timeout;
        let mut failed = None;
        let mut waited_for = None;
        let mut gave_way = false;
        let mut rounds = 0;
        while rounds < ROUNDS {
            let mut waiter = fleet.register(self.entry);
            let chance = self.chance(&mut budget).await;
            let gives_way = chance == Chance::Doubtful && !gave_way && failed.is_none();
            let may_lead = chance.may_ask() && !gives_way && failed.is_none();
            let (anchor, boarded) = match self.board(have, may_lead, &mut budget).await {
                Ok(said) => said,
                Err(asking) => return self.alone(asking, failed).await,
            };
            match boarded {
                Boarded::Fresh(value) => match self.adopt_fresh(&value, &anchor) {
                    Some(landed) => {
                        fleet.note_answer();
                        return Ok(landed);
                    }
                    None => have = have.max(value.fence),
                },
                Boarded::Lead {
                    fence,
                    birth,
                    before,
                } => {
                    self.adopt_stale(before.as_ref(), &anchor);
                    let grant = Grant {
                        fence,
                        birth,
                        anchor,
                    };
                    match self.lead(Lead::Granted(grant)).await {
                        Flown::Landed(result) => return result,
                        Flown::Failed(result) => failed = Some(result),
                    }
                    sleep(HANDOVER.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                }
                Boarded::Wait {
                    fence,
                    rest,
                    before,
                    ..
                } => {
                    self.adopt_stale(before.as_ref(), &anchor);
                    let until = anchor.received + rest + OVERTIME.mul_f64(fastrand::f64());
                    match self.wait(&mut waiter, fence, until, give_up, &anchor).await {
                        Waited::Landed(landed) => {
                            fleet.note_answer();
                            return Ok(landed);
                        }
                        Waited::Again => {}
                        Waited::OutOfTime => return failed.unwrap_or(Err(Error::UpstreamTimeout)),
                        Waited::Cut => {
                            sleep(SPREAD.mul_f64(fastrand::f64())).await;
                            fleet.metrics.alone("away");
                            return self.alone(None, failed).await;
                        }
                    }
                    // A lease that was renewed is no round: upstream is slow.
                    if waited_for.replace(fence) == Some(fence) {
                        continue;
                    }
                }
                Boarded::Rest { before, .. } => {
                    self.adopt_stale(before.as_ref(), &anchor);
                    return failed.unwrap_or(Err(Error::UpstreamDown));
                }
                Boarded::Vacant { before } => {
                    self.adopt_stale(before.as_ref(), &anchor);
                    if gives_way {
                        gave_way = true;
                        sleep(HANDOVER).await;
                        continue;
                    }
                    if chance == Chance::OthersProbe {
                        return failed.unwrap_or(Err(Error::RateLimited(fleet.terms().lease)));
                    }
                    // Refused below, in the words of the circuit breaker.
                    return self.alone(None, failed).await;
                }
                Boarded::Late => {
                    fleet.metrics.alone("timeout");
                    return self.alone(None, failed).await;
                }
            }
            rounds += 1;
        }
        fleet.metrics.alone("rounds");
        self.alone(None, failed).await
    }

    /// Asks the engine, within what is left of the budget; else leaves what may still come of it.
    async fn board(
        &self,
        have: Fence,
        may_lead: bool,
        budget: &mut Duration,
    ) -> Result<(Anchor, Boarded), Option<Asking>> {
        let (fleet, query, now) = (&self.config.fleet, &self.leased.query, Instant::now());
        let mut asking = fleet.board(&Wish {
            entry: self.entry,
            have,
            asked_within: (query.cache_mode == CacheMode::NoCache).then(|| now - query.at),
            may_lead,
        });
        let said = match timeout(*budget, &mut asking).await {
            Err(_) => come_meanwhile(&mut asking).await,
            said => said.ok(),
        };
        *budget = budget.saturating_sub(now.elapsed());
        match said {
            Some(Ok((anchor, boarded))) => {
                fleet.health.answered();
                fleet.metrics.board(word(&boarded));
                Ok((anchor, boarded))
            }
            Some(Err(away)) => {
                fleet.failed(&away);
                Err(None)
            }
            None => {
                fleet.timed_out();
                Err(Some(asking))
            }
        }
    }

    /// What another flight has landed since this one's client looked; else the fence of what is known.
    fn look_again(&self, now: Instant) -> Result<Landed, Fence> {
        let Config {
            fleet,
            store,
            cache,
            ..
        } = &*self.config;
        let query = &*self.leased.query;
        match store.look(&query.key, now, cache.credential_ttl) {
            Some(Looked {
                entry,
                good_for: Use::Fresh,
            }) if query.cache_mode == CacheMode::Default => Ok(entry.landed()),
            Some(Looked { good_for, .. }) if good_for != Use::Invalidated => {
                Err(fleet.known(&self.entry))
            }
            _ => Err(Fence::NONE),
        }
    }

    /// Goes on without the fleet: with what upstream said here already, or by asking it. A lead that comes late is flown with
    /// the same poll.
    async fn alone(
        self,
        asking: Option<Asking>,
        failed: Option<Result<Landed, Error>>,
    ) -> Result<Landed, Error> {
        match (failed, asking) {
            (Some(failed), _) => failed,
            (None, None) => self.config.lonely(self.inner, self.leased).await,
            (None, Some(asking)) => match self.lead(Lead::Late(asking)).await {
                Flown::Landed(result) | Flown::Failed(result) => result,
            },
        }
    }

    /// Asks upstream for all, on a task of its own: once upstream is asked, those who wait elsewhere get the answer even if
    /// all clients here hang up. Or waits for the lead that others of this process have begun and left.
    async fn lead(&self, lead: Lead) -> Flown {
        let key = match &lead {
            Lead::Granted(grant) => Some((self.entry, grant.fence, self.leased.lease.clone())),
            Lead::Late(_) => None,
        };
        let (tell, told) = self.config.leads.begin(key);
        let Some(tell) = tell else {
            return told.wait().await;
        };
        let slot = Arc::new(OnceLock::new());
        let leased = LeasedQuery {
            arrival: Some(Arc::clone(&slot)),
            ..self.leased.clone()
        };
        let leader = Leader {
            config: Arc::clone(&self.config),
            entry: self.entry,
            credential: self.credential,
            slot,
            knows_caller: self.config.store.knows(self.leased.query.key.caller),
            leased: leased.clone(),
        };
        let call = self.inner.clone().oneshot(leased);
        tokio::spawn(leader.fly(call, lead, tell));
        told.wait().await
    }

    /// What this member can expect of upstream.
    async fn chance(&self, budget: &mut Duration) -> Chance {
        let (breakers, now) = (&self.config.breakers, Instant::now());
        let caller = self.leased.query.key.caller;
        let outlook = breakers.outlook(caller, now);
        if outlook == Outlook::Refuses {
            return Chance::None;
        }
        if outlook == Outlook::Probes && !self.may_probe(budget).await {
            return Chance::OthersProbe;
        }
        let all = [Some(breakers.status(now)), breakers.status_of(caller, now)];
        let mut known = all.into_iter().flatten();
        if known.all(|status| matches!(status, CircuitStatus::Closed { .. })) {
            Chance::Good
        } else {
            Chance::Doubtful
        }
    }

    /// Whether this member may probe: where upstream paused the caller by name, one of all at a time.
    async fn may_probe(&self, budget: &mut Duration) -> bool {
        let Config {
            fleet, breakers, ..
        } = &*self.config;
        let (caller, now) = (self.leased.query.key.caller, Instant::now());
        if !fleet.terms().pauses || breakers.pause_of(caller, now).is_none() {
            return true;
        }
        let probing = fleet.board(&Wish {
            entry: fleet.probe_entry(caller),
            have: Fence::NONE,
            asked_within: None,
            may_lead: true,
        });
        let said = timeout(*budget, probing).await;
        *budget = budget.saturating_sub(now.elapsed());
        // An engine that does not say decides nothing.
        !matches!(said, Ok(Ok((_, Boarded::Wait { .. }))))
    }

    /// Waits for the member that leads.
    async fn wait(
        &self,
        waiter: &mut Waiter,
        fence: Fence,
        until: Instant,
        give_up: Instant,
        anchor: &Anchor,
    ) -> Waited {
        let metrics = &self.config.fleet.metrics;
        loop {
            let heard = tokio::select! {
                biased;
                heard = waiter.next() => heard,
                () = sleep_until(give_up) => return Waited::OutOfTime,
                () = sleep_until(until) => {
                    metrics.wait("lease");
                    return Waited::Again;
                }
            };
            match heard {
                Heard::Landed {
                    fence: landed,
                    sealed,
                    ..
                } => {
                    metrics.wait("landed");
                    // An earlier one, that landed after its lease was over, may be none to be shown; and one that is not
                    // pushed is fetched.
                    let landed = sealed
                        .filter(|_| landed >= fence)
                        .and_then(|sealed| self.adopt_pushed(landed, &sealed, anchor));
                    return landed.map_or(Waited::Again, Waited::Landed);
                }
                Heard::Vacant(vacant) if vacant >= fence => {
                    metrics.wait("vacant");
                    return Waited::Again;
                }
                Heard::Stray {
                    fence: landed,
                    sealed,
                } if landed == fence => {
                    metrics.wait("stray");
                    let may_show = self.config.fleet.may_show_stray(anchor.received);
                    let landed = sealed
                        .filter(|_| may_show)
                        .and_then(|sealed| self.adopt_pushed(landed, &sealed, anchor));
                    return landed.map_or(Waited::Again, Waited::Landed);
                }
                // Of another lease.
                Heard::Vacant(_) | Heard::Stray { .. } => {}
                Heard::Cut => {
                    metrics.wait("cut");
                    return Waited::Cut;
                }
            }
        }
    }

    /// Adopts what stands in until there is news.
    fn adopt_stale(&self, value: Option<&Value>, anchor: &Anchor) {
        if let Some(Value { fence, sealed }) = value {
            drop(self.adopt(*fence, sealed, anchor));
        }
    }

    /// Adopts an answer that the engine holds to be fresh; `None` where it is not, by the rules here.
    fn adopt_fresh(&self, value: &Value, anchor: &Anchor) -> Option<Landed> {
        self.adopt(value.fence, &value.sealed, anchor)?;
        let (store, key) = (&self.config.store, &self.leased.query.key);
        // No look: it was not used again yet.
        let entry = store.peek(key)?;
        let good_for = store.good_for(&entry, Instant::now(), self.config.cache.credential_ttl);
        (good_for == Use::Fresh).then(|| Landed {
            origin: Origin::Fleet { waited: false },
            ..entry.landed()
        })
    }

    /// Adopts the answer that was waited for. It is shown once even where it is not kept, as upstream's own would be.
    fn adopt_pushed(&self, fence: Fence, sealed: &Sealed, anchor: &Anchor) -> Option<Landed> {
        let (landed, fault) = self.adopt(fence, sealed, anchor)?;
        if let Some(fault) = fault {
            let (key, lease) = (&self.leased.query.key, &self.leased.lease);
            let pause = freshness::cool_down(&self.config.cache);
            let failure = Ok(landed.clone());
            let received = landed.received;
            self.config
                .store
                .fail(key, fault, failure, lease, received, pause);
        }
        Some(landed)
    }

    fn adopt(
        &self,
        fence: Fence,
        sealed: &Sealed,
        anchor: &Anchor,
    ) -> Option<(Landed, Option<Fault>)> {
        let Config {
            fleet,
            store,
            cache,
            ..
        } = &*self.config;
        let key = &self.leased.query.key;
        let plain = fleet
            .open(&self.entry, fence, &self.credential, sealed)
            .ok()?;
        let Some(opened) = envelope::read(plain, &self.leased.query, anchor, cache) else {
            fleet.metrics.refused("too_old");
            return None;
        };
        let Opened {
            by,
            reply,
            headers,
            arrival,
        } = opened;
        let Arrival {
            asked,
            decision,
            first_seen,
        } = arrival;
        let received = reply.received;
        self.config.meet(&reply);
        let adopted = store.adopt(key, reply, &decision, first_seen, &self.leased.lease, asked);
        match adopted {
            Ok(kept) => {
                let known = Known {
                    fence,
                    leader: by,
                    received,
                };
                fleet.note(&self.entry, known);
                let landed = Landed {
                    reply: kept.reply,
                    headers,
                    received,
                    fresh_until: received + decision.fresh_for(),
                    origin: Origin::Fleet { waited: true },
                };
                Some((landed, decision.fault))
            }
            Err(why) => {
                fleet.metrics.refused(match why {
                    NotAdopted::Older => "older",
                    NotAdopted::Forgotten => "forgotten",
                    NotAdopted::Refused => "refused",
                });
                None
            }
        }
    }
}

/// The engine's answer, where it has come: this process may have been held up itself, and then its time is over before it
/// has read what is there.
async fn come_meanwhile(asking: &mut Asking) -> Option<Result<(Anchor, Boarded), Away>> {
    for _ in 0..HANDS {
        yield_now().await;
        if let Some(said) = asking.now_or_never() {
            return Some(said);
        }
    }
    None
}

fn word(boarded: &Boarded) -> &'static str {
    match boarded {
        Boarded::Fresh(_) => "fresh",
        Boarded::Lead { .. } => "lead",
        Boarded::Wait { .. } => "wait",
        Boarded::Rest { .. } => "rest",
        Boarded::Vacant { .. } => "vacant",
        Boarded::Late => "late",
    }
}
