//! How long upstream usually takes to answer a poll, so that a poll that takes much longer is not waited for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The least time after which an answer is taken to be late.
pub const LEAST: Duration = Duration::from_millis(500);

/// The same where answers vary (RFC 6298 §2.4): one slow answer among fast ones is usual.
const LEAST_WHERE_VARIED: Duration = Duration::from_secs(1);

/// How much slower than the slowest answer of late a further one may be.
const SLOWER: u64 = 3;

/// The slowest answer is forgotten by this share with every further one: it is that of the last few hundred.
const FORGOTTEN: u64 = 256;

/// How long answers took of late.
#[derive(Debug, Default)]
pub struct ResponseTime {
    /// The mean and the mean deviation, weighted towards the latest, as TCP estimates round trips (RFC 6298 §2). Both in
    /// microseconds, in one word: the mean in the upper half; 0 before the first answer.
    usual: AtomicU64,
    /// The slowest of late, in microseconds. Where a few in a hundred are slow, mean and deviation forget it before the next.
    slowest: AtomicU64,
}

impl ResponseTime {
    /// Takes the time of one answer into account.
    pub fn record(&self, took: Duration) {
        let took = u64::from(u32::try_from(took.as_micros()).unwrap_or(u32::MAX)).max(1);
        let usual = |word| {
            let (mean, deviation) = halves(word);
            let (mean, deviation) = if mean == 0 {
                (took, took / 2)
            } else {
                (
                    (7 * mean + took) / 8,
                    (3 * deviation + mean.abs_diff(took)) / 4,
                )
            };
            Some(mean.max(1) << 32 | deviation)
        };
        let slowest = |slowest: u64| Some(took.max(slowest - slowest.div_ceil(FORGOTTEN)));
        let relaxed = Ordering::Relaxed;
        let _ = self.usual.fetch_update(relaxed, relaxed, usual);
        let _ = self.slowest.fetch_update(relaxed, relaxed, slowest);
    }

    /// The time within which an answer can be expected, of at least [`LEAST`]; `None` before the first one.
    #[must_use]
    pub fn expected(&self) -> Option<Duration> {
        let (mean, deviation) = halves(self.usual.load(Ordering::Relaxed));
        let slowest = Duration::from_micros(SLOWER * self.slowest.load(Ordering::Relaxed));
        let least = slowest.clamp(LEAST, LEAST_WHERE_VARIED);
        (mean > 0).then(|| Duration::from_micros(mean + 4 * deviation).max(least))
    }
}

fn halves(word: u64) -> (u64, u64) {
    (word >> 32, word & u64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(times: &[Duration]) -> Option<Duration> {
        let response_time = ResponseTime::default();
        for took in times {
            response_time.record(*took);
        }
        response_time.expected()
    }

    #[test]
    fn what_is_usual_is_learnt_from_answers() {
        let (fast, slow) = (Duration::from_millis(50), Duration::from_secs(2));
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[Duration::ZERO]), Some(LEAST));
        assert_eq!(after(&[fast; 10]), Some(LEAST));
        // A slow one from time to time is usual, where a hundred fast ones lie between two.
        let rare = [&[Duration::from_millis(300)], &[fast; 100][..]].concat();
        assert!(after(&rare).is_some_and(|expected| expected > Duration::from_millis(600)));
        let gone = [&[Duration::from_millis(300)], &[fast; 1000][..]].concat();
        assert_eq!(after(&gone), Some(LEAST));
        let varied = [&[Duration::from_millis(800)], &[fast; 100][..]].concat();
        assert_eq!(after(&varied), Some(LEAST_WHERE_VARIED));
        // The first one may be anything: three times as long.
        assert_eq!(after(&[slow]), Some(3 * slow));
        let steady = after(&[slow; 100]).expect("is known");
        assert!(steady >= slow && steady < slow + slow / 100, "{steady:?}");
        // Upstream becomes slow: after one answer, later ones are waited for.
        let slower = after(&[&[fast; 10][..], &[slow]].concat());
        assert!(slower.is_some_and(|expected| expected >= slow));
        assert!(after(&[Duration::MAX; 3]).is_some());
    }
}
