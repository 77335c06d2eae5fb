//! The connections of status polls. A poll drives its HTTP/1.1 connection itself, from its request to the end of its answer:
//! handing the request to another task would cost a seventh of a miss. Over HTTP/2, polls share one connection, which
//! has a task of its own.

use std::fmt;
use std::ops::ControlFlow::{Break, Continue};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use http::header::HOST;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, StatusCode, Uri};
use hyper_util::client::legacy::connect::Connection as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::connect::Connector;
use super::failure::failure;
use super::http1::{Http1Connection, PollBody, SendError};
use super::http2::Http2Connection;
use super::lost::SILENT;
use super::received::{BodyLimit, Received};
use super::resend::{Unprocessed, until_processed};
use super::{POOL_AGE, POOL_IDLE};
use crate::config::UpstreamUrl;
use crate::error::Error;
use crate::sync::lock;

/// The number of connections that are opened at once.
const MOST_CONNECTING: u32 = 64;

/// The same where all polls share one. A second one is not held up by one that hangs.
const MOST_CONNECTING_SHARED: u32 = 2;

/// See the module.
pub(super) struct Pool {
    connector: Connector,
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    open: Mutex<Open>,
    /// Notified when a connection may be used that could not be before.
    freed: Notify,
    /// Permits of connections that are being opened. They go on without their polls, which may take another one.
    connecting: Arc<Semaphore>,
    /// Whether HTTP/2 was negotiated, so that one connection is enough.
    is_shared: AtomicBool,
}

/// The open connections that may be used.
#[derive(Default)]
struct Open {
    /// Idle ones of HTTP/1.1, the one that was used last at the end.
    idle: Vec<(Http1Connection, Age)>,
    /// The one of HTTP/2, which all polls share.
    shared: Option<(Http2Connection, Age)>,
}

/// When a connection was opened and last used.
#[derive(Clone, Copy)]
struct Age {
    opened: Instant,
    used: Instant,
}

enum Connection {
    Http1(Http1Connection, Age),
    Http2(Http2Connection),
}

impl Age {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            opened: now,
            used: now,
        }
    }

    fn is_over(&self) -> bool {
        let now = Instant::now();
        now - self.used >= POOL_IDLE || now - self.opened >= POOL_AGE
    }

    fn used_now(self) -> Self {
        Self {
            used: Instant::now(),
            ..self
        }
    }
}

impl Pool {
    /// Opens none yet. Connections that `connector` makes speak HTTP/2 where that was negotiated.
    pub(super) fn new(connector: Connector, url: &UpstreamUrl) -> Arc<Self> {
        let (scheme, authority) = (url.scheme().clone(), url.authority().clone());
        let host = host(&scheme, &authority);
        Arc::new(Self {
            connector,
            scheme,
            authority,
            host,
            open: Mutex::default(),
            freed: Notify::new(),
            connecting: Arc::new(Semaphore::new(MOST_CONNECTING as usize)),
            is_shared: AtomicBool::new(false),
        })
    }

