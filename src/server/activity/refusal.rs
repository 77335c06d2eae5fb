//! Which requests of a connection are refused, and why: decided where bytes are read, told where requests are answered.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;

/// See the module.
#[derive(Debug)]
pub(in crate::server) struct Refusal {
    /// The number of the first request that is refused; [`Refusal::NONE`] where there is none.
    first: AtomicU64,
    why: OnceLock<Error>,
    broken_body: OnceLock<Error>,
}

impl Refusal {
    /// Not a number of a request.
    const NONE: u64 = u64::MAX;

    pub(super) fn new() -> Self {
        Self {
            first: AtomicU64::new(Self::NONE),
            why: OnceLock::new(),
            broken_body: OnceLock::new(),
        }
    }

    /// Refuses request number `number` and all that follow it. Only the first refusal counts: nothing is read after it.
    pub(in crate::server) fn refuse(&self, number: u64, why: Error) {
        if self.why.set(why).is_ok() {
            self.first.store(number, Ordering::Release);
        }
    }

    /// Why request number `number` is refused.
    pub(super) fn of(&self, number: u64) -> Option<Error> {
        if number < self.first.load(Ordering::Acquire) {
            return None;
        }
        self.why.get().cloned()
    }

    /// Notes that the body in progress cannot be read to its end.
    pub(in crate::server) fn break_body(&self, why: Error) {
        let _ = self.broken_body.set(why);
    }

    /// What the client did wrong in the body in progress.
    pub(in crate::server) fn broken_body(&self) -> Option<&Error> {
        self.broken_body.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_covers_its_request_and_all_later_ones_and_is_never_replaced() {
        let refusal = Refusal::new();
        assert_eq!(refusal.of(1), None);
        refusal.refuse(2, Error::UriTooLong);
        refusal.refuse(1, Error::HeadTooLarge);
        let refused = [1, 2, 3].map(|number| refusal.of(number));
        assert_eq!(
            refused,
            [None, Some(Error::UriTooLong), Some(Error::UriTooLong)]
        );
    }

    #[test]
    fn a_body_breaks_once() {
        let refusal = Refusal::new();
        assert_eq!(refusal.broken_body(), None);
        refusal.break_body(Error::RequestTimeout);
        refusal.break_body(Error::UriTooLong);
        assert_eq!(refusal.broken_body(), Some(&Error::RequestTimeout));
    }
}
