//! A lead: a poll of upstream whose answer others wait for. It runs on a task of its own: once upstream is asked, those who
//! wait elsewhere get the answer even if all clients here hang up.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};

use super::common::Config;
use super::leads::{Flown, Telling};
use crate::answer::Landed;
use crate::cache::freshness::{CredentialVerdict, Fault};
use crate::error::Error;
use crate::fleet::anchor::Anchor;
use crate::fleet::engine::{Away, Birth, Boarded, EntryKey, Fence, Landing, Left};
use crate::fleet::envelope::{self, Arrival};
use crate::fleet::{Asking, Forget, Known};
use crate::stack::state::LeasedQuery;

/// How long a landing is tried again.
const LANDING: Duration = Duration::from_secs(1);

/// How long one try of a landing takes at most.
const TRY: Duration = Duration::from_millis(100);

/// The right to ask upstream for all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grant {
    pub(super) fence: Fence,
    /// The engine that gave it, and when.
    pub(super) birth: Birth,
    pub(super) anchor: Anchor,
}

/// That right, or the hope of it.
pub(super) enum Lead {
    /// It was granted.
    Granted(Grant),
    /// The engine has not answered in time. It may still grant it.
    Late(Asking),
}

/// A poll of upstream that others may wait for.
pub(super) struct Leader {
    pub(super) config: Arc<Config>,
    pub(super) leased: LeasedQuery,
    pub(super) entry: EntryKey,
    pub(super) credential: [u8; 32],
    /// Where the arrival of the answer is put.
    pub(super) slot: Arc<OnceLock<Arrival>>,
    /// Whether upstream has accepted the caller before.
    pub(super) knows_caller: bool,
}

impl Leader {
    /// Polls, and does with the lead what the result allows; tells the result as soon as it may be shown.
    pub(super) async fn fly(
        self,
        call: impl Future<Output = Result<Landed, Error>> + Send,
        lead: Lead,
        tell: Telling,
    ) {
        let Config {
            fleet, out_of_time, ..
        } = &*self.config;
        let (mut granted, mut asking) = match lead {
            Lead::Granted(grant) => (Some(grant), None),
            Lead::Late(asking) => (None, Some(asking)),
        };
        let half = fleet.terms().lease / 2;
        let mut renewal = Instant::now() + half;
        let mut renewing: Option<BoxFuture<'static, Result<bool, Away>>> = None;
        let mut call = std::pin::pin!(call);
        let result = loop {
            tokio::select! {
                biased;
                result = &mut call => break result,
                () = out_of_time.cancelled() => break Err(Error::Draining),
                late = optional(&mut asking) => {
                    asking = None;
                    granted = lead_of(&late);
                    renewal = Instant::now() + half;
                }
                renewed = optional(&mut renewing) => {
                    renewing = None;
                    if renewed == Ok(false) {
                        // Somebody else leads, or it was forgotten. The fence decides what this answer is worth.
                        renewal += Duration::from_hours(24);
                    }
                }
                () = sleep_until(renewal), if granted.is_some() && renewing.is_none() => {
                    renewal += half;
                    renewing = granted
                        .map(|grant| fleet.renew(self.entry, grant.fence).boxed());
                }
            }
        };
        drop(renewing);
        let verdict = self.verdict(&result);
        if self.is_refusal() && granted.is_none() {
            self.tell_refusal().await;
        }
        if let Some(asking) = asking {
            // Nobody waits for the engine, but what it says is worth knowing: it may be a lead.
            tell.tell(Flown::Landed(result.clone()));
            if let Some(grant) = lead_of(&asking.await) {
                self.end(verdict, &grant, &result).await;
            }
            return;
        }
        let Some(grant) = granted else {
            tell.tell(Flown::Landed(result));
            return;
        };
        let flown = match verdict {
            Verdict::Left(Left::Failed) => {
                self.end(verdict, &grant, &result).await;
                Flown::Failed(result)
            }
            _ if self.is_refusal() => {
                // Those who wait are given the refusal, and then all forget the caller.
                self.end(verdict, &grant, &result).await;
                self.tell_refusal().await;
                Flown::Landed(result)
            }
            _ => {
                tell.tell(Flown::Landed(result.clone()));
                self.end(verdict, &grant, &result).await;
                return;
            }
        };
        tell.tell(flown);
    }

