//! The closest tier that a target can be traced in for what tracing may cost it.

use std::time::Duration;

use super::gaps::Sizes;
use crate::model::{
    overhead::{Hits, Overhead, TrapCost},
    tier::Tier,
};

/// A target that hardly runs is measured as if it used this part of a CPU: a few percent of next to
/// nothing slow nobody down.
const LEAST_CPU: f64 = 0.1;

/// Which part of the budget plans use: estimates of costs are off by a third at times.
const PLANNED: f64 = 0.6;

/// The part below which a closer tier is taken to fit: less than [`PLANNED`], or tiers would alternate.
const SAFELY: f64 = 0.5;

/// The part that samples may add to the cost of entries, where those alone take more than the budget.
const ADDED: f64 = 0.05;

/// How long a window and what follows it take together, in the mean, in seconds.
const CYCLE_S: f64 = 1.5;

/// The same where probes on frees can stay: then blocks can be followed for longer.
const LONG_CYCLE_S: f64 = 3.0;

/// Where they cannot, blocks are followed for no more than this part of the time, even where the budget would allow more: what a
/// server answers meanwhile, it answers later, and these should be too few to move its slowest hundredth.
const FOLLOWED: f64 = 0.08;

/// The CPU time beyond the budget that is too much, however short the time in which it was taken: a burst that is over after
/// a twentieth of a second is not worth a change.
pub(super) const TOO_MUCH: Duration = Duration::from_millis(40);

/// Blocks are followed for at least this.
const LEAST_FOLLOWED: Duration = Duration::from_millis(20);

/// The part of a target's CPU time that tracing may take, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget(pub f64);

/// The work of a target in a second of its own: of CPU time without what tracing takes.
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
    /// The sizes that are asked for.
    pub sizes: Sizes,
}

