//! Faults and the rules that inject them, in the syntax of flags and of JSON.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

use super::status_route::StatusRoute;

/// A wrong or missing answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// 429 with `Retry-After` and new-api's task error.
    #[serde(rename = "429")]
    RateLimited,
    /// 429 with an empty body and no `Retry-After`, as new-api's limit by client address answers.
    #[serde(rename = "429-empty")]
    RateLimitedEmpty,
    /// 500 with new-api's task error `get_task_failed`.
    #[serde(rename = "500")]
    ServerError,
    /// 502 with an HTML page.
    #[serde(rename = "502")]
    BadGateway,
    /// 503 with an HTML page.
    #[serde(rename = "503")]
    Unavailable,
    /// 504 with an HTML page.
    #[serde(rename = "504")]
    GatewayTimeout,
    /// 200 with an HTML page.
    Html,
    /// The right answer, cut in half, with a matching `Content-Length`.
    Truncated,
    /// 200 with an empty body.
    Empty,
    /// 200 with `{"code":"success","data":null}`.
    NoData,
    /// 400 `task_not_exist`, for a task that exists.
    TaskNotExist,
    /// The connection is reset before the answer (over HTTP/2: the stream).
    Reset,
    /// The connection is reset after half of the answer (over HTTP/2: the stream).
    ResetMidBody,
    /// No answer.
    Stall,
    /// Half of the answer, and then nothing.
    StallMidBody,
    /// The right answer, slowly.
    SlowBody,
}

/// Which requests a rule covers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Scope {
    /// Every status route.
    #[default]
    Status,
    /// One status route.
    Route(StatusRoute),
    /// Everything but `/simulator`.
    All,
}

/// How often a rule strikes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum When {
    /// Every time, until the rule is removed.
    #[default]
    Always,
    /// With this probability.
    Rate(f64),
    /// For the next `n` requests that the rule covers.
    Next(u64),
}

/// A fault, the requests it covers, and how often it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "RuleJson", try_from = "RuleJson")]
pub struct Rule {
    /// The injected fault.
    pub fault: Fault,
    /// The requests that it covers.
    pub scope: Scope,
    /// How often it strikes.
    pub when: When,
    /// `Retry-After` of [`Fault::RateLimited`], in seconds; by default that of the settings.
    pub retry_after: Option<u32>,
}

impl Fault {
    /// Every fault.
    pub(crate) const ALL: [Self; 16] = [
        Self::RateLimited,
        Self::RateLimitedEmpty,
        Self::ServerError,
        Self::BadGateway,
        Self::Unavailable,
        Self::GatewayTimeout,
        Self::Html,
        Self::Truncated,
        Self::Empty,
        Self::NoData,
        Self::TaskNotExist,
        Self::Reset,
        Self::ResetMidBody,
        Self::Stall,
        Self::StallMidBody,
        Self::SlowBody,
    ];

    /// Name in flags and JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "429",
            Self::RateLimitedEmpty => "429-empty",
            Self::ServerError => "500",
            Self::BadGateway => "502",
            Self::Unavailable => "503",
            Self::GatewayTimeout => "504",
            Self::Html => "html",
            Self::Truncated => "truncated",
            Self::Empty => "empty",
            Self::NoData => "no-data",
            Self::TaskNotExist => "task-not-exist",
            Self::Reset => "reset",
            Self::ResetMidBody => "reset-mid-body",
            Self::Stall => "stall",
            Self::StallMidBody => "stall-mid-body",
            Self::SlowBody => "slow-body",
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|fault| fault.name() == text)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                format!("unknown fault `{text}`; takes {names}")
            })
    }
}

impl Scope {
    /// Every scope.
    fn every() -> impl Iterator<Item = Self> {
        let routes = StatusRoute::ALL.into_iter().map(Self::Route);
        std::iter::once(Self::Status)
            .chain(routes)
            .chain([Self::All])
    }

    /// Name in flags and JSON.
    const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Route(route) => route.name(),
            Self::All => "all",
        }
    }

    /// Whether it covers a request; `status` is the route of a status poll.
    pub(super) fn covers(self, status: Option<StatusRoute>) -> bool {
        match self {
            Self::Status => status.is_some(),
            Self::Route(route) => status == Some(route),
            Self::All => true,
        }
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl TryFrom<String> for Scope {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse()
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::every()
            .find(|scope| scope.name() == text)
            .ok_or_else(|| {
                let names: Vec<_> = Self::every().map(Self::name).collect();
                let names = names.join(", ");
                format!("unknown scope `{text}`; takes {names}")
            })
    }
}

impl Rule {
    /// Creates a rule that strikes every status poll.
    #[must_use]
    pub const fn new(fault: Fault) -> Self {
        Self {
            fault,
            scope: Scope::Status,
            when: When::Always,
            retry_after: None,
        }
    }

    /// Sets the requests that the rule covers.
    #[must_use]
    pub const fn on(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }

