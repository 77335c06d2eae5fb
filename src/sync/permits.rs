//! A number of seats, each free again when its holder lets go of it. One atomic number and no queue: whoever finds none
//! free is sent away, and does not wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the seats that are taken.
#[derive(Debug, Default)]
pub struct Seats(AtomicUsize);

/// One of them; free again when dropped.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

impl Seats {
    /// Takes one, unless `limit` are taken already.
    #[must_use]
    pub fn take(self: &Arc<Self>, limit: usize) -> Option<Seat> {
        // Counted first: its drop takes it back where it was one too many.
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let seat = Seat(Arc::clone(self));
        (before < limit).then_some(seat)
    }

    /// How many are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_and_no_more_until_one_is_free() {
        let seats = Arc::new(Seats::default());
        let first = seats.take(2).expect("one of two");
        let second = seats.take(2).expect("two of two");
        for _ in 0..3 {
            assert!(seats.take(2).is_none());
        }
        assert_eq!(seats.taken(), 2);
        drop(first);
        assert!(seats.take(2).is_some());
        drop(second);
        assert_eq!(seats.taken(), 0);
    }

    #[test]
    fn many_threads_never_hold_more_than_there_are() {
        let seats = Arc::new(Seats::default());
        let held = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let own: Vec<_> = (0..3).filter_map(|_| seats.take(5)).collect();
                        let before = held.fetch_add(own.len(), Ordering::SeqCst);
                        assert!(before + own.len() <= 5);
                        held.fetch_sub(own.len(), Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(seats.taken(), 0);
    }
}
