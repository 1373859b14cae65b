//! What tracing takes of each target's CPU time, from reading to reading.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use memtrace_common::thread::Requested;

use super::{
    profile::hits,
    targets::{TargetId, Targets},
};
use crate::{
    capture::kernel::Kernel,
    model::{
        budget::{self, Load},
        clock::Part,
        overhead::{Hits, Overhead, TrapCost},
    },
    process::status,
};

/// How often targets were held up by a moment, and how long they had run.
#[derive(Clone)]
pub(super) struct Reading {
    at: Instant,
    targets: HashMap<TargetId, Seen>,
}

/// What was read of a target.
#[derive(Clone, Copy)]
struct Seen {
    requested: Requested,
    /// Nothing once it has ended.
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
            let read = || Seen { requested, cpu: status::cpu_time(pid), at: Instant::now() };
            (id, known.copied().unwrap_or_else(read))
        };
        let targets = targets.live().map(|followed| of((followed.id, followed.target.pid.get()))).collect();
        Self { at: Instant::now(), targets }
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
        let since = now.requested.since(then);
        let hits = hits(&since);
        let share = budget::share(hits, trap, cpu, elapsed);
        let Requested { objects: allocs, frees, ends, window_ends, .. } = since;
        Some(Demand { target, hits, allocs, frees, ends, window_ends, cpu, elapsed, share, trap })
    }

    /// What the target has done since of whose CPU time tracing took most.
    pub(super) fn greatest(&self, later: &Self, trap: TrapCost) -> Option<Demand> {
        let demands = later.targets.keys().filter_map(|target| self.demand(*target, later, trap));
        demands.max_by(|a, b| a.share.total_cmp(&b.share))
    }
}

impl Demand {
    /// What tracing has taken.
    pub(super) fn cost(&self) -> Duration {
        Overhead::of(self.hits, self.trap, self.cpu).cost
    }

    /// What the target does by itself.
    pub(super) fn load(&self) -> Load {
        Load::of(self.allocs, self.frees, self.hits.rets, self.cpu, self.cost(), self.elapsed)
    }

    /// What was counted, as part of a cycle.
    pub(super) fn part(&self) -> Part {
        Part { ends: self.ends, hits: self.hits, elapsed: self.elapsed }
    }
}
