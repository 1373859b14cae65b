//! How closely a target can be looked at for what tracing may cost it.

use std::time::Duration;

use super::overhead::{Hits, Overhead, TrapCost};

/// What is asked of a target that hardly runs is measured against this part of a CPU instead: a few percent of next to
/// nothing slow nobody down.
const LEAST_CPU: f64 = 0.1;

/// Which part of the budget plans use: estimates of costs are off by a third at times.
const PLANNED: f64 = 0.6;

/// The part below which a closer look is taken to fit: less than [`PLANNED`], or tiers would alternate.
const SAFELY: f64 = 0.5;

/// How long a window and what follows it take together, in the mean, in seconds.
const CYCLE_S: f64 = 1.5;

/// The same where probes on frees can stay: then blocks can be followed for longer.
const LONG_CYCLE_S: f64 = 3.0;

/// Where they cannot, blocks are followed for no more than this part of the time, even where the budget would allow more: what a
/// server answers meanwhile, it answers later, and these should be too few to move its slowest hundredth.
const FOLLOWED: f64 = 0.08;

/// Blocks are followed for at least this.
const LEAST_FOLLOWED: Duration = Duration::from_millis(20);

/// The part of a target's CPU time that tracing may take, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget(pub f64);

/// How closely allocations are looked at, closest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closeness {
    /// All of them.
    All,
    /// Samples of them.
    Samples,
    /// All of them, at times.
    Windows,
}

/// What a target does in a second of its own: of CPU time without what tracing takes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Calls of functions that allocate.
    pub allocs: f64,
    /// Calls of functions that free.
    pub frees: f64,
    /// How many such seconds there are in one on the clock.
    pub cpu: f64,
    /// How many `ret`s that are probed are executed for each such call; 0 where returns are seen by return probes.
    pub rets: f64,
}

/// What comes after a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How long its blocks are followed.
    pub follow: Duration,
    /// How long nothing is looked at before the next; none where probes on frees can stay.
    pub gap: Duration,
}

impl Load {
    /// The work between two readings: so many allocations and frees, and so many `ret`s, in so much CPU time on so much
    /// time on the clock, of which tracing took `cost`.
    #[must_use]
    pub fn of(allocs: u64, frees: u64, rets: u64, cpu: Duration, cost: Duration, elapsed: Duration) -> Self {
        let cpu = cpu.as_secs_f64();
        // The kernel counts CPU time in hundredths of a second, and costs are estimates: something is always left.
        let own = (cpu - cost.as_secs_f64()).max(cpu / 20.0).max(1e-3);
        Self {
            allocs: allocs as f64 / own,
            frees: frees as f64 / own,
            cpu: own / elapsed.as_secs_f64().max(1e-3),
            rets: rets as f64 / (allocs as f64).max(1.0),
        }
    }

    /// The part of the target's CPU time that such a look would take.
    #[must_use]
    pub fn share(&self, closeness: Closeness, trap: TrapCost) -> f64 {
        match closeness {
            Closeness::All => self.share_of(1.0, trap),
            // One in twenty is resized or sampled, and seen to its return.
            Closeness::Samples => self.share_of(0.05, trap),
            Closeness::Windows => self.share_of_frees(trap),
        }
    }

    /// The same of frees, and of all allocations, of which such a part is seen to its return if that is seen by a return
    /// probe: those at `ret`s are hit whatever is recorded.
    fn share_of(&self, returns: f64, trap: TrapCost) -> f64 {
        let by_probe = (1.0 - self.rets).max(0.0) * returns;
        let (calls, entries) = (self.allocs * by_probe, self.allocs * (1.0 - by_probe) + self.frees);
        self.share_of_ns(Overhead::cost_ns(calls, entries, self.allocs * self.rets, trap))
    }

    fn share_of_frees(&self, trap: TrapCost) -> f64 {
        self.share_of_ns(Overhead::cost_ns(0.0, self.frees, 0.0, trap))
    }

    /// The part of the target's CPU time that so much takes in a second of its own, in nanoseconds.
    fn share_of_ns(&self, ns: f64) -> f64 {
        let cost = ns / 1e9;
        cost * self.cpu / (self.cpu * (1.0 + cost)).max(LEAST_CPU)
    }
}

/// The part of a target's CPU time that tracing took between two readings.
#[must_use]
pub fn share(hits: Hits, trap: TrapCost, cpu: Duration, elapsed: Duration) -> f64 {
    let cost = Overhead::of(hits, trap, cpu).cost.as_secs_f64();
    cost / cpu.as_secs_f64().max(LEAST_CPU * elapsed.as_secs_f64()).max(1e-6)
}

impl Budget {
    /// How much CPU time tracing took more than it may, of so much that the target had.
    #[must_use]
    pub fn beyond(self, cost: Duration, cpu: Duration, elapsed: Duration) -> Duration {
        cost.saturating_sub(cpu.max(elapsed.mul_f64(LEAST_CPU)).mul_f64(self.0))
    }

    /// The closest look that fits.
    #[must_use]
    pub fn closest(self, load: &Load, trap: TrapCost, can_skip_returns: bool) -> Closeness {
        let fits = |closeness| load.share(closeness, trap) <= self.0 * SAFELY;
        if fits(Closeness::All) {
            Closeness::All
        } else if can_skip_returns && fits(Closeness::Samples) {
            Closeness::Samples
        } else {
            Closeness::Windows
        }
    }

