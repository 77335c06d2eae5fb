//! Settings of the simulator: command-line flags, and a struct for tests.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::channel::{Channel, ChannelChoice};
use super::rule::{Rule, share};

/// Settings of a [`Simulator`](super::Simulator). By default it answers at once and injects no faults.
#[derive(Debug, Clone, PartialEq, clap::Args)]
#[command(next_help_heading = "Simulated OctopusX")]
pub struct Settings {
    /// Time from a task's submission to its end: a duration, or a range to pick from.
    ///
    /// A task is submitted for 10 % of it, queued for 15 %, and in progress for the rest. A create
    /// request can override it with `"simulate":{"lifetime":"5s"}`. Example: `--lifetime 20s-3m`
    #[arg(long, value_name = "DURATION[-DURATION]", default_value = "10s-30s")]
    pub lifetime: Span,

    /// Time that a new task is `NOT_START` before its lifetime begins.
    ///
    /// OctopusX reports it as `unknown` on /v1/videos and `processing` on /v1/video/generations.
    /// Example: `--not-start 500ms`
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub not_start: Duration,

    /// Interval at which OctopusX polls its vendors; no task changes in between. 0s: no delay.
    ///
    /// The real one polls about every 15 s. Example: `--refresh 15s`
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = humantime::parse_duration)]
    pub refresh: Duration,

    /// Share of tasks that fail, from 0 to 1. Example: `--failures 0.1`
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    pub failures: f64,

    /// Channel, and so the document format, of models that belong to no channel.
    ///
    /// A model belongs to the channel whose name it begins with (`sora-2-pro` to `sora-2`).
    /// `mixed` takes each channel in turn. Example: `--channel mixed`
    #[arg(long, value_name = "CHANNEL", default_value = "documented", value_parser = channel_choice())]
    pub channel: ChannelChoice,

    /// A key to accept; may be repeated. Without it, any non-empty key is accepted.
    ///
    /// `sk-K`, `K` and `sk-K-12` are the same key, as in new-api. Example: `--key sk-alice --key sk-bob`
    #[arg(long = "key", value_name = "KEY")]
    pub keys: Vec<String>,

    /// Latency of status polls: a duration, or a range to pick from.
    ///
    /// Example: `--latency 30ms-250ms`
    #[arg(long, value_name = "DURATION[-DURATION]", default_value = "0s")]
    pub latency: Span,

    /// A fault to inject into answers; may be repeated, the first that strikes wins.
    ///
    /// `NAME[@SCOPE][:WHEN]`. SCOPE is status (every status route, the default), unified, openai,
    /// octopus, mj, kling, suno, tasks, ark or all. WHEN is a rate such as 0.1, or next=3 for the
    /// next three requests; without it, always.
    /// Examples: `--fault 429:0.1`, `--fault stall@openai:next=3`, `--fault 503`.
    /// Names: 429, 429-empty, 500, 502, 503, 504, html, truncated, empty, no-data, task-not-exist,
    /// reset, reset-mid-body, stall, stall-mid-body, slow-body
    #[arg(long = "fault", value_name = "FAULT")]
    pub faults: Vec<Rule>,

    /// Retry-After of the fault 429, in seconds. Example: `--retry-after 5`
    #[arg(long, value_name = "SECONDS", default_value = "1")]
    pub retry_after: u32,

    /// Time that the fault slow-body takes to send a body. Example: `--slow-body 10s`
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    pub slow_body: Duration,

    /// Size of every video, in bytes or with a unit. Example: `--video-size 64MiB`
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = size)]
    pub video_size: u64,

    /// Lifetime of a signed result URL, from the end of its task. Example: `--url-lifetime 1m`
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = humantime::parse_duration)]
    pub url_lifetime: Duration,

    /// Base of result URLs; without it, the bound address.
    ///
    /// Example: `--public-url http://simulator:9000`
    #[arg(long, value_name = "URL", value_parser = base_url)]
    pub public_url: Option<String>,

    /// Maximum number of tasks; beyond it, the oldest finished ones are dropped.
    ///
    /// Example: `--max-tasks 1000`
    #[arg(long, value_name = "COUNT", default_value = "100000", value_parser = at_least_one)]
    pub max_tasks: usize,

    /// Time between two events of a streamed chat completion. Example: `--chat-gap 1s`
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = humantime::parse_duration)]
    pub chat_gap: Duration,

    /// Seed that makes every random choice, ids included, the same in each run. Example: `--seed 1`
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lifetime: (Duration::from_secs(10)..=Duration::from_secs(30)).into(),
            not_start: Duration::ZERO,
            refresh: Duration::ZERO,
            failures: 0.0,
            channel: ChannelChoice::One(Channel::Documented),
            keys: Vec::new(),
            latency: Duration::ZERO.into(),
            faults: Vec::new(),
            retry_after: 1,
            slow_body: Duration::from_secs(2),
            video_size: 1 << 20,
            url_lifetime: Duration::from_hours(24),
            public_url: None,
            max_tasks: 100_000,
            chat_gap: Duration::from_millis(100),
            seed: None,
        }
    }
}

