//! The API behind pollgate: pooled connections, over HTTP or HTTPS, HTTP/1.1 or HTTP/2.

use std::collections::HashSet;
use std::error::Error as StdError;
use std::fmt;
use std::future::pending;
use std::iter::successors;
use std::ops::ControlFlow::{Break, Continue};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use http::header::PROXY_AUTHORIZATION;
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::UpstreamProblem;
use super::connect::{self, Connector, Offer};
use super::failure::failure;
use super::headers::is_harmless;
use super::http1::PollBody;
use super::http2::is_unprocessed;
use super::pool::Pool;
use super::received::{BodyLimit, Received};
use super::resend::{Unprocessed, until_processed};
use super::{
    FIRST_STREAMS, NOT_TAKEN, PING_EVERY, PING_TIMEOUT, POOL_IDLE, READ_AHEAD, STREAM_WINDOW,
    STREAMS,
};
use crate::config::{self, UpstreamUrl};
use crate::error::Error;
use crate::message::body::Body;
use crate::message::method::is_safe;
use crate::message::replay::Replay;
use crate::request::key::Credentials;
use crate::sync::lock;
use crate::telemetry::{CLIENT_GONE, Metrics, UpstreamKind};

/// The API behind pollgate. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    /// Connections for status polls alone, so that downloads on a shared HTTP/2 connection cannot delay them.
    polls: Arc<Pool>,
    forwards: Client<Connector, Body>,
    /// HTTP/1.1 connections, for upgrades and for forwarded requests beyond [`STREAMS`].
    singles: Client<Connector, Body>,
    streams: Arc<Semaphore>,
    url: UpstreamUrl,
    /// Credentials for a forward proxy that takes requests in absolute form.
    proxy_authorization: Option<HeaderValue>,
    metrics: Arc<Metrics>,
    /// Names of request headers that were seen on polls and not sent upstream. Each is logged once.
    not_passed: Mutex<HashSet<HeaderName>>,
    /// Whether it was logged that upstream redirects polls.
    redirected: AtomicBool,
}

/// How many of these names are kept.
const MOST_NOT_PASSED: usize = 64;

impl Upstream {
    /// Loads the root certificates. Opens no connection.
    ///
    /// # Errors
    /// The CA file cannot be read.
    pub fn new(config: &config::Upstream, metrics: Arc<Metrics>) -> Result<Self, UpstreamProblem> {
        let tls = connect::tls(config)?;
        let client = |offer| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .pool_idle_timeout(POOL_IDLE)
                .http1_max_buf_size(READ_AHEAD)
                .http2_initial_stream_window_size(STREAM_WINDOW)
                .http2_initial_connection_window_size(STREAM_WINDOW * STREAMS)
                .http2_initial_max_send_streams(FIRST_STREAMS)
                .http2_keep_alive_interval(PING_EVERY)
                .http2_keep_alive_timeout(PING_TIMEOUT)
                .build(connect::connector(config, tls.clone(), offer))
        };
        let is_plain = *config.url.scheme() == Scheme::HTTP;
        let proxy_authorization = config
            .proxy
            .as_ref()
            .filter(|_| is_plain)
            .and_then(|proxy| proxy.authorization().cloned());
        Ok(Self(Arc::new(Inner {
            polls: Pool::new(
                connect::connector(config, tls.clone(), Offer::Both),
                &config.url,
            ),
            forwards: client(Offer::Both),
            singles: client(Offer::Http1),
            streams: Arc::new(Semaphore::new(STREAMS as usize)),
            url: config.url.clone(),
            proxy_authorization,
            metrics,
            not_passed: Mutex::default(),
            redirected: AtomicBool::new(false),
        })))
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> &UpstreamUrl {
        &self.0.url
    }

    /// Sends a status poll and receives the whole response, from now, which is `asked_at`, until `deadline`.
    ///
    /// # Errors
    /// [`Error::UpstreamClosed`] if the connection was closed before any response, [`Error::TooLarge`] if the response
    /// is larger than the limit, else [`Error::UpstreamUnavailable`] or [`Error::UpstreamInvalid`].
    pub async fn poll(
        &self,
        request: Request<PollBody>,
        limit: &BodyLimit,
        asked_at: Instant,
        deadline: Instant,
    ) -> Result<Received, Error> {
        let counted = self.counted(UpstreamKind::Poll, asked_at);
        let request = Box::new(self.authorized(request));
        let asked = self.0.polls.ask(request, limit, |code| counted.told(code));
        // Pinned in place: the future is too large to move.
        let answer = timeout_at(deadline, pin!(asked)).await;
        answer.unwrap_or_else(|_| {
            counted.told(None);
            Err(Error::UpstreamTimeout)
        })
    }

