//! A bounded number of permits without a queue: a caller that finds none free is refused at once and never waits.
//!
//! ```
//! use std::sync::Arc;
//! use pollgate::sync::permits::Permits;
//!
//! let permits = Arc::new(Permits::default());
//! let only = permits.try_acquire(1).expect("is free");
//! assert!(permits.try_acquire(1).is_none());
//! drop(only);
//! assert!(permits.try_acquire(1).is_some());
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the permits in use. The limit is an argument, so that it can change on reload.
#[derive(Debug, Default)]
pub struct Permits(AtomicUsize);

/// A permit; released when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Permits>);

impl Permits {
    /// Takes a permit, unless `limit` are in use.
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>, limit: usize) -> Option<Permit> {
        // Increment before checking; dropping the surplus permit undoes it.
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let permit = Permit(Arc::clone(self));
        (before < limit).then_some(permit)
    }

    /// The number of permits in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_limit_are_in_use_until_one_is_released() {
        let permits = Arc::new(Permits::default());
        let first = permits.try_acquire(2).expect("one of two");
        let second = permits.try_acquire(2).expect("two of two");
        for _ in 0..3 {
            assert!(permits.try_acquire(2).is_none());
        }
        assert_eq!(permits.in_use(), 2);
        drop(first);
        assert!(permits.try_acquire(2).is_some());
        drop(second);
        assert_eq!(permits.in_use(), 0);
    }

    #[test]
    fn threads_never_hold_more_than_the_limit() {
        let permits = Arc::new(Permits::default());
        let held = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let own: Vec<_> = (0..3).filter_map(|_| permits.try_acquire(5)).collect();
                        let before = held.fetch_add(own.len(), Ordering::SeqCst);
                        assert!(before + own.len() <= 5);
                        held.fetch_sub(own.len(), Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(permits.in_use(), 0);
    }
}
