//! How much of a target's work a window holds.
//!
//! Not as much as its time on the clock would have held: while everything is recorded, the target is slowed down, by a half
//! or to a tenth. Its own time within a window is the small difference of two large times of which one is an estimate.
//! But frees are counted for longer than the window is open, while only they are probed and the target is slowed down
//! much less; so they are the clock. A window in which there were so many of them holds as much work as it takes the
//! target to free so many blocks, by itself.

use std::{collections::VecDeque, time::Duration};

use super::{
    budget::Load,
    overhead::{Hits, TrapCost},
};

/// How many cycles are taken together: the blocks of a few milliseconds may all be allocated, or all freed.
const CYCLES: usize = 10;

/// How many of them tell how busy the target is.
const OF_LATE: usize = 2;

/// So many frees in windows make a clock.
const ENOUGH: f64 = 50.0;

/// How much of its own work a target should get done in a window, and how long windows may last: long enough for some hundred
/// allocations of a target that needs windows; short enough that of a hundred requests that it serves in a second, none
/// need be slower.
const WINDOW_WORK: f64 = 0.002_5;
const WINDOW: (f64, f64) = (0.005, 0.025);

/// How wrong the cost of a probe may be, as a standard deviation: caches are colder in some targets than in others.
const DOUBT: f64 = 0.2;

/// A target that has less of its own time than this part of the clock's hardly runs: of that, times are told too coarsely.
const HARDLY: f64 = 0.01;

/// What a window stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weight {
    /// How many windows' worth of work there was in its cycle.
    pub windows: f64,
    /// How wrong that may be, as a part of it and a standard deviation: the same for all windows of a target.
    pub doubt: f64,
    /// The target's own time in its cycle, in seconds.
    pub own: f64,
}

/// What was counted in a part of a cycle.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Part {
    /// Blocks that were freed or resized.
    pub ends: u64,
    /// How often the target was held up.
    pub hits: Hits,
    /// How long it took.
    pub elapsed: Duration,
}

/// A window, its blocks being followed, and the gap before it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cycle {
    /// While the window's probes were in place, a little longer than it was open.
    pub in_place: Part,
    /// While its blocks were followed.
    pub followed: Part,
    /// All of it.
    pub whole: Part,
    /// The CPU time that the target had in all of it.
    pub cpu: Duration,
    /// How long the window was open.
    pub open: Duration,
    /// Blocks that were freed or resized meanwhile.
    pub ended: u64,
    /// Blocks that were allocated meanwhile.
    pub born: f64,
    /// Those of them that were live at the end of the cycle.
    pub survived: f64,
}

impl Cycle {
    /// The target's own time in a part of it, in seconds. CPU time is told too coarsely for short times: it is taken to be
    /// spent evenly.
    fn own(&self, part: &Part, trap: TrapCost) -> f64 {
        let even = self.cpu.as_secs_f64() * seconds(part) / seconds(&self.whole);
        (even - cost(part, trap)).max(even / 20.0)
    }
}

/// The last cycles of a target.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    cycles: VecDeque<Cycle>,
}

impl Clock {
    /// A cycle has ended.
    pub fn push(&mut self, cycle: Cycle) {
        if self.cycles.len() == CYCLES {
            self.cycles.pop_front();
        }
        self.cycles.push_back(cycle);
    }

    fn sum(&self, of: impl Fn(&Cycle) -> f64) -> f64 {
        self.cycles.iter().map(of).sum()
    }

    /// What the last window stands for, in windows like all of the last ones. `None` before the first.
    #[must_use]
    pub fn weight(&self, trap: TrapCost) -> Option<Weight> {
        let last = self.cycles.back()?;
        let own = last.own(&last.whole, trap).max(HARDLY * seconds(&last.whole));
        let (windows, doubt) = self.windows_and_doubt(last, trap);
        Some(Weight { windows, doubt, own })
    }