    /// Sends a poll, whose target is a path, and receives the whole answer. The request is boxed, since it is moved often.
    /// `tell` is called with the status when the answer's head is there, and with `None` when it is known that there will be
    /// none.
    ///
    /// # Errors
    /// As [`Upstream::poll`](super::Upstream::poll).
    pub(super) async fn ask(
        self: &Arc<Self>,
        request: Box<Request<PollBody>>,
        limit: &BodyLimit,
        tell: impl Fn(Option<StatusCode>),
    ) -> Result<Received, Error> {
        let sent = until_processed(request, async |request: Box<Request<PollBody>>| {
            let connection = match self.take() {
                Some(connection) => connection,
                // Boxed, as it is rare and would make every poll's future several times as large.
                None => match Box::pin(self.connected()).await {
                    Ok(connection) => connection,
                    Err(why) => return Break(Err(SendError::NoResponse(why))),
                },
            };
            let shared = match &connection {
                Connection::Http2(shared) => Some((shared.clone(), request.clone())),
                Connection::Http1(..) => None,
            };
            let answer = self.ask_over(connection, request, limit, &tell).await;
            let (request, why, counts) = match (answer, shared) {
                (Err(SendError::NotSent(request, why)), _) => {
                    // Most likely not the only one.
                    self.reclaim();
                    (request, why, true)
                }
                (Err(SendError::Refused(why)), Some((shared, request))) => {
                    self.retire(&shared);
                    (request, why, true)
                }
                (Err(SendError::Left(why)), Some((shared, request))) => {
                    self.retire(&shared);
                    (request, why, !shared.has_taken_any())
                }
                (processed, _) => return Break(processed),
            };
            Continue(Unprocessed {
                request,
                why,
                counts,
            })
        });
        let why = match sent.await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(SendError::Truncated(why))) => return Err(why),
            Ok(Err(
                SendError::NotSent(_, why)
                | SendError::Refused(why)
                | SendError::Left(why)
                | SendError::NoResponse(why),
            ))
            | Err(why) => why,
        };
        tell(None);
        Err(why)
    }

    /// Closes what is too old or was not used for long, and drops what upstream has closed.
    pub(super) fn reclaim(&self) {
        let mut open = self.lock();
        let is_over =
            |(connection, age): &mut (Http1Connection, Age)| age.is_over() || !connection.is_idle();
        let over: Vec<_> = open.idle.extract_if(.., is_over).collect();
        let shared = open
            .shared
            .take_if(|(shared, age)| age.is_over() || !shared.is_open());
        drop(open);
        drop(shared);
        for (connection, _) in over {
            connection.close();
        }
    }

    /// Gives the shared connection no new polls. Those in progress end on it.
    fn retire(&self, shared: &Http2Connection) {
        let retired = self
            .lock()
            .shared
            .take_if(|(current, _)| current.is(shared));
        drop(retired);
    }

    fn take(&self) -> Option<Connection> {
        let mut open = self.lock();
        if let Some((shared, age)) = &mut open.shared
            && !age.is_over()
            && shared.is_open()
        {
            *age = age.used_now();
            return Some(Connection::Http2(shared.clone()));
        }
        while let Some((connection, age)) = open.idle.pop() {
            if !age.is_over() {
                return Some(Connection::Http1(connection, age));
            }
            connection.close();
        }
        None
    }

    /// Waits for a new connection, or for one that becomes free before. The new one is then there for others.
    async fn connected(self: &Arc<Self>) -> Result<Connection, Error> {
        loop {
            let freed = self.freed.notified();
            if let Some(connection) = self.take() {
                return Ok(connection);
            }
            let permit = tokio::select! {
                () = freed => continue,
                permit = self.permit() => permit,
            };
            if let Some(connection) = self.take() {
                return Ok(connection);
            }
            let pool = Arc::clone(self);
            let connect = async move {
                // Held by the task, which goes on when its poll is abandoned: so they stay bounded.
                let _permit = permit;
                pool.connect().await
            };
            let mut connecting = tokio::spawn(connect);
            let done = loop {
                let freed = self.freed.notified();
                if let Some(connection) = self.take() {
                    return Ok(connection);
                }
                tokio::select! {
                    () = freed => {}
                    done = &mut connecting => break done,
                }
            };
            match (self.take(), done) {
                (Some(connection), _) => return Ok(connection),
                // Another poll has taken what this one has opened.
                (None, Ok(Ok(()))) => {}
                (None, Ok(Err(why))) => return Err(why),
                (None, Err(_)) => return Err(Error::Panicked),
            }
        }
    }

    /// The right to open a connection.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let share = if self.is_shared.load(Ordering::Relaxed) {
            MOST_CONNECTING / MOST_CONNECTING_SHARED
        } else {
            1
        };
        let connecting = Arc::clone(&self.connecting);
        connecting.acquire_many_owned(share).await.ok()
    }

    async fn connect(&self) -> Result<(), Error> {
        let uri = self.absolute(&Uri::default());
        let io = self.connector.clone().oneshot(uri).await;
        let io = io.map_err(|error| failure(&*error))?;
        let connected = io.connected();
        let is_shared = connected.is_negotiated_h2();
        self.is_shared.store(is_shared, Ordering::Relaxed);
        if !is_shared {
            let connection = Http1Connection::begin(io, connected.is_proxied()).await?;
            self.put(connection, Age::new());
            return Ok(());
        }
        // Others may have connected at the same time, before it was known that one is enough.
        let is_shared = |open: &Open| {
            let shared = open.shared.as_ref();
            shared.is_some_and(|(shared, age)| !age.is_over() && shared.is_open())
        };
        if is_shared(&self.lock()) {
            return Ok(());
        }
        let connection = Http2Connection::begin(io).await?;
        let earlier = self.lock().shared.replace((connection, Age::new()));
        drop(earlier);
        self.freed.notify_waiters();
        Ok(())
    }

    fn put(&self, connection: Http1Connection, age: Age) {
        self.lock().idle.push((connection, age.used_now()));
        self.freed.notify_one();
    }

    async fn ask_over(
        &self,
        connection: Connection,
        mut request: Box<Request<PollBody>>,
        limit: &BodyLimit,
        tell: impl Fn(Option<StatusCode>),
    ) -> Result<Received, SendError> {
        match connection {
            Connection::Http1(mut connection, age) => {
                let uri = request.uri_mut();
                if connection.asks_proxy {
                    *uri = self.absolute(uri);
                } else if uri.authority().is_some() {
                    *uri = Uri::from(path_of(uri));
                }
                request.headers_mut().insert(HOST, self.host.clone());
                let answer = connection.ask(request, limit, tell).await?;
                if connection.is_idle() {
                    self.put(connection, age);
                }
                Ok(answer)
            }
            Connection::Http2(shared) => {
                *request.uri_mut() = self.absolute(request.uri());
                request.headers_mut().remove(HOST);
                let _listening = Listening {
                    pool: self,
                    since: Instant::now(),
                    shared: shared.clone(),
                };
                shared.ask(*request, limit, tell).await
            }
        }
    }

    fn absolute(&self, uri: &Uri) -> Uri {
        let mut parts = Uri::from(path_of(uri)).into_parts();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        Uri::from_parts(parts).expect("has all its parts")
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        lock(&self.open)
    }
}

