//! The configuration and its defaults.
//!
//! [`load()`] reads a [`Config`] from four layers, each overriding the one before: defaults, a TOML file, environment
//! variables, flags. Loading binds no port and opens no connection.

mod changes;
mod engine_url;
pub mod example;
mod explain;
mod header_names;
mod human;
mod in_force;
mod keys;
mod load;
mod origin;
mod problem;
mod proxy;
mod routes;
mod schema;
mod show;
mod validate;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use serde::{Deserialize, Deserializer, Serialize};

pub use self::engine_url::EngineUrl;
pub use changes::Changes;
pub use human::{Percent, Size, UpstreamUrl, Workers};
pub use in_force::Setting;
pub use load::{Loaded, Sources, load};
pub use problem::Problem;
pub use proxy::Proxy;
pub use schema::schema;

use crate::route;
use crate::task::{Dialect, Rendering};

/// All settings, by section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to listen on.
    pub listen: Listen,
    /// The API behind pollgate.
    pub upstream: Upstream,
    /// What is part of who a caller is.
    pub callers: Callers,
    /// How answers are written.
    pub answers: Answers,
    /// Status routes beside the two whose documents convert into one another.
    pub routes: Presets,
    /// Status routes of one's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub route: Vec<route::Definition>,
    /// What is shared with other sidecars.
    pub fleet: Fleet,
    /// What is cached, and for how long.
    pub cache: Cache,
    /// Limits on connections, requests and time.
    pub limits: Limits,
    /// What is logged.
    pub log: Log,
}

/// Addresses to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Address for clients. Port 0 picks a free port.
    #[serde(with = "human")]
    pub address: SocketAddr,
    /// Address for metrics, health and cache control, if any.
    #[serde(with = "human")]
    pub admin: Option<SocketAddr>,
    /// Whether the admin listener may be reachable from other machines.
    pub admin_public: bool,
    /// How forwarded requests report the client's address to upstream.
    pub forwarded: Forwarded,
    /// HTTPS for clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// The certificate for clients, as two PEM files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// How forwarded requests report the client's address to upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forwarded {
    /// Adds nothing. Headers that a client sent pass through unchanged.
    #[serde(rename = "off")]
    Off,
    /// Appends to `X-Forwarded-For`, `-Proto` and `-Host`.
    #[serde(rename = "x-forwarded")]
    XForwarded,
    /// Appends to `Forwarded` (RFC 7239).
    #[serde(rename = "rfc7239")]
    Rfc7239,
}

/// The API behind pollgate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// The base URL; a path prefix is kept.
    #[serde(with = "human")]
    pub url: UpstreamUrl,
    /// The path on which upstream is polled.
    pub dialect: UpstreamDialect,
    /// Timeout for opening a connection, TLS included.
    #[serde(with = "human")]
    pub connect_timeout: Duration,
    /// Timeout for a status poll, retries included.
    #[serde(with = "human")]
    pub timeout: Duration,
    /// How long a poll waits for an answer, at most, where a last known state can stand in. The flight goes on.
    #[serde(with = "human")]
    pub patience: Duration,
    /// The largest status answer that is read; a larger one is passed through where it is on the client's own path.
    #[serde(with = "human")]
    pub max_status_body: Size,
    /// Certificates of a private CA, PEM, trusted beside the system's roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The proxy for upstream connections; read from the usual environment variables only.
    #[serde(skip)]
    pub proxy: Option<Proxy>,
}

/// The path on which upstream is polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamDialect {
    /// The one that the client used.
    Match,
    /// Always `/v1/video/generations/{id}`, converted for clients of the other path.
    Unified,
    /// Always `/v1/videos/{id}`, converted for clients of the other path.
    OpenAi,
}

impl UpstreamDialect {
    /// The dialect in which upstream is polled for a client that uses `client`.
    #[must_use]
    pub const fn choose(self, client: Dialect) -> Dialect {
        match self {
            Self::Match => client,
            Self::Unified => Dialect::Unified,
            Self::OpenAi => Dialect::OpenAi,
        }
    }
}

