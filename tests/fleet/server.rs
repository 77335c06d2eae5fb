//! A Valkey or Redis of a test's own: started on a free port, in a directory of its own, and ended with the test.

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

/// The servers to test with: those that `POLLGATE_ENGINES` names, separated by colons, else the system's.
pub(crate) fn binaries() -> Vec<PathBuf> {
    if let Ok(named) = std::env::var("POLLGATE_ENGINES") {
        return named.split(':').map(PathBuf::from).collect();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = ["valkey-server", "redis-server"]
        .into_iter()
        .find_map(|name| {
            let mut places = std::env::split_paths(&path).map(|place| place.join(name));
            places.find(|place| place.is_file())
        });
    let why = "these tests take a valkey-server or redis-server; `tests/run fleet` installs one";
    vec![found.unwrap_or_else(|| panic!("{why}"))]
}

/// Where a server runs: in a network namespace, if it is not the test's own, and at this address.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub namespace: Option<String>,
    pub host: String,
}

impl Place {
    fn here() -> Self {
        Self {
            namespace: None,
            host: "127.0.0.1".into(),
        }
    }
}

/// A running server.
pub(crate) struct Server {
    binary: PathBuf,
    options: Vec<String>,
    place: Place,
    port: u16,
    directory: tempfile::TempDir,
    child: Child,
}

impl Server {
    /// Starts a server, with options beyond those that keep it small and to itself.
    pub(crate) fn start(binary: &Path, options: &[&str]) -> Self {
        Self::start_in(Place::here(), binary, options)
    }

    /// Starts it in another place.
    pub(crate) fn start_in(place: Place, binary: &Path, options: &[&str]) -> Self {
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let child = run(&place, binary, port, directory.path(), &options);
        let server = Self {
            binary: binary.to_owned(),
            options,
            place,
            port,
            directory,
            child,
        };
        server.await_ready();
        server
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its files.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A connection for the test itself.
    pub(crate) fn connection(&self) -> redis::Connection {
        let address = (self.place.host.as_str(), self.port);
        let client = redis::Client::open(address).expect("an address");
        client.get_connection().expect("a connection")
    }

    /// Kills it, with all that it knows.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Starts it again on the same port, empty.
    pub(crate) fn restart(&mut self) {
        self.child = run(
            &self.place,
            &self.binary,
            self.port,
            self.directory.path(),
            &self.options,
        );
        self.await_ready();
    }

    /// Sends it a signal: STOP or CONT.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(pid)
            .status();
        assert!(sent.expect("kill").success(), "{signal}");
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "a start is awaited before anything else runs"
    )]
    fn await_ready(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let address = (self.place.host.as_str(), self.port);
            let client = redis::Client::open(address).expect("an address");
            let connected = client.get_connection_with_timeout(Duration::from_millis(500));
            if connected
                .is_ok_and(|mut connection| redis::cmd("PING").exec(&mut connection).is_ok())
            {
                return;
            }
            let log = self.directory.path().join("log");
            assert!(
                Instant::now() < until,
                "{} does not start: {}",
                self.binary.display(),
                fs::read_to_string(log).unwrap_or_default()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn run(place: &Place, binary: &Path, port: u16, directory: &Path, options: &[String]) -> Child {
    let mut command = match &place.namespace {
        Some(namespace) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", namespace]).arg(binary);
            command
        }
        None => Command::new(binary),
    };
    command.args(["--protected-mode", "no"]);
    command
        .args(["--port", &port.to_string(), "--bind", &place.host])
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(directory)
        // Some versions open it before they change to the directory.
        .arg("--logfile")
        .arg(directory.join("log"))
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", binary.display()))
}

/// A sentinel that watches one primary, and acts alone.
pub(crate) struct Sentinel(Server);

impl Sentinel {
    pub(crate) fn start(binary: &Path, name: &str, primary: u16) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let file = directory.path().join("sentinel.conf");
        let settings = format!(
            "port {port}\nbind 127.0.0.1\nlogfile {0}/log\ndir {0}\n\
             sentinel monitor {name} 127.0.0.1 {primary} 1\n\
             sentinel down-after-milliseconds {name} 300\n\
             sentinel failover-timeout {name} 3000\n",
            directory.path().display()
        );
        fs::write(&file, settings).expect("written");
        let child = Command::new(binary)
            .arg(&file)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("a sentinel");
        let server = Server {
            binary: binary.to_owned(),
            options: Vec::new(),
            place: Place::here(),
            port,
            directory,
            child,
        };
        server.await_ready();
        Self(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.port
    }

    /// Waits until it knows a replica that can take over.
    #[allow(
        clippy::disallowed_methods,
        reason = "a start is awaited before anything else runs"
    )]
    pub(crate) fn await_replica(&self, name: &str) {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let mut connection = self.0.connection();
            let mut ask = redis::cmd("SENTINEL");
            let replicas: Vec<HashMap<String, String>> = ask
                .arg(&["replicas", name])
                .query(&mut connection)
                .expect("replicas");
            let link_is_up = replicas
                .iter()
                .any(|replica| replica["master-link-status"] == "ok");
            if link_is_up {
                return;
            }
            assert!(Instant::now() < until, "{replicas:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}
