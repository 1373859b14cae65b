//! The part of each target's CPU time that tracing takes, from metering to metering.

use std::{collections::BTreeMap, time::Duration};

use super::{
    budget::{self, Load},
    clock::Part,
    gaps::Sizes,
    passing::Counted,
};
use crate::model::{
    overhead::{Hits, Overhead, TrapCost},
    target_id::TargetId,
    tier::Tier,
};

/// Reads what the targets have done. That costs memtrace CPU time, so the governor asks for it only where it needs it.
pub trait Meter {
    /// Reads now. The CPU time of a target that was not held up since `before` may be taken from there.
    fn read(&mut self, before: Option<&Metering>) -> Metering;
}

/// The counts of a target since it is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of functions that allocate, as far as they are probed.
    pub allocs: u64,
    /// The bytes that these have asked for.
    pub bytes: u64,
    /// Calls of functions that free, as far as they are probed.
    pub frees: u64,
    /// Blocks that it freed or resized.
    pub ends: u64,
    /// How many of these while a window was open.
    pub window_ends: u64,
    /// How often it was held up.
    pub hits: Hits,
}

impl Counts {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            allocs: self.allocs.saturating_add(other.allocs),
            bytes: self.bytes.saturating_add(other.bytes),
            frees: self.frees.saturating_add(other.frees),
            ends: self.ends.saturating_add(other.ends),
            window_ends: self.window_ends.saturating_add(other.window_ends),
            hits: self.hits.plus(other.hits),
        }
    }

    /// The counts since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            allocs: self.allocs.saturating_sub(before.allocs),
            bytes: self.bytes.saturating_sub(before.bytes),
            frees: self.frees.saturating_sub(before.frees),
            ends: self.ends.saturating_sub(before.ends),
            window_ends: self.window_ends.saturating_sub(before.window_ends),
            hits: self.hits.since(before.hits),
        }
    }
}

/// The work of targets whose programs are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Their counts.
    pub counts: Counts,
    /// The CPU time that they had.
    pub cpu: Duration,
}

impl Done {
    fn plus(self, seen: &Seen) -> Self {
        let cpu = self.cpu.saturating_add(seen.cpu.unwrap_or_default());
        Self { counts: self.counts.plus(seen.counts), cpu }
    }
}

/// A target as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its counts.
    pub counts: Counts,
    /// The CPU time that it had since it began; nothing where nobody could tell any more.
    pub cpu: Option<Duration>,
    /// When its CPU time was read, after the start: not each time, where it is not held up.
    pub at: Duration,
}

/// How often targets were held up by a moment, and how long they had run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metering {
    /// The moment, after the start.
    pub at: Duration,
    /// The targets that were there.
    pub targets: BTreeMap<TargetId, Seen>,
    /// The work of those that were not there any more.
    pub done: Done,
    /// How many blocks stand in the table of blocks, whoever has allocated them.
    pub blocks: u64,
}

/// The target that pays, or those that do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payer {
    /// One target.
    Target(TargetId),
    /// All those together that come and go.
    Passing,
}

impl Payer {
    /// The target, where it is one.
    #[must_use]
    pub fn target(self) -> Option<TargetId> {
        match self {
            Self::Target(target) => Some(target),
            Self::Passing => None,
        }
    }
}

/// The work of a target between two meterings.
#[derive(Clone, Debug)]
pub struct Demand {
    pub(super) payer: Payer,
    pub(super) counts: Counts,
    pub(super) cpu: Duration,
    pub(super) elapsed: Duration,
    /// The part of its CPU time that tracing took.
    pub(super) share: f64,
    trap: TrapCost,
}

