//! The governor's meter: the counters of the kernel side, and `/proc`.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use memtrace_common::{ids::ProcessSlot, thread::Requested};

use super::{attached::AttachedTarget, targets::Targets};
use crate::{
    bpf::Bpf,
    governor::{
        groups::Served,
        meter::{Counts, Done, Meter, Metering, Seen},
    },
    model::overhead::Hits,
    process::status,
};

/// The counts of the kernel side at a moment, read once where somebody asks.
#[derive(Default)]
pub(super) struct Requests {
    of_targets: OnceCell<HashMap<ProcessSlot, Requested>>,
    blocks: OnceCell<u64>,
}

/// The meter of some groups.
pub(super) struct RunMeter<'a> {
    pub(super) bpf: &'a Bpf,
    pub(super) targets: &'a Targets,
    pub(super) started: Instant,
    pub(super) served: Served,
    pub(super) requests: &'a Requests,
}

impl Meter for RunMeter<'_> {
    fn read(&mut self, before: Option<&Metering>) -> Metering {
        let requested = self.requests.of_targets.get_or_init(|| self.bpf.requested());
        let read = |AttachedTarget { id, target, .. }: &AttachedTarget| {
            let counts = counts(&requested.get(&id.slot).copied().unwrap_or_default());
            let known = before.and_then(|before| before.targets.get(id)).filter(|known| known.counts == counts);
            let cpu = || status::cpu_time(target.pid.get()).or_else(|| self.bpf.cpu_time_at_end(id.slot));
            known.copied().unwrap_or_else(|| Seen { counts, cpu: cpu(), at: self.started.elapsed() })
        };
        let live = self.targets.live().filter(|followed| self.served.has(followed.group));
        let targets: BTreeMap<_, _> = live.map(|followed| (followed.id, read(followed))).collect();
        let mut done = Done::default();
        for (_, gone) in self.targets.done.iter().filter(|(group, _)| self.served.has(**group)) {
            done = Done { counts: done.counts.plus(counts(&gone.requested)), cpu: done.cpu.saturating_add(gone.cpu) };
        }
        let blocks = *self.requests.blocks.get_or_init(|| self.bpf.sampled_blocks());
        Metering { at: self.started.elapsed(), targets, done, blocks }
    }
}

/// The counts that the governor knows.
fn counts(requested: &Requested) -> Counts {
    let Requested { bytes, objects: allocs, frees, ends, window_ends, .. } = *requested;
    Counts { allocs, bytes, frees, ends, window_ends, hits: Hits::of(requested) }
}
