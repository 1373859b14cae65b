//! How often a target is looked at that maps code again and again: looks may take a share of a CPU, and no more.

use std::time::{Duration, Instant};

/// The share of a CPU that looks at one target may take for good, as one in so many.
const SHARE: u32 = 20;
/// The CPU time that is there at first, and the most that is saved up: a program that loads a thousand plug-ins when it starts is
/// looked at each time. First looks compile the unwind tables of large images, some hundred milliseconds each on a busy machine.
const MOST: Duration = Duration::from_secs(2);

/// The CPU time that looks at a target may take still.
#[derive(Clone, Copy, Debug)]
pub(super) struct LookBudget {
    left: Duration,
    /// The CPU time that looks have taken beyond what was there.
    debt: Duration,
    /// As of when.
    at: Instant,
    /// Whether a look was put off.
    is_put_off: bool,
}

impl LookBudget {
    /// All of it.
    pub(super) fn new(now: Instant) -> Self {
        Self { left: MOST, debt: Duration::ZERO, at: now, is_put_off: false }
    }

    /// Whether a look may be now: the share of the time since has paid for the last one.
    pub(super) fn may_look(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at) / SHARE;
        // The part that is no whole nanosecond of gain stays to be gained.
        self.at += gained * SHARE;
        let paid = gained.min(self.debt);
        self.debt -= paid;
        self.left = (self.left + (gained - paid)).min(MOST);
        self.debt.is_zero()
    }

    /// A look is put off until it may be. Returns whether it is the first since the last look.
    pub(super) fn put_off(&mut self) -> bool {
        !std::mem::replace(&mut self.is_put_off, true)
    }

    /// When a look is due that was put off.
    pub(super) fn due(&self) -> Option<Instant> {
        self.is_put_off.then(|| self.at + self.debt * SHARE)
    }

    /// A look has taken so much CPU time.
    pub(super) fn looked(&mut self, cost: Duration) {
        self.is_put_off = false;
        self.debt += cost.saturating_sub(self.left);
        self.left = self.left.saturating_sub(cost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn looks_take_their_share_and_no_more_however_many_are_wanted() {
        let begun = Instant::now();
        let mut budget = LookBudget::new(begun);
        let (mut now, mut looked) = (begun, Duration::ZERO);
        while now < begun + 100_000 * MS {
            if budget.may_look(now) {
                budget.looked(3 * MS);
                looked += 3 * MS;
            }
            now += MS;
        }
        let most = MOST + 100_000 * MS / SHARE;
        assert!(looked <= most + 3 * MS && looked > most - 60 * MS, "{looked:?}");
    }

    #[test]
    fn a_target_that_was_quiet_is_looked_at_at_once_and_has_saved_no_more_than_at_first() {
        let begun = Instant::now();
        let mut budget = LookBudget::new(begun);
        budget.looked(MOST);
        assert!(budget.may_look(begun), "nothing is owed");
        budget.looked(10 * MS);
        assert!(!budget.may_look(begun) && budget.due().is_none());
        assert!(budget.put_off() && !budget.put_off());
        assert_eq!(budget.due(), Some(begun + 10 * MS * SHARE));
        let later = begun + Duration::from_secs(3600);
        assert!(budget.may_look(later));
        budget.looked(MOST + MS);
        assert!(!budget.may_look(later) && budget.due().is_none());
    }
}