    fn windows_and_doubt(&self, last: &Cycle, trap: TrapCost) -> (f64, f64) {
        let open = self.sum(|cycle| cycle.open.as_secs_f64());
        // In so much CPU time as the last: in one in which the target did nothing, there was no work.
        let in_window = |cycle: &Cycle| cycle.cpu.as_secs_f64() * cycle.open.as_secs_f64() / seconds(&cycle.whole);
        let windows = self.sum(in_window) / in_window(last).max(1e-9);
        let (own, born) = (last.own(&last.whole, trap), self.sum(|cycle| cycle.born));
        // One that hardly runs is not slowed down by as much as time is told with.
        if self.hardly_runs(trap) {
            return (seconds(&last.whole) / last.open.as_secs_f64().max(1e-6), 0.0);
        }
        if let Some(rate) = self.allocs_by_frees(trap).filter(|_| born > 0.0) {
            let doubt = self.sum(|cycle| cost(&cycle.followed, trap)) / self.own_followed(trap);
            return (own * rate * windows / born, DOUBT * doubt);
        }
        let in_place = self.sum(|cycle| seconds(&cycle.in_place));
        let own_in_place = self.sum(|cycle| cycle.own(&cycle.in_place, trap));
        let doubt = DOUBT * (in_place / own_in_place - 1.0).max(0.0);
        (own * windows / (own_in_place * open / in_place), doubt)
    }

    fn hardly_runs(&self, trap: TrapCost) -> bool {
        self.sum(|cycle| cycle.own(&cycle.whole, trap)) < HARDLY * self.sum(|cycle| seconds(&cycle.whole))
    }

    /// How much of its own time the target has in a second. What a target does in its time stays the same for longer.
    fn cpu_of_late(&self, trap: TrapCost) -> f64 {
        let late = self.cycles.iter().rev().take(OF_LATE);
        let sum = |of: &dyn Fn(&Cycle) -> f64| late.clone().map(of).sum::<f64>();
        sum(&|cycle| cycle.own(&cycle.whole, trap)) / sum(&|cycle| seconds(&cycle.whole)).max(1e-6)
    }

    fn own_followed(&self, trap: TrapCost) -> f64 {
        self.sum(|cycle| cycle.own(&cycle.followed, trap)).max(1e-6)
    }

    /// How many blocks the target frees in a second of its own.
    fn frees(&self, trap: TrapCost) -> f64 {
        self.sum(|cycle| cycle.followed.ends as f64) / self.own_followed(trap)
    }

    /// How many blocks it allocates, by how many it frees; `None` where too few are freed to tell.
    ///
    /// There are as many allocations to one free as in windows. But a target that allocates a thousand blocks and then frees
    /// a thousand may do more of the one than of the other in all windows, since it is slowed down by different amounts
    /// meanwhile. In the long run it allocates what it frees and what it keeps, which is no more than what has survived.
    fn allocs_by_frees(&self, trap: TrapCost) -> Option<f64> {
        let freed = self.sum(|cycle| cycle.ended as f64);
        if freed < ENOUGH || self.sum(|cycle| cycle.followed.ends as f64) < ENOUGH {
            return None;
        }
        let born = self.sum(|cycle| cycle.born);
        let kept = self.sum(|cycle| cycle.survived) / born.max(1.0);
        let most = 1.0 / (1.0 - kept).max(1e-3);
        Some(self.frees(trap) * (born / freed).clamp(1.0, most))
    }

    /// How long the next window should be.
    #[must_use]
    pub fn window(&self, trap: TrapCost) -> Duration {
        let in_place = self.sum(|cycle| seconds(&cycle.in_place));
        let own = self.sum(|cycle| cycle.own(&cycle.in_place, trap));
        let slowed = if own > 0.0 { in_place / own } else { 1.0 };
        Duration::from_secs_f64((WINDOW_WORK * slowed).clamp(WINDOW.0, WINDOW.1))
    }

    /// What the target does by itself: as of late or in the last cycle, whichever is more.
    #[must_use]
    pub fn greatest_load(&self, trap: TrapCost) -> Load {
        let last = Self { cycles: self.cycles.iter().rev().take(1).copied().collect() };
        let (of_late, last) = (self.load(trap), last.load(trap));
        Load { allocs: of_late.allocs.max(last.allocs), frees: of_late.frees.max(last.frees), ..of_late }
    }