    /// What is to come after a window for which probes on allocations are in place for so long. `random`, from 0 to 1, makes
    /// cycles from half to twice as long as the mean one, so that no periodic work keeps out of the way of all windows.
    #[must_use]
    pub fn plan(self, load: &Load, trap: TrapCost, in_place: Duration, random: f64) -> Plan {
        let drawn = 4f64.powf(random - 0.5);
        let planned = self.0 * PLANNED;
        let window = in_place.as_secs_f64();
        let of_window = window * load.share(Closeness::All, trap);
        let of_frees = load.share(Closeness::Windows, trap).max(1e-9);
        let long = LONG_CYCLE_S * drawn;
        if long * of_frees + of_window <= planned * long {
            return Plan { follow: Duration::from_secs_f64(long), gap: Duration::ZERO };
        }
        let cycle = CYCLE_S * drawn;
        let affordable = (planned * cycle - of_window) / of_frees;
        let follow = affordable.clamp(LEAST_FOLLOWED.as_secs_f64(), cycle * FOLLOWED);
        let needed = (of_window + follow * of_frees) / planned.max(1e-6);
        let gap = (cycle.max(needed) - window - follow).max(0.0);
        Plan { follow: Duration::from_secs_f64(follow), gap: Duration::from_secs_f64(gap.min(60.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRAP: TrapCost = TrapCost { entry_ns: 500.0, call_ns: 1000.0, ret_ns: 2000.0 };
    const BUDGET: Budget = Budget(0.1);

    #[test]
    fn the_more_a_target_allocates_the_less_closely_it_is_looked_at() {
        let closest = |allocs: f64| BUDGET.closest(&Load { allocs, frees: allocs, cpu: 1.0, rets: 0.0 }, TRAP, true);
        assert_eq!(closest(1e3), Closeness::All);
        assert_eq!(closest(2e4), Closeness::All);
        assert_eq!(closest(3e4), Closeness::Samples);
        assert_eq!(closest(1e5), Closeness::Windows);
        let load = Load { allocs: 3e4, frees: 3e4, cpu: 1.0, rets: 0.0 };
        assert_eq!(BUDGET.closest(&load, TRAP, false), Closeness::Windows);
    }

    #[test]
    fn returns_seen_at_instructions_cost_what_they_cost() {
        let load = Load { allocs: 1e4, frees: 1e4, cpu: 1.0, rets: 0.0 };
        let at_rets = Load { rets: 1.0, ..load };
        assert_eq!(BUDGET.closest(&load, TRAP, true), Closeness::All);
        assert_eq!(BUDGET.closest(&Load { allocs: 1.6e4, frees: 1.6e4, ..at_rets }, TRAP, true), Closeness::Windows);
        // Sampling skips no `ret`.
        assert!(at_rets.share(Closeness::Samples, TRAP) > load.share(Closeness::All, TRAP));
        let load = Load::of(1000, 1000, 1000, Duration::from_secs(1), Duration::ZERO, Duration::from_secs(1));
        assert!((load.rets - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_target_that_hardly_runs_can_be_looked_at_closely_whatever_it_does_then() {
        let load = Load { allocs: 1e6, frees: 1e6, cpu: 0.001, rets: 0.0 };
        assert_eq!(BUDGET.closest(&load, TRAP, true), Closeness::All);
    }

    #[test]
    fn shares_are_of_what_the_target_has_with_tracing() {
        // As long again as the target's own work.
        let load = Load { allocs: 1e9 / 2150.0, frees: 1e9 / 2150.0, cpu: 1.0, rets: 0.0 };
        assert!((load.share(Closeness::All, TRAP) - 0.5).abs() < 1e-9);
        let hits = Hits { calls: 100_000, entries: 100_000, rets: 0 };
        let (cpu, elapsed) = (Duration::from_millis(430), Duration::from_secs(1));
        assert!((share(hits, TRAP, cpu, elapsed) - 0.5).abs() < 1e-9);
        let load = Load::of(100_000, 100_000, 0, cpu, Duration::from_millis(215), elapsed);
        assert!((load.share(Closeness::All, TRAP) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn what_is_beyond_the_budget_is_told_in_cpu_time() {
        let ms = Duration::from_millis;
        assert_eq!(BUDGET.beyond(ms(70), ms(300), ms(1000)), ms(40));
        assert_eq!(BUDGET.beyond(ms(70), ms(20), ms(1000)), ms(60));
        assert_eq!(BUDGET.beyond(ms(7), ms(300), ms(1000)), Duration::ZERO);
    }

    #[test]
    fn blocks_are_followed_for_long_where_frees_cost_little() {
        let load = Load { allocs: 4e5, frees: 5e3, cpu: 1.0, rets: 0.0 };
        let plan = BUDGET.plan(&load, TRAP, Duration::from_millis(10), 0.5);
        assert_eq!(plan, Plan { follow: Duration::from_secs(3), gap: Duration::ZERO });
    }

    proptest! {
        #[test]
        fn plans_keep_to_the_budget(
            allocs in 1e2..1e8, frees in 1.0..1e8, cpu in 0.2..64.0, random in 0.0..1.0, budget in 0.01..0.5,
        ) {
            let load = Load { allocs, frees, cpu, rets: 0.0 };
            let window = Duration::from_millis(10);
            let plan = Budget(budget).plan(&load, TRAP, window, random);
            let cost = window.as_secs_f64() * load.share(Closeness::All, TRAP)
                + plan.follow.as_secs_f64() * load.share(Closeness::Windows, TRAP);
            let cycle = (window + plan.follow + plan.gap).as_secs_f64();
            prop_assert!(cost / cycle <= budget * PLANNED * 1.01, "{} of {budget}", cost / cycle);
            prop_assert!(plan.follow >= LEAST_FOLLOWED);
            // Nobody is over the budget for a second on end, but where it is kept all the time.
            prop_assert!(plan.gap.is_zero() || plan.follow < Duration::from_secs(2));
        }
    }
}
