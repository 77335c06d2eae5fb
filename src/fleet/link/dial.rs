//! How a connection to the engine comes about: where the engine is, TCP, TLS, and the greeting.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ErrorKind, ProtocolVersion, RedisConnectionInfo, RedisError, Value,
};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::bounds::Bounded;
use crate::config::{EngineUrl, Sentinel};
use crate::upstream::connect::roots;

/// How long a connection may take to come about, each of its parts.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many commands wait for the socket at most.
pub(super) const QUEUE: usize = 1024;

/// The bytes of a reply at most, beside an answer: the news of one beat, each about a kilobyte at most.
const REPLY: usize = 8 << 20;

/// The oldest engine whose scripts and streams do all that is asked of them.
const OLDEST: [u64; 2] = [6, 2];

/// Reads and writes what is sent: the connection lives as long as this does.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes what the engine pushes, in the order in which it arrives.
pub(super) type OnPush = Arc<dyn Fn(redis::PushInfo) + Send + Sync>;

/// How the engine is reached.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Where it is.
    pub engine: EngineUrl,
    /// The file with the password, read each time that a connection is made; it goes before the URL's.
    pub password_file: Option<PathBuf>,
    /// Who knows where it is, instead of the URL's host.
    pub sentinel: Option<Sentinel>,
    /// A private CA's certificates, for TLS.
    pub ca_file: Option<PathBuf>,
    /// The certificate by which pollgate shows who it is, and its key.
    pub cert: Option<PathBuf>,
    /// The key of that certificate.
    pub key: Option<PathBuf>,
    /// The name of the fleet, which its keys begin with.
    pub name: String,
    /// The largest answer that is shared, in bytes: what bounds the engine's replies.
    pub max_value: usize,
}

/// Dials the engine.
pub(super) struct Dialer {
    config: LinkConfig,
    tls: Option<TlsConnector>,
}

impl Dialer {
    /// Reads the files of TLS.
    pub(super) fn new(config: &LinkConfig) -> Result<Self, String> {
        let tls = config.engine.tls.then(|| tls(config)).transpose()?;
        let tls = tls.map(|tls| TlsConnector::from(Arc::new(tls)));
        Ok(Self {
            config: config.clone(),
            tls,
        })
    }

    /// Connects, resolving names anew, and makes sure that it is an engine that can be used.
    pub(super) async fn dial(
        &self,
        on_push: OnPush,
    ) -> Result<(MultiplexedConnection, Driver), String> {
        let engine = &self.config.engine;
        let password = match &self.config.password_file {
            Some(path) => Some(password(path)?),
            None => engine.password.clone(),
        };
        let (host, port) = match &self.config.sentinel {
            Some(sentinel) => self.primary(&sentinel.name, &sentinel.hosts).await?,
            None => (engine.host.clone(), engine.port),
        };
        let place = format!("{host}:{port}");
        let config = AsyncConnectionConfig::new()
            .set_push_sender(move |push| {
                on_push(push);
                Ok::<(), redis::aio::SendError>(())
            })
            .set_response_timeout(None)
            .set_pipeline_buffer_size(QUEUE);
        let mut info = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name()
            .set_db(i64::from(engine.database));
        if let Some(password) = password {
            info = info.set_password(password);
            if let Some(user) = &engine.user {
                info = info.set_username(user);
            }
        }
        let (connection, mut driver) = self.greet(&host, port, &info, config).await?;
        let mut asked = connection.clone();
        let hello = redis::cmd("HELLO");
        let hello = drive(&mut driver, asked.send_packed_command(&hello)).await;
        let hello = hello.and_then(|reply| reply.map_err(|error| in_words(&error)));
        usable(&hello.map_err(|why| format!("{place}: {why}"))?)
            .map_err(|why| format!("{place}: {why}"))?;
        Ok((connection, driver))
    }

