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
    targets: HashMap<TargetId, (Requested, Option<Duration>)>,
}

/// What a target did between two readings.
#[derive(Clone, Debug)]
pub(super) struct Demand {
    pub(super) target: TargetId,
    pub(super) hits: Hits,
    pub(super) allocs: u64,
    pub(super) frees: u64,
    /// While a window was open.
    pub(super) window_frees: u64,
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
            let cpu = match before.and_then(|before| before.targets.get(&id)) {
                Some((known, cpu)) if *known == requested => *cpu,
                _ => status::cpu_time(pid),
            };
            (id, (requested, cpu))
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

    /// What a target has done since, until `later`.
    pub(super) fn demand(&self, target: TargetId, later: &Self, trap: TrapCost) -> Option<Demand> {
        let ((then, cpu_then), (now, cpu_now)) = (self.targets.get(&target)?, later.targets.get(&target)?);
        let cpu = (*cpu_now)?.saturating_sub((*cpu_then)?);
        let since = Requested {
            bytes: now.bytes.saturating_sub(then.bytes),
            objects: now.objects.saturating_sub(then.objects),
            returns: now.returns.saturating_sub(then.returns),
            frees: now.frees.saturating_sub(then.frees),
            window_frees: now.window_frees.saturating_sub(then.window_frees),
        };
        let (hits, elapsed) = (hits(&since), later.at.saturating_duration_since(self.at));
        let share = budget::share(hits, trap, cpu, elapsed);
        let Requested { objects: allocs, frees, window_frees, .. } = since;
        Some(Demand { target, hits, allocs, frees, window_frees, cpu, elapsed, share, trap })
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
        Load::of(self.allocs, self.frees, self.cpu, self.cost(), self.elapsed)
    }

    /// What was counted, as part of a cycle.
    pub(super) fn part(&self) -> Part {
        Part { frees: self.frees, hits: self.hits, elapsed: self.elapsed }
    }
}
