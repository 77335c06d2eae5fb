//! A gateway process: the real binary on its own ports, ended with the test.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use super::{Answer, Client, PATIENCE, eventually, text_format};

/// What no log may contain: the keys, prompts, cookies and result URLs of the tests.
const SECRETS: [&str; 7] = [
    "Bearer",
    "cdn.example.com",
    "Signature",
    "secret",
    "prompt",
    "__cf_bm",
    "key=",
];

/// The binary under test.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pollgate"));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_uppercase();
        if text.starts_with("POLLGATE_") || text.ends_with("_PROXY") {
            command.env_remove(name);
        }
    }
    command
}

/// How a gateway's log is read.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Reading {
    /// It is read.
    #[default]
    Going,
    /// No one reads it.
    Stalled,
    /// The reader closes it at the next line.
    Gone,
}

/// A running gateway.
pub(crate) struct Gateway {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    reading: Arc<(Mutex<Reading>, Condvar)>,
    reader: Option<JoinHandle<()>>,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub client: Client,
}

impl Gateway {
    /// Starts one in front of `upstream` with these settings: `("cache.in_flight_ttl", "1h")`.
    pub(crate) async fn start(upstream: &str, settings: &[(&str, &str)]) -> Self {
        Self::with_environment(upstream, settings, &[]).await
    }

    /// As [`Gateway::start`], with these environment variables.
    pub(crate) async fn with_environment(
        upstream: &str,
        settings: &[(&str, &str)],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = binary();
        command.envs(environment.iter().copied());
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--upstream",
            upstream,
        ]);
        // Logs everything; the log is searched when the gateway ends.
        command.env("POLLGATE_LOG__LEVEL", "trace");
        for (key, value) in settings {
            command.env(
                format!("POLLGATE_{}", key.replace('.', "__").to_uppercase()),
                value,
            );
        }
        Self::spawn(command).await
    }

    /// Starts one with a configuration file.
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

    /// Starts one by a command that prints where it listens.
    pub(crate) async fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stdout = child.stdout.take().expect("is piped");
        let reading = Arc::<(Mutex<Reading>, Condvar)>::default();
        let (lines, state) = (Arc::clone(&log), Arc::clone(&reading));
        let reader = std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            loop {
                let (reading, changed) = &*state;
                let stalled = |reading: &mut Reading| *reading == Reading::Stalled;
                let reading = changed.wait_while(reading.lock().unwrap(), stalled);
                if *reading.unwrap() == Reading::Gone {
                    return;
                }
                let mut line = String::new();
                let read = stdout.read_line(&mut line);
                // A killed process may leave its last line unfinished.
                if read.expect("the log is UTF-8") == 0 || line.pop() != Some('\n') {
                    return;
                }
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
            reading,
            reader: Some(reader),
            address,
            admin,
            client: Client::new(address),
        }
    }

    /// Sends a `GET` with the default key.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.client.get(path, "sk-test", &[]).await
    }

    /// Forgets every answer.
    pub(crate) async fn forget_all(&self) {
        let admin = Client::new(self.admin);
        let request = Request::delete(admin.url("/cache")).body(Full::<Bytes>::default());
        admin.send(request.expect("a request")).await;
    }

    /// The value of a series in `/metrics`; 0 if absent.
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

    /// Changes how the log is read.
    pub(crate) fn read_log(&self, reading: Reading) {
        *self.reading.0.lock().unwrap() = reading;
        self.reading.1.notify_all();
    }

    /// The process id.
    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(sent.expect("kill runs").success());
    }

    /// Waits for its exit, whether its log is read or not.
    pub(crate) async fn has_exited(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the end of the gateway", async || {
            status = self.child.try_wait().expect("is ours");
            status.is_some()
        })
        .await;
        status.expect("has ended")
    }

    /// Waits for its exit and the end of its log.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let status = self.has_exited().await;
        self.read_to_the_end();
        status
    }

    /// Resident memory in bytes.
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

impl Gateway {
    fn read_to_the_end(&mut self) {
        if self
            .reader
            .as_ref()
            .is_some_and(|reader| !reader.is_finished())
        {
            self.read_log(Reading::Going);
        }
        if let Some(reader) = self.reader.take() {
            reader.join().expect("reads to the end");
        }
    }

    /// Checks that the log contains no secret, and is valid if it is a Prometheus text document. Such a document is
    /// kept for the format's own parser (`tests/metrics/run`).
    fn examine_log(&self) {
        static LOGS: AtomicUsize = AtomicUsize::new(0);
        let log = self.log.lock().unwrap();
        for line in &*log {
            let key = line
                .split(|letter: char| !letter.is_alphanumeric() && letter != '-')
                .any(|word| word.starts_with("sk-"));
            let secret = SECRETS.iter().find(|secret| line.contains(**secret));
            assert!(!key && secret.is_none(), "a secret in the log: {line}");
        }
        if !log.iter().any(|line| line.starts_with("# ")) {
            return;
        }
        text_format::read(log.iter().map(String::as_str)).expect("a valid document");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("logs");
        std::fs::create_dir_all(&folder).expect("a folder");
        let thread = std::thread::current();
        let name = format!(
            "{}-{}.log",
            thread.name().unwrap_or("test").replace("::", "-"),
            LOGS.fetch_add(1, Ordering::Relaxed)
        );
        let text: String = log.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        std::fs::write(folder.join(name), text).expect("is written");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            self.read_to_the_end();
            self.examine_log();
        }
    }
}

const _: () = assert!(
    PATIENCE.as_secs() > 10,
    "tests wait for timeouts of seconds"
);