/// What is part of who a caller is, besides the credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Callers {
    /// Further headers that upstream needs to see on a poll.
    #[serde(with = "header_names")]
    pub headers: Vec<HeaderName>,
}

impl Default for Callers {
    fn default() -> Self {
        let names = ["cf-access-client-id", "cf-access-client-secret"];
        Self {
            headers: names.map(HeaderName::from_static).into(),
        }
    }
}

/// How answers are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Answers {
    /// Whether upstream's bytes pass through, always or where they already have the requested shape.
    #[serde(with = "rendering")]
    pub rendering: Rendering,
}

/// Which presets of status routes are on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Presets {
    /// Their names.
    pub presets: Vec<String>,
}

impl Default for Presets {
    fn default() -> Self {
        Self {
            presets: route::DEFAULT_PRESETS.map(str::to_owned).into(),
        }
    }
}

/// What is shared with other sidecars.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fleet {
    /// The Valkey or Redis that all members use; without one, the process stands alone.
    #[serde(with = "human")]
    pub engine: Option<EngineUrl>,
    /// Who knows where the engine is, instead of the URL's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<Sentinel>,
    /// The file with the secret that all members have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// The file with the engine's password; it goes before the URL's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// Certificates of a private CA, PEM, trusted beside the system's roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The certificate by which pollgate shows the engine who it is, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// The key of that certificate, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// The name of the fleet: fleets with different names on one engine do not meet.
    pub name: String,
    /// What one poll may spend on the engine.
    #[serde(with = "human")]
    pub timeout: Duration,
    /// How long the others leave a poll to the member that makes it, until they hear from it.
    #[serde(with = "human")]
    pub lease: Duration,
    /// The largest answer that is shared.
    #[serde(with = "human")]
    pub max_value: Size,
    /// What is shared, beside what has to be forgotten.
    pub share: Vec<Shared>,
    /// How often upstream is polled while the engine is away.
    pub alone: Alone,
}

/// What members of a fleet share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shared {
    /// Answers, and the polls that bring them.
    Answers,
    /// The pauses that upstream asks for, and that it is down.
    Pauses,
    /// When tasks end, which the learnt polling interval follows.
    Cadence,
}

/// How often a member polls upstream while its fleet's engine is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Alone {
    /// As without a fleet: each member for itself.
    Same,
    /// The more members there were, the less often.
    Modest,
}

/// Sentinels, and what they call the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sentinel {
    /// The name of the primary that they watch.
    pub name: String,
    /// Their addresses.
    #[serde(deserialize_with = "list_or_text")]
    pub hosts: Vec<String>,
}

/// A list, or a text with commas, as the environment has it.
fn list_or_text<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "expected a list of addresses, such as [\"s1:26379\"]"
    )]
    enum Either {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Either::deserialize(from)? {
        Either::List(list) => list,
        Either::Text(text) => text.split(',').map(|item| item.trim().to_owned()).collect(),
    })
}

/// What is cached, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Memory for cached answers: bodies, keys and overhead.
    #[serde(with = "human")]
    pub capacity: Size,
    /// How long a success with a URL is fresh.
    #[serde(with = "human")]
    pub succeeded_ttl: Duration,
    /// How long a failure is fresh.
    #[serde(with = "human")]
    pub failed_ttl: Duration,
    /// How long before the expiry of its URL's signature a success stops being fresh.
    #[serde(with = "human")]
    pub url_margin: Duration,
    /// How long a state that can still change is fresh.
    #[serde(with = "human")]
    pub in_flight_ttl: Duration,
    /// Whether upstream is polled less often at ages where tasks rarely end.
    pub adaptive: bool,
    /// The longest time between two such polls.
    #[serde(with = "human")]
    pub in_flight_max: Duration,
    /// How long "no such task" is fresh.
    #[serde(with = "human")]
    pub missing_ttl: Duration,
    /// How long the last known state is served while upstream fails (stale-if-error).
    #[serde(with = "human")]
    pub stale_if_error: Duration,
    /// Cached answers are served only to credentials that upstream accepted this recently.
    #[serde(with = "human")]
    pub credential_ttl: Duration,
}

