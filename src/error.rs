//! Everything that can go wrong with a request here, and the answer that each deserves.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

/// What is overloaded where no file descriptor is left.
pub const OPEN_FILES: &str = "open files of this process (LimitNOFILE)";

/// Why a request could not be answered with what upstream says.
///
/// Cloned for every waiter of a flight. The texts are for the client: what happened, and what to do; never a credential,
/// a result URL or an upstream's body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Upstream could not be reached, or went away before its answer was whole.
    UpstreamUnavailable(Unreachable),
    /// Upstream closed the connection before it answered; most likely the connection had been idle for too long.
    UpstreamClosed,
    /// Upstream went away before it answered a request that may change something: whether it did, nobody knows.
    OutcomeUnknown(Unreachable),
    /// Upstream has been failing: it is not asked until the next probe.
    UpstreamDown,
    /// Upstream did not answer in time.
    UpstreamTimeout,
    /// Upstream answered 2xx with something that is not a JSON document: a page, or a broken body.
    UpstreamInvalid(Arc<str>),
    /// Upstream answered 2xx with JSON that is not a task.
    NotATask(Arc<str>),
    /// Upstream redirects polls to another location.
    Redirected(Arc<str>),
    /// Upstream's document is larger than `upstream.max_status_body`.
    TooLarge,
    /// More work than the limits allow.
    Overloaded(&'static str),
    /// Upstream asked for a pause, which ends after this time.
    RateLimited(Duration),
    /// pollgate is about to stop.
    Draining,
    /// The client asked for a remembered answer only, and there is none (RFC 9111 §5.2.1.7).
    NotCached,
    /// The request cannot be passed on as it is.
    BadRequest(&'static str),
    /// The request's head has more bytes or more header fields than are read.
    HeadTooLarge,
    /// The request's target is longer than is read.
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

/// The time after which a failing upstream is worth another try: about the time until the next probe.
pub const UPSTREAM_RECOVERY: Duration = Duration::from_secs(2);

/// A pause as the value of `retry-after`: whole seconds, rounded up, since a client that returns too early is refused again;
/// never 0, at which some clients return at once, and never over 60, at which some give up and some sleep on.
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
            | Self::OutcomeUnknown(_)
            | Self::UpstreamDown
            | Self::Overloaded(_)
            | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamTimeout | Self::NotCached => StatusCode::GATEWAY_TIMEOUT,
            Self::UpstreamInvalid(_) | Self::NotATask(_) | Self::Redirected(_) | Self::TooLarge => {
                StatusCode::BAD_GATEWAY
            }
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
            Self::UpstreamUnavailable(_)
            | Self::UpstreamClosed
            | Self::OutcomeUnknown(_)
            | Self::UpstreamDown => "upstream_unavailable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamInvalid(_) | Self::NotATask(_) | Self::Redirected(_) | Self::TooLarge => {
                "upstream_invalid"
            }
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
        const RETRY: &str = "the task itself is not affected, retry shortly";
        match self {
            Self::UpstreamUnavailable(why) => {
                format!("the video API could not be reached ({why}); {RETRY}")
            }
            Self::UpstreamClosed => {
                format!("the video API closed the connection without an answer; {RETRY}")
            }
            Self::OutcomeUnknown(why) => format!(
                "the video API did not answer ({why}), and may have done what the request asks for; look there before \
                 sending it again"
            ),
            Self::UpstreamDown => format!(
                "the video API has been failing and is not asked until it recovers; {RETRY}"
            ),
            Self::UpstreamTimeout => format!("the video API did not answer in time; {RETRY}"),
            Self::UpstreamInvalid(why) | Self::NotATask(why) => {
                format!("the video API's answer was not a task ({why}); {RETRY}")
            }
            Self::Redirected(location) => format!(
                "the video API redirects status polls to {location}; set upstream.url to that server"
            ),
            Self::TooLarge => "the video API's document is larger than upstream.max_status_body; raise that setting, \
                 or ask on the path that upstream is asked on, where it is passed through"
                .into(),
            Self::Overloaded(what) => format!("overloaded: too many {what}; retry shortly"),
            Self::RateLimited(_) => {
                "the video API asked for a pause; retry after the time in retry-after".into()
            }
            Self::Draining => "this gateway is about to stop; retry, another one will answer".into(),
            Self::NotCached => {
                "no fresh answer is remembered, and only-if-cached forbids asking for one".into()
            }
            Self::BadRequest(why) => (*why).into(),
            Self::HeadTooLarge => {
                "the request's headers are too large: at most 64 KiB and 100 fields are read".into()
            }
            Self::UriTooLong => "the request's target is too long: at most 16 KiB are read".into(),
            Self::RequestTimeout => {
                "the request did not arrive in time (limits.header_timeout, limits.idle_timeout)"
                    .into()
            }
            Self::Panicked => "a defect in this gateway ended the poll; retry".into(),
        }
    }

    /// What happened, without what to do; for operators.
    #[must_use]
    pub fn reason(&self) -> String {
        if let Self::UpstreamUnavailable(why) | Self::OutcomeUnknown(why) = self {
            return why.in_full().to_owned();
        }
        let mut message = self.message();
        if let Some(end) = message.find(';') {
            message.truncate(end);
        }
        message
    }

    /// The time after which a retry is worth it. Without it SDKs give up about a second after the first failure.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited(pause) => Some(*pause),
            Self::Overloaded(_) | Self::Draining => Some(Duration::from_secs(1)),
            // What is of unknown outcome may be looked for then.
            Self::TooLarge | Self::OutcomeUnknown(_) => Some(UPSTREAM_RECOVERY),
            error => error.is_upstream_failing().then_some(UPSTREAM_RECOVERY),
        }
    }

    /// The same error of a request that may change something, and that upstream may have processed.
    #[must_use]
    pub fn of_unknown_outcome(self) -> Self {
        match self {
            Self::UpstreamUnavailable(why) => Self::OutcomeUnknown(why),
            Self::UpstreamClosed => Self::OutcomeUnknown("the connection was closed".into()),
            other => other,
        }
    }

    /// Whether SDKs must not send the request again by themselves: it may have been carried out, and paid for.
    #[must_use]
    pub fn forbids_retry(&self) -> bool {
        matches!(self, Self::OutcomeUnknown(_))
    }

    /// Whether the fault lies with the request: what follows it on its connection is not trusted either.
    #[must_use]
    pub fn is_bad_request(&self) -> bool {
        matches!(
            self,
            Self::BadRequest(_) | Self::HeadTooLarge | Self::UriTooLong | Self::RequestTimeout
        )
    }

    /// Whether the fault lies with upstream, so that the last known state may stand in.
    #[must_use]
    pub fn is_upstream_failing(&self) -> bool {
        self.is_own_fault() || self.is_way_failure() || self.is_refusal_to_ask()
    }

    /// Whether the last known state may stand in: upstream is failing, or it could not be asked in time from here.
    #[must_use]
    pub fn lets_stale_stand_in(&self) -> bool {
        self.is_upstream_failing() || matches!(self, Self::Overloaded(_))
    }

    /// Whether upstream said something about this task that is of no use. It says nothing about other tasks.
    #[must_use]
    pub fn is_own_fault(&self) -> bool {
        matches!(self, Self::NotATask(_) | Self::Redirected(_))
    }

    /// Whether upstream was asked, and nothing came back that it could have said itself.
    #[must_use]
    pub fn is_way_failure(&self) -> bool {
        matches!(
            self,
            Self::UpstreamUnavailable(_)
                | Self::UpstreamClosed
                | Self::UpstreamTimeout
                | Self::UpstreamInvalid(_)
        )
    }

    /// Whether upstream was not asked, to leave it alone for a while.
    #[must_use]
    pub fn is_refusal_to_ask(&self) -> bool {
        matches!(self, Self::UpstreamDown | Self::RateLimited(_))
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Error {}
