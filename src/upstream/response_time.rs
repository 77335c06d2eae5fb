//! How long upstream usually takes to answer a poll, so that a poll that takes much longer is not waited for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The least time after which an answer is taken to be late (RFC 6298 §2.4): one slow answer among fast ones is usual.
pub const LEAST: Duration = Duration::from_secs(1);

/// The mean and the mean deviation of response times, weighted towards the latest, as TCP estimates round trips
/// (RFC 6298 §2). Both in microseconds, in one word: the mean in the upper half; 0 before the first answer.
#[derive(Debug, Default)]
pub struct ResponseTime(AtomicU64);

impl ResponseTime {
    /// Takes the time of one answer into account.
    pub fn record(&self, took: Duration) {
        let took = u64::from(u32::try_from(took.as_micros()).unwrap_or(u32::MAX)).max(1);
        let next = |word| {
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
        let _ = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// The time within which an answer can be expected, of at least [`LEAST`]; `None` before the first one.
    #[must_use]
    pub fn expected(&self) -> Option<Duration> {
        let (mean, deviation) = halves(self.0.load(Ordering::Relaxed));
        (mean > 0).then(|| Duration::from_micros(mean + 4 * deviation).max(LEAST))
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