/// A poll on the shared connection. Should it be abandoned after a while in which nothing was heard there, the connection
/// is retired: while new connections work, a silent one must not be waited for.
struct Listening<'p> {
    pool: &'p Pool,
    since: Instant,
    shared: Http2Connection,
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        let is_silent = !self.shared.has_answered_since(self.since);
        if is_silent && self.since.elapsed() >= SILENT {
            self.pool.retire(&self.shared);
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Pool")
    }
}

fn path_of(uri: &Uri) -> PathAndQuery {
    let path = uri.path_and_query().cloned();
    path.unwrap_or_else(|| PathAndQuery::from_static("/"))
}

/// What `Host` says (RFC 9110 §7.2).
fn host(scheme: &Scheme, authority: &Authority) -> HeaderValue {
    let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    let host = match authority.port_u16().filter(|port| *port != default) {
        Some(_) => authority.as_str(),
        None => authority.host(),
    };
    HeaderValue::from_str(host).expect("an authority is a valid value")
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};
    use std::time::Duration;

    use hyper_rustls::MaybeHttpsStream;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Semaphore;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::super::connect::{Offer, Wire, connector, tls};
    use super::*;
    use crate::config::Config;

    fn limit() -> BodyLimit {
        BodyLimit {
            most: 64,
            budget: Arc::new(Semaphore::new(64)),
        }
    }

    const PATIENCE: Duration = Duration::from_secs(20);

    /// An upstream of which every connection is answered by hand, and a pool of connections to it.
    struct Scene {
        pool: Arc<Pool>,
        listener: TcpListener,
    }

    /// A way there on which only the first attempts get anywhere.
    #[derive(Clone)]
    struct First(Connector, Arc<AtomicUsize>);

    impl tower::Service<Uri> for First {
        type Response = MaybeHttpsStream<Wire>;
        type Error = tower::BoxError;
        type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, uri: Uri) -> Self::Future {
            let taken = |left: usize| left.checked_sub(1);
            match self
                .1
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken)
            {
                Ok(_) => Box::pin(self.0.clone().oneshot(uri)),
                Err(_) => Box::pin(pending()),
            }
        }
    }

    impl Scene {
        async fn new() -> Self {
            Self::that_connects(usize::MAX).await
        }

        async fn that_connects(times: usize) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let mut config = Config::default().upstream;
            config.url = UpstreamUrl::parse(&format!("http://{address}")).expect("a URL");
            let tls = tls(&config).expect("roots");
            let connector = connector(&config, tls, Offer::Both);
            let first = First(connector, Arc::new(AtomicUsize::new(times)));
            let connector = Connector::new(first);
            let pool = Pool::new(connector, &config.url);
            Self { pool, listener }
        }

        /// Starts a poll.
        fn ask(&self) -> JoinHandle<Result<Received, Error>> {
            let pool = Arc::clone(&self.pool);
            tokio::spawn(async move {
                let request = Request::get("/v1/videos/t").body(PollBody::default());
                pool.ask(Box::new(request.expect("a request")), &limit(), |_| {})
                    .await
            })
        }

        async fn accept(&self) -> TcpStream {
            let accepted = timeout(PATIENCE, self.listener.accept()).await;
            accepted.expect("a connection").expect("a connection").0
        }

        fn open(&self) -> usize {
            self.pool.lock().idle.len()
        }

        /// Has so many polls answered at once, each over a connection of its own.
        async fn rested(&self, count: usize) -> Vec<TcpStream> {
            let polls: Vec<_> = (0..count).map(|_| self.ask()).collect();
            let mut streams = Vec::new();
            for _ in &polls {
                streams.push(self.accept().await);
            }
            for stream in &mut streams {
                answer(stream, OK).await;
            }
            for poll in polls {
                answered(poll).await;
            }
            assert_eq!(self.open(), count);
            streams
        }
    }

    /// Reads a request and answers it.
    async fn answer(stream: &mut TcpStream, answer: &str) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let read = timeout(PATIENCE, stream.read_buf(&mut head)).await;
            assert!(read.expect("a request").expect("a request") > 0);
        }
        stream.write_all(answer.as_bytes()).await.expect("is taken");
        String::from_utf8(head).expect("is text")
    }

    async fn is_closed(stream: &mut TcpStream) -> bool {
        let read = timeout(PATIENCE, stream.read(&mut [0; 64])).await;
        matches!(read.expect("an end"), Ok(0) | Err(_))
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";

    async fn answered(poll: JoinHandle<Result<Received, Error>>) {
        let answer = poll.await.expect("no panic").expect("an answer");
        assert_eq!(answer.body, "{}");
    }

    #[tokio::test]
    async fn one_connection_serves_one_poll_after_the_other() {
        let scene = Scene::new().await;
        let mut poll = scene.ask();
        let mut stream = scene.accept().await;
        let host = format!("host: {}\r\n", scene.pool.authority);
        for _ in 0..3 {
            let head = answer(&mut stream, OK).await;
            assert!(head.starts_with("GET /v1/videos/t HTTP/1.1\r\n"), "{head}");
            assert!(head.contains(&host), "{head}");
            answered(poll).await;
            assert_eq!(scene.open(), 1);
            poll = scene.ask();
        }
    }

    #[tokio::test]
    async fn connections_that_upstream_closed_meanwhile_cost_no_poll() {
        let scene = Scene::new().await;
        let streams = scene.rested(5).await;
        drop(streams);
        timeout(PATIENCE, async {
            while scene
                .pool
                .lock()
                .idle
                .iter_mut()
                .any(|(line, _)| line.is_idle())
            {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("sees that they are closed");
        let poll = scene.ask();
        let mut stream = scene.accept().await;
        answer(&mut stream, OK).await;
        answered(poll).await;
        assert_eq!(scene.open(), 1);
    }

    #[tokio::test]
    async fn a_poll_that_waits_for_a_connection_takes_one_that_becomes_free() {
        let scene = Scene::that_connects(1).await;
        let polls: Vec<_> = (0..4).map(|_| scene.ask()).collect();
        let mut stream = scene.accept().await;
        for _ in &polls {
            answer(&mut stream, OK).await;
        }
        for poll in polls {
            answered(poll).await;
        }
        assert_eq!(scene.open(), 1);
    }

    #[tokio::test]
    async fn the_status_is_told_when_the_head_is_there() {
        let scene = Scene::new().await;
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let ask = || {
            let (pool, tell) = (Arc::clone(&scene.pool), tell.clone());
            let request = Request::get("/")
                .body(PollBody::default())
                .expect("a request");
            tokio::spawn(async move {
                let tell = |status| tell.send(status).expect("is heard");
                pool.ask(Box::new(request), &limit(), tell).await
            })
        };
        let poll = ask();
        let mut stream = scene.accept().await;
        let half = "HTTP/1.1 203 OK\r\ncontent-length: 5\r\n\r\n{";
        answer(&mut stream, half).await;
        let status = StatusCode::NON_AUTHORITATIVE_INFORMATION;
        assert_eq!(told.recv().await, Some(Some(status)));
        assert!(!poll.is_finished());
        drop(stream);
        poll.await.expect("no panic").expect_err("is cut off");

        let poll = ask();
        answer(&mut scene.accept().await, "").await;
        poll.await.expect("no panic").expect_err("is no answer");
        assert_eq!(told.recv().await, Some(None));
        drop(scene.listener);
        ask().await.expect("no panic").expect_err("is not there");
        assert_eq!(told.recv().await, Some(None));
        assert!(told.is_empty());
    }

    #[tokio::test]
    async fn a_connection_that_dies_with_a_poll_on_it_is_not_used_again_nor_is_the_poll_sent_again()
    {
        let scene = Scene::new().await;
        for (dies, error) in [
            ("", Error::UpstreamClosed),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{",
                Error::UpstreamUnavailable(
                    "the connection broke in the middle of the answer".into(),
                ),
            ),
        ] {
            let poll = scene.ask();
            let mut stream = scene.accept().await;
            answer(&mut stream, dies).await;
            drop(stream);
            assert_eq!(poll.await.expect("no panic").expect_err("broken"), error);
            assert_eq!(scene.open(), 0);
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_or_the_last_one_closes_its_connection() {
        let scene = Scene::new().await;
        let large = format!("HTTP/1.1 200 OK\r\ncontent-length: 65\r\n\r\n{:65}", "");
        let poll = scene.ask();
        let mut stream = scene.accept().await;
        answer(&mut stream, &large).await;
        let error = poll.await.expect("no panic").expect_err("is too large");
        assert_eq!(error, Error::TooLarge);
        assert!(is_closed(&mut stream).await);

        for last in [
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
            "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        ] {
            let poll = scene.ask();
            let mut stream = scene.accept().await;
            answer(&mut stream, last).await;
            answered(poll).await;
            assert!(is_closed(&mut stream).await);
            assert_eq!(scene.open(), 0);
        }
    }

    #[tokio::test]
    async fn a_poll_that_is_given_up_closes_its_connection() {
        let scene = Scene::new().await;
        let poll = scene.ask();
        let mut stream = scene.accept().await;
        answer(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{").await;
        poll.abort();
        assert!(is_closed(&mut stream).await);
        assert_eq!(scene.open(), 0);
    }

    #[tokio::test]
    async fn what_is_not_used_or_was_closed_is_let_go() {
        let scene = Scene::new().await;
        let mut streams = scene.rested(2).await;
        let (one, mut other) = (streams.remove(0), streams.remove(0));
        drop(one);
        timeout(PATIENCE, async {
            while scene.open() == 2 {
                tokio::task::yield_now().await;
                scene.pool.reclaim();
            }
        })
        .await
        .expect("sees that it is closed");
        assert_eq!(scene.open(), 1);
        tokio::time::pause();
        tokio::time::advance(POOL_IDLE).await;
        tokio::time::resume();
        assert!(scene.pool.take().is_none(), "is too old");
        scene.pool.reclaim();
        assert!(is_closed(&mut other).await);
    }
}
