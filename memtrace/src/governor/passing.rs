//! The joint load of processes that come and go, each too quickly to be looked at by itself.
//!
//! In: what was counted of them, and how long they ran. Out: the load that they are. While everything is recorded that is known;
//! while little is, it follows from how long they run: what comes and goes is most often the same program time and again.

use std::time::Duration;

use super::budget::Load;

/// The counts of some time, over all of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Calls of functions that allocate.
    pub allocs: u64,
    /// Calls of functions that free.
    pub frees: u64,
    /// How long it was.
    pub elapsed: Duration,
}

/// The load that they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Passing {
    load: Load,
    /// Whether it is known, not only estimated.
    is_known: bool,
}

impl Passing {
    /// Everything was recorded, and they were this load.
    pub fn know(&mut self, load: Load) {
        if load.allocs + load.frees > 0.0 {
            (self.load, self.is_known) = (load, true);
        } else {
            self.load.cpu = load.cpu;
        }
    }

    /// Little was recorded: they ran for `cpu` of `elapsed`, of which tracing took `cost`; so much was counted while a window was
    /// open, and while frees were followed.
    pub fn estimate(&mut self, (cpu, cost, elapsed): (Duration, Duration, Duration), open: Counted, followed: Counted) {
        let ran = Load::of(0, 0, 0, cpu, cost, elapsed).cpu;
        if !self.is_known {
            let rate = |count: u64, elapsed: Duration| count as f64 / (ran * elapsed.as_secs_f64()).max(1e-3);
            self.load.allocs = rate(open.allocs, open.elapsed);
            let (frees, elapsed) =
                (open.frees.saturating_add(followed.frees), open.elapsed.saturating_add(followed.elapsed));
            self.load.frees = rate(frees, elapsed);
        }
        self.load.cpu = ran;
    }

    /// The load that they make by themselves.
    #[must_use]
    pub fn load(&self) -> Load {
        self.load
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        governor::budget::Budget,
        model::{overhead::TrapCost, tier::Tier},
    };

    const TRAP: TrapCost = TrapCost { entry_ns: 600.0, call_ns: 1200.0, ret_ns: 2000.0 };
    const SECOND: Duration = Duration::from_secs(1);
    const NOTHING: Counted = Counted { allocs: 0, frees: 0, elapsed: Duration::ZERO };

    fn closest(passing: &Passing) -> Tier {
        Budget(0.1).closest(&passing.load(), TRAP, &[Tier::Exact, Tier::Windowed])
    }

    #[test]
    fn what_is_known_of_them_holds_while_they_go_on_and_no_longer() {
        let mut passing = Passing::default();
        // A hundred in a second, of 6 ms each, with 500 allocations and 5,500 frees.
        passing.know(Load::of(50_000, 550_000, 0, SECOND, Duration::from_millis(400), SECOND));
        assert_eq!(closest(&passing), Tier::Windowed);
        passing.estimate((Duration::from_millis(600), Duration::ZERO, SECOND), NOTHING, NOTHING);
        assert_eq!(closest(&passing), Tier::Windowed);
        passing.estimate((Duration::ZERO, Duration::ZERO, SECOND), NOTHING, NOTHING);
        assert_eq!(closest(&passing), Tier::Exact, "nobody comes any more");
    }

    #[test]
    fn of_those_that_were_never_counted_windows_tell() {
        let mut passing = Passing::default();
        let ms = Duration::from_millis;
        let open = Counted { allocs: 500, frees: 5_500, elapsed: ms(10) };
        passing.estimate((ms(600), Duration::ZERO, SECOND), open, Counted { frees: 0, allocs: 0, elapsed: ms(90) });
        let Load { allocs, frees, cpu, .. } = passing.load();
        assert!((allocs / (500.0 / 0.006) - 1.0).abs() < 0.01 && (frees / (5_500.0 / 0.06) - 1.0).abs() < 0.01);
        assert!((cpu - 0.6).abs() < 0.01);
    }

    #[test]
    fn a_time_without_any_does_not_make_the_next_ones_light() {
        let mut passing = Passing::default();
        passing.know(Load { allocs: 1e5, frees: 1e6, cpu: 0.6, ..Load::default() });
        passing.know(Load { allocs: 0.0, frees: 0.0, cpu: 0.001, ..Load::default() });
        assert_eq!(passing.load(), Load { allocs: 1e5, frees: 1e6, cpu: 0.001, ..Load::default() });
    }
}
