//! How much of a target's work a window holds.
//!
//! Not as much as its time on the clock would have held: while everything is recorded, the target is slowed down, by a half
//! or to a tenth. Its own time within a window is the small difference of two large times of which one is an estimate.
//! But frees are counted for longer than the window is open, while only they are probed and the target is slowed down
//! much less; so they are the clock. A window in which there were so many of them holds as much work as it takes the
//! target to free so many blocks, by itself.

use std::{collections::VecDeque, time::Duration};

use super::budget::Load;
use crate::model::overhead::{Hits, TrapCost};

/// How many cycles are taken together: the blocks of a few milliseconds may all be allocated, or all freed.
const CYCLES: usize = 10;

/// How many of them tell how busy the target is.
const OF_LATE: usize = 2;

/// The frees that make a clock.
const ENOUGH: f64 = 50.0;

/// How much of its own work a target should get done in a window, and how long windows may last: long enough for some hundred
/// allocations of a target that needs windows; short enough that of a hundred requests that it serves in a second, none
/// need be slower.
const WINDOW_WORK: f64 = 0.002_5;
const WINDOW: (f64, f64) = (0.005, 0.025);

/// How wrong the cost of a probe may be, as a standard deviation: caches are colder in some targets than in others.
const DOUBT: f64 = 0.2;

/// How much more CPU time than evenly spent a target has in windows that works in bursts.
const IN_BURSTS: f64 = 1.5;

/// A target that has less of its own time than this part of the clock's hardly runs: of that, times are told too coarsely.
const HARDLY: f64 = 0.01;

/// The work that a window stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weight {
    /// How many windows' worth of work there was in its cycle.
    pub windows: f64,
    /// How wrong that may be, as a part of it and a standard deviation: the same for all windows of a target.
    pub doubt: f64,
    /// The target's own time in its cycle, in seconds.
    pub own: f64,
    /// How many blocks the target has allocated in all cycles together, as far as its clock tells.
    pub work: Option<f64>,
}

/// The counts of a part of a cycle.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Part {
    /// Blocks that were freed or resized.
    pub ends: u64,
    /// How often the target was held up.
    pub hits: Hits,
    /// How long it took.
    pub elapsed: Duration,
    /// The CPU time that the target had in it.
    pub cpu: Duration,
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
    /// How long the window was open.
    pub open: Duration,
    /// Blocks that were freed or resized meanwhile.
    pub ended: u64,
    /// Blocks that were allocated meanwhile.
    pub born: f64,
    /// The part of them that was live at the end of the cycle.
    pub survived: f64,
}

/// The sums of some cycles.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sums {
    /// The CPU time and the time that tracing took of it, in seconds: in all of them, and while blocks were followed.
    cpu: f64,
    cost: f64,
    cpu_followed: f64,
    cost_followed: f64,
    /// The same while windows' probes were in place; and their part of the cycles' CPU time, if that was spent evenly.
    cpu_in_place: f64,
    cost_in_place: f64,
    even_in_place: f64,
    seconds: f64,
    in_place: f64,
    open: f64,
    /// Blocks that were freed or resized while others were followed.
    followed_ends: f64,
    ended: f64,
    born: f64,
    survived: f64,
    rets: f64,
}