    async fn greet(
        &self,
        host: &str,
        port: u16,
        info: &RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<(MultiplexedConnection, Driver), String> {
        let refuse = |why: &str| format!("{host}:{port}: {why}");
        let tcp = within(TcpStream::connect((host, port)))
            .await
            .and_then(|tcp| tcp.map_err(|error| error.to_string()))
            .map_err(|why| refuse(&why))?;
        tcp.set_nodelay(true)
            .map_err(|error| refuse(&error.to_string()))?;
        let most = self.config.max_value.saturating_add(REPLY);
        let Some(tls) = &self.tls else {
            return greeted(tcp, info, config, most)
                .await
                .map_err(|why| refuse(&why));
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| refuse("TLS needs a name or an address"))?;
        let tls = within(tls.connect(name, tcp))
            .await
            .and_then(|tls| tls.map_err(|error| error.to_string()))
            .map_err(|why| refuse(&format!("TLS: {why}")))?;
        greeted(tls, info, config, most)
            .await
            .map_err(|why| refuse(&why))
    }

    /// Asks the sentinels, one after the other, which engine is the primary.
    async fn primary(&self, name: &str, sentinels: &[String]) -> Result<(String, u16), String> {
        let mut problem = "no sentinel is named".to_owned();
        for sentinel in sentinels {
            match self.ask_sentinel(name, sentinel).await {
                Ok(place) => return Ok(place),
                Err(why) => problem = format!("sentinel {sentinel}: {why}"),
            }
        }
        Err(problem)
    }

    async fn ask_sentinel(&self, name: &str, sentinel: &str) -> Result<(String, u16), String> {
        let (host, port) = match sentinel.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| "its port is none")?),
            None => (sentinel, 26379),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let info = RedisConnectionInfo::default().set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (mut connection, mut driver) = self.greet(host, port, &info, config).await?;
        let mut asked = redis::cmd("SENTINEL");
        asked.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let reply = drive(&mut driver, connection.send_packed_command(&asked)).await?;
        match reply.map_err(|error| in_words(&error))? {
            Value::Nil => Err(format!("it watches no \"{name}\"")),
            place => redis::from_redis_value(place)
                .map_err(|_| "it answered something that is no address".to_owned()),
        }
    }
}

async fn greeted(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    info: &RedisConnectionInfo,
    config: AsyncConnectionConfig,
    most: usize,
) -> Result<(MultiplexedConnection, Driver), String> {
    let stream = Bounded::new(stream, most);
    let greeted = MultiplexedConnection::new_with_config(info, stream, config);
    let (connection, driver) = within(greeted).await?.map_err(|error| in_words(&error))?;
    Ok((connection, Box::pin(driver)))
}

/// Waits for a reply while the connection is driven.
async fn drive<T>(driver: &mut Driver, reply: impl Future<Output = T>) -> Result<T, String> {
    tokio::select! {
        biased;
        reply = within(reply) => reply,
        () = driver => Err("the connection was closed".into()),
    }
}

async fn within<T>(what: impl Future<Output = T>) -> Result<T, String> {
    timeout(PATIENCE, what)
        .await
        .map_err(|_| format!("no answer within {PATIENCE:?}"))
}

/// Refuses what cannot be used, by the fields of HELLO's reply.
fn usable(hello: &Value) -> Result<(), String> {
    let Value::Map(fields) = hello else {
        return Err("it does not speak RESP3".into());
    };
    let field = |wanted: &str| {
        let found = fields.iter().find(|(name, _)| is(name, wanted));
        found.map(|(_, value)| value)
    };
    if field("mode").is_some_and(|mode| is(mode, "cluster")) {
        return Err(
            "it is a node of a cluster, which a fleet cannot use: name a single engine, or sentinels".into(),
        );
    }
    if field("mode").is_some_and(|mode| is(mode, "sentinel")) {
        return Err("it is a sentinel: fleet.sentinel is where it belongs".into());
    }
    if field("role").is_some_and(|role| !is(role, "master")) {
        return Err("it is a replica: it takes no writes".into());
    }
    let version: String = field("version")
        .and_then(|version| redis::from_redis_value(version.clone()).ok())
        .unwrap_or_default();
    let mut numbers = version
        .split('.')
        .map(|part| part.parse::<u64>().unwrap_or(0));
    let numbers = [(); 2].map(|()| numbers.next().unwrap_or(0));
    if numbers < OLDEST {
        return Err(format!(
            "its version {version} is too old: it takes 6.2 or later"
        ));
    }
    Ok(())
}

fn is(value: &Value, wanted: &str) -> bool {
    match value {
        Value::BulkString(bytes) => bytes == wanted.as_bytes(),
        Value::SimpleString(text) => text == wanted,
        _ => false,
    }
}

/// What the engine says is wrong.
pub(super) fn in_words(error: &RedisError) -> String {
    if error.kind() == ErrorKind::Io {
        return error.to_string();
    }
    match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (_, Some(detail)) => detail.to_owned(),
        (_, None) => error.to_string(),
    }
}

fn password(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("the password in {}: {error}", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn tls(config: &LinkConfig) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = roots(config.ca_file.as_deref())
        .map_err(|why: String| of("ca_file", config.ca_file.as_deref(), &why))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let (Some(cert), Some(key)) = (&config.cert, &config.key) else {
        return Ok(builder.with_no_client_auth());
    };
    let certs = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| of("cert", config.cert.as_deref(), &error.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| of("key", config.key.as_deref(), &error.to_string()))?;
    builder
        .with_client_auth_cert(certs, private)
        .map_err(|error| of("cert", config.cert.as_deref(), &error.to_string()))
}

fn of(setting: &str, path: Option<&Path>, why: &str) -> String {
    let path = path.unwrap_or(Path::new("")).display();
    format!("fleet.{setting}: got \"{path}\": {why}")
}