    /// What is to be done with the lease.
    fn verdict(&self, result: &Result<Landed, Error>) -> Verdict {
        let arrival = self.slot.get();
        match (result, arrival) {
            (Ok(_), Some(arrival)) if arrival.decision.fault == Some(Fault::Way) => {
                Verdict::Left(Left::Failed)
            }
            (Ok(_), Some(_)) => Verdict::Land,
            (Err(Error::UpstreamTimeout), _) => Verdict::Left(Left::TimedOut),
            (Err(error), _)
                if error.is_way_failure() || error.is_own_fault() || *error == Error::TooLarge =>
            {
                Verdict::Left(Left::Failed)
            }
            // It was in memory after all, or upstream was not asked.
            _ => Verdict::Left(Left::Unused),
        }
    }

    fn is_refusal(&self) -> bool {
        let verdict = self.slot.get().map(|arrival| arrival.decision.credential);
        verdict == Some(Some(CredentialVerdict::Refused))
    }

    async fn tell_refusal(&self) {
        let fleet = &self.config.fleet;
        if fleet.may_tell_of(self.knows_caller) {
            fleet
                .forget(Forget::Caller(self.leased.query.key.caller))
                .await;
        }
    }

    async fn end(&self, verdict: Verdict, grant: &Grant, result: &Result<Landed, Error>) {
        let fleet = &self.config.fleet;
        match (verdict, result, self.slot.get()) {
            (Verdict::Land, Ok(landed), Some(arrival)) => {
                self.land(landed, arrival, grant).await;
            }
            (Verdict::Left(why), ..) => fleet.leave(self.entry, grant.fence, why),
            _ => fleet.leave(self.entry, grant.fence, Left::Unused),
        }
    }

    /// Hands the answer in, again until it is certain that it was, or pointless.
    async fn land(&self, landed: &Landed, arrival: &Arrival, grant: &Grant) {
        let fleet = &self.config.fleet;
        let Grant {
            fence,
            birth,
            anchor,
        } = *grant;
        let (times, plain) = envelope::write(landed, arrival, &anchor, fleet.member);
        self.config.meet(&landed.reply);
        if plain.len() > fleet.terms().max_value {
            fleet.metrics.landing("too_large");
            fleet.leave(self.entry, fence, Left::Unused);
            return;
        }
        let sealed = fleet
            .secret
            .seal(&self.entry, fence, &self.credential, &plain);
        let lifetime = arrival.decision.lifetime;
        let keep = lifetime.is_some_and(|lifetime| !lifetime.is_zero());
        let until = Instant::now() + LANDING;
        loop {
            let landing = fleet.land(self.entry, (fence, birth), times, sealed.clone(), keep);
            match timeout(TRY, landing).await {
                Ok(Ok(landing)) => {
                    if landing == Landing::Kept {
                        let known = Known {
                            fence,
                            leader: fleet.member,
                            received: landed.received,
                        };
                        fleet.note(&self.entry, known);
                        if let Some(end) = &arrival.decision.ended {
                            fleet.tell_end(end);
                        }
                    }
                    fleet.metrics.landing(match landing {
                        Landing::Kept => "kept",
                        Landing::Pushed => "pushed",
                        Landing::Superseded => "superseded",
                        Landing::Forgotten => "forgotten",
                    });
                    return;
                }
                Ok(Err(Away::Refused(_))) => break,
                Ok(Err(_)) | Err(_) => {}
            }
            let again = Instant::now() + Duration::from_millis(20 + fastrand::u64(..30));
            if again >= until {
                break;
            }
            sleep_until(again).await;
        }
        fleet.metrics.landing("lost");
    }
}

/// What is to be done with a lease.
#[derive(Clone, Copy)]
enum Verdict {
    Land,
    Left(Left),
}

/// The lead that a late answer brings, if it does.
fn lead_of(late: &Result<(Anchor, Boarded), Away>) -> Option<Grant> {
    match late {
        Ok((anchor, Boarded::Lead { fence, birth, .. })) => Some(Grant {
            fence: *fence,
            birth: *birth,
            anchor: *anchor,
        }),
        _ => None,
    }
}

/// Awaits a future where there is one.
async fn optional<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
