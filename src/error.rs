//! Everything that can go wrong with a request here, and the answer that each deserves.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

/// Why a request could not be answered with what upstream says.
///
/// Cloned to everyone who waited for the same flight. The texts are for the client: what happened, and what to do;
/// never a credential, a URL or an upstream's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Upstream could not be reached, or went away before its answer was whole.
    UpstreamUnavailable(Unreachable),
    /// Upstream closed the connection before it answered; most likely the connection had died while it stood idle.
    UpstreamClosed,
    /// Upstream has been failing: it is not asked until the next probe.
    UpstreamDown,
    /// Upstream did not answer in time.
    UpstreamTimeout,
    /// Upstream answered 2xx with something that is no task document.
    UpstreamInvalid(Arc<str>),
    /// More work than the limits allow.
    Overloaded(&'static str),
    /// Upstream asked for a pause; its end is that far away.
    RateLimited(Duration),
    /// pollgate is about to stop.
    Draining,
    /// The client asked for a remembered answer only, and there is none (RFC 9111 §5.2.1.7).
    NotCached,
    /// The request cannot be passed on as it is.
    BadRequest(&'static str),
    /// The request's head has more bytes or more headers than anyone needs.
    HeadTooLarge,
    /// The request's target is longer than anyone needs.
    UriTooLong,
    /// The request did not arrive in time.
    RequestTimeout,
    /// A bug in pollgate: a flight panicked.
    Panicked,
}

/// Why upstream could not be reached: displayed as clients are told, who learn no names of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    why: Arc<str>,
    /// The same for operators, where it says more.
    in_full: Option<Arc<str>>,
}

impl Unreachable {
    /// A reason that tells operators more than clients.
    #[must_use]
    pub fn with_detail(why: String, in_full: String) -> Self {
        Self {
            why: why.into(),
            in_full: Some(in_full.into()),
        }
    }

    /// For operators: in the log and on the admin page.
    #[must_use]
    pub fn in_full(&self) -> &str {
        self.in_full.as_ref().unwrap_or(&self.why)
    }

    /// Changes what is told.
    #[must_use]
    pub fn map(self, change: impl Fn(&str) -> String) -> Self {
        Self {
            why: change(&self.why).into(),
            in_full: self.in_full.map(|in_full| change(&in_full).into()),
        }
    }
}

impl From<&str> for Unreachable {
    fn from(why: &str) -> Self {
        Self {
            why: why.into(),
            in_full: None,
        }
    }
}

impl From<String> for Unreachable {
    fn from(why: String) -> Self {
        why.as_str().into()
    }
}

impl std::fmt::Display for Unreachable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

/// When a failing upstream is worth another try: about as long as it takes until the next probe.
pub const UPSTREAM_RECOVERY: Duration = Duration::from_secs(2);

/// A pause as `retry-after` tells it: whole seconds, rounded up, since a client that comes back too early is refused
/// again; never 0, with which some come back at once, and never over 60, with which some give up and some sleep on.
#[must_use]
pub fn retry_after_seconds(pause: Duration) -> u64 {
    pause
        .as_secs()
        .saturating_add(u64::from(pause.subsec_nanos() > 0))
        .clamp(1, 60)
}