/// Limits on connections, requests and time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Client connections; also, each on its own, polls and forwarded requests in progress.
    pub max_connections: NonZeroUsize,
    /// Concurrent status polls of upstream.
    pub max_upstream: NonZeroUsize,
    /// Clients waiting for one poll.
    pub max_waiters: NonZeroUsize,
    /// How much of the permits one caller may hold.
    #[serde(with = "human")]
    pub caller_share: Percent,
    /// Threads that serve requests.
    pub workers: Workers,
    /// The longest hold of `Prefer: wait`.
    #[serde(with = "human")]
    pub max_wait: Duration,
    /// Timeout for receiving the head of a request.
    #[serde(with = "human")]
    pub header_timeout: Duration,
    /// Idle timeout of client connections between requests, of upstream in the middle of a forwarded body, and of
    /// upgraded connections.
    #[serde(with = "human")]
    pub idle_timeout: Duration,
    /// How long requests in progress may take to finish after a stop signal.
    #[serde(with = "human")]
    pub drain: Duration,
}

/// What is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The format of log lines.
    pub format: LogFormat,
    /// Which requests are logged.
    pub requests: LogRequests,
    /// How often all metrics are written to the log, if at all.
    #[serde(with = "human")]
    pub snapshot: Option<Duration>,
    /// The lowest severity that is logged.
    pub level: LogLevel,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A Prometheus text document: requests are samples, everything else is a comment.
    Prometheus,
    /// One JSON object per line.
    Json,
    /// Plain lines.
    Text,
}

/// Which requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogRequests {
    /// Those that went upstream or failed.
    Upstream,
    /// All.
    All,
    /// None.
    Off,
}

/// Log level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the five usual levels")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            admin: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090)),
            admin_public: false,
            forwarded: Forwarded::Off,
            tls: None,
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            url: UpstreamUrl::octopusx(),
            dialect: UpstreamDialect::Match,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(15),
            patience: Duration::from_secs(3),
            max_status_body: Size::mebibytes(32),
            ca_file: None,
            proxy: None,
        }
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            rendering: Rendering::Faithful,
        }
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            engine: None,
            sentinel: None,
            secret_file: None,
            password_file: None,
            ca_file: None,
            cert: None,
            key: None,
            name: "default".into(),
            timeout: Duration::from_millis(20),
            lease: Duration::from_secs(1),
            max_value: Size::kibibytes(256),
            share: vec![Shared::Answers, Shared::Pauses, Shared::Cadence],
            alone: Alone::Same,
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            capacity: Size::mebibytes(64),
            succeeded_ttl: Duration::from_hours(12),
            failed_ttl: Duration::from_mins(10),
            url_margin: Duration::from_mins(5),
            in_flight_ttl: Duration::from_secs(2),
            adaptive: true,
            in_flight_max: Duration::from_secs(10),
            missing_ttl: Duration::from_secs(2),
            stale_if_error: Duration::from_mins(10),
            credential_ttl: Duration::from_mins(5),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: NonZeroUsize::new(10_000).expect("not zero"),
            max_upstream: NonZeroUsize::new(256).expect("not zero"),
            max_waiters: NonZeroUsize::new(10_000).expect("not zero"),
            caller_share: Percent::new(90),
            workers: Workers::Auto,
            max_wait: Duration::from_mins(1),
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            drain: Duration::from_secs(20),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Prometheus,
            requests: LogRequests::Upstream,
            snapshot: Some(Duration::from_mins(1)),
            level: LogLevel::Info,
        }
    }
}

/// `task` does not know the configuration, so the spelling of [`Rendering`] is defined here.
mod rendering {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::task::Rendering;

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase", remote = "Rendering")]
    enum Spelling {
        Faithful,
        Documented,
        Verbatim,
    }

    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes fields by reference"
    )]
    pub(super) fn serialize<S: Serializer>(value: &Rendering, to: S) -> Result<S::Ok, S::Error> {
        Spelling::serialize(value, to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Rendering, D::Error> {
        Spelling::deserialize(from)
    }
}
