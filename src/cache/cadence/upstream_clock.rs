//! Upstream's clock beside ours: what its whole seconds (`updated_at`) mean here.

/// The number of changes that have to agree on the clocks' difference before it is relied on.
const AGREED: u8 = 8;

/// The difference between our clock and upstream's, in seconds. Each change that upstream dates bounds it, since the change
/// happened between two of our polls; a clock that was set, or times that mean something else, contradict the bounds, which
/// are then found anew.
#[derive(Debug)]
pub(super) struct UpstreamClock {
    least: f64,
    most: f64,
    agreed: u8,
}

impl UpstreamClock {
    pub(super) const fn new() -> Self {
        Self {
            least: f64::NEG_INFINITY,
            most: f64::INFINITY,
            agreed: 0,
        }
    }

    /// Narrows down the time `(after, until]` of a change that upstream dates to the second `updated_at`.
    pub(super) fn place(&mut self, updated_at: f64, (after, until): (f64, f64)) -> (f64, f64) {
        let (least, most) = (after - updated_at - 1.0, until - updated_at);
        if least > self.most || most < self.least {
            *self = Self::new();
        }
        self.least = self.least.max(least);
        self.most = self.most.min(most);
        self.agreed = self.agreed.saturating_add(1);
        if self.agreed < AGREED {
            return (after, until);
        }
        let (earliest, latest) = (updated_at + self.least, updated_at + 1.0 + self.most);
        (after.max(earliest), until.min(latest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_change_stays_within_its_bounds_which_narrow(
            difference in -1e9..1e9_f64,
            polls in proptest::collection::vec((0.0..20.0_f64, 0.01..1.0_f64), 20..60),
        ) {
            let (mut clock, mut now, mut widest) = (UpstreamClock::new(), 0.0, 0.0_f64);
            for (n, (gap, share)) in polls.iter().enumerate() {
                let (after, until) = (now, now + gap + 0.5);
                let change = after + share * (until - after);
                let updated_at = (change - difference).floor();
                let (from, to) = clock.place(updated_at, (after, until));
                prop_assert!(from >= after && to <= until);
                prop_assert!(from - 1e-6 <= change && change <= to + 1e-6);
                if n >= usize::from(AGREED) {
                    widest = widest.max(to - from);
                }
                now = until;
            }
            prop_assert!(widest < 20.5);
        }
    }

    #[test]
    fn seconds_are_relied_on_once_enough_changes_agree() {
        let mut clock = UpstreamClock::new();
        for n in 0..u8::MAX {
            let change = f64::from(n) * 16.3;
            let polled = (
                change - 0.3 - f64::from(n % 7),
                change + 0.2 + f64::from(n % 5),
            );
            let (from, to) = clock.place((change + 1000.0).floor(), polled);
            if n < AGREED - 1 {
                assert_eq!((from, to), polled);
            } else if n > 50 {
                assert!(to - from < 3.0, "{n}: {from} {to}");
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_is_found_anew() {
        let mut clock = UpstreamClock::new();
        let polled = (100.0, 102.0);
        for _ in 0..20 {
            clock.place(5101.0, polled);
        }
        assert_eq!(clock.place(101.0, polled), polled);
        for _ in 0..20 {
            clock.place(101.0, polled);
        }
        assert_eq!(clock.agreed, 21);
    }
}