    /// Limits the rule to the next `n` requests.
    #[must_use]
    pub const fn next(self, n: u64) -> Self {
        Self {
            when: When::Next(n),
            ..self
        }
    }

    /// Makes the rule strike with this probability.
    #[must_use]
    pub const fn rate(self, rate: f64) -> Self {
        Self {
            when: When::Rate(rate),
            ..self
        }
    }

    /// Sets `Retry-After`, in seconds.
    #[must_use]
    pub const fn retry_after(self, seconds: u32) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }
}

impl From<Fault> for Rule {
    fn from(fault: Fault) -> Self {
        Self::new(fault)
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (what, when) = match text.split_once(':') {
            Some((what, when)) => (what, Some(when)),
            None => (text, None),
        };
        let (fault, scope) = match what.split_once('@') {
            Some((fault, scope)) => (fault, scope.parse()?),
            None => (what, Scope::Status),
        };
        let when =
            match when {
                None => When::Always,
                Some(when) => match when.strip_prefix("next=") {
                    Some(n) => When::Next(n.parse().map_err(|_| {
                        format!("`{when}` is not a count of requests such as next=3")
                    })?),
                    None => When::Rate(share(when).map_err(|error| format!("{error}, or next=3"))?),
                },
            };
        Ok(Self::new(fault.parse()?).on(scope).when(when))
    }
}

impl Rule {
    const fn when(self, when: When) -> Self {
        Self { when, ..self }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.fault.name())?;
        if self.scope != Scope::Status {
            write!(f, "@{}", self.scope.name())?;
        }
        match self.when {
            When::Always => Ok(()),
            When::Rate(rate) => write!(f, ":{rate}"),
            When::Next(n) => write!(f, ":next={n}"),
        }
    }
}

/// A [`Rule`] in JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleJson {
    fault: FaultName,
    #[serde(default)]
    scope: Scope,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retry_after: Option<u32>,
}

/// A fault's name; a status code may be a number.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum FaultName {
    Word(String),
    Code(u16),
}

impl From<Rule> for RuleJson {
    fn from(rule: Rule) -> Self {
        let (rate, next) = match rule.when {
            When::Always => (None, None),
            When::Rate(rate) => (Some(rate), None),
            When::Next(n) => (None, Some(n)),
        };
        Self {
            fault: FaultName::Word(rule.fault.name().to_owned()),
            scope: rule.scope,
            rate,
            next,
            retry_after: rule.retry_after,
        }
    }
}

impl TryFrom<RuleJson> for Rule {
    type Error = String;

    fn try_from(json: RuleJson) -> Result<Self, Self::Error> {
        let fault = match json.fault {
            FaultName::Word(word) => word.parse()?,
            FaultName::Code(code) => code.to_string().parse()?,
        };
        let when = match (json.rate, json.next) {
            (None, None) => When::Always,
            (Some(rate), None) if (0.0..=1.0).contains(&rate) => When::Rate(rate),
            (Some(rate), None) => return Err(format!("rate {rate} is not a share from 0 to 1")),
            (None, Some(n)) => When::Next(n),
            (Some(_), Some(_)) => return Err("takes either rate or next, not both".to_owned()),
        };
        Ok(Self {
            retry_after: json.retry_after,
            ..Self::new(fault).on(json.scope).when(when)
        })
    }
}

/// Parses a share from 0 to 1.
pub(super) fn share(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share))
        .ok_or_else(|| format!("`{text}` is not a share from 0 to 1, such as 0.1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_survives_a_round_trip_through_flags_and_json() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(fault));
            assert_eq!(serde_json::to_value(fault).expect("a string"), fault.name());
            for end in ["", "@openai:next=2", "@mj", "@all:0.25"] {
                let text = format!("{}{end}", fault.name());
                let rule: Rule = text.parse().expect("a rule");
                assert_eq!(rule.to_string(), text);
                let json = serde_json::to_string(&rule).expect("json");
                assert_eq!(serde_json::from_str::<Rule>(&json).expect("json"), rule);
            }
        }
        for scope in Scope::every() {
            assert_eq!(scope.name().parse(), Ok(scope));
            assert_eq!(serde_json::to_value(scope).expect("a string"), scope.name());
        }
        let coded: Rule = serde_json::from_str(r#"{"fault":503,"next":1}"#).expect("a code");
        assert_eq!(coded, Rule::new(Fault::Unavailable).next(1));
    }

    #[test]
    fn an_invalid_rule_is_rejected_with_what_is_valid() {
        for (text, right) in [
            ("", "takes 429,"),
            (
                "500@moon",
                "takes status, unified, openai, octopus, mj, kling, suno, tasks, ark, all",
            ),
            ("500:often", "from 0 to 1"),
            ("500:next=x", "next=3"),
        ] {
            let error = text.parse::<Rule>().expect_err(text);
            assert!(error.contains(right), "{error}");
        }
    }
}
