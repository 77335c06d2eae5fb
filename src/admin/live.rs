//! The page's numbers, live: sampled once a second for all who watch together, and not at all while nobody does.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt as _};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::history::History;
use super::totals::Totals;
use super::view::{Counted, View};
use crate::gateway::Gateway;
use crate::message::body::Body;
use crate::sync::lock;
use crate::telemetry::Exposition;

/// Where the page's numbers are streamed.
pub(super) const PATH: &str = "/live";

/// How many may watch at once; scrapes and probes must still find a place.
const WATCHERS: usize = 16;

/// How often the numbers are taken.
const PACE: Duration = Duration::from_secs(1);

/// How many times they are taken after the last one left: a page that is loaded again finds its charts.
const LINGER: u32 = 5;

/// How often the store is counted at most: going over many entries takes time, and a fiftieth of one core is enough.
const CENSUS: Duration = Duration::from_secs(2);
const CENSUS_SHARE: u32 = 50;

/// Serves those who watch. Cheap to clone; clones are one.
#[derive(Debug, Clone)]
pub(super) struct Live(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gateway: Gateway,
    started: Instant,
    draining: CancellationToken,
    latest: watch::Sender<Option<Arc<Moment>>>,
    sampling: Mutex<bool>,
    places: Arc<Semaphore>,
    counted: tokio::sync::Mutex<Option<(Instant, Arc<Counted>)>>,
}

/// One view, and the event that tells it.
#[derive(Debug)]
struct Moment {
    view: Arc<View>,
    event: Bytes,
}

impl Live {
    pub(super) fn new(gateway: Gateway, draining: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            gateway,
            started: Instant::now(),
            draining,
            latest: watch::Sender::new(None),
            sampling: Mutex::new(false),
            places: Arc::new(Semaphore::new(WATCHERS)),
            counted: tokio::sync::Mutex::default(),
        }))
    }

    /// What there is to be seen right now.
    pub(super) async fn view(&self) -> Arc<View> {
        if let Some(moment) = &*self.0.latest.borrow() {
            return Arc::clone(&moment.view);
        }
        let mut history = History::new(self.0.started);
        Arc::new(self.draw(&mut history).await)
    }

    /// An event stream of pictures, until the gateway stops; `None` where too many watch already.
    pub(super) fn stream(&self) -> Option<Body> {
        let place = Arc::clone(&self.0.places).try_acquire_owned().ok()?;
        let frames = self.frames(place).map(Ok::<_, Infallible>);
        Some(Body::boxed(StreamBody::new(frames)))
    }

    fn frames(
        &self,
        place: OwnedSemaphorePermit,
    ) -> impl Stream<Item = Frame<Bytes>> + Send + use<> {
        let (latest, draining) = (self.watch(), self.0.draining.clone());
        unfold(Some((latest, draining, place)), |state| async move {
            let (mut latest, draining, place) = state?;
            loop {
                tokio::select! {
                    biased;
                    () = draining.cancelled() => {
                        let bye = Bytes::from_static(b"event: bye\ndata: draining\n\n");
                        return Some((Frame::data(bye), None));
                    }
                    changed = latest.changed() => changed.ok()?,
                }
                let event = latest
                    .borrow_and_update()
                    .as_ref()
                    .map(|moment| moment.event.clone());
                if let Some(event) = event {
                    return Some((Frame::data(event), Some((latest, draining, place))));
                }
            }
        })
    }

    /// Whoever holds the receiver watches, and gets what there is at once.
    fn watch(&self) -> watch::Receiver<Option<Arc<Moment>>> {
        let mut sampling = lock(&self.0.sampling);
        let mut latest = self.0.latest.subscribe();
        latest.mark_changed();
        if !*sampling {
            *sampling = true;
            tokio::spawn(self.clone().sample());
        }
        latest
    }

    async fn sample(self) {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut history = History::new(self.0.started);
        let mut alone = 0;
        loop {
            pace.tick().await;
            let view = Arc::new(self.draw(&mut history).await);
            // Neither names nor numbers can fail to be written as JSON.
            let json = serde_json::to_string(&*view).unwrap_or_default();
            let event = Bytes::from(format!("retry: 2000\nevent: picture\ndata: {json}\n\n"));
            self.0
                .latest
                .send_replace(Some(Arc::new(Moment { view, event })));
            let mut sampling = lock(&self.0.sampling);
            alone = if self.0.latest.receiver_count() == 0 {
                alone + 1
            } else {
                0
            };
            if alone > LINGER {
                self.0.latest.send_replace(None);
                *sampling = false;
                return;
            }
        }
    }

    async fn draw(&self, history: &mut History) -> View {
        let Inner {
            gateway, started, ..
        } = &*self.0;
        let counted = self.count().await;
        let now = Instant::now();
        history.record(Totals::read(&gateway.expose(Exposition::Prometheus), now));
        View::draw(gateway, *started, history, &counted, now)
    }

    /// Goes over the store, unless that was done not long ago.
    async fn count(&self) -> Arc<Counted> {
        let mut known = self.0.counted.lock().await;
        if let Some((until, counted)) = &*known
            && Instant::now() < *until
        {
            return Arc::clone(counted);
        }
        let gateway = self.0.gateway.clone();
        let counting = tokio::task::spawn_blocking(move || {
            let now = Instant::now();
            let counted = Counted {
                census: gateway.store().census(now),
                paused_callers: gateway.polls().breakers.paused_callers(now),
            };
            let cost = now.elapsed().saturating_mul(CENSUS_SHARE);
            (now + cost.max(CENSUS), Arc::new(counted))
        });
        let (until, counted) = counting
            .await
            .unwrap_or_else(|_| (Instant::now() + CENSUS, Arc::default()));
        *known = Some((until, Arc::clone(&counted)));
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[tokio::test(start_paused = true)]
    async fn numbers_are_taken_only_while_someone_watches() {
        let gateway = Gateway::new(&Config::default()).unwrap();
        let live = Live::new(gateway, CancellationToken::new());
        let is_sampling = || *live.0.sampling.lock().unwrap();
        live.view().await;
        assert!(!is_sampling(), "a look is no watch");
        let (first, second) = (live.stream().unwrap(), live.stream().unwrap());
        assert!(is_sampling());
        drop(first);
        tokio::time::sleep(PACE * 60).await;
        assert!(is_sampling() && live.0.latest.borrow().is_some());
        drop(second);
        tokio::time::sleep(PACE * (LINGER + 3)).await;
        assert!(!is_sampling() && live.0.latest.borrow().is_none());
        let _again = live.stream().unwrap();
        assert!(is_sampling());
    }
}