    /// What the target does by itself.
    #[must_use]
    pub fn load(&self, trap: TrapCost) -> Load {
        let open = self.sum(|cycle| cycle.open.as_secs_f64());
        let own_in_place = self.sum(|cycle| cycle.own(&cycle.in_place, trap));
        let own_open = own_in_place * open / self.sum(|cycle| seconds(&cycle.in_place)).max(1e-6);
        let by_time = self.sum(|cycle| cycle.born) / own_open.max(1e-6);
        Load {
            allocs: self.allocs_by_frees(trap).unwrap_or(by_time),
            frees: self.frees(trap),
            cpu: self.cpu_of_late(trap),
            rets: self.sum(|cycle| cycle.in_place.hits.rets as f64) / self.sum(|cycle| cycle.born).max(1.0),
        }
    }
}

fn seconds(part: &Part) -> f64 {
    part.elapsed.as_secs_f64().max(1e-6)
}

/// What tracing took of it, in seconds.
fn cost(part: &Part, trap: TrapCost) -> f64 {
    part.hits.cost_ns(trap) / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::overhead::Overhead;

    const TRAP: TrapCost = TrapCost { entry_ns: 500.0, call_ns: 1000.0, ret_ns: 2000.0 };

    /// A cycle of a target that takes `own_ns` for an allocation and a free, on one CPU all the time.
    fn cycle(own_ns: f64) -> Cycle {
        let entry = Overhead::cost_ns(0.0, 1.0, 0.0, TRAP);
        let call = Overhead::cost_ns(1.0, 0.0, 0.0, TRAP);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small positive numbers")]
        let count = |elapsed: Duration, ns: f64| (elapsed.as_nanos() as f64 / ns) as u64;
        let (open, followed) = (Duration::from_millis(5), Duration::from_millis(200));
        let (pairs, frees) = (count(open, own_ns + entry + call), count(followed, own_ns + entry));
        let part = |calls, frees, elapsed| Part { ends: frees, hits: Hits { calls, entries: frees, rets: 0 }, elapsed };
        Cycle {
            in_place: part(pairs, pairs, open),
            followed: part(0, frees, followed),
            whole: part(pairs, pairs + frees, Duration::from_secs(1)),
            cpu: Duration::from_secs(1),
            open,
            ended: pairs,
            born: pairs as f64,
            survived: 0.0,
        }
    }

    #[test]
    fn a_window_that_slows_the_target_down_stands_for_more() {
        for own_ns in [300.0, 2_000.0, 100_000.0] {
            let mut clock = Clock::default();
            (0..20).for_each(|_| clock.push(cycle(own_ns)));
            let Weight { windows, doubt, .. } = clock.weight(TRAP).unwrap();
            let cycle = cycle(own_ns);
            let cost = Overhead::of(cycle.whole.hits, TRAP, cycle.cpu).cost.as_nanos() as f64;
            let truth = (1e9 - cost) / own_ns;
            let estimate = windows * cycle.born;
            assert!((estimate / truth - 1.0).abs() < 0.03, "{estimate} for {truth}");
            assert!(doubt < 0.45, "{doubt}");
            let window = clock.window(TRAP).as_millis();
            assert!(if own_ns < 1_000.0 { window > 15 } else { window == 5 }, "{window} ms");
            let load = clock.load(TRAP);
            assert!((load.allocs * own_ns / 1e9 - 1.0).abs() < 0.05, "{load:?}");
        }
    }

    #[test]
    fn phases_of_allocating_and_of_freeing_are_not_mistaken_for_each_other() {
        let mut clock = Clock::default();
        // Windows have seen twice as many frees as allocations.
        (0..20).for_each(|_| clock.push(Cycle { ended: 2 * cycle(2_000.0).ended, ..cycle(2_000.0) }));
        assert!((clock.load(TRAP).allocs / 500_000.0 - 1.0).abs() < 0.05, "{:?}", clock.load(TRAP));
    }

    #[test]
    fn one_that_hardly_runs_is_measured_by_the_time_on_the_clock() {
        let mut clock = Clock::default();
        assert_eq!(clock.weight(TRAP), None);
        let part = |elapsed| Part { elapsed: Duration::from_millis(elapsed), ..Part::default() };
        let open = Duration::from_millis(5);
        clock.push(Cycle { in_place: part(6), whole: part(1000), open, ..Cycle::default() });
        assert_eq!(clock.weight(TRAP), Some(Weight { windows: 200.0, doubt: 0.0, own: 0.01 }));
    }
}