    /// Requests a document that is too large to buffer; resolves when the response head arrives. Counted as a poll.
    ///
    /// # Errors
    /// As [`Upstream::forward`].
    pub async fn document(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let response = self.send(&self.0.forwards, UpstreamKind::Poll, request);
        Ok(response.await?.map(Body::from))
    }

    /// Forwards a client's request; resolves when the response head arrives, however long that takes. Never sent twice,
    /// unless the connection was closed before the first byte was written, or an HTTP/2 upstream says that it did not
    /// process the request (RFC 9113 §8.7) and its body can be [sent again](Replay).
    ///
    /// # Errors
    /// [`Error::UpstreamClosed`] if the connection was closed before any response, else [`Error::UpstreamUnavailable`]; of a
    /// request that may change something, [`Error::OutcomeUnknown`] unless it is known that upstream has not processed it.
    pub async fn forward(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let Ok(stream) = Arc::clone(&self.0.streams).try_acquire_owned() else {
            let response = self
                .send(&self.0.singles, UpstreamKind::Forward, request)
                .await?;
            return Ok(response.map(Body::from));
        };
        let response = self
            .send(&self.0.forwards, UpstreamKind::Forward, request)
            .await?;
        Ok(response.map(|body| Body::from(body).guarded(stream)))
    }

    /// Forwards a request to switch protocols (RFC 9110 §7.8), over HTTP/1.1, the only version with upgrades.
    ///
    /// # Errors
    /// As [`Upstream::forward`].
    pub async fn upgrade(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let response = self
            .send(&self.0.singles, UpstreamKind::Forward, request)
            .await?;
        Ok(response.map(Body::from))
    }

    /// Closes poll connections that have been idle for too long. Call it periodically.
    pub fn reclaim(&self) {
        self.0.polls.reclaim();
    }

    /// Logs, once, that upstream redirects status polls: no redirect is followed, so every poll fails.
    pub fn log_redirect(&self, location: &str) {
        if !self.0.redirected.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "upstream redirects status polls to {location}; set upstream.url to that server, since redirects are not \
                 followed"
            );
        }
    }

    /// Logs, once per name, that a poll carried a header that is not sent upstream.
    pub fn log_not_passed(&self, credentials: &Credentials) {
        for name in credentials.others().filter(|name| !is_harmless(name)) {
            let mut logged = lock(&self.0.not_passed);
            if logged.len() < MOST_NOT_PASSED && logged.insert(name.clone()) {
                tracing::warn!(
                    "header {name} of a status poll is not passed on to upstream; name it in callers.headers if upstream \
                     needs it"
                );
            }
        }
    }

    async fn send(
        &self,
        client: &Client<Connector, Body>,
        kind: UpstreamKind,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Error> {
        let counted = self.counted(kind, Instant::now());
        let (head, body) = self.authorized(request).into_parts();
        // Only HTTP/2, which takes TLS, says what it has not processed.
        let (body, replay) = if head.uri.scheme() == Some(&Scheme::HTTPS) {
            let replay = Replay::new(body);
            (replay.body().unwrap_or_else(Body::empty), Some(replay))
        } else {
            (body, None)
        };
        let sent = until_processed(body, async |body| {
            let send = |mut request| {
                let mut captured = capture_connection(&mut request);
                let connected = async move { drop(captured.wait_for_connection_metadata().await) };
                (connected, client.request(request))
            };
            let answer = until_taken(&head, body, replay.as_ref(), send).await;
            match (answer, &replay) {
                (Err(why), Some(replay)) if may_go_again(&why, &head.method, replay) => {
                    match replay.body() {
                        Some(request) => Continue(Unprocessed {
                            request,
                            why,
                            counts: true,
                        }),
                        None => Break(Err(why)),
                    }
                }
                (answer, _) => Break(answer),
            }
        });
        let answer = sent.await.flatten();
        counted.told(answer.as_ref().ok().map(Response::status));
        answer.map_err(|error| {
            let why = failure(&error);
            let changes_nothing = kind == UpstreamKind::Poll || is_safe(&head.method);
            if changes_nothing || error.is_connect() || was_not_processed(&error) {
                why
            } else {
                why.of_unknown_outcome()
            }
        })
    }

    fn authorized<B>(&self, mut request: Request<B>) -> Request<B> {
        if let Some(authorization) = &self.0.proxy_authorization {
            let headers = request.headers_mut();
            headers.insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        request
    }

    fn counted(&self, kind: UpstreamKind, started: Instant) -> Counted<'_> {
        Counted {
            metrics: &self.0.metrics,
            kind,
            started,
            is_told: AtomicBool::new(false),
        }
    }
}

