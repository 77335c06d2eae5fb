//! Wall-clock time derived from tokio's clock, so that documents follow paused time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Converts instants to wall-clock time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    started: Instant,
    wall: SystemTime,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            started: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The start, from which refresh rounds are counted.
    pub(super) fn started(self) -> Instant {
        self.started
    }

    /// Whole Unix seconds at `at`.
    pub(super) fn unix(self, at: Instant) -> u64 {
        self.wall_at(at)
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    }

    /// Unix time in nanoseconds.
    pub(super) fn unix_nanos(self, at: Instant) -> u128 {
        let since = self.wall_at(at).duration_since(UNIX_EPOCH);
        since.unwrap_or_default().as_nanos()
    }

    /// `20260720T032525Z`, the time format of signed URLs.
    pub(super) fn stamp(self, at: Instant) -> String {
        stamp_of(self.unix(at))
    }

    fn wall_at(self, at: Instant) -> SystemTime {
        match at.checked_duration_since(self.started) {
            Some(after) => self.wall + after,
            None => self.wall - self.started.duration_since(at),
        }
    }
}

/// Formats Unix seconds as `20260720T032525Z`.
pub(super) fn stamp_of(unix: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix))
        .to_string()
        .replace(['-', ':'], "")
}

/// Parses `20260720T032525Z` to Unix seconds.
pub(super) fn unix_of(stamp: &str) -> Option<u64> {
    let digits = |range| stamp.get(range);
    let spelled = format!(
        "{}-{}-{}:{}:{}",
        digits(0..4)?,
        digits(4..6)?,
        digits(6..11)?,
        digits(11..13)?,
        digits(13..stamp.len())?
    );
    let time = humantime::parse_rfc3339(&spelled).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_a_round_trip() {
        assert_eq!(stamp_of(1_784_517_925), "20260720T032525Z");
        assert_eq!(unix_of("20260720T032525Z"), Some(1_784_517_925));
        assert_eq!(unix_of("yesterday"), None);
    }
}