/// A duration, or a range of durations to pick from: `5s`, `20ms-80ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    min: Duration,
    max: Duration,
}

impl Span {
    /// Interpolates between the shortest and the longest duration; `roll` is from 0 to 1.
    pub(super) fn pick(self, roll: f64) -> Duration {
        self.min + self.max.saturating_sub(self.min).mul_f64(roll)
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self {
            min: duration,
            max: duration,
        }
    }
}

impl From<RangeInclusive<Duration>> for Span {
    /// Accepts the ends in either order.
    fn from(range: RangeInclusive<Duration>) -> Self {
        let (a, b) = range.into_inner();
        Self {
            min: a.min(b),
            max: a.max(b),
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let parse = |part: &str| {
            humantime::parse_duration(part.trim()).map_err(|error| {
                format!("`{part}`: {error}; takes a duration such as `5s`, or `20ms-80ms`")
            })
        };
        let (min, max) = (parse(min)?, parse(max)?);
        if min > max {
            return Err(format!(
                "the first duration of `{text}` is longer than the second"
            ));
        }
        Ok(Self { min, max })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.min))?;
        if self.max > self.min {
            write!(f, "-{}", humantime::format_duration(self.max))?;
        }
        Ok(())
    }
}

fn channel_choice() -> impl TypedValueParser<Value = ChannelChoice> {
    let named = Channel::ALL.into_iter().map(|channel| {
        PossibleValue::new(channel.name())
            .aliases(channel.aliases())
            .help(channel.about())
    });
    let mixed = PossibleValue::new("mixed").help("each of the above in turn");
    PossibleValuesParser::new(named.chain([mixed]))
        .map(|name| Channel::named(&name).map_or(ChannelChoice::Mixed, ChannelChoice::One))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| format!("`{text}` is not a whole number from 1 up"))
}

fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => {
            return Err(format!(
                "`{text}`: unknown unit; takes B, KiB, MiB, GiB, KB, MB, GB"
            ));
        }
    };
    let number: Option<u64> = digits.trim().parse().ok();
    number
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| format!("`{text}` is not a size such as 1024 or 64MiB"))
}

fn base_url(text: &str) -> Result<String, String> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .unwrap_or_default();
    if rest.is_empty() || rest.contains(['?', '#', ' ']) {
        return Err(format!(
            "`{text}` is not a base URL such as http://127.0.0.1:9000"
        ));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    fn parse(line: &str) -> Result<Settings, clap::Error> {
        Line::try_parse_from(format!("simulate {line}").split_whitespace()).map(|l| l.settings)
    }

    #[test]
    fn the_flags_have_the_same_defaults_as_the_struct() {
        assert_eq!(parse("").expect("no flags"), Settings::default());
    }

    #[test]
    fn every_flag_is_read() {
        let line = "--lifetime 1s-2m --latency 5ms --channel veo --key sk-A --key B --failures 0.5 \
                    --fault 429@openai:0.1 --video-size 2KiB --public-url http://sim:1/ --seed 1";
        let settings = parse(line).expect("valid flags");
        assert_eq!(settings.lifetime.to_string(), "1s-2m");
        assert_eq!(settings.latency, Duration::from_millis(5).into());
        assert_eq!(settings.channel, ChannelChoice::One(Channel::Gemini));
        assert_eq!(settings.keys, ["sk-A", "B"]);
        assert_eq!(settings.video_size, 2048);
        assert_eq!(settings.public_url.as_deref(), Some("http://sim:1"));
        assert_eq!(settings.faults.len(), 1);
    }

    #[test]
    fn an_invalid_value_is_rejected_with_what_is_valid() {
        for (line, right) in [
            ("--lifetime soon", "such as `5s`"),
            ("--lifetime 9s-1s", "longer than the second"),
            ("--failures 2", "from 0 to 1"),
            ("--video-size 3XB", "unknown unit"),
            ("--channel tv", "doubao-seedance"),
            ("--fault boom", "takes 429,"),
            ("--public-url sim", "http://127.0.0.1:9000"),
            ("--max-tasks 0", "from 1 up"),
        ] {
            let message = parse(line).expect_err(line).to_string();
            assert!(message.contains(right), "{message}");
        }
    }
}
