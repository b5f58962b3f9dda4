// SPDX-License-Identifier: GPL-2.0

//! The budget of retransmissions on request: pure, `core` only.
//!
//! Times are milliseconds of one clock that does not go backwards.

/// A limit on datagrams: a rate, with bursts (a token bucket).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Datagrams a second.
    rate: u64,
    /// The longest burst, in thousandths of a datagram.
    burst: u64,
    /// The rest of the burst, in thousandths of a datagram.
    left: u64,
    /// Datagrams sent beyond the budget, in thousandths: paid off first.
    debt: u64,
    at: u64,
}

impl Budget {
    /// Returns a full budget. A burst is no longer than a second at the rate.
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        let burst = u64::from(burst.min(rate)) * 1000;
        Self {
            rate: u64::from(rate),
            burst,
            left: burst,
            debt: 0,
            at: 0,
        }
    }

    /// Returns whether another datagram may be sent.
    pub(crate) fn allows(&mut self, now: u64) -> bool {
        // `rate` datagrams a second are `rate` thousandths a millisecond.
        let earned = now.saturating_sub(self.at).saturating_mul(self.rate);
        self.at = now;
        let paid = earned.min(self.debt);
        self.debt -= paid;
        self.left = self.left.saturating_add(earned - paid).min(self.burst);
        self.left >= 1000
    }

    /// Spends `n` datagrams. A record may have more of them than the budget had left.
    pub(crate) fn spend(&mut self, n: u32) {
        let n = u64::from(n) * 1000;
        let paid = n.min(self.left);
        self.left -= paid;
        self.debt = self.debt.saturating_add(n - paid);
    }
}

#[cfg_attr(
    CONFIG_NETCONSOLE_EXT_KUNIT_TEST,
    kernel::macros::kunit_tests(netconsole_ext_budget)
)]
#[cfg(any(test, CONFIG_NETCONSOLE_EXT_KUNIT_TEST))]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_kept() {
        let mut budget = Budget::new(1000, 20);
        let mut send = |now, n| {
            let allowed = budget.allows(now);
            if allowed {
                budget.spend(n);
            }
            allowed
        };
        assert!((0..100).filter(|_| send(5000, 1)).count() == 20);
        // A datagram a millisecond.
        assert!((5001..6001).filter(|&now| send(now, 1)).count() == 1000);
        // Datagrams in excess are made up for.
        assert!((6001..6301).filter(|&now| send(now, 3)).count() == 100);
        assert!((0..100).filter(|_| send(u64::MAX, 1)).count() == 20);
        // A clock that stands still or goes back earns nothing.
        assert!(!send(0, 1));
        assert!(!Budget::new(0, 0).allows(u64::MAX));
        let mut slow = Budget::new(1, 2000);
        assert!(slow.allows(5000));
        slow.spend(1);
        assert!(!slow.allows(5999) && slow.allows(6000));
    }
}
