//! Clients that poll through a fleet without pause, and judge what they get.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::Client;

/// The path of a task.
pub(crate) fn path(task: usize) -> String {
    format!("/v1/video/generations/task-fleet-{task}")
}

/// The key of all clients.
pub(crate) const KEY: &str = "sk-fleet-5a7e";

/// What the clients of a crowd saw.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    /// How many polls were answered with a state.
    pub answered: usize,
    /// What else they got.
    pub failed: Vec<String>,
    /// Answers with less progress than the client had seen before.
    pub backward: Vec<String>,
    /// How long each poll took.
    pub took: Vec<Duration>,
}

impl Seen {
    /// Fails unless every poll was answered, and none went backward.
    pub(crate) fn assert_whole(&self, story: &str) {
        let shown = |all: &[String]| all.iter().take(5).cloned().collect::<Vec<_>>();
        assert!(self.answered > 0, "{story}: nobody was answered");
        assert!(
            self.failed.is_empty(),
            "{story}: {} of {} failed: {:?}",
            self.failed.len(),
            self.answered,
            shown(&self.failed)
        );
        assert!(
            self.backward.is_empty(),
            "{story}: {} of {} went backward: {:?}",
            self.backward.len(),
            self.answered,
            shown(&self.backward)
        );
    }

    /// The time that this share of the polls did not exceed.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut took = self.took.clone();
        took.sort_unstable();
        let at = (took.len().saturating_sub(1)) as f64 * share;
        took.get(at as usize).copied().unwrap_or_default()
    }

    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed.extend(other.failed);
        self.backward.extend(other.backward);
        self.took.extend(other.took);
    }
}

/// Clients at work.
pub(crate) struct Crowd {
    clients: Vec<JoinHandle<Seen>>,
    stop: Arc<AtomicBool>,
}

impl Crowd {
    /// Has `each` clients at each gateway poll one of the tasks each, with this pause between two polls.
    pub(crate) fn start(
        gateways: &[SocketAddr],
        each: usize,
        tasks: usize,
        pause: Duration,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = Vec::new();
        for (gateway, address) in gateways.iter().enumerate() {
            let client = Client::new(*address);
            for number in 0..each {
                let task = (gateway * each + number) % tasks;
                let (client, stop) = (client.clone(), Arc::clone(&stop));
                clients.push(tokio::spawn(async move {
                    // Not all at once.
                    sleep(pause.mul_f64(fastrand::f64())).await;
                    poll(&client, task, pause, &stop).await
                }));
            }
        }
        Self { clients, stop }
    }

    /// Ends, and tells what was seen.
    pub(crate) async fn end(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Seen::default();
        for client in std::mem::take(&mut self.clients) {
            all.add(client.await.expect("a client"));
        }
        all
    }
}

/// Ends, and nobody wants to know.
impl Drop for Crowd {
    fn drop(&mut self) {
        for client in &self.clients {
            client.abort();
        }
    }
}

async fn poll(client: &Client, task: usize, pause: Duration, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::default();
    let mut best = 0;
    let path = path(task);
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        let answer = client.get(&path, KEY, &[]).await;
        seen.took.push(asked.elapsed());
        let progress = progress(&serde_json::from_slice(&answer.body).unwrap_or_default());
        match progress {
            Some(progress) if answer.status == 200 => {
                seen.answered += 1;
                if progress < best {
                    let status = answer.header("cache-status");
                    seen.backward
                        .push(format!("{best} to {progress}: {status}"));
                }
                best = best.max(progress);
            }
            _ => {
                let body = String::from_utf8_lossy(&answer.body).into_owned();
                seen.failed.push(format!("{} {body}", answer.status));
            }
        }
        sleep(pause).await;
    }
    seen
}

/// The progress in a document of the unified path, 100 where it has ended.
fn progress(document: &Value) -> Option<u32> {
    let progress = document["data"]["progress"].as_str()?;
    progress.trim_end_matches('%').parse().ok()
}
