//! Streams the page's numbers, sampled once a second for all watchers together. Without watchers only the
//! [`Recorder`](super::recorder) works.

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
use super::recorder::Recorder;
use super::totals::Totals;
use super::view::{Counted, View};
use crate::gateway::Gateway;
use crate::message::body::Body;
use crate::sync::lock;
use crate::telemetry::Exposition;

/// The path of the stream.
pub(super) const PATH: &str = "/live";

/// The limit of watchers, which leaves connections for scrapes and probes.
const WATCHERS: usize = 16;

/// The time between two samples.
const PACE: Duration = Duration::from_secs(1);

/// How many samples follow the last watcher's departure, so that a page that is reloaded finds its charts.
const LINGER: u32 = 5;

/// The least time between two censuses of the cache, and the largest share of one core that they take.
const CENSUS: Duration = Duration::from_secs(2);
const CENSUS_SHARE: u32 = 50;

/// Serves the watchers. Clones share their state.
#[derive(Debug, Clone)]
pub(super) struct Live(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gateway: Gateway,
    recorder: Recorder,
    started: Instant,
    draining: CancellationToken,
    latest: watch::Sender<Option<Arc<Moment>>>,
    sampling: Mutex<bool>,
    permits: Arc<Semaphore>,
    counted: tokio::sync::Mutex<Option<(Instant, Arc<Counted>)>>,
}

/// A view, and the same as an event.
#[derive(Debug)]
struct Moment {
    view: Arc<View>,
    event: Bytes,
}

impl Live {
    pub(super) fn new(gateway: Gateway, draining: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            recorder: Recorder::start(gateway.clone()),
            gateway,
            started: Instant::now(),
            draining,
            latest: watch::Sender::new(None),
            sampling: Mutex::new(false),
            permits: Arc::new(Semaphore::new(WATCHERS)),
            counted: tokio::sync::Mutex::default(),
        }))
    }

    /// The current view.
    pub(super) async fn view(&self) -> Arc<View> {
        if let Some(moment) = &*self.0.latest.borrow() {
            return Arc::clone(&moment.view);
        }
        let mut history = History::new(self.0.started);
        Arc::new(self.draw(&mut history).await)
    }

    /// An event stream of views until the gateway drains, or `None` if there are too many watchers.
    pub(super) fn stream(&self) -> Option<Body> {
        let permit = Arc::clone(&self.0.permits).try_acquire_owned().ok()?;
        let frames = self.frames(permit).map(Ok::<_, Infallible>);
        Some(Body::boxed(StreamBody::new(frames)))
    }

    fn frames(
        &self,
        permit: OwnedSemaphorePermit,
    ) -> impl Stream<Item = Frame<Bytes>> + Send + use<> {
        let (latest, draining) = (self.watch(), self.0.draining.clone());
        unfold(Some((latest, draining, permit)), |state| async move {
            let (mut latest, draining, permit) = state?;
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
                    return Some((Frame::data(event), Some((latest, draining, permit))));
                }
            }
        })
    }

    /// Subscribes a watcher, which gets the current view at once, and starts sampling for the first one.
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
            // Strings and finite numbers always serialise.
            let json = serde_json::to_string(&*view).unwrap_or_default();
            let event = Bytes::from(format!("retry: 2000\nevent: view\ndata: {json}\n\n"));
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
            gateway,
            recorder,
            started,
            ..
        } = &*self.0;
        let counted = self.count().await;
        let now = Instant::now();
        let totals = Totals::read(&gateway.expose(Exposition::Prometheus), now);
        let report = recorder.report(&totals);
        history.record(totals);
        View::draw(gateway, *started, history, &counted, &report, now)
    }

    /// Returns the census of the cache, and takes a new one if the last one is too old.
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
        assert!(!is_sampling(), "viewing once is not watching");
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
