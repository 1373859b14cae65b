//! The cost of tracing to a target, as far as that can be told: how often it was held up, times what that takes.

use std::time::Duration;

use memtrace_common::thread::Requested;
use serde::{Deserialize, Serialize};

/// The time that the kernel takes for a probe that does nothing, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrapCost {
    /// At the entry of a function.
    pub entry_ns: f64,
    /// At the entry and at the return of a function.
    pub call_ns: f64,
    /// At a `ret` instruction.
    pub ret_ns: f64,
}

/// How often a target was held up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    /// Calls whose entry and return were seen, by a return probe.
    pub calls: u64,
    /// Calls whose entry was seen, and no return in that way.
    pub entries: u64,
    /// Executions of a `ret` that is probed.
    pub rets: u64,
}

impl Hits {
    /// How often a target was held up, where that is counted.
    #[must_use]
    pub fn of(requested: &Requested) -> Self {
        let Requested { objects, returns, rets, frees, .. } = *requested;
        Self { calls: returns, entries: objects.saturating_sub(returns) + frees, rets }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls.saturating_add(other.calls),
            entries: self.entries.saturating_add(other.entries),
            rets: self.rets.saturating_add(other.rets),
        }
    }

    /// The hits since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(before.calls),
            entries: self.entries.saturating_sub(before.entries),
            rets: self.rets.saturating_sub(before.rets),
        }
    }

    /// Their cost, in nanoseconds.
    #[must_use]
    pub fn cost_ns(&self, trap: TrapCost) -> f64 {
        Overhead::cost_ns(self.calls as f64, self.entries as f64, self.rets as f64, trap)
    }
}

/// How much longer a hit takes with memtrace's own programs than with ones that do nothing, at a call (with ten frames of
/// its stack) and at an entry alone: docs/PERFORMANCE.md.
const PROGRAM: (f64, f64) = (1.5, 1.3);

/// The same at a `ret`, where the trap itself costs more and the program does about what it does at a return.
const PROGRAM_AT_RET: f64 = 1.1;

/// The cost of tracing to a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overhead {
    /// How often it was held up.
    pub hits: Hits,
    /// For how long, all its threads together.
    pub cost: Duration,
    /// How long it has run on a CPU meanwhile, that time included.
    pub cpu: Duration,
}

impl Overhead {
    /// The cost of so many hits.
    #[must_use]
    pub fn of(hits: Hits, trap: TrapCost, cpu: Duration) -> Self {
        Self { hits, cost: Duration::from_secs_f64(hits.cost_ns(trap) / 1e9), cpu }
    }

    /// The cost of so many calls, entries and `ret`s, in nanoseconds.
    #[must_use]
    pub fn cost_ns(calls: f64, entries: f64, rets: f64, trap: TrapCost) -> f64 {
        calls * trap.call_ns * PROGRAM.0 + entries * trap.entry_ns * PROGRAM.1 + rets * trap.ret_ns * PROGRAM_AT_RET
    }

    /// The part of its CPU time, from 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.cost.is_zero() {
            return 0.0;
        }
        // The kernel counts CPU time in hundredths of a second.
        (self.cost.as_secs_f64() / self.cpu.as_secs_f64()).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAP: TrapCost = TrapCost { entry_ns: 500.0, call_ns: 1000.0, ret_ns: 2000.0 };

    #[test]
    fn hits_cost_what_probes_and_programs_take() {
        let overhead =
            Overhead::of(Hits { calls: 1_000_000, entries: 2_000_000, rets: 100_000 }, TRAP, Duration::from_secs(10));
        assert_eq!(overhead.cost, Duration::from_millis(1500 + 1300 + 220));
        assert!((overhead.share() - 0.302).abs() < 1e-9);
    }

    #[test]
    fn a_share_is_never_more_than_all() {
        let hits = Hits { calls: 1000, ..Hits::default() };
        assert!((Overhead::of(hits, TRAP, Duration::ZERO).share() - 1.0).abs() < f64::EPSILON);
        assert!(Overhead::of(Hits::default(), TRAP, Duration::ZERO).share().abs() < f64::EPSILON);
    }
}
