//! A gateway process of its own: the real binary, on ports of its own, ended with the test.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::{Answer, Client, PATIENCE, eventually};

/// The binary under test.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pollgate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("POLLGATE_") {
            command.env_remove(name);
        }
    }
    command
}

/// See the module.
pub(crate) struct Gateway {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub client: Client,
}

impl Gateway {
    /// In front of `upstream`, with these settings: `("cache.in_flight_ttl", "1h")`.
    pub(crate) async fn start(upstream: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = binary();
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--upstream",
            upstream,
        ]);
        for (key, value) in settings {
            command.env(
                format!("POLLGATE_{}", key.replace('.', "__").to_uppercase()),
                value,
            );
        }
        Self::spawn(command).await
    }

    /// With a configuration file.
    pub(crate) async fn with_file(upstream: &str, file: &Path) -> Self {
        let mut command = binary();
        command.args([
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--upstream",
            upstream,
        ]);
        command.arg("--config").arg(file);
        Self::spawn(command).await
    }

    async fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stdout = child.stdout.take().expect("is piped");
        let lines = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                lines.lock().unwrap().push(line);
            }
        });
        let bound = |phrase: &str| {
            log.lock().unwrap().iter().find_map(|line| {
                let (_, rest) = line.split_once(phrase)?;
                rest.split([',', '"', ' '])
                    .next()?
                    .parse::<SocketAddr>()
                    .ok()
            })
        };
        eventually("the ports", async || bound("admin listening on ").is_some()).await;
        let address = bound("listening on ").expect("comes before the admin's");
        let admin = bound("admin listening on ").expect("is there");
        Self {
            child,
            log,
            reader: Some(reader),
            address,
            admin,
            client: Client::new(address),
        }
    }

    /// `GET` with the test's usual key.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.client.get(path, "sk-test", &[]).await
    }

    /// The value of a series in `/metrics`; 0 where there is none.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let metrics = super::get(self.admin, "/metrics").await;
        metrics
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
            .unwrap_or_default()
    }

    /// All lines of the log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The process's id, for signals.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for its end; its whole log is there then.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the end of the gateway", async || {
            status = self.child.try_wait().expect("is ours");
            status.is_some()
        })
        .await;
        self.reader
            .take()
            .expect("ends once")
            .join()
            .expect("reads to the end");
        status.expect("has ended")
    }

    /// Memory in use right now, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it lives");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("is told");
        line.trim()
            .trim_end_matches(" kB")
            .parse::<u64>()
            .expect("a number")
            * 1024
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const _: () = assert!(
    PATIENCE.as_secs() > 10,
    "tests wait for timeouts of seconds"
);