/// The time after a window.
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
        // CPU time may lack a tick of the kernel's, and costs are estimates: something is always left.
        let own = (cpu - cost.as_secs_f64()).max(cpu / 20.0).max(1e-3);
        Self {
            allocs: allocs as f64 / own,
            frees: frees as f64 / own,
            cpu: own / elapsed.as_secs_f64().max(1e-3),
            rets: rets as f64 / (allocs as f64).max(1.0),
            sizes: Sizes::default(),
        }
    }

    /// The part of the target's CPU time that a tier would take; of the windowed one, while blocks are followed.
    #[must_use]
    pub fn share(&self, tier: Tier, trap: TrapCost) -> f64 {
        match tier {
            Tier::Exact => self.share_of(1.0, trap),
            Tier::Sampled { sample_bytes } => self.share_of(self.sizes.returns(sample_bytes), trap),
            Tier::Windowed => self.share_of_frees(trap),
            // There are no probes.
            Tier::Growth => 0.0,
        }
    }

    /// How much samples under this mean gap add to the cost of all else in the sampled tier, as a part of that.
    #[must_use]
    pub fn samples_add(&self, sample_bytes: u64, trap: TrapCost) -> f64 {
        let with = self.ns_of(self.sizes.returns(sample_bytes), trap);
        let without = self.ns_of(self.sizes.unsampled_returns(), trap);
        ((with - without) / without.max(1.0)).max(0.0)
    }

    /// The same of frees, and of all allocations, of which such a part is seen to its return if that is seen by a return
    /// probe: those at `ret`s are hit whatever is recorded.
    fn share_of(&self, returns: f64, trap: TrapCost) -> f64 {
        self.share_of_ns(self.ns_of(returns, trap))
    }

    /// Their cost in a second of the target's own, in nanoseconds.
    fn ns_of(&self, returns: f64, trap: TrapCost) -> f64 {
        let by_probe = (1.0 - self.rets).max(0.0) * returns;
        let (calls, entries) = (self.allocs * by_probe, self.allocs * (1.0 - by_probe) + self.frees);
        Overhead::cost_ns(calls, entries, self.allocs * self.rets, trap)
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

/// The part of a target's CPU time that tracing took between two readings, from 0 to 1: costs are estimates, and those made
/// while the machine was busy may come to more than all there was.
#[must_use]
pub fn share(hits: Hits, trap: TrapCost, cpu: Duration, elapsed: Duration) -> f64 {
    let cost = Overhead::of(hits, trap, cpu).cost.as_secs_f64();
    (cost / cpu.as_secs_f64().max(LEAST_CPU * elapsed.as_secs_f64()).max(1e-6)).min(1.0)
}

impl Budget {
    /// Whether tracing may take all of it: nothing is too much then, however dear it is estimated to be.
    fn is_all(self) -> bool {
        self.0 >= 1.0
    }

    /// How much CPU time tracing took more than it may, of so much that the target had.
    #[must_use]
    pub fn beyond(self, cost: Duration, cpu: Duration, elapsed: Duration) -> Duration {
        if self.is_all() {
            return Duration::ZERO;
        }
        cost.saturating_sub(cpu.max(elapsed.mul_f64(LEAST_CPU)).mul_f64(self.0))
    }

    /// The first of these tiers that fits, closest first; where none does, windows, which fit anything.
    #[must_use]
    pub fn closest(self, load: &Load, trap: TrapCost, tiers: &[Tier]) -> Tier {
        let fits = |tier: &&Tier| self.is_all() || load.share(**tier, trap) <= self.0 * SAFELY;
        tiers.iter().find(fits).copied().unwrap_or(Tier::Windowed)
    }

    /// The finest of these tiers with samples that fits, finest first. Where entries alone take more than the budget, it is the
    /// finest whose samples add little to that: a coarser gap saves no more. `None` where there is none.
    #[must_use]
    pub fn finest(self, load: &Load, trap: TrapCost, tiers: &[Tier]) -> Option<Tier> {
        let fits = |tier: &&Tier| {
            let adds = tier.sample_bytes().map_or(0.0, |sample_bytes| load.samples_add(sample_bytes, trap));
            self.is_all() || load.share(**tier, trap) <= self.0 * SAFELY || adds <= ADDED
        };
        tiers.iter().find(fits).or(tiers.last()).copied()
    }

    /// The plan for the time after a window for which probes on allocations are in place for so long. `random`, from 0 to 1, makes
    /// cycles from half to twice as long as the mean one, so that no periodic work keeps out of the way of all windows.
    #[must_use]
    pub fn plan(self, load: &Load, trap: TrapCost, in_place: Duration, random: f64) -> Plan {
        let drawn = 4f64.powf(random - 0.5);
        let planned = self.0 * PLANNED;
        let window = in_place.as_secs_f64();
        let of_window = window * load.share(Tier::Exact, trap);
        let of_frees = load.share(Tier::Windowed, trap).max(1e-9);
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
    const SAMPLED: Tier = Tier::Sampled { sample_bytes: 4096 };
    const TIERS: [Tier; 3] = [Tier::Exact, SAMPLED, Tier::Windowed];

    #[test]
    fn the_more_a_target_allocates_the_less_closely_it_is_looked_at() {
        let closest =
            |allocs: f64| BUDGET.closest(&Load { allocs, frees: allocs, cpu: 1.0, ..Load::default() }, TRAP, &TIERS);
        assert_eq!(closest(1e3), Tier::Exact);
        assert_eq!(closest(2e4), Tier::Exact);
        assert_eq!(closest(3e4), SAMPLED);
        assert_eq!(closest(1e5), Tier::Windowed);
        let load = Load { allocs: 3e4, frees: 3e4, cpu: 1.0, ..Load::default() };
        assert_eq!(BUDGET.closest(&load, TRAP, &[Tier::Exact, Tier::Windowed]), Tier::Windowed);
    }

    #[test]
    fn returns_seen_at_instructions_cost_what_they_cost() {
        let load = Load { allocs: 1e4, frees: 1e4, cpu: 1.0, ..Load::default() };
        let at_rets = Load { rets: 1.0, ..load };
        assert_eq!(BUDGET.closest(&load, TRAP, &TIERS), Tier::Exact);
        assert_eq!(BUDGET.closest(&Load { allocs: 1.6e4, frees: 1.6e4, ..at_rets }, TRAP, &TIERS), Tier::Windowed);
        // Sampling skips no `ret`.
        assert!(at_rets.share(SAMPLED, TRAP) > load.share(Tier::Exact, TRAP));
        let load = Load::of(1000, 1000, 1000, Duration::from_secs(1), Duration::ZERO, Duration::from_secs(1));
        assert!((load.rets - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_target_that_hardly_runs_can_be_looked_at_closely_whatever_it_does_then() {
        let load = Load { allocs: 1e6, frees: 1e6, cpu: 0.001, ..Load::default() };
        assert_eq!(BUDGET.closest(&load, TRAP, &TIERS), Tier::Exact);
    }

    #[test]
    fn shares_are_of_what_the_target_has_with_tracing() {
        // As long again as the target's own work.
        let load = Load { allocs: 1e9 / 2150.0, frees: 1e9 / 2150.0, cpu: 1.0, ..Load::default() };
        assert!((load.share(Tier::Exact, TRAP) - 0.5).abs() < 1e-9);
        let hits = Hits { calls: 100_000, entries: 100_000, rets: 0 };
        let (cpu, elapsed) = (Duration::from_millis(430), Duration::from_secs(1));
        assert!((share(hits, TRAP, cpu, elapsed) - 0.5).abs() < 1e-9);
        let load = Load::of(100_000, 100_000, 0, cpu, Duration::from_millis(215), elapsed);
        assert!((load.share(Tier::Exact, TRAP) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn what_is_beyond_the_budget_is_told_in_cpu_time() {
        let ms = Duration::from_millis;
        assert_eq!(BUDGET.beyond(ms(70), ms(300), ms(1000)), ms(40));
        assert_eq!(BUDGET.beyond(ms(70), ms(20), ms(1000)), ms(60));
        assert_eq!(BUDGET.beyond(ms(7), ms(300), ms(1000)), Duration::ZERO);
    }

    #[test]
    fn nothing_is_too_dear_where_tracing_may_take_all() {
        let all = Budget(1.0);
        let ms = Duration::from_millis;
        assert_eq!(all.beyond(ms(1200), ms(1000), ms(500)), Duration::ZERO);
        let hits = Hits { calls: 1_000_000, ..Hits::default() };
        assert!(share(hits, TRAP, ms(10), ms(1000)) <= all.0);
        let load = Load { allocs: 1e9, frees: 1e9, cpu: 2.0, ..Load::default() };
        assert_eq!(all.closest(&load, TRAP, &TIERS), Tier::Exact);
    }

    #[test]
    fn blocks_are_followed_for_long_where_frees_cost_little() {
        let load = Load { allocs: 4e5, frees: 5e3, cpu: 1.0, ..Load::default() };
        let plan = BUDGET.plan(&load, TRAP, Duration::from_millis(10), 0.5);
        assert_eq!(plan, Plan { follow: Duration::from_secs(3), gap: Duration::ZERO });
    }

    proptest! {
        #[test]
        fn plans_keep_to_the_budget(
            allocs in 1e2..1e8, frees in 1.0..1e8, cpu in 0.2..64.0, random in 0.0..1.0, budget in 0.01..0.5,
        ) {
            let load = Load { allocs, frees, cpu, ..Load::default() };
            let window = Duration::from_millis(10);
            let plan = Budget(budget).plan(&load, TRAP, window, random);
            let cost = window.as_secs_f64() * load.share(Tier::Exact, TRAP)
                + plan.follow.as_secs_f64() * load.share(Tier::Windowed, TRAP);
            let cycle = (window + plan.follow + plan.gap).as_secs_f64();
            prop_assert!(cost / cycle <= budget * PLANNED * 1.01, "{} of {budget}", cost / cycle);
            prop_assert!(plan.follow >= LEAST_FOLLOWED);
            // Nobody is over the budget for a second on end, but where it is kept all the time.
            prop_assert!(plan.gap.is_zero() || plan.follow < Duration::from_secs(2));
        }
    }
}