impl Metering {
    /// The work of a target since then, until `later`. One that was not there yet had done nothing.
    pub(super) fn demand(&self, target: TargetId, later: &Self, trap: TrapCost) -> Option<Demand> {
        let elapsed = later.at.saturating_sub(self.at);
        let now = later.targets.get(&target)?;
        let (then, cpu) = match self.targets.get(&target) {
            Some(then) => {
                let (cpu, over) = (now.cpu?.saturating_sub(then.cpu?), now.at.saturating_sub(then.at));
                // Of a longer time than this is about, its part.
                let part = elapsed.as_secs_f64() / over.as_secs_f64().max(1e-6);
                (then.counts, cpu.mul_f64(part.min(1.0)))
            }
            None => (Counts::default(), now.cpu?.min(elapsed)),
        };
        Some(Demand::new(Payer::Target(target), now.counts.since(then), cpu, elapsed, trap))
    }

    /// The joint work, until `later`, of those that were not there at both times. Processes that live for milliseconds never
    /// are, and none of them alone does much. A single one that is still there goes by its own name.
    pub(super) fn passing(&self, later: &Self, trap: TrapCost) -> Demand {
        let is_new = |reading: &Self, target: &TargetId| !reading.targets.contains_key(target);
        let come: Vec<_> = later.targets.iter().filter(|(target, _)| is_new(self, target)).collect();
        let payer = match come.as_slice() {
            [(target, _)] if later.done == self.done => Payer::Target(**target),
            _ => Payer::Passing,
        };
        let gone = self.targets.iter().filter(|(target, _)| is_new(later, target));
        // The earlier work of those that have gone since is in both.
        let now = come.iter().fold(later.done, |done, (_, seen)| done.plus(seen));
        let then = gone.fold(self.done, |done, (_, seen)| done.plus(seen));
        let elapsed = later.at.saturating_sub(self.at);
        Demand::new(payer, now.counts.since(then.counts), now.cpu.saturating_sub(then.cpu), elapsed, trap)
    }

    /// The work since then of the target of whose CPU time tracing took most; those that come and go count as one.
    pub(super) fn greatest(&self, later: &Self, trap: TrapCost) -> Demand {
        let stayed = later.targets.keys().filter(|target| self.targets.contains_key(*target));
        let demands = stayed.filter_map(|target| self.demand(*target, later, trap));
        let most = |a: Demand, b: Demand| if a.share > b.share { a } else { b };
        demands.fold(self.passing(later, trap), |greatest, demand| most(demand, greatest))
    }
}

impl Demand {
    fn new(payer: Payer, counts: Counts, cpu: Duration, elapsed: Duration, trap: TrapCost) -> Self {
        let share = budget::share(counts.hits, trap, cpu, elapsed);
        Self { payer, counts, cpu, elapsed, share, trap }
    }

    /// The CPU time that tracing has taken.
    pub(super) fn cost(&self) -> Duration {
        Overhead::of(self.counts.hits, self.trap, self.cpu).cost
    }

    /// The load of the target by itself.
    pub(super) fn load(&self) -> Load {
        let Counts { allocs, frees, hits, .. } = self.counts;
        let load = Load::of(allocs, frees, hits.rets, self.cpu, self.cost(), self.elapsed);
        Load { sizes: self.sizes(), ..load }
    }

    /// The same, where this tier was in force all the time.
    pub(super) fn load_in(&self, tier: Tier) -> Load {
        let load = self.load();
        let Some(gap) = tier.sample_bytes() else { return load };
        // Calls whose return is seen at a `ret` are entries.
        let returns = self.counts.hits.calls as f64 / (1.0 - load.rets).max(0.01);
        Load { sizes: load.sizes.seen(gap, returns, self.counts.allocs), ..load }
    }

    /// The sizes that it has asked for.
    pub(super) fn sizes(&self) -> Sizes {
        Sizes::of(self.counts.bytes, self.counts.allocs)
    }

    /// The counts of those that come and go.
    pub(super) fn counted(&self) -> Counted {
        Counted { allocs: self.counts.allocs, frees: self.counts.frees, elapsed: self.elapsed }
    }

    /// The counts, as part of a cycle.
    pub(super) fn part(&self) -> Part {
        Part { ends: self.counts.ends, hits: self.counts.hits, elapsed: self.elapsed, cpu: self.cpu }
    }
}