impl Error {
    /// The HTTP status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::UpstreamUnavailable(_)
            | Self::UpstreamClosed
            | Self::UpstreamDown
            | Self::Overloaded(_)
            | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamTimeout | Self::NotCached => StatusCode::GATEWAY_TIMEOUT,
            Self::UpstreamInvalid(_) => StatusCode::BAD_GATEWAY,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Panicked => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The stable word that programs may look at.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UpstreamUnavailable(_) | Self::UpstreamClosed | Self::UpstreamDown => {
                "upstream_unavailable"
            }
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamInvalid(_) => "upstream_invalid",
            Self::Overloaded(_) => "overloaded",
            Self::RateLimited(_) => "rate_limited",
            Self::Draining => "draining",
            Self::NotCached => "not_cached",
            Self::BadRequest(_) | Self::HeadTooLarge | Self::UriTooLong | Self::RequestTimeout => {
                "bad_request"
            }
            Self::Panicked => "internal_error",
        }
    }

    /// The `type` of the OpenAI envelope.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            error if error.is_bad_request() => "invalid_request_error",
            Self::NotCached => "invalid_request_error",
            Self::RateLimited(_) => "rate_limit_error",
            _ => "api_error",
        }
    }

    /// What happened and what to do, for a person.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::UpstreamUnavailable(why) => {
                format!("the video API could not be reached ({why}); the task itself is not affected, ask again shortly")
            }
            Self::UpstreamClosed => {
                "the video API closed the connection without an answer; the task itself is not affected, ask again shortly".into()
            }
            Self::UpstreamDown => {
                "the video API has been failing and is not asked until it recovers; the task itself is not affected, ask again shortly".into()
            }
            Self::UpstreamTimeout => {
                "the video API did not answer in time; the task itself is not affected, ask again shortly".into()
            }
            Self::UpstreamInvalid(why) => {
                format!("the video API's answer was not a task ({why}); the task itself is not affected, ask again shortly")
            }
            Self::Overloaded(what) => format!("too much at once here: {what}; ask again shortly"),
            Self::RateLimited(_) => "the video API asked for a pause; ask again after retry-after".into(),
            Self::Draining => "this gateway is about to stop; ask again, another will answer".into(),
            Self::NotCached => "nothing fresh is remembered, and only-if-cached forbids asking".into(),
            Self::BadRequest(why) => (*why).into(),
            Self::HeadTooLarge => "the request's headers are too large: 64 KiB and 100 headers are the most".into(),
            Self::UriTooLong => "the request's target is too long: 16 KiB are the most".into(),
            Self::RequestTimeout => "the request did not arrive in time (limits.header_timeout, limits.idle_timeout)".into(),
            Self::Panicked => "a defect in this gateway ended the poll; ask again".into(),
        }
    }

    /// What happened, without what to do; for operators.
    #[must_use]
    pub fn reason(&self) -> String {
        if let Self::UpstreamUnavailable(why) = self {
            return why.in_full().to_owned();
        }
        let mut message = self.message();
        if let Some(end) = message.find(';') {
            message.truncate(end);
        }
        message
    }

    /// When asking again is worth it. Without it SDKs give up about a second after the first failure.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(pause) => Some(*pause),
            Self::Overloaded(_) | Self::Draining => Some(Duration::from_secs(1)),
            error => error.is_upstream_failing().then_some(UPSTREAM_RECOVERY),
        }
    }

    /// Whether the fault lies with the request: what follows it on its connection is not to be trusted either.
    #[must_use]
    pub fn is_bad_request(&self) -> bool {
        matches!(
            self,
            Self::BadRequest(_) | Self::HeadTooLarge | Self::UriTooLong | Self::RequestTimeout
        )
    }

    /// Whether the fault lies with upstream, so that a state known from before may stand in.
    #[must_use]
    pub fn is_upstream_failing(&self) -> bool {
        matches!(
            self,
            Self::UpstreamUnavailable(_)
                | Self::UpstreamClosed
                | Self::UpstreamDown
                | Self::UpstreamTimeout
                | Self::UpstreamInvalid(_)
                | Self::RateLimited(_)
        )
    }

    /// Whether upstream was asked, and failed; not where asking it was out of the question.
    #[must_use]
    pub fn was_asked_in_vain(&self) -> bool {
        self.is_upstream_failing() && !self.is_refusal_to_ask()
    }

    /// Whether upstream was not asked, to leave it alone for a while.
    #[must_use]
    pub fn is_refusal_to_ask(&self) -> bool {
        matches!(self, Self::UpstreamDown | Self::RateLimited(_))
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.message())
    }
}

impl std::error::Error for Error {}
