//! A fleet of gateways, and an upstream behind it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::support::{Gateway, Reply, Upstream, eventually};

/// An upstream on which every task makes progress; it takes this long to say so.
pub(crate) async fn upstream(latency: Duration) -> Upstream {
    let began = Instant::now();
    Upstream::start(move |asked| {
        let done = (began.elapsed().as_millis() / 300).min(99);
        let id = asked.target.rsplit('/').next().unwrap_or_default();
        let body = format!(
            r#"{{"code":"success","message":"","data":{{"task_id":"{id}","action":"textGenerate","status":"IN_PROGRESS","progress":"{done}%","fail_reason":""}}}}"#
        );
        Reply::json(body).after(latency)
    })
    .await
}

/// A fleet of gateways.
pub(crate) struct Fleet {
    pub gateways: Vec<Gateway>,
    /// Has the fleet's secret.
    file: tempfile::NamedTempFile,
    /// The engine; without one, the gateways have nothing to do with each other.
    engine: Option<SocketAddr>,
}

impl Fleet {
    /// Starts so many around the engine on a port, and waits until each knows of all.
    pub(crate) async fn start(
        count: usize,
        upstream: &str,
        engine: Option<u16>,
        settings: &[(&str, &str)],
    ) -> Self {
        let engine = engine.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        Self::start_at(count, upstream, engine, settings).await
    }

    /// The same around an engine that is elsewhere.
    pub(crate) async fn start_at(
        count: usize,
        upstream: &str,
        engine: Option<SocketAddr>,
        settings: &[(&str, &str)],
    ) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "0123456789abcdef0123456789abcdef\n").expect("written");
        let mut fleet = Self {
            gateways: Vec::new(),
            file,
            engine,
        };
        for _ in 0..count {
            fleet.add(upstream, settings).await;
        }
        if engine.is_some() {
            fleet.are_together(count).await;
        }
        fleet
    }

    /// Starts one more.
    pub(crate) async fn add(&mut self, upstream: &str, settings: &[(&str, &str)]) {
        let engine = self
            .engine
            .map_or("off".into(), |engine| format!("redis://{engine}"));
        let file = self.file.path().display().to_string();
        let mut all = vec![
            ("fleet.engine", engine.as_str()),
            ("fleet.secret_file", file.as_str()),
            ("cache.adaptive", "false"),
        ];
        all.extend(settings);
        self.gateways.push(Gateway::start(upstream, &all).await);
    }

    /// Waits until each gateway sees so many members.
    pub(crate) async fn are_together(&self, members: usize) {
        for gateway in &self.gateways {
            eventually("the members", async || {
                gateway.metric("pollgate_fleet_members ").await as usize >= members
            })
            .await;
        }
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.gateways
            .iter()
            .map(|gateway| gateway.address)
            .collect()
    }

    /// The sum of a series over all members.
    pub(crate) async fn sum(&self, series: &str) -> usize {
        let mut sum = 0.0;
        for gateway in &self.gateways {
            sum += gateway.metric(series).await;
        }
        sum as usize
    }
}