impl Sums {
    fn of<'a>(cycles: impl Iterator<Item = &'a Cycle>, trap: TrapCost) -> Self {
        cycles.fold(Self::default(), |mut sums, cycle| {
            sums.add(cycle, trap);
            sums
        })
    }

    fn add(&mut self, cycle: &Cycle, trap: TrapCost) {
        let Cycle { in_place, followed, whole, open, ended, born, survived } = cycle;
        self.cpu += whole.cpu.as_secs_f64();
        self.cost += cost(whole, trap);
        self.cpu_followed += followed.cpu.as_secs_f64();
        self.cost_followed += cost(followed, trap);
        self.cpu_in_place += in_place.cpu.as_secs_f64();
        self.cost_in_place += cost(in_place, trap);
        self.even_in_place += whole.cpu.as_secs_f64() * seconds(in_place) / seconds(whole);
        self.seconds += seconds(whole);
        self.in_place += seconds(in_place);
        self.open += open.as_secs_f64();
        self.followed_ends += followed.ends as f64;
        self.ended += *ended as f64;
        self.born += born;
        self.survived += survived;
        self.rets += in_place.hits.rets as f64;
    }

    /// The target's own time, in seconds.
    fn own(&self) -> f64 {
        own(self.cpu, self.cost)
    }

    fn own_followed(&self) -> f64 {
        own(self.cpu_followed, self.cost_followed).max(1e-6)
    }

    /// The same while windows' probes were in place: of so short times CPU time is told too coarsely, so it is taken to be spent
    /// evenly; but not by a target that works in bursts, which has much more of it in the few windows that meet one.
    fn own_in_place(&self) -> f64 {
        let is_in_bursts = self.cpu_in_place > IN_BURSTS * self.even_in_place;
        own(if is_in_bursts { self.cpu_in_place } else { self.even_in_place }, self.cost_in_place)
    }

    fn own_open(&self) -> f64 {
        (self.own_in_place() * self.open / self.in_place.max(1e-6)).max(1e-9)
    }

    /// How many blocks the target frees in a second of its own.
    fn frees(&self) -> f64 {
        self.followed_ends / self.own_followed()
    }

    /// How many blocks it allocates in a second of its own, by how many it frees; `None` where too few are freed to tell.
    ///
    /// There are as many allocations to one free as in windows. But a target that allocates a thousand blocks and then frees
    /// a thousand may do more of the one than of the other in all windows, since it is slowed down by different amounts
    /// meanwhile. In the long run it allocates what it frees and what it keeps, which is no more than what has survived.
    fn allocs_by_frees(&self) -> Option<f64> {
        if self.followed_ends < ENOUGH {
            return None;
        }
        let kept = self.survived / self.born.max(1.0);
        let most = 1.0 / (1.0 - kept).max(1e-3);
        let by_windows = match self.ended {
            few if few < ENOUGH => self.born / self.own_open() / self.frees(),
            ended => self.born / ended,
        };
        Some(self.frees() * by_windows.clamp(1.0, most))
    }

    /// The same, by time where frees do not tell.
    fn allocs(&self) -> f64 {
        self.allocs_by_frees().unwrap_or_else(|| self.born / self.own_open())
    }

    /// How wrong that may be beside the target's own time, as a part of it and a standard deviation. Where blocks are followed all the time, both are
    /// wrong together.
    fn doubt(&self) -> f64 {
        let slowed = |cost: f64, own: f64| cost / own.max(1e-9);
        let counted = match self.allocs_by_frees() {
            Some(_) => slowed(self.cost_followed, self.own_followed()),
            None => slowed(self.cost_in_place, self.own_in_place()),
        };
        DOUBT * (counted - slowed(self.cost, self.own())).abs()
    }

    fn hardly_runs(&self) -> bool {
        self.own() < HARDLY * self.seconds
    }
}

/// The CPU time that is left. Costs are estimates: something always is.
fn own(cpu: f64, cost: f64) -> f64 {
    (cpu - cost).max(cpu / 20.0)
}

/// The last cycles of a target.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    cycles: VecDeque<Cycle>,
    /// Of all cycles.
    all: Sums,
}

impl Clock {
    /// A cycle has ended.
    pub fn push(&mut self, cycle: Cycle, trap: TrapCost) {
        if self.cycles.len() == CYCLES {
            self.cycles.pop_front();
        }
        self.all.add(&cycle, trap);
        self.cycles.push_back(cycle);
    }

    fn sums(&self, trap: TrapCost) -> Sums {
        Sums::of(self.cycles.iter(), trap)
    }

    /// The work that the last window stands for, in windows like all of the last ones. `None` before the first.
    #[must_use]
    pub fn weight(&self, trap: TrapCost) -> Option<Weight> {
        let last = self.cycles.back()?;
        let of_last = Sums::of(std::iter::once(last), trap);
        let own = of_last.own().max(HARDLY * of_last.seconds);
        let (windows, doubt) = self.windows_and_doubt(&of_last, trap);
        Some(Weight { windows, doubt, own, work: Some(self.all.own() * self.all.allocs()) })
    }