/// Sends a request, and sends it again whenever its connection has not taken it for [`NOT_TAKEN`]. hyper may lose one that
/// is handed to a connection at the very moment when that ends: tokio's channels keep a value that is sent while their
/// receiver is dropped until the last sender is, and the request itself holds one.
///
/// `send` returns what ends when there is a connection, and what ends with the answer.
async fn until_taken<T, C, F>(
    head: &Parts,
    mut body: Body,
    replay: Option<&Replay>,
    send: impl Fn(Request<Body>) -> (C, F),
) -> T
where
    C: Future<Output = ()>,
    F: Future<Output = T>,
{
    loop {
        let (connected, answer) = send(Request::from_parts(head.clone(), body));
        let withdrawn = async {
            connected.await;
            sleep(NOT_TAKEN).await;
            match replay.and_then(Replay::withdraw) {
                Some(again) => again,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = answer => return answer,
            again = withdrawn => body = again,
        }
    }
}

/// Whether a request that failed may be sent again.
fn may_go_again(error: &legacy::Error, method: &Method, replay: &Replay) -> bool {
    // hyper calls it the user's error when a connection ends while a request waits for a free stream there. It may have been
    // sent by then: so it must change nothing, or not have been whole.
    was_not_processed(error)
        || (is_of_hyper(error, hyper::Error::is_user) && (is_safe(method) || replay.is_unread()))
}

/// Whether it is known that upstream has not processed the request: its stream was refused, or its connection never took it.
fn was_not_processed(error: &legacy::Error) -> bool {
    is_unprocessed(error) || is_of_hyper(error, hyper::Error::is_canceled)
}

fn is_of_hyper(error: &legacy::Error, is: fn(&hyper::Error) -> bool) -> bool {
    let first: &(dyn StdError + 'static) = error;
    let mut causes = successors(Some(first), |error| (*error).source());
    causes.any(|cause| cause.downcast_ref().is_some_and(is))
}

/// Counts one request, by its response's status or by its failure, whichever it is told first. One that is dropped before
/// either was given up because its clients left.
struct Counted<'a> {
    metrics: &'a Metrics,
    kind: UpstreamKind,
    started: Instant,
    is_told: AtomicBool,
}

impl Counted<'_> {
    fn told(&self, status: Option<StatusCode>) {
        self.count(status.map(|status| status.as_u16()));
    }

    fn count(&self, code: Option<u16>) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            let seconds = self.started.elapsed().as_secs_f64();
            self.metrics.upstream(self.kind, code, seconds);
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.count(Some(CLIENT_GONE));
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Upstream")
            .field("url", &self.0.url)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::ready;

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_its_connection_loses_is_sent_again_whole() {
        let (head, body) = Request::post("/")
            .body(Body::full("whole"))
            .unwrap()
            .into_parts();
        let replay = Replay::new(body);
        let lost = RefCell::new(Vec::new());
        let send = |request: Request<Body>| {
            let answer = async {
                if lost.borrow().len() < 7 {
                    lost.borrow_mut().push(request);
                    return pending().await;
                }
                request.into_body().collect().await.unwrap().to_bytes()
            };
            (ready(()), answer)
        };
        let body = replay.body().unwrap();
        let answer = until_taken(&head, body, Some(&replay), send).await;
        assert_eq!(answer, "whole");
        for request in lost.take() {
            assert!(request.into_body().collect().await.is_err());
        }
    }
}
