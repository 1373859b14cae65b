//! What tracing takes of each target's CPU time, from reading to reading.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use memtrace_common::thread::Requested;

use super::{
    profile::hits,
    targets::{Done, TargetId, Targets},
};
use crate::{
    capture::kernel::Kernel,
    model::{
        budget::{self, Load},
        clock::Part,
        overhead::{Hits, Overhead, TrapCost},
        passing::Counted,
    },
    process::status,
};

/// How often targets were held up by a moment, and how long they had run.
#[derive(Clone)]
pub(super) struct Reading {
    at: Instant,
    targets: HashMap<TargetId, Seen>,
    /// The work of those that were not there any more.
    done: Done,
}

/// What was read of a target.
#[derive(Clone, Copy)]
struct Seen {
    requested: Requested,
    /// Nothing where nobody could tell any more.
    cpu: Option<Duration>,
    /// When its CPU time was read: not each time, where it is not held up.
    at: Instant,
}

/// What a target did between two readings.
#[derive(Clone, Debug)]
pub(super) struct Demand {
    pub(super) target: TargetId,
    pub(super) hits: Hits,
    pub(super) allocs: u64,
    pub(super) frees: u64,
    /// Blocks that it freed or resized, and how many of them while a window was open.
    pub(super) ends: u64,
    pub(super) window_ends: u64,
    pub(super) cpu: Duration,
    pub(super) elapsed: Duration,
    /// The part of its CPU time that tracing took.
    pub(super) share: f64,
    trap: TrapCost,
}

impl Reading {
    /// Reads the counters now. Of a target that was not held up since `before`, the CPU time is taken from there.
    pub(super) fn take(kernel: &Kernel, targets: &Targets, before: Option<&Self>) -> Self {
        let requested = kernel.requested();
        let of = |(id, pid): (TargetId, u32)| {
            let requested = requested.get(&id.slot).copied().unwrap_or_default();
            let known = before.and_then(|before| before.targets.get(&id)).filter(|known| known.requested == requested);
            let cpu = || status::cpu_time(pid).or_else(|| kernel.cpu_time_at_end(id.slot));
            let read = || Seen { requested, cpu: cpu(), at: Instant::now() };
            (id, known.copied().unwrap_or_else(read))
        };
        let done = targets.done;
        let targets = targets.live().map(|followed| of((followed.id, followed.target.pid.get()))).collect();
        Self { at: Instant::now(), targets, done }
    }

    /// Whether there was such a target.
    pub(super) fn has(&self, target: TargetId) -> bool {
        self.targets.contains_key(&target)
    }

    /// How long ago it was.
    pub(super) fn elapsed(&self) -> Duration {
        self.at.elapsed()
    }

    /// What a target has done since, until `later`. One that was not there yet had done nothing.
    pub(super) fn demand(&self, target: TargetId, later: &Self, trap: TrapCost) -> Option<Demand> {
        let elapsed = later.at.saturating_duration_since(self.at);
        let now = later.targets.get(&target)?;
        let (then, cpu) = match self.targets.get(&target) {
            Some(then) => {
                let (cpu, over) = (now.cpu?.saturating_sub(then.cpu?), now.at.saturating_duration_since(then.at));
                // Of a longer time than this is about, its part.
                let part = elapsed.as_secs_f64() / over.as_secs_f64().max(1e-6);
                (then.requested, cpu.mul_f64(part.min(1.0)))
            }
            None => (Requested::default(), now.cpu?.min(elapsed)),
        };
        Some(Demand::new(target, now.requested.since(then), cpu, elapsed, trap))
    }

    /// The joint work, until `later`, of those that were not there at both times. Processes that live for milliseconds never
    /// are, and none of them alone does much. A single one that is still there goes by its own name.
    pub(super) fn passing(&self, later: &Self, trap: TrapCost) -> Demand {
        let sum = |done: Done, seen: &Seen| Done {
            requested: done.requested.plus(seen.requested),
            cpu: done.cpu + seen.cpu.unwrap_or_default(),
        };
        let is_of = |reading: &Self, (target, _): &(&TargetId, &Seen)| !reading.targets.contains_key(*target);
        let mut come = later.targets.iter().filter(|seen| is_of(self, seen));
        let name = match (come.next(), come.next()) {
            (Some((target, _)), None) if later.done == self.done => *target,
            _ => TargetId::PASSING,
        };
        let come = later.targets.iter().filter(|seen| is_of(self, seen));
        let gone = self.targets.iter().filter(|seen| is_of(later, seen));
        // The earlier work of those that have gone since is in both.
        let now = come.fold(later.done, |done, (_, seen)| sum(done, seen));
        let then = gone.fold(self.done, |done, (_, seen)| sum(done, seen));
        let elapsed = later.at.saturating_duration_since(self.at);
        Demand::new(name, now.requested.since(then.requested), now.cpu.saturating_sub(then.cpu), elapsed, trap)
    }

    /// The work since then of the target of whose CPU time tracing took most; those that come and go count as one.
    pub(super) fn greatest(&self, later: &Self, trap: TrapCost) -> Option<Demand> {
        let stayed = later.targets.keys().filter(|target| self.targets.contains_key(*target));
        let demands = stayed.filter_map(|target| self.demand(*target, later, trap));
        demands.chain([self.passing(later, trap)]).max_by(|a, b| a.share.total_cmp(&b.share))
    }
}

impl Demand {
    fn new(target: TargetId, since: Requested, cpu: Duration, elapsed: Duration, trap: TrapCost) -> Self {
        let hits = hits(&since);
        let share = budget::share(hits, trap, cpu, elapsed);
        let Requested { objects: allocs, frees, ends, window_ends, .. } = since;
        Self { target, hits, allocs, frees, ends, window_ends, cpu, elapsed, share, trap }
    }

    /// What tracing has taken.
    pub(super) fn cost(&self) -> Duration {
        Overhead::of(self.hits, self.trap, self.cpu).cost
    }

    /// What the target does by itself.
    pub(super) fn load(&self) -> Load {
        Load::of(self.allocs, self.frees, self.hits.rets, self.cpu, self.cost(), self.elapsed)
    }

    /// The counts of those that come and go.
    pub(super) fn counted(&self) -> Counted {
        Counted { allocs: self.allocs, frees: self.frees, elapsed: self.elapsed }
    }

    /// What was counted, as part of a cycle.
    pub(super) fn part(&self) -> Part {
        Part { ends: self.ends, hits: self.hits, elapsed: self.elapsed }
    }
}
