//! What can be configured, and the defaults.
//!
//! A [`Config`] is read by [`load()`] from four layers, the later one winning: defaults, a TOML file, the
//! environment, flags. Reading binds no port and opens no connection.

mod changes;
mod explain;
mod header_names;
mod human;
mod in_force;
mod keys;
mod load;
mod origin;
mod problem;
mod proxy;
mod show;
mod validate;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use serde::{Deserialize, Serialize};

pub use changes::Changes;
pub use human::{Percent, Size, UpstreamUrl};
pub use in_force::Setting;
pub use load::{Loaded, Sources, load};
pub use problem::Problem;
pub use proxy::Proxy;

use crate::task::{Dialect, Rendering};

/// Everything that can be set, section by section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where pollgate listens.
    pub listen: Listen,
    /// The API behind it.
    pub upstream: Upstream,
    /// What is part of who a caller is.
    pub callers: Callers,
    /// How answers are written.
    pub answers: Answers,
    /// What is remembered, and for how long.
    pub cache: Cache,
    /// What is refused, and when.
    pub limits: Limits,
    /// What is told.
    pub log: Log,
}

/// Where pollgate listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Where clients come in. Port 0 takes a free one.
    #[serde(with = "human")]
    pub address: SocketAddr,
    /// Where metrics, health and cache control are served; `None` for nowhere.
    #[serde(with = "human")]
    pub admin: Option<SocketAddr>,
    /// Whether the admin listener may be reached from other machines.
    pub admin_public: bool,
    /// What upstream is told of the client's address on forwarded requests.
    pub forwarded: Forwarded,
    /// HTTPS for clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// A certificate for clients, PEM files both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate and what leads up to its root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What upstream is told of the client's address on forwarded requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forwarded {
    /// Nothing is added; what a client sent passes through, for upstream to believe or not.
    #[serde(rename = "off")]
    Off,
    /// `X-Forwarded-For`, `-Proto` and `-Host`, each behind what the client sent of it.
    #[serde(rename = "x-forwarded")]
    XForwarded,
    /// `Forwarded` (RFC 7239), behind what the client sent of it.
    #[serde(rename = "rfc7239")]
    Rfc7239,
}

/// The API behind pollgate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Upstream {
    /// Its base URL; a path prefix is kept.
    #[serde(with = "human")]
    pub url: UpstreamUrl,
    /// Which path it is polled on.
    pub dialect: UpstreamDialect,
    /// How long a connection may take to come about.
    #[serde(with = "human")]
    pub connect_timeout: Duration,
    /// How long one status poll may take, all tries together.
    #[serde(with = "human")]
    pub timeout: Duration,
    /// How long a poll waits for an answer where a last known state can stand in. The flight goes on.
    #[serde(with = "human")]
    pub patience: Duration,
    /// The largest status answer that is read; a larger one is passed through where it is on the client's own path.
    #[serde(with = "human")]
    pub max_status_body: Size,
    /// Certificates of a private CA, PEM, trusted beside the system's roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The proxy on the way there; from the environment alone, as other programs have it.
    #[serde(skip)]
    pub proxy: Option<Proxy>,
}

/// Which path upstream is polled on.
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
    /// The dialect in which upstream is asked for a client of this one.
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
    /// How much of upstream's own spelling clients see.
    #[serde(with = "rendering")]
    pub rendering: Rendering,
}

/// What is remembered, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// Memory for remembered answers: bodies, keys and overhead.
    #[serde(with = "human")]
    pub capacity: Size,
    /// How long a success with a URL is served without asking again.
    #[serde(with = "human")]
    pub succeeded_ttl: Duration,
    /// How long a failure is served without asking again.
    #[serde(with = "human")]
    pub failed_ttl: Duration,
    /// How long before its URL's signature expires a success is given up.
    #[serde(with = "human")]
    pub url_margin: Duration,
    /// How long a state that can still change is served without asking again.
    #[serde(with = "human")]
    pub in_flight_ttl: Duration,
    /// Whether the time between upstream polls stretches where a task has little news to give.
    pub adaptive: bool,
    /// How far it may stretch.
    #[serde(with = "human")]
    pub in_flight_max: Duration,
    /// How long "no such task" is served without asking again.
    #[serde(with = "human")]
    pub missing_ttl: Duration,
    /// How long the last known state stands in while upstream fails.
    #[serde(with = "human")]
    pub stale_if_error: Duration,
    /// Remembered answers need a credential that upstream accepted this recently.
    #[serde(with = "human")]
    pub credential_ttl: Duration,
}

/// What is refused, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Client connections at once; as many polls, and as many forwarded requests, until their answers have ended.
    pub max_connections: NonZeroUsize,
    /// Status polls of upstream under way at once.
    pub max_upstream: NonZeroUsize,
    /// Clients waiting on one poll.
    pub max_waiters: NonZeroUsize,
    /// How much of the permits one caller may hold.
    #[serde(with = "human")]
    pub caller_share: Percent,
    /// The longest hold of `Prefer: wait`.
    #[serde(with = "human")]
    pub max_wait: Duration,
    /// How long a request's head may take to arrive.
    #[serde(with = "human")]
    pub header_timeout: Duration,
    /// How long a connection may stand idle between requests, upstream be silent in the middle of a forwarded body, and
    /// an upgraded connection at both ends.
    #[serde(with = "human")]
    pub idle_timeout: Duration,
    /// How long requests under way may take to finish once pollgate is told to stop.
    #[serde(with = "human")]
    pub drain: Duration,
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How log lines are written.
    pub format: LogFormat,
    /// Which requests get a line.
    pub requests: LogRequests,
    /// How often every metric is written to the log; `None` for never.
    #[serde(with = "human")]
    pub snapshot: Option<Duration>,
    /// The least severe comment that is written.
    pub level: LogLevel,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A Prometheus text document: events are samples, the rest are comments.
    Prometheus,
    /// One JSON object a line.
    Json,
    /// Plain lines.
    Text,
}

/// Which requests get a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogRequests {
    /// Those that reached upstream or failed.
    Upstream,
    /// All.
    All,
    /// None.
    Off,
}

/// Severity, the usual five.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the usual five need no words")]
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

/// `task` knows nothing of configuration, so its words are spelled here.
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
