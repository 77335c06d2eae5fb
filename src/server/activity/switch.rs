//! Whether a connection has switched from HTTP/1.1 to another protocol.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::server::guard::Switch;

/// See the module.
#[derive(Debug)]
pub(super) struct ProtocolSwitch(AtomicBool);

impl ProtocolSwitch {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Notes that a request to switch is answered with 101. To be called before the answer is counted.
    pub(super) fn accept(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// How an answered request to switch was answered.
    pub(super) fn outcome(&self) -> Switch {
        if self.0.load(Ordering::Acquire) {
            Switch::Accepted
        } else {
            Switch::Declined
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_declined_until_it_is_accepted() {
        let switch = ProtocolSwitch::new();
        assert_eq!(switch.outcome(), Switch::Declined);
        switch.accept();
        assert_eq!(switch.outcome(), Switch::Accepted);
    }
}