    fn windows_and_doubt(&self, last: &Sums, trap: TrapCost) -> (f64, f64) {
        let sums = self.sums(trap);
        // One that hardly runs is not slowed down by as much as time is told with.
        if sums.hardly_runs() {
            return (last.seconds / last.open.max(1e-6), self.all.doubt());
        }
        // In so much CPU time as the last: in one in which the target did nothing, there was no work.
        let in_window =
            |cycle: &Cycle| cycle.whole.cpu.as_secs_f64() * cycle.open.as_secs_f64() / seconds(&cycle.whole);
        let of_last = last.cpu * last.open / last.seconds;
        let windows = self.cycles.iter().map(in_window).sum::<f64>() / of_last.max(1e-9);
        match sums.allocs_by_frees().filter(|_| sums.born > 0.0) {
            Some(rate) => (last.own() * rate * windows / sums.born, self.all.doubt()),
            None => (last.own() * windows / sums.own_open(), self.all.doubt()),
        }
    }

    /// How much of its own time the target has in a second. Its work in that time stays the same for longer.
    fn cpu_of_late(&self, trap: TrapCost) -> f64 {
        let late = Sums::of(self.cycles.iter().rev().take(OF_LATE), trap);
        late.own() / late.seconds.max(1e-6)
    }

    /// How long the next window should be.
    #[must_use]
    pub fn window(&self, trap: TrapCost) -> Duration {
        let sums = self.sums(trap);
        let own = own(sums.even_in_place, sums.cost_in_place);
        let slowed = if own > 0.0 { sums.in_place / own } else { 1.0 };
        Duration::from_secs_f64((WINDOW_WORK * slowed).clamp(WINDOW.0, WINDOW.1))
    }

    /// The load of the target by itself: as of late or in the last cycle, whichever is more.
    #[must_use]
    pub fn greatest_load(&self, trap: TrapCost) -> Load {
        let last = Self { cycles: self.cycles.iter().rev().take(1).copied().collect(), all: Sums::default() };
        let (of_late, last) = (self.load(trap), last.load(trap));
        Load { allocs: of_late.allocs.max(last.allocs), frees: of_late.frees.max(last.frees), ..of_late }
    }

    /// The load of the target by itself.
    #[must_use]
    pub fn load(&self, trap: TrapCost) -> Load {
        let sums = self.sums(trap);
        let cpu = self.cpu_of_late(trap);
        let rets = sums.rets / sums.born.max(1.0);
        Load { allocs: sums.allocs(), frees: sums.frees(), cpu, rets, ..Load::default() }
    }
}

fn seconds(part: &Part) -> f64 {
    part.elapsed.as_secs_f64().max(1e-6)
}

/// The time that tracing took of it, in seconds.
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
        let part = |calls, frees, elapsed| Part {
            ends: frees,
            hits: Hits { calls, entries: frees, rets: 0 },
            elapsed,
            cpu: elapsed,
        };
        Cycle {
            in_place: part(pairs, pairs, open),
            followed: part(0, frees, followed),
            whole: part(pairs, pairs + frees, Duration::from_secs(1)),
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
            (0..20).for_each(|_| clock.push(cycle(own_ns), TRAP));
            let Weight { windows, doubt, .. } = clock.weight(TRAP).unwrap();
            let cycle = cycle(own_ns);
            let cost = Overhead::of(cycle.whole.hits, TRAP, cycle.whole.cpu).cost.as_nanos() as f64;
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
        (0..20).for_each(|_| clock.push(Cycle { ended: 2 * cycle(2_000.0).ended, ..cycle(2_000.0) }, TRAP));
        assert!((clock.load(TRAP).allocs / 500_000.0 - 1.0).abs() < 0.05, "{:?}", clock.load(TRAP));
    }

    #[test]
    fn a_window_that_has_met_the_beginning_of_a_batch_does_not_outweigh_its_frees() {
        let mut clock = Clock::default();
        let batch = Cycle { ended: 0, born: 40.0, survived: 40.0, ..cycle(2_000.0) };
        clock.push(batch, TRAP);
        let freed = batch.followed.ends as f64;
        let work = clock.weight(TRAP).and_then(|weight| weight.work).unwrap();
        assert!(work >= freed, "{work} of {freed}");
    }

    #[test]
    fn one_that_hardly_runs_is_measured_by_the_time_on_the_clock() {
        let mut clock = Clock::default();
        assert_eq!(clock.weight(TRAP), None);
        let part = |elapsed| Part { elapsed: Duration::from_millis(elapsed), ..Part::default() };
        let open = Duration::from_millis(5);
        clock.push(Cycle { in_place: part(6), whole: part(1000), open, ..Cycle::default() }, TRAP);
        assert_eq!(clock.weight(TRAP), Some(Weight { windows: 200.0, doubt: 0.0, own: 0.01, work: Some(0.0) }));
    }
}
