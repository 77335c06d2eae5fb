//! What the flights of a fleet's member share, and polls without the fleet.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _};

use super::leads::Leads;
use crate::answer::Landed;
use crate::answer::reply::Reply;
use crate::cache::Store;
use crate::cache::cadence::Cadence;
use crate::config;
use crate::error::Error;
use crate::fleet::{self, Forget};
use crate::stack::shared::Shared;
use crate::stack::state::LeasedQuery;
use crate::upstream::breakers::CircuitBreakers;

/// See the module.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) fleet: Arc<fleet::Fleet>,
    pub(super) store: Arc<Store>,
    pub(super) cadence: Arc<Cadence>,
    pub(super) breakers: Arc<CircuitBreakers>,
    pub(super) cache: Arc<config::Cache>,
    /// How long a flight takes at most.
    pub(super) timeout: Duration,
    pub(super) out_of_time: CancellationToken,
    pub(super) leads: Arc<Leads>,
}

impl Config {
    /// Learns what the fleet knows of the model of a running task.
    pub(super) fn meet(&self, reply: &Reply) {
        if reply.is_task()
            && !reply.is_terminal()
            && let Some(snapshot) = reply.snapshot()
        {
            self.fleet.meet(snapshot.model(), &self.cadence);
        }
    }

    /// Asks upstream without the fleet, which is told of a refusal all the same, now or later.
    pub(super) async fn lonely<S>(
        self: Arc<Self>,
        inner: Shared<S>,
        leased: LeasedQuery,
    ) -> Result<Landed, Error>
    where
        S: Service<LeasedQuery, Response = Landed, Error = Error> + Clone,
    {
        let caller = leased.query.key.caller;
        let knows_caller = self.store.knows(caller);
        let members = self.fleet.modesty();
        let result = inner.oneshot(LeasedQuery { members, ..leased }).await;
        let refused = result
            .as_ref()
            .is_ok_and(|landed| landed.reply.is_refusal());
        if refused && self.fleet.may_tell_of(knows_caller) {
            self.fleet.forget(Forget::Caller(caller)).await;
        }
        result
    }
}
